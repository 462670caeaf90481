"""Runs a training stage in forked children and kills them; one JSON line says how often and where.

Forked, because the imports take longer than the stage. Arguments: the call as in train_script.py, the number of kills,
and a seed for their moments. Half of the kills wait for a checkpoint that is being written. A kill before the run that
went on from the last one has made a checkpoint of its own is counted besides, as one of two in a row.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from tests.training.train_script import run_call


def main() -> None:
    call, wanted, seed = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    chance = random.Random(seed)
    output = Path(call["output"])
    kills = during_save = in_a_row = 0
    newest = ""
    while True:
        child = os.fork()
        if child == 0:
            run_call(call)
            os._exit(0)
        saving = kills < wanted and _kill(child, output, chance, aim_at_save=kills % 2 == 1, at_once=kills % 5 == 4)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            kills += 1
            during_save += saving
            before, newest = (
                newest,
                max((path.name for path in (output / "checkpoints").glob("step-????????")), default=""),
            )
            in_a_row += kills > 1 and newest == before
        elif os.WEXITSTATUS(status):
            raise SystemExit(f"the stage ended with {os.WEXITSTATUS(status)} after {kills} kills")
        elif kills < wanted:
            raise SystemExit(f"the stage was over after {kills} of {wanted} kills: give it more steps")
        else:
            print(json.dumps({"kills": kills, "during_save": during_save, "in_a_row": in_a_row}))
            return


def _kill(child: int, output: Path, chance: random.Random, *, aim_at_save: bool, at_once: bool) -> bool:
    """Kill at a random moment, while a checkpoint is being written, or at once; True where one was being written."""
    deadline = time.monotonic() + (
        chance.uniform(0.0, 0.1) if at_once else 60.0 if aim_at_save else chance.uniform(0.2, 1.5)
    )
    saving = False
    while time.monotonic() < deadline:
        saving = any((output / "checkpoints").glob("step-*.partial"))
        if aim_at_save and saving:
            time.sleep(chance.uniform(0.0, 0.01))
            break
        if _is_over(child):
            return False
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return saving


def _is_over(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


if __name__ == "__main__":
    main()

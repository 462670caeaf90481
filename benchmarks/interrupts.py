"""Ctrl-C at random moments of a tiny run, in all stages: what the command says, its exit code, and what resumes.

    python benchmarks/interrupts.py --interrupts 100

A third of them are two signals within half a second. Each interrupted run is resumed to the end of the stage in which
it stopped, one of eight to the end of the run, and every file is compared with those of a run that was not interrupted.
The last line is JSON: interrupts that met a command at work, by stage, and how many were not one line and exit code
130, or left something else behind.
"""

import argparse
import collections
import itertools
import json
import os
import random
import shutil
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.pipeline import crash_points


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--interrupts", type=int, default=100)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--folder", type=Path, default=None)
    arguments = options.parse_args()
    folder = arguments.folder or crash_points.new_folder()
    start = time.monotonic()
    run = crash_points.open_run(folder)
    rng = random.Random(arguments.seed)
    stopped: collections.Counter[str] = collections.Counter()
    late = faults = 0
    for stage in itertools.cycle(run.events):
        if stopped.total() >= arguments.interrupts or late > 3 * arguments.interrupts:
            break
        again = rng.uniform(0.0, 0.5) if rng.random() < 1 / 3 else None
        to_end = rng.random() < 1 / 8
        met, fault = run.try_interrupt(stage, rng.uniform(0.0, run.seconds[stage]), again=again, to_end=to_end)
        if met is None:
            late += 1
            continue
        stopped[met] += 1
        if fault:
            faults += 1
            print(f"{stage}, stopped in {met}: {fault}", file=sys.stderr)
    facts = {"interrupts": stopped.total(), "faults": faults, "after_the_end": late, "by_stage": dict(stopped)}
    print(json.dumps({**facts, "seconds": round(time.monotonic() - start, 1)}))
    if arguments.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

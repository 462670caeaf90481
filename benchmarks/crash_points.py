"""Kill the whole tiny pipeline before its n-th file event, resume it, and compare every file with those of a whole run.

    python benchmarks/crash_points.py --seconds 60                  # random events of all stages
    python benchmarks/crash_points.py --points 400 --log points.log # so many, going on where the log ends

The last line is JSON: events of a whole run, points (kills of a run from its stage's beginning), kills with those of
runs that resumed, points that were resumed to the end of the run, and those that ended differently.
"""

import argparse
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

BLOCK = 16
"""Points between two lines of the log."""


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=1e9, help="Time for kills, after the whole run.")
    options.add_argument("--points", type=int, default=None, help="At most so many; default: each event once.")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--log", type=Path, default=None, help="Results so far, which a later call adds to.")
    options.add_argument("--folder", type=Path, default=None)
    arguments = options.parse_args()
    folder = arguments.folder or crash_points.new_folder()
    run = crash_points.open_run(folder)
    start = time.monotonic()
    points = crash_points.spread(run.points, random.Random(arguments.seed))
    if arguments.points and arguments.points > len(points):
        points *= -(-arguments.points // len(points))
    points = points[: arguments.points]
    blocks = _read(arguments.log)
    while (done := len(blocks) * BLOCK) < len(points) and (
        (left := arguments.seconds - (time.monotonic() - start)) > 0 or not blocks
    ):
        block = points[done : done + BLOCK]
        blocks.append(
            crash_points.run_points(
                run, block, left, arguments.seed + done, say=lambda line: print(line, file=sys.stderr)
            )
        )
        if arguments.log:
            with arguments.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(blocks[-1]) + "\n")
    facts = {name: sum(block[name] for block in blocks) for name in ("points", "kills", "to_end", "different")}
    print(json.dumps({"events": len(run.points), **facts, "seconds": round(time.monotonic() - start, 1)}))
    if arguments.folder is None:
        shutil.rmtree(folder)


def _read(log: Path | None) -> list[dict[str, int]]:
    if log is None or not log.exists():
        return []
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()

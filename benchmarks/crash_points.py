"""Kill the whole tiny pipeline before random file events, or before every one, and compare what it ends with.

    python benchmarks/crash_points.py --seconds 240        # chains of kills for so long
    python benchmarks/crash_points.py --all                # one kill before each event in turn

The last line is JSON: events of a whole run, kills, chains, runs that ended differently.
"""

import argparse
import importlib.resources
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.models import write_tiny_model
from tests.pipeline import crash_points


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=240.0)
    options.add_argument("--all", action="store_true")
    options.add_argument("--most", type=int, default=60, help="Events that a child lives through at most.")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--folder", type=Path, default=None)
    arguments = options.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="crash-points-"))
    demo = importlib.resources.files("reprise") / "demo"
    passages = {
        lang: [json.loads(line) for line in (demo / f"{lang}.jsonl").read_text(encoding="utf-8").splitlines()]
        for lang in ("en", "zh")
    }
    texts = [passage["text"] for part in passages.values() for passage in part]
    # In a process of its own: saving a model starts threads, which a fork must not meet.
    if os.fork() == 0:
        write_tiny_model(folder / "model", texts, 600)
        os._exit(0)
    os.wait()

    def write(root: Path) -> Path:
        return crash_points.crash_recipe(folder, root, folder / "model", passages)

    start = time.monotonic()
    if arguments.all:
        facts = crash_points.run_all(write, folder)
    else:
        kills, chains, events = crash_points.run_chains(
            write, folder, arguments.seconds, arguments.seed, arguments.most
        )
        facts = {"events": events, "kills": kills, "chains": chains, "different": 0}
    print(json.dumps(facts | {"seconds": round(time.monotonic() - start, 1)}))


if __name__ == "__main__":
    main()

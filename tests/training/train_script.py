"""What torchrun starts in the tests: one training stage, its settings as JSON on the command line.

A second argument is the number of processes that count as one node.
"""

import json
import os
import sys
from pathlib import Path

from reprise.mirror import Mirror
from reprise.recipe.groups import Groups
from reprise.recipe.mixture import Stage
from reprise.recipe.model import Model
from reprise.recipe.tokens import Rows
from reprise.recipe.training import Training
from reprise.training.signals import Interrupted
from reprise.training.stage import run
from reprise.workspace import Work

KINDS = {"stage": Stage, "rows": Rows, "training": Training, "model": Model, "kept": Groups}


def run_call(call: dict) -> None:
    """Run the stage that a JSON object describes."""
    settings = {name: KINDS[name](**value) if name in KINDS else value for name, value in call["settings"].items()}
    output = Path(call["output"])
    work = Work(output, {name: Path(path) for name, path in call["inputs"].items()}, output.parent / "cache")
    if "mirror" in call and os.environ.get("RANK", "0") == "0":
        work.mirror = Mirror(call["mirror"])
    output.mkdir(exist_ok=True)
    run(work, **settings)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        os.environ["LOCAL_WORLD_SIZE"] = sys.argv[2]
    try:
        run_call(json.loads(sys.argv[1]))
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)

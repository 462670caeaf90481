"""Wrong recipes, damaged files of text, broken model folders and wrong command lines: what the program says to each.

    python benchmarks/fuzz.py                                     # 500 recipes, 300 files, 100 models, 100 lines
    python benchmarks/fuzz.py --recipes 500 --files 0 --models 0 --lines 0

The last line is JSON: of each kind how many were tried, and how many ended in a traceback or a hang, in more or less
than one message, or in silence (the mistake was taken, or documents are neither read nor named).
"""

import argparse
import collections
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from tests.fuzz import command_lines, data_files, recipes
from tests.fuzz.calling import Hang, time_limit
from tests.model.broken_models import broken, copy_of, write_whole_model
from tests.models import write_tiny_model
from tests.pipeline.conftest import small_recipe

from reprise.errors import UserError
from reprise.model.loading import load_config, load_model
from reprise.model.tokenizer import open_tokenizer
from reprise.recipe.model import Model

Result = tuple[str, str]
"""(what was tried, fault)."""


def try_recipes(folder: Path, numbers: range) -> Iterator[Result]:
    model = write_tiny_model(folder / "model", ["a few words", "那一天他来了"], 300)
    data = small_recipe(folder / "run", model)
    for number in numbers:
        what, outcome = recipes.try_recipe(data, folder, recipes.rng_of(number))
        yield what, outcome.fault


def try_files(folder: Path, numbers: range) -> Iterator[Result]:
    for number in numbers:
        (folder / str(number)).mkdir()
        yield data_files.try_file(folder / str(number), number)
        shutil.rmtree(folder / str(number))


def try_models(folder: Path, numbers: range) -> Iterator[Result]:
    whole = write_whole_model(folder / "whole")
    os.environ["BOMB"] = str(folder / "bomb")
    expected = _logits(whole)
    for number, (what, damage) in enumerate(broken().items()):
        if number not in numbers:
            continue
        broken_folder = copy_of(whole, folder / str(number))
        damage(broken_folder)
        yield what, _load(broken_folder, expected) or ("silent: code ran" if Path(os.environ["BOMB"]).exists() else "")
        shutil.rmtree(broken_folder)


def _logits(folder: Path) -> torch.Tensor:
    settings = Model(path=str(folder))
    load_config(settings)
    ids = torch.tensor(open_tokenizer(settings).encode_batch(["the cat sat on the mat 123 times"])[0].tolist())[None]
    with torch.no_grad():
        return load_model(settings)(input_ids=ids).logits


def _load(folder: Path, expected: torch.Tensor) -> str:
    """The fault, if any: a broken model is refused in one message, or computes what the whole one computes."""
    try:
        with time_limit():
            logits = _logits(folder)
    except UserError as error:
        return "" if error.where and error.remedy else "message"
    except Hang:
        return "hang"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {error}"
    return "" if torch.equal(logits, expected) else "silent"


def try_lines(folder: Path, numbers: range) -> Iterator[Result]:
    files = command_lines.Folder(folder)
    os.chdir(folder)
    for number in numbers:
        line, outcome = command_lines.try_line(files, number)
        yield " ".join(line), outcome.fault


KINDS = {
    "recipes": (try_recipes, 500),
    "files": (try_files, 300),
    "models": (try_models, 150),
    "lines": (try_lines, 100),
}


def main() -> None:
    options = argparse.ArgumentParser()
    for kind, (_, count) in KINDS.items():
        options.add_argument(f"--{kind}", type=int, default=count)
    options.add_argument("--first", type=int, default=0, help="Number of the first of each kind.")
    arguments = options.parse_args()
    facts = {}
    for kind, (attempt, _) in KINDS.items():
        count = getattr(arguments, kind)
        if not count:
            continue
        start = time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{kind}-"))
        faults: collections.Counter[str] = collections.Counter()
        tried = 0
        for what, fault in attempt(folder, range(arguments.first, arguments.first + count)):
            tried += 1
            if fault:
                faults[fault.partition(":")[0]] += 1
                print(f"{kind}: {what}: {fault}", file=sys.stderr)
        facts[kind] = {"tried": tried, **{name: faults[name] for name in ("traceback", "hang", "message", "silent")}}
        facts[kind]["seconds"] = round(time.monotonic() - start)
        print(json.dumps({kind: facts[kind]}), file=sys.stderr, flush=True)
        os.chdir("/")
        shutil.rmtree(folder)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()

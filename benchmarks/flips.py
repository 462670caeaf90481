"""Single flipped bits in the files of a published run: does anything use them in silence, or end in a traceback?

    python benchmarks/flips.py [--flips 100] [--reads 20] [--folder DIR]

A tiny run is made. Each flip changes one bit of one file (the files take turns, so that all of them are met: outputs,
manifests, caches, the report); `reprise verify` must name the file. Each read is such a flip in a copy of the run, from
which the stages that read the file were removed; the run is brought up to date again and must either name the file or
make it again, byte for byte where it is made again, and end with the evaluation that it had.
The last line is JSON.
"""

import argparse
import importlib.resources
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.models import write_tiny_model
from tests.pipeline.conftest import small_recipe

from reprise.errors import UserError
from reprise.pipeline import run_stages
from reprise.recipe.loading import load_recipe
from reprise.verification import damage_of
from reprise.verify import verify_run

UNPUBLISHED = ("recipe.yaml", "verified.json", ".lock")
READERS = {
    "read": ["clean"], "clean": ["deduplicate"], "deduplicate": ["decontaminate"], "decontaminate": ["label"],
    "label": ["score"], "score": ["tokenize", "evaluate"], "tokenize": ["train-1"], "train-1": ["train-2", "evaluate"],
    "train-2": ["evaluate"], "evaluate": ["report"], "cache": ["evaluate"],
}  # fmt: skip


def make_run(folder: Path) -> Path:
    """A whole tiny run; gives its recipe file."""
    demo = importlib.resources.files("reprise") / "demo"
    lines = [
        line for lang in ("en", "zh") for line in (demo / f"{lang}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    write_tiny_model(folder / "model", [json.loads(line)["text"] for line in lines], 600)
    data = small_recipe(folder / "run", folder / "model")
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    run_stages(load_recipe(recipe), say=lambda line: None)
    return recipe


def published_files(root: Path) -> list[Path]:
    """All files of the run that were published or kept, none of them empty."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.stat().st_size]
    return [path for path in files if path.name not in UNPUBLISHED]


def flip(path: Path, rng: random.Random) -> bytes:
    """Change one bit of a file; gives what it was before."""
    before = path.read_bytes()
    changed = bytearray(before)
    changed[rng.randrange(len(before))] ^= 1 << rng.randrange(8)
    path.unlink()  # it may be a link to the file of another copy
    path.write_bytes(changed)
    return before


def verify_flip(recipe: Path, path: Path, rng: random.Random) -> str:
    """What `reprise verify` makes of a flipped bit: `named`, `silent` or `traceback`."""
    before = flip(path, rng)
    try:
        damage = damage_of(verify_run(load_recipe(recipe)))
        if any(str(path) in sentence for sentence in damage):
            return "named"
        print(f"silent: {path}", flush=True)
        return "silent"
    except Exception:
        traceback.print_exc()
        return "traceback"
    finally:
        path.write_bytes(before)


def read_flip(root: Path, copy: Path, data: dict, name: Path, rng: random.Random) -> str:
    """What a run makes of a flipped bit in a file that it reads: `made again`, `named`, `silent` or `traceback`."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(root, copy)
    before = flip(copy / name, rng)
    for reader in READERS[name.parts[0]]:
        shutil.rmtree(copy / reader)
    recipe = copy.with_suffix(".yaml")
    recipe.write_text(yaml.safe_dump(data | {"workspace": str(copy)}, allow_unicode=True), encoding="utf-8")
    try:
        run_stages(load_recipe(recipe), say=lambda line: None)
    except UserError as error:
        return "named" if str(copy / name.parts[0]) in str(error) else "silent"
    except Exception:
        traceback.print_exc()
        return "traceback"
    results = [json.loads((one / "evaluate" / "results.json").read_text())["bits_per_byte"] for one in (root, copy)]
    if results[0] != results[1]:
        return "silent"
    is_record = name.name == "manifest.json" or name.parts[0] == "cache"  # holds times, or is written when it is needed
    whole = is_record or not (copy / name).exists() or (copy / name).read_bytes() == before
    return "made again" if whole or not damage_of(verify_run(load_recipe(recipe))) else "silent"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--reads", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    rng = random.Random(17)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="flips-", dir=options.folder) as scratch:
        recipe = make_run(Path(scratch))
        root = Path(scratch, "run")
        files = published_files(root)
        order = rng.sample(files, len(files))
        flips = Counter(verify_flip(recipe, order[number % len(order)], rng) for number in range(options.flips))
        print(f"{len(files)} files, {options.flips} flips, by verify: {dict(flips)}", flush=True)
        data = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        stages = list(READERS)
        reads: Counter[str] = Counter()
        for number in range(options.reads):
            stage = stages[number % len(stages)]
            name = rng.choice([path for path in files if path.relative_to(root).parts[0] == stage]).relative_to(root)
            outcome = read_flip(root, Path(scratch, "copy"), data, name, rng)
            reads[outcome] += 1
            print(f"{name}: {outcome}", flush=True)
    print(
        json.dumps(
            {"files": len(files), "flips": options.flips, "verify": flips, "reads": reads}
            | {"seconds": round(time.monotonic() - start, 1)}
        )
    )


if __name__ == "__main__":
    main()

"""Command lines with at least one wrong argument each, made from the commands themselves."""

import random

import click
import typer.main
import yaml
from tests.fuzz.calling import call

from reprise.cli import app

WRONG_PATHS = (
    "/none/x.yaml",
    "none.yaml",
    "",
    ".",
    "/dev/null",
    "a" * 300,
    "ünï.yaml",
    "-",
    "~none",
)
WRONG_NUMBERS = ("-1", "x", "1e3", "", "99999999999999999999", "0x10", "1.5", "nan", " ", "-0.5", "None")


def commands():
    """Name -> command of click."""
    return vars(typer.main.get_command(app))["commands"]


class Folder:
    """Recipes that are wrong, and one that is right but whose text and model are missing."""

    def __init__(self, root):
        self.root = root
        files = {
            "junk.yaml": "[1, 2",
            "empty.yaml": "",
            "list.yaml": "- a\n",
            "typo.yaml": "nmae: x\n",
            "binary.yaml": "\x00",
        }
        for name, content in files.items():
            (root / name).write_text(content)
        (root / "latin.yaml").write_bytes(b"name: \xe9\n")
        (root / "file").write_text("x")
        (root / "folder").mkdir(exist_ok=True)
        stage = {"name": "one", "tokens": 128, "mixture": {"en": {"share": 1.0, "sources": {"web": 1.0}}}}
        recipe = {
            "name": "x", "workspace": str(root / "run"), "model": {"path": str(root / "none")},
            "documents": {"inputs": [{"path": str(root / "none.jsonl")}]}, "rows": {"seq_len": 64}, "stages": [stage],
        }  # fmt: skip
        (root / "missing.yaml").write_text(yaml.safe_dump(recipe))
        self.recipes = [str(root / name) for name in (*files, "latin.yaml", "folder")]


def wrong_line(folder, rng):
    """A command and its arguments; one of them is wrong at least."""
    name = rng.choice([name for name in commands() if name not in ("settings", "benchmarks")])  # these need nothing
    command = commands()[name]
    arguments = [
        _argument(folder, parameter, rng) for parameter in command.params if isinstance(parameter, click.Argument)
    ]
    options = [p for p in command.params if isinstance(p, click.Option) and p.name not in ("help", "show_completion")]
    line = [name, *(argument for argument in arguments if argument is not None)]
    if name == "init":  # a file is no mistake here
        line = [name, str(folder.root / "file")]
    for option in rng.sample(options, min(len(options), rng.randrange(3))):
        line += [option.opts[0]] if option.is_flag else [option.opts[0], _value(folder, option, rng)]
    change = rng.randrange(8)
    if change == 0:
        line.append(rng.choice(("--none", "-x", "--jsn", "--limit", "--workspace")))
    elif change == 1:
        line = line[:1] if name != "init" else [*line, "--modle"]
    elif change == 2:
        line.insert(0, rng.choice(("rnu", "trian", "", "help", "--none")))
    elif change == 3 and name != "init":
        line.append(rng.choice(("nmae=x", "stages.0", "=", "stages.9.tokens=1", "a.b.c=1", "rows=", "seed=[")))
    return line


def _argument(folder, parameter, rng):
    if parameter.name in ("overrides",):
        return None
    if parameter.name in ("recipe", "runs", "study", "model", "path"):
        return rng.choice((*WRONG_PATHS, *folder.recipes, str(folder.root / "missing.yaml")))
    if parameter.name == "factor":
        return rng.choice((*WRONG_NUMBERS, "0.5"))
    return rng.choice(WRONG_PATHS)


def _value(folder, option, rng):
    if isinstance(option.type, click.types.IntParamType | click.types.IntRange):
        return rng.choice((*WRONG_NUMBERS, "1"))
    return rng.choice((*WRONG_PATHS, *folder.recipes, "paper", "demo", str(folder.root / "file" / "x")))


def try_line(folder, number):
    """(the command line, outcome); the fault `silent` where it was taken."""
    line = wrong_line(folder, random.Random(f"line {number}"))
    outcome = call(*line)
    if not outcome.fault and outcome.code != 2:
        outcome.fault = f"silent: code {outcome.code}"
    return line, outcome

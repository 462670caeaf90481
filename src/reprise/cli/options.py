"""Options that several commands share, and common functions: run stages, print results."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from reprise.progress import console
from reprise.recipe import Recipe

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe (YAML), or the folder of a run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME=VALUE]...", help="Settings to override, such as stages.0.tokens=2M."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
Restart = Annotated[bool, typer.Option("--restart", help="Throw away a half-trained stage whose settings changed.")]
Adopt = Annotated[bool, typer.Option("--adopt", help="Resume from its checkpoint with the new settings.")]


def bring_up(
    recipe: Recipe,
    until: list[str] | None,
    *,
    restart: bool = False,
    adopt: bool = False,
    others: Sequence[Path] = (),
) -> None:
    """Bring stages up to date, and report the result in one line.

    Args:
        recipe: recipe of the run.
        until: names of stages to run, with all that they need; None: all stages.
        restart: see `Restart`.
        adopt: see `Adopt`.
        others: workspaces of similar runs, whose stages may be reused.
    """
    from reprise.pipeline import run_stages, say_result

    first = leads()
    count = run_stages(
        recipe,
        until=until,
        restart=restart,
        adopt=adopt,
        others=others,
        say=lambda line: say(line) if first else None,
    )
    if first:
        say(say_result(recipe, until, count))


def training_stages(recipe: Recipe) -> list[str]:
    """Names of the stages of the run that train: `train-1`, `train-2`, ..."""
    return [f"train-{index}" for index in range(1, len(recipe.stages) + 1)]


def leads() -> bool:
    """Whether this is the only process, or the first one that torchrun or Slurm started."""
    return os.environ.get("RANK", "0") == "0"


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=1))


def say(line: str) -> None:
    """Print a line on standard error."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)

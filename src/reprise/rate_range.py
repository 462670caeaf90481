"""`reprise study rate`: which learning rates are worth trying, from one run whose rate rises in steps.

    WORKSPACE/
      run/         the run: one training stage per rate, each resuming from the one before
      rate.json    the rates, the effect of each on the held-out text, and the answer (`RateAnswer`)

A range test (Smith, arXiv 1506.01186) that measures held-out text, including text that must be kept, instead of the
training loss. Higher rates start from a model that has already learned, so the test finds a range, not the best rate.
"""

import json
import math
from pathlib import Path
from typing import Annotated, TypedDict

import numpy as np
from pydantic import Field, model_validator

from reprise.errors import UserError
from reprise.pipeline import run_stages
from reprise.progress import console
from reprise.recipe import Recipe, load_recipe
from reprise.recipe.fields import AnyPath, Count, FolderPath, Settings
from reprise.report.curves import bits_per_byte_of, drop_repeated, read_metrics
from reprise.storage import write_json


class RateStudy(Settings):
    """Settings of the range test."""

    recipe: AnyPath
    """Recipe of the run; its first stage provides mixture, order and topics."""
    workspace: FolderPath
    """Folder of the study."""
    lowest: Annotated[float, Field(gt=0.0)] = 1e-6
    """First rate."""
    highest: Annotated[float, Field(gt=0.0)] = 1e-2
    """Last rate; the run stops earlier if the loss is not finite, or the new text becomes worse than at the start."""
    rates: Annotated[int, Field(ge=3)] = 9
    """Number of rates, evenly spaced on a logarithmic scale."""
    tokens: Annotated[Count, Field(gt=0)] = 8192
    """Tokens at each rate."""

    @model_validator(mode="after")
    def _rises(self) -> "RateStudy":
        if self.highest <= self.lowest:
            raise ValueError(f"highest={self.highest:g} is not over lowest={self.lowest:g}")
        return self


class RateStep(TypedDict):
    """Measurements at one rate."""

    rate: float
    before: dict[str, float]
    """Entry of the mixture -> bits per byte of its held-out text at the start of this rate."""
    after: dict[str, float]


class RateAnswer(TypedDict):
    """`rate.json`."""

    recipe: str
    tokens: int
    """Tokens at each rate."""
    steps: list[RateStep]
    broke_at: float | None
    """Rate at which training diverged; null if it never did."""
    fastest: float | None
    """Rate at which the bits per byte of the entries that are not kept fell the most; null if they never fell."""
    highest_kept: float | None
    """Highest rate at which every kept entry still stayed within its tolerance; null if nothing is kept."""
    sentence: str


def find_rates(study: RateStudy) -> RateAnswer:
    """Run what is missing and compute the answer.

    Raises:
        UserError: the recipe does not pass its checks, or there is no held-out text.
    """
    recipe = load_recipe(study.recipe)
    rates = np.geomspace(study.lowest, study.highest, study.rates).tolist()
    steps: list[RateStep] = []
    broke_at = None
    for index, rate in enumerate(rates, 1):
        varied = _recipe_of(study, recipe, rates)
        try:
            run_stages(varied, until=[f"train-{index}"], say=_say)
        except UserError as error:
            if "was not finite" not in error.what:
                raise
            broke_at = rate
            break
        steps.append(_step(Path(varied.workspace), index, rate, varied))
        if _got_worse(steps, _kept(varied)):
            broke_at = rate
            break
    answer = _answer(study, steps, broke_at, _kept(recipe))
    Path(study.workspace).mkdir(parents=True, exist_ok=True)
    write_json(Path(study.workspace) / "rate.json", answer)
    return answer


def _recipe_of(study: RateStudy, recipe: Recipe, rates: list[float]) -> Recipe:
    """Make a recipe with one stage per rate; each carries on optimizer state and text order of the one before."""
    first = recipe.stages[0].model_dump(mode="json")
    first["schedule"] = {"kind": "constant", "warmup_tokens": 0}
    stages = [
        first
        | {
            "name": f"rate {rate:.2g}",
            "tokens": study.tokens,
            "schedule": first["schedule"] | {"peak_lr": rate, "initial_lr": rate},
            "max_epochs": 1e9,  # epochs do not matter in a short comparison of rates
        }
        for rate in rates
    ]
    workspace = Path(study.workspace) / "run"
    return load_recipe(
        study.recipe,
        [
            f"stages={json.dumps(stages)}",
            f"workspace={json.dumps(str(workspace))}",
            "mirror=''",
            "training.guards.retention=off",
            "training.guards.spike=off",
        ],
    )


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _kept(recipe: Recipe) -> dict[str, float]:
    """Kept entry of the mixture -> its tolerance."""
    groups = recipe.held_out_groups()
    kept = {group.path: group.tolerance for group in groups.named if group.tolerance is not None}
    return {
        entry: tolerance
        for entry, given in recipe.stages[0].mixture.items()
        if (tolerance := kept.get(entry, groups.other_languages.get(given.language))) is not None
    }


def _step(workspace: Path, index: int, rate: float, recipe: Recipe) -> RateStep:
    """Measurements at the start and end of a stage."""
    path = workspace / f"train-{index}" / "metrics.jsonl"
    groups = recipe.held_out_groups()
    measured = [record for record in drop_repeated(read_metrics(path)[0]) if record["kind"] == "validation"]
    before, after = (
        {
            row["entry"]: row["value"]
            for row in bits_per_byte_of(record, groups)["bits_per_byte"]
            if row["source"] is None
        }
        for record in (measured[0], measured[-1])
    )
    if not after:
        raise UserError(
            "there is no held-out text, so no rate can be judged",
            where=str(workspace),
            remedy="raise documents.valid_share",
        )
    return {"rate": rate, "before": before, "after": after}


def _new(step: RateStep, kept: dict[str, float]) -> list[str]:
    """Entries judged by their gain: those that are not kept, or all if every entry is kept."""
    return [name for name in step["after"] if name not in kept] or list(step["after"])


def _got_worse(steps: list[RateStep], kept: dict[str, float]) -> bool:
    """Whether the new text is worse than before the first rate, so that higher rates need not be tried."""
    return (
        any(
            not math.isfinite(steps[-1]["after"][name]) or steps[-1]["after"][name] > steps[0]["before"][name]
            for name in _new(steps[-1], kept)
        )
        and len(steps) > 2
    )


def _fall(step: RateStep, kept: dict[str, float]) -> float:
    """Mean relative decrease of the new text's bits per byte at one rate."""
    return float(np.mean([1 - step["after"][name] / step["before"][name] for name in _new(step, kept)]))


def _answer(study: RateStudy, steps: list[RateStep], broke_at: float | None, kept: dict[str, float]) -> RateAnswer:
    falls = {step["rate"]: _fall(step, kept) for step in steps}
    fastest = max(falls, key=lambda rate: falls[rate]) if falls and max(falls.values()) > 0 else None
    within: float | None = None
    for step in steps if kept else []:
        start = steps[0]["before"]
        if any(step["after"][name] > start[name] * (1 + slack) for name, slack in kept.items() if name in start):
            break
        within = step["rate"]
    answer: RateAnswer = {
        "recipe": study.recipe,
        "tokens": study.tokens,
        "steps": steps,
        "broke_at": broke_at,
        "fastest": fastest,
        "highest_kept": within,
        "sentence": "",
    }
    answer["sentence"] = _sentence(answer, falls, kept)
    return answer


def _sentence(answer: RateAnswer, falls: dict[float, float], kept: dict[str, float]) -> str:
    """State the answer and its limits in one sentence."""
    base = f"one run, {answer['tokens']:,} tokens at each of {len(answer['steps'])} rates"
    if answer["fastest"] is None:
        return f"No rate made the held-out text better ({base})."
    parts = [
        f"Bits per byte of the new text fell fastest at {answer['fastest']:.2g} "
        f"({100 * falls[answer['fastest']]:.2f} % in {answer['tokens']:,} tokens)"
    ]
    if kept:
        names = ", ".join(kept)
        parts.append(
            f"{names} stayed within tolerance up to {answer['highest_kept']:.2g}"
            if answer["highest_kept"] is not None
            else f"no rate kept {names} within tolerance"
        )
    parts.append(f"training broke at {answer['broke_at']:.2g}" if answer["broke_at"] else "no rate broke training")
    return (
        f"{'; '.join(parts)} ({base}). Try peak rates from a third of the fastest up to it; "
        "a range test does not tell which of them ends best."
    )

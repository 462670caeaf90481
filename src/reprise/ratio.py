"""`reprise study ratio`: which share of new text to train on, determined by runs of a small recipe.

    WORKSPACE/
      share-0.300-seed-1/   a run like any other, with 0.3 of the stage's tokens from the new entry
      ratio.json            the runs and the answer (`RatioAnswer`)
      proposed.yaml         the recipe with the best share

The first five runs cover the whole range of shares, the others are near the best share so far. A killed study resumes
with the run in progress. `mixture/share_laws.py` analyses the runs.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypedDict

from pydantic import Field

from reprise.errors import UserError
from reprise.mixture.share_laws import FIRST_SHARES, BestShare, best_share, next_shares
from reprise.recipe import Recipe, load_recipe
from reprise.recipe.fields import AnyPath, FolderPath, Settings
from reprise.recipe.loading import parse_yaml
from reprise.report.study_comparison import held_out_bits
from reprise.storage import write_json
from reprise.study import read_results, run_one, take_through
from reprise.yaml_text import format_yaml


class RatioStudy(Settings):
    """Settings of the study."""

    recipe: AnyPath
    """Recipe of the runs, small enough to run many times; its other entries keep their proportions."""
    workspace: FolderPath
    """Folder of the runs."""
    stage: Annotated[int, Field(ge=0)] = 0
    """Training stage whose mixture is varied, counted from 0."""
    entry: str = ""
    """Mixture entry of the new text; empty: the one whose language has no tolerance."""
    kept: str = ""
    """Language that must be kept; empty: the one in `evaluation.tolerance`."""
    runs: Annotated[int, Field(ge=len(FIRST_SHARES) + 1)] = 16
    """How many runs at most."""
    seeds: list[int] = Field(default=[1, 2, 3], min_length=1)
    """Random seeds, used in turn so that random variation becomes visible."""


class RatioRun(TypedDict):
    """Result of one run."""

    share: float
    """Share of the new entry."""
    seed: int
    kept: float
    """Bits per byte of the kept language after training, divided by the value before."""
    new: float
    """The same for the new text."""


class RatioAnswer(TypedDict):
    """`ratio.json`."""

    recipe: str
    entry: str
    kept: str
    tolerance: float
    tokens: int
    """Tokens of the stage in each run."""
    runs: list[RatioRun]
    share: float
    low: float
    high: float
    """95 % interval of `share`."""
    bounded_by: str
    laws: dict[str, str]
    """`kept` and `new` -> the law that best predicted its runs."""
    left_out_error: dict[str, float]
    """Prediction error of a law on a run that it was not fitted to, relative to the loss."""
    sentence: str


def find_ratio(study: RatioStudy) -> RatioAnswer:
    """Run what is missing and compute the answer.

    Raises:
        UserError: it is not clear which text is new and which must be kept, or a run was refused.
    """
    recipe = load_recipe(study.recipe)
    entry, kept, tolerance = roles(study, recipe)
    language = str(recipe.stages[study.stage].mixture[entry].language)
    runs: list[RatioRun] = []
    due: Sequence[float] = FIRST_SHARES
    recipes: dict[tuple[str, int], Recipe] = {}
    for attempt in itertools.count():
        before = len(runs)
        for share in due[: study.runs - len(runs)]:
            name = f"share-{share:.3f}"
            # The next seed in turn; the same share and seed would be the same run.
            turn = [study.seeds[(len(runs) + step) % len(study.seeds)] for step in range(len(study.seeds))]
            seed = next((one for one in turn if (name, one) not in recipes), None)
            if seed is None:
                continue
            recipes[name, seed] = recipe_of(study, recipe, entry, share, seed)
            run_one(recipes, (name, seed), take_through)
            before_after = measured_of(Path(recipes[name, seed].workspace), kept, entry, language)
            runs.append({"share": share, "seed": seed, **before_after})
        if len(runs) == before:  # the best share is at an end, where all seeds have run
            answer = best_of(runs, tolerance, last=True)
            break
        answer = best_of(runs, tolerance, last=len(runs) >= study.runs)
        due = next_shares(answer.share, attempt, study.runs - len(runs))
        if not due:
            break
    result: RatioAnswer = {
        "recipe": study.recipe,
        "entry": entry,
        "kept": kept,
        "tolerance": tolerance,
        "tokens": recipe.stages[study.stage].tokens,
        "runs": runs,
        "share": answer.share,
        "low": answer.low,
        "high": answer.high,
        "bounded_by": answer.bounded_by,
        "laws": {"kept": answer.kept.law, "new": answer.new.law},
        "left_out_error": {"kept": answer.kept.left_out_error, "new": answer.new.left_out_error},
        "sentence": "",
    }
    result["sentence"] = _sentence(result)
    write_json(Path(study.workspace) / "ratio.json", result)
    _propose(study, recipe, result)
    return result


def roles(study: RatioStudy, recipe: Recipe) -> tuple[str, str, float]:
    """The new entry, the kept language and its tolerance."""
    if study.stage >= len(recipe.stages):
        raise UserError(f"the recipe has {len(recipe.stages)} stages", where=f"--stage {study.stage}")
    mixture, groups = recipe.stages[study.stage].mixture, recipe.held_out_groups()
    tolerance = groups.other_languages | {
        group.path: group.tolerance for group in groups.named if group.tolerance is not None
    }
    languages = {entry.language for entry in mixture.values()}
    kept = [study.kept] if study.kept else [name for name in tolerance if name in languages]
    kept = kept or [name for name in mixture if name in tolerance]
    new = [study.entry] if study.entry else [name for name in mixture if name not in tolerance]
    if len(new) != 1 or new[0] not in mixture:
        raise UserError(
            f"it is not clear which entry of the mixture is the new text ({', '.join(new) or 'none'})",
            where=study.recipe,
            remedy=f"name it with --entry, one of: {', '.join(mixture)}",
        )
    if len(kept) != 1 or kept[0] not in tolerance:
        raise UserError(
            f"it is not clear which language must be kept ({', '.join(kept) or 'none'}), or how well",
            where=f"{study.recipe}: evaluation.tolerance",
            remedy="name it with --kept, and its tolerance in the recipe",
        )
    if len(mixture) < 2:
        raise UserError("the mixture has one entry, so there is no ratio", where=f"stages.{study.stage}.mixture")
    return new[0], kept[0], tolerance[kept[0]]


def _shares(recipe: Recipe, stage: int, entry: str, share: float) -> dict[str, float]:
    """Entry -> its share, where the new entry has `share` and the others keep their proportions; they sum to 1."""
    mixture = recipe.stages[stage].mixture
    others = {name: one.share for name, one in mixture.items() if name != entry}
    total = sum(others.values()) or 1.0
    shares = {name: round((1 - share) * part / total, 9) for name, part in others.items()}
    return {**shares, entry: round(1 - sum(shares.values()), 9)}


def recipe_of(study: RatioStudy, recipe: Recipe, entry: str, share: float, seed: int) -> Recipe:
    """The recipe of one run, in a workspace of its own."""
    shares = _shares(recipe, study.stage, entry, share)
    overrides = [f"stages.{study.stage}.mixture.{name}.share={part!r}" for name, part in shares.items()]
    workspace = Path(study.workspace) / f"share-{share:.3f}-seed-{seed}"
    return load_recipe(
        study.recipe, [*overrides, f"seed={seed}", f"workspace={json.dumps(str(workspace))}", "mirror=''"]
    )


class Measured(TypedDict):
    """Bits per byte after training, divided by those before."""

    kept: float
    new: float


def measured_of(workspace: Path, kept: str, entry: str, language: str) -> Measured:
    """Bits per byte after / before, of the kept text and the new entry (or its language, if nothing is held out)."""
    results = read_results(workspace)
    kept_bits = held_out_bits(results, kept)
    new_bits = held_out_bits(results, entry) or held_out_bits(results, language)
    if kept_bits is None or new_bits is None:
        missing = kept if kept_bits is None else language
        raise UserError(f"there is no held-out text of {missing}", where=str(workspace / "evaluate"))
    return {"kept": kept_bits[1] / kept_bits[0], "new": new_bits[1] / new_bits[0]}


def best_of(runs: list[RatioRun], tolerance: float, *, last: bool) -> BestShare:
    """The best share by these runs; its interval is computed for the last ones only."""
    shares, kept, new = ([run[key] for run in runs] for key in ("share", "kept", "new"))
    interval = {} if last else {"draws": 0}
    return best_share(shares, kept, new, 1 + tolerance, seeds=[run["seed"] for run in runs], **interval)


def _sentence(answer: RatioAnswer) -> str:
    """State the answer and its uncertainty."""
    kept, entry = answer["kept"], answer["entry"]
    base = f"{len(answer['runs'])} runs of {answer['tokens']:,} tokens"
    if answer["share"] <= 0.0:
        return f"No share of {entry} keeps {kept} within {answer['tolerance']:.1%} ({base})."
    why = (
        f"more would cost {kept} more than the {answer['tolerance']:.1%} that is allowed"
        if answer["bounded_by"] == "kept"
        else f"more would gain less of {entry}, and {kept} stays within {answer['tolerance']:.1%}"
    )
    interval = f"95 % interval {answer['low']:.3f} to {answer['high']:.3f}"
    return f"Take {answer['share']:.3f} of the tokens from {entry} ({interval}, {base}): {why}."


def _propose(study: RatioStudy, recipe: Recipe, answer: RatioAnswer) -> None:
    """Write the recipe with the best share, otherwise as the user wrote it."""
    data = parse_yaml(Path(study.recipe).read_text(encoding="utf-8"), study.recipe)
    mixture = data["stages"][study.stage]["mixture"]
    shares = _shares(recipe, study.stage, answer["entry"], answer["share"])
    for name, given in zip(recipe.stages[study.stage].mixture, mixture.values(), strict=True):
        given["share"] = shares[name]
    text = format_yaml(data)
    (Path(study.workspace) / "proposed.yaml").write_text(f"# {answer['sentence']}\n{text}", encoding="utf-8")

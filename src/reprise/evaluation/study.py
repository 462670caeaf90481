"""`reprise study`: a grid of recipes with seeds, and what the numbers do and do not show.

    WORKSPACE/
      VARIANT-seed-N/     the run of a variant, a workspace like any other
      study.json          results (see `run_study`)
      study.html          the same as a picture and sentences

Runs are paired by seed: the difference to the baseline is taken seed by seed, and its interval is Student's, so three
seeds give an interval that is honest about being three.
"""

import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import Field, ValidationError, model_validator

from reprise.errors import UserError
from reprise.recipe import Recipe, load_recipe
from reprise.recipe.fields import Settings
from reprise.workspace import MANIFEST, write_json

RunRecipe = Callable[[Recipe], None]
"""Takes a recipe to its evaluation; does nothing where that is done."""


class Study(Settings):
    """What is varied, and what is measured."""

    name: str
    """A word for the page."""
    question: str
    """What the study asks, in one sentence."""
    recipe: str
    """Recipe that every variant starts from; relative to the current folder."""
    workspace: str
    """Folder of the runs."""
    variants: dict[str, list[str]] = Field(min_length=2)
    """Variant -> its settings, `dotted.name=value` each."""
    baseline: str
    """The variant that the others are compared with."""
    seeds: list[int] = Field(min_length=1)
    """Seeds; each variant runs once with each."""
    measures: list[str] = Field(min_length=1)
    """`bits_per_byte/LANGUAGE`, `benchmark/NAME` or `group/NAME`, of the trained model."""
    parallel: Annotated[int, Field(ge=1)] = 1
    """Runs at the same time."""

    @model_validator(mode="after")
    def _baseline_is_a_variant(self) -> "Study":
        if self.baseline not in self.variants:
            raise ValueError(f"baseline {self.baseline!r} is no variant; choose one of {', '.join(self.variants)}")
        return self


def load_study(path: Path | str, overrides: dict[str, Any] | None = None) -> Study:
    """Read and check a study.

    Args:
        path: the YAML file.
        overrides: settings that replace those of the file (recipe, workspace, seeds, ...).

    Raises:
        UserError: it cannot be read, or a setting does not pass its check.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        return Study.model_validate((values or {}) | (overrides or {}))
    except OSError as error:
        raise UserError(f"the study cannot be read: {error.strerror}", where=str(path)) from None
    except yaml.YAMLError as error:
        raise UserError(f"the study is not YAML: {error}", where=str(path)) from None
    except (ValidationError, TypeError) as error:
        raise UserError(f"the study does not pass its check: {error}", where=str(path)) from None


def run_study(study: Study, run_recipe: RunRecipe) -> dict[str, Any]:
    """Run what is missing and compare.

    Args:
        study: the study.
        run_recipe: takes one recipe through the pipeline.

    Returns:
        {name, question, baseline, seeds, measures}, with for each measure {higher_is_better, sentences,
        variants: {variant: {values, mean, ci}}, differences: {variant: {values, mean, ci, unit}}}: `values` in the
        order of the seeds; a difference is relative for bits per byte, else of shares; `ci` is null with one seed.
    """
    runs = list(itertools.product(study.variants, study.seeds))
    recipes = {run: _recipe(study, *run) for run in runs}
    # The first run of each seed goes alone, so that the others find the stages that they have in common.
    first = [run for run in runs if run[0] == study.baseline]
    others = [run for run in runs if run[0] != study.baseline]
    for batch in (first, others):
        with ThreadPoolExecutor(max_workers=study.parallel) as pool:
            for future in [pool.submit(_run_one, study, recipes, run, run_recipe) for run in batch]:
                future.result()
    outcomes = {run: _read_results(Path(recipe.workspace)) for run, recipe in recipes.items()}
    result = {
        "name": study.name,
        "question": study.question,
        "baseline": study.baseline,
        "seeds": study.seeds,
        "measures": {measure: _compare(study, measure, outcomes) for measure in study.measures},
    }
    root = Path(study.workspace)
    write_json(root / "study.json", result)
    from reprise.evaluation.study_page import study_page

    (root / "study.html").write_text(study_page(result), encoding="utf-8")
    return result


@cache
def student_quantile(degrees: int, probability: float = 0.975) -> float:
    """Quantile of Student's t, from its density by integration and bisection (error below 1e-6)."""
    constant = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)

    def mass(limit: float) -> float:
        # With t = sqrt(degrees) tan(angle) the tails need no cut: the integrand is cos(angle) ** (degrees - 1).
        angles = np.linspace(0.0, math.atan(limit / math.sqrt(degrees)), 4001)
        return 0.5 + float(np.trapezoid(np.cos(angles) ** (degrees - 1), angles)) * constant * math.sqrt(degrees)

    low, high = 0.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mass(middle) < probability else (low, middle)
    return (low + high) / 2


def mean_interval(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Mean and Student's 95 % interval; None for one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    half = student_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, (mean - half, mean + half)


def _recipe(study: Study, variant: str, seed: int) -> Recipe:
    workspace = Path(study.workspace) / f"{variant}-seed-{seed}"
    fixed = [f"seed={seed}", f"workspace={json.dumps(str(workspace))}"]
    return load_recipe(study.recipe, [*study.variants[variant], *fixed])


def _run_one(study: Study, recipes: dict[tuple[str, int], Recipe], run: tuple[str, int], run_recipe: RunRecipe) -> None:
    target = Path(recipes[run].workspace)
    if not target.exists():
        same_seed = Path(recipes[study.baseline, run[1]].workspace)
        if same_seed != target and same_seed.exists():
            _share_stages(same_seed, target)
    run_recipe(recipes[run])


def _share_stages(source: Path, target: Path) -> None:
    """Give a new run what another made before training: the pipeline keeps what is fresh there and redoes the rest."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for folder in sorted(source.iterdir()):
        is_stage = (folder / MANIFEST).is_file()
        if folder.name == "cache" or (is_stage and not folder.name.startswith(("train-", "evaluate", "report"))):
            shutil.copytree(folder, partial / folder.name, copy_function=_link)
    partial.rename(target)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
    return target


def _read_results(workspace: Path) -> dict[str, Any]:
    path = workspace / "evaluate" / "results.json"
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("a run of the study has no evaluation", where=str(path)) from None
    return results


def _value(results: dict[str, Any], measure: str) -> float:
    kind, _, name = measure.partition("/")
    found: list[float] = []
    if kind == "bits_per_byte":
        rows = results["bits_per_byte"]
        found = [row["after"] for row in rows if row["language"] == name and row["source"] is None]
    elif kind == "benchmark":
        found = [row["after"] for row in results["benchmarks"] if row["benchmark"] == name]
    elif kind == "group":
        found = [results["groups"]["after"][name]] if name in results["groups"]["after"] else []
    if not found:
        raise UserError(f"the runs have no measure {measure!r}", where="measures", remedy="see results.json of a run")
    return found[0]


def _compare(study: Study, measure: str, outcomes: dict[tuple[str, int], dict[str, Any]]) -> dict[str, Any]:
    relative = measure.startswith("bits_per_byte/")
    values = {variant: [_value(outcomes[variant, seed], measure) for seed in study.seeds] for variant in study.variants}
    base = values[study.baseline]
    differences = {
        variant: [one / other - 1 if relative else one - other for one, other in zip(mine, base, strict=True)]
        for variant, mine in values.items()
        if variant != study.baseline
    }
    result: dict[str, Any] = {"higher_is_better": not relative, "variants": {}, "differences": {}, "sentences": []}
    for variant, mine in values.items():
        mean, ci = mean_interval(mine)
        result["variants"][variant] = {"values": mine, "mean": mean, "ci": ci}
    for variant, mine in differences.items():
        mean, ci = mean_interval(mine)
        unit = "relative" if relative else "difference"
        result["differences"][variant] = {"values": mine, "mean": mean, "ci": ci, "unit": unit}
        result["sentences"].append(_sentence(study, measure, variant, mean, ci, relative))
    return result


def _sentence(
    study: Study, measure: str, variant: str, mean: float, ci: tuple[float, float] | None, relative: bool
) -> str:
    """What the numbers do and do not show."""
    unit, count = ("%" if relative else "points"), len(study.seeds)
    head = f"{variant} against {study.baseline}: {measure} {100 * mean:+.2f} {unit}"
    if ci is None:
        return f"{head} in one run, which shows nothing about chance."
    head += f" (95 % interval {100 * ci[0]:+.2f} to {100 * ci[1]:+.2f}, {count} seeds)"
    if ci[0] <= 0 <= ci[1]:
        return f"{head}: the interval holds 0, so these runs do not show which is better."
    better = (mean < 0) == relative
    return f"{head}: {'better' if better else 'worse'} with this model, text and budget; beyond them it shows nothing."

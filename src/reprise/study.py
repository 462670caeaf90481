"""`reprise study`: a grid of recipes with seeds, and what the results do and do not show.

    WORKSPACE/
      VARIANT-seed-N/     the run of a variant, a workspace like any other
      VARIANT-seed-N.log  its output, if several run at the same time
      study.json          results (report/study_records.py)
      study.html          the same as a page

A stage that several runs have in common is made once: the pipeline reuses it from the run that made it. Runs are
paired by seed: the difference to the baseline is computed per seed, and has Student's interval, so that three seeds
give an appropriately wide one.
"""

import importlib.resources
import itertools
import json
import math
import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from reprise.errors import UserError
from reprise.evaluation.results import Results
from reprise.evaluation.verdicts import holm_levels
from reprise.manifest import read_output
from reprise.pipeline import run_stages
from reprise.progress import console
from reprise.recipe import Recipe, load_recipe
from reprise.recipe.fields import AnyPath, FolderPath, Settings
from reprise.recipe.loading import check, parse_yaml
from reprise.report.study_page import render_study
from reprise.report.study_records import MeasureComparison, PairedDifference, StudyResult
from reprise.storage import write_json, write_text
from reprise.workspace import refuse_to_replace

TakeThrough = Callable[[Recipe, Sequence[Path]], None]
"""Runs a recipe up to its evaluation, given the workspaces of the other runs; does nothing if it is finished."""


class Study(Settings):
    """Settings of a study: what is varied, and what is measured."""

    name: str
    """Short name, shown on the page."""
    question: str
    """The question of the study, in one sentence."""
    recipe: AnyPath
    """Recipe that every variant starts from; relative to the current folder."""
    workspace: FolderPath
    """Folder of the runs."""
    variants: dict[str, list[str]] = Field(min_length=2)
    """Variant -> its settings, `dotted.name=value` each."""
    baseline: str
    """The variant that the others are compared with."""
    seeds: list[int] = Field(min_length=1)
    """Seeds; each variant runs once with each."""
    measures: list[str] = Field(min_length=1)
    """`bits_per_byte/NAME` (an entry, `ENTRY/SOURCE` or a language), `benchmark/NAME` or `group/NAME`."""
    parallel: Annotated[int, Field(ge=1)] = 1
    """Runs at the same time."""

    @field_validator("variants")
    @classmethod
    def _names_are_folders(cls, variants: dict[str, list[str]]) -> dict[str, list[str]]:
        if bad := [name for name in variants if "/" in name or name.startswith(".")]:
            raise ValueError(f"the variant {bad[0]!r} cannot be the name of a folder; leave out `/` and a leading `.`")
        return variants

    @field_validator("seeds")
    @classmethod
    def _each_seed_once(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is given twice: both are the same run, which says nothing about chance")
        return seeds

    @model_validator(mode="after")
    def _baseline_is_a_variant(self) -> "Study":
        if self.baseline not in self.variants:
            raise ValueError(f"baseline {self.baseline!r} is no variant; choose one of {', '.join(self.variants)}")
        return self


def shipped_studies() -> list[str]:
    """Names of the studies shipped with Reprise."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _shipped().iterdir() if entry.name.endswith(".yaml"))


def load_study(name: Path | str, overrides: dict[str, Any] | None = None) -> Study:
    """Read and check a study.

    Args:
        name: a YAML file, or the name of a study shipped with Reprise.
        overrides: settings that override those in the file (recipe, workspace, seeds, ...).

    Raises:
        UserError: the file cannot be read, or a setting does not pass its check.
    """
    is_shipped = str(name) in shipped_studies() and not Path(name).exists()
    path = _shipped() / f"{name}.yaml" if is_shipped else Path(name)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the study cannot be read: {error.strerror}",
            where=str(path),
            remedy=f"name a YAML file, or one of {', '.join(shipped_studies())}",
        ) from None
    except UnicodeDecodeError:
        raise UserError("the study is not UTF-8", where=str(path), remedy="save it as UTF-8") from None
    return check(Study, parse_yaml(text, str(path)) | (overrides or {}), str(path))


def run_study(study: Study, *, arguments: Sequence[str] = (), only: str | None = None) -> StudyResult | None:
    """Run what is missing and compare the variants.

    Args:
        study: the study.
        arguments: arguments of the command `reprise study`, used to start parallel runs.
        only: only run this one, such as `random-seed-1`; nothing is compared.

    Returns:
        The comparison, which is also written to files; None with `only`.

    Raises:
        UserError: there is no such run; or a run lacks a measure.
    """
    recipes = {run: _recipe(study, *run) for run in itertools.product(study.variants, study.seeds)}
    root = Path(study.workspace)
    if not any(Path(recipe.workspace).is_dir() for recipe in recipes.values()):
        refuse_to_replace(root, ("study.json", "study.html"), "a study")
    if only is not None:
        run_one(recipes, _find(recipes, only), take_through)
        return None
    run_all(study, recipes, arguments)
    outcomes = {run: read_results(Path(recipe.workspace)) for run, recipe in recipes.items()}
    result: StudyResult = {
        "name": study.name,
        "question": study.question,
        "recipe": study.recipe,
        "variants": study.variants,
        "baseline": study.baseline,
        "seeds": study.seeds,
        "measures": _compare_all(study, outcomes),
    }
    write_json(root / "study.json", result)
    write_text(root / "study.html", render_study(result))
    return result


def run_all(study: Study, recipes: Mapping[tuple[str, int], Recipe], arguments: Sequence[str]) -> None:
    """Run the grid, with as many parallel runs as the study allows.

    Args:
        study: the study.
        recipes: (variant, seed) -> its recipe.
        arguments: see `run_study`.
    """
    if study.parallel == 1:  # in this thread, since training catches signals
        for run in itertools.chain(*_batches(study)):
            run_one(recipes, run, take_through)
        return
    apart = run_apart(arguments, study.parallel)
    for batch in _batches(study):
        with ThreadPoolExecutor(max_workers=study.parallel) as pool:
            for future in [pool.submit(run_one, recipes, run, apart) for run in batch]:
                future.result()


def take_through(recipe: Recipe, others: Sequence[Path]) -> None:
    """Run a recipe up to its evaluation, in this process."""
    run_stages(
        recipe,
        until=["evaluate"],
        others=others,
        say=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
    )


def run_apart(arguments: Sequence[str], parallel: int) -> TakeThrough:
    """Start each run in its own process, with its own accelerator if there are several.

    Args:
        arguments: arguments of `reprise study` for this study.
        parallel: how many runs execute at the same time.
    """
    import torch

    accelerators = torch.cuda.device_count()
    slots: queue.SimpleQueue[int] = queue.SimpleQueue()
    for slot in range(parallel):
        slots.put(slot)

    def run(recipe: Recipe, others: Sequence[Path]) -> None:
        slot = slots.get()
        environment = dict(os.environ)
        if accelerators:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            names = visible if len(visible) == accelerators else [str(index) for index in range(accelerators)]
            environment["CUDA_VISIBLE_DEVICES"] = names[slot % accelerators]
        else:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // parallel)))
        workspace = Path(recipe.workspace)
        log = workspace.with_name(f"{workspace.name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "reprise", "study", *arguments, "--only", workspace.name]
        try:
            with log.open("a", encoding="utf-8") as output:
                code = subprocess.run(command, stdout=output, stderr=output, env=environment, check=False).returncode
        finally:
            slots.put(slot)
        if code:
            lines = log.read_text(encoding="utf-8").strip().split("\n")
            said = next((line for line in reversed(lines) if line.startswith("error:")), lines[-1])
            raise UserError(f"the run {workspace.name} ended with code {code}: {said}", where=str(log))

    return run


def student_quantile(degrees: int, probability: float = 0.975) -> float:
    """Quantile of Student's t."""
    from scipy.stats import t as student

    return float(student.ppf(probability, degrees))


def mean_interval(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Mean and Student's 95 % interval; None for one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    half = student_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, (mean - half, mean + half)


def detectable_difference(values: Sequence[float]) -> float | None:
    """The smallest true difference that this many pairs with this scatter detect in 4 of 5 studies; None for one.

    (t_0.975 + t_0.8) s / sqrt(n): the power of a paired t test, about 0.8.
    """
    if len(values) < 2:
        return None
    degrees = len(values) - 1
    quantiles = student_quantile(degrees) + student_quantile(degrees, 0.8)
    return quantiles * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def _recipe(study: Study, variant: str, seed: int) -> Recipe:
    workspace = Path(study.workspace) / f"{variant}-seed-{seed}"
    fixed = [f"seed={seed}", f"workspace={json.dumps(str(workspace))}", "mirror="]
    return load_recipe(study.recipe, [*study.variants[variant], *fixed])


def _shipped() -> Traversable:
    return importlib.resources.files("reprise") / "studies"


def _find(recipes: dict[tuple[str, int], Recipe], name: str) -> tuple[str, int]:
    names = {Path(recipe.workspace).name: run for run, recipe in recipes.items()}
    if name not in names:
        raise UserError(f"the study has no run {name!r}", where="--only", remedy=f"its runs are {', '.join(names)}")
    return names[name]


def _batches(study: Study) -> list[list[tuple[str, int]]]:
    """Batches of runs: the first run alone, then the baseline of each seed, then the others, which find the common
    stages finished instead of making them at the same time."""
    baselines = [(study.baseline, seed) for seed in study.seeds]
    others = [(variant, seed) for variant in study.variants if variant != study.baseline for seed in study.seeds]
    return [baselines[:1], baselines[1:], others]


def run_one(recipes: Mapping[tuple[str, int], Recipe], run: tuple[str, int], take: TakeThrough) -> None:
    """Run one recipe of a grid, with the cached answers of other runs.

    Args:
        recipes: (variant, seed) -> its recipe, for all runs so far.
        run: which one to run.
        take: runs the recipe up to its evaluation.
    """
    target = Path(recipes[run].workspace)
    others = [Path(recipe.workspace) for other, recipe in recipes.items() if other != run]
    for other in others:
        if not (target / "cache").exists() and (other / "cache").is_dir():
            partial = target.with_name(f".{target.name}.cache")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(other / "cache", partial, ignore=shutil.ignore_patterns(".*"))
            target.mkdir(parents=True, exist_ok=True)
            partial.rename(target / "cache")
    take(recipes[run], others)


def read_results(workspace: Path) -> Results:
    """Read the evaluation of a run.

    Raises:
        UserError: it does not exist.
    """
    path = workspace / "evaluate" / "results.json"
    try:
        results: Results = read_output(path)
    except FileNotFoundError:
        raise UserError("a run of the study has no evaluation", where=str(path)) from None
    return results


def held_out_bits(results: Results, name: str) -> tuple[float, float] | None:
    """Bits per byte before and after; None if no such text is held out.

    Args:
        results: the evaluation of a run.
        name: `en`, `law` or `law/cases`: an entry of the mixture or a source of it, as in the verdicts; else a
            language, with the text of all of its entries.
    """
    rows = results["bits_per_byte"]
    named = [row for row in rows if row["path"] == name]
    named = named or [row for row in rows if row["language"] == name and row["source"] is None]
    num_bytes = sum(row["num_bytes"] for row in named)
    if not num_bytes:
        return None
    before = sum(row["before"] * row["num_bytes"] for row in named) / num_bytes
    after = sum(row["after"] * row["num_bytes"] for row in named) / num_bytes
    return before, after


def _value(results: Results, measure: str) -> float:
    kind, _, name = measure.partition("/")
    value: float | None = None
    if kind == "bits_per_byte":
        bits = held_out_bits(results, name)
        value = None if bits is None else bits[1]
    elif kind == "benchmark":
        value = next((row["after"] for row in results["benchmarks"] if row["benchmark"] == name), None)
    elif kind == "group":
        value = results["groups"]["after"].get(name)
    if value is None:
        raise UserError(f"the runs have no measure {measure!r}", where="measures", remedy="see results.json of a run")
    return value


def _compare_all(study: Study, outcomes: dict[tuple[str, int], Results]) -> dict[str, MeasureComparison]:
    """Compare every measure of every variant with the baseline; Holm's rule controls the joint error."""
    compared = {measure: _compare(study, measure, outcomes) for measure in study.measures}
    differences = [
        (measure, variant, difference)
        for measure, comparison in compared.items()
        for variant, difference in comparison["differences"].items()
    ]
    errors = [smallest_error(difference["values"]) for _, _, difference in differences]
    levels = holm_levels(errors)
    for (measure, variant, difference), error, level in zip(differences, errors, levels, strict=True):
        sentence = _sentence(study, measure, variant, difference, error <= level, len(errors))
        compared[measure]["sentences"].append(sentence)
    return compared


def smallest_error(values: Sequence[float]) -> float:
    """The smallest error probability at which Student's interval of the mean excludes 0; 1 for one value."""
    from scipy.stats import ttest_1samp

    if len(values) < 2 or not any(values):
        return 1.0
    if np.ptp(values) == 0.0:
        return 0.0
    return float(ttest_1samp(values, 0.0).pvalue)


def _compare(study: Study, measure: str, outcomes: dict[tuple[str, int], Results]) -> MeasureComparison:
    relative = measure.startswith("bits_per_byte/")
    values = {variant: [_value(outcomes[variant, seed], measure) for seed in study.seeds] for variant in study.variants}
    base = values[study.baseline]
    result: MeasureComparison = {"higher_is_better": not relative, "variants": {}, "differences": {}, "sentences": []}
    for variant, mine in values.items():
        mean, ci = mean_interval(mine)
        result["variants"][variant] = {"values": mine, "mean": mean, "ci": ci}
        if variant == study.baseline:
            continue
        paired = [one / other - 1 if relative else one - other for one, other in zip(mine, base, strict=True)]
        mean, ci = mean_interval(paired)
        seen = detectable_difference(paired)
        unit: Literal["relative", "difference"] = "relative" if relative else "difference"
        result["differences"][variant] = {"values": paired, "mean": mean, "ci": ci, "unit": unit, "detectable": seen}
    return result


def _sentence(
    study: Study, measure: str, variant: str, difference: PairedDifference, is_shown: bool, num_compared: int
) -> str:
    """State what the results do and do not show."""
    mean, ci, detectable = difference["mean"], difference["ci"], difference["detectable"]
    relative = difference["unit"] == "relative"
    unit, count = ("%" if relative else "points"), len(study.seeds)
    head = f"{variant} against {study.baseline}: {measure} {100 * mean:+.2f} {unit}"
    if ci is None or detectable is None:
        return f"{head} in one run, which shows nothing about chance."
    head += f" (95 % interval {100 * ci[0]:+.2f} to {100 * ci[1]:+.2f}, {count} seeds)"
    if ci[0] <= 0 <= ci[1]:
        return (
            f"{head}: the interval contains 0, so these runs do not show which is better; a difference of "
            f"{100 * detectable:.2f} {unit} would have been detected in 4 of 5 such studies."
        )
    if not is_shown:
        return (
            f"{head}: the interval excludes 0, but among {num_compared} comparisons one such is to be expected by "
            "chance, so it is not shown which is better; more seeds would tell."
        )
    better = (mean < 0) == relative
    return f"{head}: {'better' if better else 'worse'} with this model, text and budget; beyond them it shows nothing."

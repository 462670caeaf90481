"""`reprise study`: a grid of recipes with seeds, and what the results do and do not show.

    WORKSPACE/
      VARIANT-seed-N/     the run of a variant, an ordinary workspace
      VARIANT-seed-N.log  its output, if runs are parallel
      study.json          results (report/study_records.py)
      study.html          the same as a page

A stage that several runs have in common runs once; the other runs reuse it. Runs are paired by seed: the difference
from the baseline is computed per seed, with Student's interval, which is appropriately wide for a few seeds.
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
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from reprise.errors import UserError
from reprise.evaluation.results import Results
from reprise.manifest import read_output
from reprise.pipeline import run_stages
from reprise.progress import console
from reprise.recipe import Recipe, load_recipe
from reprise.recipe.fields import AnyPath, FolderPath, Settings
from reprise.recipe.loading import check, parse_yaml
from reprise.report.study_comparison import Compared, compare, compare_all
from reprise.report.study_page import render_study
from reprise.report.study_records import StoppedVariant, StudyResult
from reprise.storage import write_json, write_text
from reprise.workspace import refuse_to_replace

TakeThrough = Callable[[Recipe, Sequence[Path]], None]
"""Runs a recipe up to its evaluation unless it is finished; also gets the workspaces of the other runs."""


class Halving(Settings):
    """Stop the worse half of the variants before they have run with every seed (successive halving)."""

    measure: str
    """One of the study's measures: it ranks the variants by their mean difference from the baseline."""
    after: Annotated[int, Field(ge=1)] = 1
    """Seeds that every variant runs with before the first are stopped; then some are stopped after each seed."""


class Study(Settings):
    """Settings of a study: what is varied and what is measured."""

    name: str
    """Short name, for the page."""
    question: str
    """Question of the study, in one sentence."""
    recipe: AnyPath
    """Recipe that every variant starts from; relative to the current folder."""
    workspace: FolderPath
    """Folder of the runs."""
    variants: dict[str, list[str]] = Field(min_length=2)
    """Variant -> its settings, `dotted.name=value` each."""
    baseline: str
    """The variant that the others are compared with."""
    seeds: list[int] = Field(min_length=1)
    """Random seeds; each variant runs once with each."""
    measures: list[str] = Field(min_length=1)
    """`bits_per_byte/NAME` (an entry, `ENTRY/SOURCE` or a language), `benchmark/NAME` or `group/NAME`."""
    parallel: Annotated[int, Field(ge=1)] = 1
    """Number of parallel runs."""
    halving: Halving | None = None
    """Stop variants that are behind before they have run with every seed; null: every variant runs with every seed."""

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

    @model_validator(mode="after")
    def _halving_has_a_measure(self) -> "Study":
        if self.halving is not None and self.halving.measure not in self.measures:
            raise ValueError(
                f"halving.measure {self.halving.measure!r} is not measured; choose one of {', '.join(self.measures)}"
            )
        return self


def shipped_studies() -> list[str]:
    """Names of the studies shipped with Reprise."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _shipped().iterdir() if entry.name.endswith(".yaml"))


def load_study(name: Path | str, overrides: dict[str, Any] | None = None) -> Study:
    """Read and check a study.

    Args:
        name: a YAML file, or the name of a study shipped with Reprise.
        overrides: settings that replace those in the file (recipe, workspace, seeds, ...).

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
        arguments: arguments of the command `reprise study`, to start parallel runs with.
        only: run only this one, such as `random-seed-1`, and compare nothing.

    Returns:
        The comparison, which is also written to files; None with `only`.

    Raises:
        UserError: there is no run `only`, or a run lacks a measure.
    """
    recipes = {run: _recipe(study, *run) for run in itertools.product(study.variants, study.seeds)}
    root = Path(study.workspace)
    if not any(Path(recipe.workspace).is_dir() for recipe in recipes.values()):
        refuse_to_replace(root, ("study.json", "study.html"), "a study")
    if only is not None:
        run_one(recipes, _find(recipes, only), take_through)
        return None
    if study.halving is None:
        run_all(study, recipes, arguments)
        stopped: dict[str, StoppedVariant] = {}
    else:
        stopped = _run_in_halves(study, study.halving, recipes, arguments)
    outcomes = _read_outcomes(study, recipes, {name: stop["seeds"] for name, stop in stopped.items()})
    halving = None if study.halving is None else study.halving.measure
    result: StudyResult = {
        "name": study.name,
        "question": study.question,
        "recipe": study.recipe,
        "variants": study.variants,
        "baseline": study.baseline,
        "seeds": study.seeds,
        "halving": halving,
        "stopped": stopped,
        "measures": compare_all(_compared(study), outcomes, stopped, halving),
    }
    write_json(root / "study.json", result)
    write_text(root / "study.html", render_study(result))
    return result


def run_all(study: Study, recipes: Mapping[tuple[str, int], Recipe], arguments: Sequence[str]) -> None:
    """Run the grid, with `study.parallel` runs at a time.

    Args:
        study: the study.
        recipes: (variant, seed) -> its recipe.
        arguments: see `run_study`.
    """
    if study.parallel == 1:  # in the main thread, as training handles signals
        for run in itertools.chain(*_batches(study)):
            run_one(recipes, run, take_through)
        return
    apart = run_apart(arguments, study.parallel)
    for batch in _batches(study):
        with ThreadPoolExecutor(max_workers=study.parallel) as pool:
            for future in [pool.submit(run_one, recipes, run, apart) for run in batch]:
                future.result()


def _run_in_halves(
    study: Study, halving: Halving, recipes: Mapping[tuple[str, int], Recipe], arguments: Sequence[str]
) -> dict[str, StoppedVariant]:
    """Run seed by seed; after each, stop the worse half of the variants, never the baseline nor the last other one.

    What is stopped depends on the results alone, so that a killed study stops the same variants when it resumes.

    Returns:
        Variant -> why it was stopped.
    """
    running, stopped = list(study.variants), dict[str, StoppedVariant]()
    for num_seeds, seed in enumerate(study.seeds, 1):
        active = {name: study.variants[name] for name in running}
        run_all(study.model_copy(update={"variants": active, "seeds": [seed]}), recipes, arguments)
        if num_seeds < halving.after or num_seeds == len(study.seeds):
            continue
        ran = study.model_copy(update={"variants": active, "seeds": study.seeds[:num_seeds]})
        comparison = compare(_compared(ran), halving.measure, _read_outcomes(ran, recipes, {}))
        sign = -1 if comparison["higher_is_better"] else 1
        means = {name: one["mean"] for name, one in comparison["differences"].items()}
        ranking = sorted(means, key=lambda name: sign * means[name])
        for rank, name in enumerate(ranking[math.ceil(len(ranking) / 2) :], math.ceil(len(ranking) / 2) + 1):
            running.remove(name)
            stopped[name] = {"seeds": num_seeds, "rank": rank, "among": len(ranking), "difference": means[name]}
            console.print(
                f"{name}: stopped after {num_seeds} of {len(study.seeds)} seeds, rank {rank} of {len(ranking)}"
            )
    return stopped


def _compared(study: Study) -> Compared:
    return Compared(study.variants, study.baseline, study.seeds, study.measures)


def _read_outcomes(
    study: Study, recipes: Mapping[tuple[str, int], Recipe], num_seeds: Mapping[str, int]
) -> dict[tuple[str, int], Results]:
    """The evaluations of a study's runs; of a variant in `num_seeds` only its first seeds."""
    return {
        (variant, seed): read_results(Path(recipes[variant, seed].workspace))
        for variant in study.variants
        for seed in study.seeds[: num_seeds.get(variant)]
    }


def take_through(recipe: Recipe, others: Sequence[Path]) -> None:
    """Run a recipe up to its evaluation, in this process."""
    run_stages(
        recipe,
        until=["evaluate"],
        others=others,
        say=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
    )


def run_apart(arguments: Sequence[str], parallel: int) -> TakeThrough:
    """Make a function that runs each recipe in its own process, with its own accelerator if there are several.

    Args:
        arguments: arguments of `reprise study` for this study.
        parallel: how many runs are parallel.
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


def _recipe(study: Study, variant: str, seed: int) -> Recipe:
    workspace = Path(study.workspace) / f"{variant}-seed-{seed}"
    fixed = [f"seed={seed}", f"workspace={json.dumps(str(workspace))}", "mirror=''"]
    return load_recipe(study.recipe, [*study.variants[variant], *fixed])


def _shipped() -> Traversable:
    return importlib.resources.files("reprise") / "studies"


def _find(recipes: dict[tuple[str, int], Recipe], name: str) -> tuple[str, int]:
    names = {Path(recipe.workspace).name: run for run, recipe in recipes.items()}
    if name not in names:
        raise UserError(f"the study has no run {name!r}", where="--only", remedy=f"its runs are {', '.join(names)}")
    return names[name]


def _batches(study: Study) -> list[list[tuple[str, int]]]:
    """Batches of runs: the first run alone, then the baseline of each seed, then the others.

    Later batches find common stages finished, instead of running them in parallel.
    """
    baselines = [(study.baseline, seed) for seed in study.seeds]
    others = [(variant, seed) for variant in study.variants if variant != study.baseline for seed in study.seeds]
    return [baselines[:1], baselines[1:], others]


def run_one(recipes: Mapping[tuple[str, int], Recipe], run: tuple[str, int], take: TakeThrough) -> None:
    """Run one recipe of a grid, with the cached answers of other runs.

    Args:
        recipes: (variant, seed) -> its recipe.
        run: (variant, seed) to run.
        take: runs a recipe up to its evaluation.
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
        UserError: the run has no evaluation.
    """
    path = workspace / "evaluate" / "results.json"
    try:
        results: Results = read_output(path)
    except FileNotFoundError:
        raise UserError("a run of the study has no evaluation", where=str(path)) from None
    return results

"""A run, finished or not -> its report. The page is drawn from this record alone, so both show the same."""

import functools
import math
import time
from pathlib import Path
from typing import Any, Literal, cast

from reprise import __version__
from reprise.errors import UserError
from reprise.evaluation.results import Results
from reprise.evaluation.verdicts import headline_parts
from reprise.manifest import Manifest, read_output
from reprise.mixture.budget import budgets
from reprise.recipe import Recipe
from reprise.recipe.model import Model
from reprise.report.corpus import corpus_facts, excerpt, stage_folder
from reprise.report.corpus_records import OrderCurve, OrderRow
from reprise.report.curves import training_facts
from reprise.report.integrity import integrity_facts
from reprise.report.records import (
    ChangeSoFar,
    CostFacts,
    MachineFacts,
    RepeatFacts,
    Report,
    StageFacts,
    SynthesisFacts,
    VerdictFacts,
)
from reprise.report.training_records import BudgetRow, TrainingFacts
from reprise.stage_names import VOCABULARY, stage_names
from reprise.storage import InputRecord
from reprise.synthesis.records import SyntheticSamples
from reprise.vocabulary.records import VocabularyCounts
from reprise.workspace import Workspace

SAMPLE_CHARS = 1500
"""Maximum length of an excerpt of a synthetic sample."""


def gather(workspace: Workspace, recipe: Recipe) -> Report:
    """Collect everything that the report of a run contains."""
    problems: list[str] = []
    training = [training_facts(workspace, recipe, index) for index in range(len(recipe.stages))]
    results: Results | None = _read_json(workspace.folder("evaluate") / "results.json")
    stages = _stages(workspace, recipe)
    facts: Report = {
        "format": 4,
        "run": {
            "name": recipe.name,
            "model": recipe.model.path,
            "state": _state(stages),
            "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "version": __version__,
        },
        "stages": stages,
        "verdict": _verdict(results, training, recipe),
        "tolerance": _tolerances(recipe),
        "topics": _topics(recipe),
        "bits_per_byte": results["bits_per_byte"] if results else [],
        "document_bytes": cast(int, results["settings"]["document_bytes"]) if results else 0,
        "benchmarks": results["benchmarks"] if results else [],
        "groups": results["groups"] if results else {},
        "absent": results["absent"] if results else {},
        "harness": results["harness"] if results else None,
        "curve": results.get("curve", []) if results else [],
        "samples": results["samples"] if results else [],
        "vocabulary": _vocabulary(workspace, recipe),
        "corpus": corpus_facts(workspace),
        "budget": _budget(recipe, training),
        "order": _order(recipe),
        "curriculum": _curriculum(workspace, recipe, problems),
        "problems": problems,
        "training": training,
        "synthesis": _synthesis(workspace, recipe),
        "repeat": _repeat(workspace, recipe, stages, training),
        "integrity": integrity_facts(workspace, {name: workspace.manifest(name) for name in stage_names(recipe)}),
    }
    finite_facts: Report = finite(facts)
    return finite_facts


def finite(value: Any) -> Any:
    """Replace every float that is not finite by None, as JSON has neither NaN nor infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _read_json(path: Path) -> Any:
    try:
        return read_output(path)
    except FileNotFoundError:
        return None


def _stages(workspace: Workspace, recipe: Recipe) -> list[StageFacts]:
    names = stage_names(recipe)
    manifests = {name: workspace.manifest(name) for name in names}
    return [_stage(workspace, name, manifests) for name in names]


def _stage(workspace: Workspace, name: str, manifests: dict[str, Manifest | None]) -> StageFacts:
    manifest = manifests[name]
    facts: StageFacts = {
        "stage": name,
        "state": "missing",
        "seconds": None,
        "finished": None,
        "version": None,
        "fingerprint": None,
        "last_sign_of_life_s_ago": None,
        "counts": {},
        "older_input": [],
    }
    if manifest is None:
        partial = workspace.root / f"{name}.partial"
        times = [path.stat().st_mtime for path in [partial, *partial.glob("*")] if path.exists()]
        if times:
            facts["state"] = "unfinished"
            facts["last_sign_of_life_s_ago"] = round(max(0.0, time.time() - max(times)), 1)
        return facts
    return {
        **facts,
        "state": "done",
        "seconds": manifest.seconds,
        "finished": manifest.finished,
        "version": manifest.version,
        "fingerprint": manifest.fingerprint,
        "counts": manifest.counts,
        "older_input": [
            other
            for other, content in manifest.inputs.items()
            if (now := manifests.get(other)) is None or now.content != content
        ],
    }


def _state(stages: list[StageFacts]) -> Literal["finished", "not finished", "not begun"]:
    if all(stage["state"] == "done" for stage in stages):
        return "finished"
    return "not finished" if any(stage["state"] != "missing" for stage in stages) else "not begun"


def _verdict(results: Results | None, training: list[TrainingFacts], recipe: Recipe) -> VerdictFacts:
    """The evaluation's verdict; before the evaluation, the change of the held-out loss so far."""
    if results:
        parts = headline_parts(results["verdicts"], results["untested"])
        return {
            "provisional": False,
            "headline": results["headline"],
            "parts": [{"verdict": verdict, "text": text} for verdict, text in parts],
            "verdicts": results["verdicts"],
            "untested": results["untested"],
            "so_far": [],
        }
    so_far = changes_so_far(training, _tolerances(recipe))
    return {"provisional": True, "headline": None, "parts": [], "verdicts": [], "untested": [], "so_far": so_far}


def _tolerances(recipe: Recipe) -> dict[str, float]:
    """Entry, language or `entry/source` -> tolerance."""
    groups = recipe.held_out_groups()
    named = {group.path: group.tolerance for group in groups.named if group.tolerance is not None}
    return groups.other_languages | named


def changes_so_far(training: list[TrainingFacts], tolerances: dict[str, float]) -> list[ChangeSoFar]:
    """Held-out bits per byte of each entry and source, before training and at the last validation."""
    measured = [validation for stage in training for validation in stage["validations"]]
    if not measured:
        return []
    first, last = (
        {(row["entry"], row["source"]): row["value"] for row in validation["bits_per_byte"] if row["topic"] is None}
        for validation in (measured[0], measured[-1])
    )
    changes: list[ChangeSoFar] = []
    for entry, source in first:
        sources = [other for other in first if other[0] == entry and other[1] is not None]
        if (entry, source) not in last or (source is not None and len(sources) == 1):
            continue
        path = entry if source is None else f"{entry}/{source}"
        before, after = first[entry, source], last[entry, source]
        changes.append(
            {
                "path": path,
                "entry": entry,
                "source": source,
                "before": before,
                "after": after,
                "change": after / before - 1,
                "tolerance": tolerances.get(path, tolerances.get(entry)),
            }
        )
    return changes


def _budget(recipe: Recipe, training: list[TrainingFacts]) -> list[BudgetRow]:
    """Planned and spent tokens of every bucket of the mixture."""
    planned = {(plan.stage, plan.entry, plan.source, plan.topic): plan.tokens for plan in budgets(recipe)}
    spent = {
        (stage["stage"], row["entry"], row["source"], row["topic"]): row for stage in training for row in stage["spent"]
    }
    rows: list[BudgetRow] = []
    for key in [*planned, *(key for key in spent if key not in planned)]:
        stage, entry, source, topic = key
        row = spent.get(key)
        rows.append(
            {
                "stage": stage,
                "entry": entry,
                "source": source,
                "topic": topic,
                "planned": planned.get(key),
                "spent": row["spent"] if row else None,
                "available": row.get("available") if row else None,
                "epochs": row.get("epochs") if row else None,
                "text_bytes": row.get("text_bytes") if row else None,
            }
        )
    return rows


def _order(recipe: Recipe) -> list[OrderRow]:
    """Order of the documents of each source in each stage."""
    rows: list[OrderRow] = []
    for index, stage in enumerate(recipe.stages):
        for name, entry in stage.mixture.items():
            for source in entry.sources:
                curriculum = stage.curriculum_of(name, source)
                rows.append(
                    {
                        "stage": index + 1,
                        "entry": name,
                        "source": source,
                        "scored": curriculum.needs_perplexity,
                        "by": curriculum.by,
                        "order": curriculum.order,
                        "segments": curriculum.segments,
                        "drop_below": curriculum.drop_below,
                        "drop_above": curriculum.drop_above,
                    }
                )
    return rows


def _curriculum(workspace: Workspace, recipe: Recipe, problems: list[str]) -> list[OrderCurve]:
    """Perplexity along the order of training; empty before the stage `tokenize`."""
    if workspace.manifest("tokenize") is None:
        return []
    from reprise.report.order import order_facts  # imports torch, which an early report does not need

    try:
        return order_facts(workspace, recipe)
    except UserError as error:
        problems.append(str(error))
        return []


def _vocabulary(workspace: Workspace, recipe: Recipe) -> VocabularyCounts | None:
    """Counts of the stage `vocabulary`; None before that stage, or if the recipe has none."""
    manifest = None if recipe.vocabulary is None else workspace.manifest(VOCABULARY)
    return None if manifest is None else cast(VocabularyCounts, manifest.counts)


def _synthesis(workspace: Workspace, recipe: Recipe) -> SynthesisFacts:
    samples: SyntheticSamples = {"kept": [], "dropped": []}
    if not recipe.synthesis.enabled:
        return {"enabled": False, "funnel": None, "samples": samples}
    folder = stage_folder(workspace, "synthesize")
    samples = _read_json(folder / "samples.json") or samples
    for sample in [*samples["kept"], *samples["dropped"]]:
        sample["passage"] = excerpt(sample["passage"], SAMPLE_CHARS)
        sample["text"] = excerpt(sample["text"], SAMPLE_CHARS)
    return {"enabled": True, "funnel": _read_json(folder / "funnel.json"), "samples": samples}


def _repeat(
    workspace: Workspace, recipe: Recipe, stages: list[StageFacts], training: list[TrainingFacts]
) -> RepeatFacts:
    """What is needed to reproduce the run."""
    files: dict[str, InputRecord] = {}
    for stage in stages:
        manifest = workspace.manifest(stage["stage"])
        files |= manifest.files if manifest else {}
    return {
        "seed": recipe.seed,
        "recipe": recipe.model_dump(mode="json"),
        "files": [{"file": file["path"], "bytes": file["size"], "xxh128": file["xxh128"]} for file in files.values()],
        "machine": _machine(training),
        "cost": _cost(recipe, training),
        "seconds": round(sum(stage["seconds"] or 0.0 for stage in stages), 1),
    }


def _cost(recipe: Recipe, training: list[TrainingFacts]) -> CostFacts:
    """Cost of training so far; `price` is None if the recipe sets none, `training_flops` if they are not known."""
    hours = sum(stage["seconds"] * stage["start"]["processes"] for stage in training if stage["start"]) / 3600
    tokens = sum(stage["tokens"] for stage in training)
    per_token = _flops_per_token(recipe) if tokens else 0.0
    return {
        "tokens": tokens,
        "training_flops": None if per_token is None else per_token * tokens,
        "process_hours": round(hours, 4),
        "price": hours * recipe.hardware.price_per_hour if recipe.hardware.price_per_hour else None,
    }


def _flops_per_token(recipe: Recipe) -> float | None:
    """FLOPs per token of the forward and backward pass; None if the model's configuration is missing."""
    frozen = recipe.training.adapter.kind != "none"
    return _flops_of_model(recipe.start_model().model_dump_json(), recipe.rows.seq_len, frozen)


@functools.lru_cache(maxsize=8)
def _flops_of_model(model_json: str, seq_len: int, frozen: bool) -> float | None:
    from reprise.model.flops import training_flops_per_token
    from reprise.model.loading import load_config

    try:
        return training_flops_per_token(load_config(Model.model_validate_json(model_json)), seq_len, frozen=frozen)
    except UserError:
        return None


def _machine(training: list[TrainingFacts]) -> MachineFacts | None:
    """The machine of the last training process; None before the first."""
    starts = [stage["start"] for stage in training if stage["start"]]
    return {**starts[-1]["machine"], "processes": starts[-1]["processes"]} if starts else None


def _topics(recipe: Recipe) -> dict[str, list[str]]:
    """Entry of the mixture, or language -> its topics."""
    entries = [item for stage in recipe.stages for item in stage.mixture.items()]
    languages = {name: entry.language for name, entry in entries} | {e.language: e.language for _, e in entries}
    return {name: recipe.documents.topics.list_of(language) for name, language in languages.items()}

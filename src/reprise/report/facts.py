"""A run, at any moment -> one JSON value. The page is drawn from this value and nothing else, so both say the same.

format          1
run             name, state, written, version
stages          one entry per stage: state (done, unfinished, missing), seconds, counts, fingerprint, older_input
tolerance       kept language -> largest relative rise of its bits per byte
topics          language -> its topics, in the recipe's order
verdict         headline, provisional, verdicts (from the evaluation; while it is missing, from the last validation)
bits_per_byte   {language, source, topic, before, after, ...}; source and topic null for a language's total
benchmarks, curve, samples   from the evaluation
corpus          flow, drops, rejects, buckets, perplexity, grades (see corpus.py)
budget          {stage, language, source, topic, planned, spent, available, epochs}
order           {stage, language, source, order, ...}
training        one entry per training stage (see curves.py)
synthesis       the funnel
repeat          recipe, seed, files, versions, hardware
integrity       which files were compared with their checksums, and the last `reprise verify` (see integrity.py)
"""

import functools
import json
import math
import time
from pathlib import Path
from typing import Any

from reprise import __version__
from reprise.errors import UserError
from reprise.evaluation.verdicts import headline_parts
from reprise.mixture.budget import budgets
from reprise.recipe import Recipe
from reprise.recipe.model import Model
from reprise.report.corpus import corpus_facts, excerpt, stage_folder
from reprise.report.curves import training_facts
from reprise.report.integrity import integrity_facts
from reprise.storage import Json
from reprise.workspace import Manifest, Workspace

FORMAT = 1

SAMPLE_CHARS = 1500
"""Longest excerpt of a synthetic sample."""


def gather(workspace: Workspace, recipe: Recipe) -> Json:
    """All that is known of a run."""
    problems: list[str] = []
    training = [training_facts(workspace, recipe, index) for index in range(len(recipe.stages))]
    results = _read_json(workspace.folder("evaluate") / "results.json") or {}
    stages = _stages(workspace, recipe)
    facts = {
        "format": FORMAT,
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
        "topics": {language: recipe.documents.topics.list_of(language) for language in _languages(recipe)},
        "bits_per_byte": results.get("bits_per_byte", []),
        "benchmarks": results.get("benchmarks", []),
        "groups": results.get("groups", {}),
        "absent": results.get("absent", {}),
        "harness": results.get("settings", {}).get("harness"),
        "curve": results.get("curve", []),
        "samples": results.get("samples", []),
        "corpus": corpus_facts(workspace, recipe),
        "budget": _budget(workspace, recipe, training),
        "order": _order(recipe),
        "curriculum": _curriculum(workspace, recipe, problems),
        "problems": problems,
        "training": training,
        "synthesis": _synthesis(workspace, recipe),
        "repeat": _repeat(workspace, recipe, stages, training),
        "integrity": integrity_facts(workspace, {name: workspace.manifest(name) for name in stage_names(recipe)}),
    }
    return finite(facts)


def finite(value: Json) -> Json:
    """The value with null in the place of each number that is not finite, for which JSON has no word."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _read_json(path: Path) -> Json:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def stage_names(recipe: Recipe) -> list[str]:
    """The stages of a run, in order, without the report itself."""
    return [
        *("read", "clean", "deduplicate", "decontaminate", "label", "score"),
        *(["synthesize"] if recipe.synthesis.enabled else []),
        "tokenize",
        *(f"train-{number + 1}" for number in range(len(recipe.stages))),
        "evaluate",
    ]


def _stages(workspace: Workspace, recipe: Recipe) -> list[Json]:
    names = stage_names(recipe)
    manifests = {name: workspace.manifest(name) for name in names}
    return [_stage(workspace, name, manifests) for name in names]


def _stage(workspace: Workspace, name: str, manifests: dict[str, Manifest | None]) -> Json:
    manifest = manifests[name]
    unknown = dict.fromkeys(("seconds", "finished", "version", "fingerprint", "last_sign_of_life_s_ago"))
    entry: Json = {"stage": name, "state": "missing", **unknown, "counts": {}, "older_input": []}
    if manifest is None:
        partial = workspace.root / f"{name}.partial"
        times = [path.stat().st_mtime for path in [partial, *partial.glob("*")] if path.exists()]
        if times:
            entry |= {"state": "unfinished", "last_sign_of_life_s_ago": round(max(0.0, time.time() - max(times)), 1)}
        return entry
    older = [
        other
        for other, content in manifest.inputs.items()
        if (now := manifests.get(other)) is None or now.content != content
    ]
    return entry | {
        "state": "done",
        "seconds": manifest.seconds,
        "finished": manifest.finished,
        "version": manifest.version,
        "fingerprint": manifest.fingerprint,
        "counts": manifest.counts,
        "older_input": older,
    }


def _state(stages: list[Json]) -> str:
    if all(stage["state"] == "done" for stage in stages):
        return "finished"
    return "not finished" if any(stage["state"] != "missing" for stage in stages) else "not begun"


def _verdict(results: Json, training: list[Json], recipe: Recipe) -> Json:
    """The evaluation's verdict; before there is one, what the held-out loss of training says so far."""
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
    empty: Json = {"headline": None, "parts": [], "verdicts": [], "untested": []}
    return {"provisional": True, **empty, "so_far": changes_so_far(training, _tolerances(recipe))}


def _tolerances(recipe: Recipe) -> dict[str, float]:
    """Entry, language or `entry/source` -> tolerance."""
    groups = recipe.held_out_groups()
    named = {group.path: group.tolerance for group in groups.named if group.tolerance is not None}
    return groups.other_languages | named


def changes_so_far(training: list[Json], tolerances: dict[str, float]) -> list[Json]:
    """Held-out bits per byte of each entry and source before training and at the last validation."""
    measured = [validation for stage in training for validation in stage["validations"]]
    if not measured:
        return []
    first, last = (
        {(row["entry"], row["source"]): row["value"] for row in validation["bits_per_byte"] if row["topic"] is None}
        for validation in (measured[0], measured[-1])
    )
    changes = []
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


def _budget(workspace: Workspace, recipe: Recipe, training: list[Json]) -> list[Json]:
    """Planned and spent tokens of every bucket of the mixture."""
    planned = {(plan.stage, plan.entry, plan.source, plan.topic): plan.tokens for plan in budgets(recipe)}
    spent: dict[tuple[int, str, str, str | None], Json] = {
        (stage["stage"], entry["entry"], entry["source"], entry["topic"]): entry
        for stage in training
        for entry in stage["spent"]
    }
    rows = []
    for key in [*planned, *(key for key in spent if key not in planned)]:
        stage, name, source, topic = key
        entry = spent.get(key, {})
        rows.append(
            {"stage": stage, "entry": name, "source": source, "topic": topic, "planned": planned.get(key)}
            | {key: entry.get(key) for key in ("spent", "available", "epochs")}
        )
    return rows


def _order(recipe: Recipe) -> list[Json]:
    """In which order each stage takes the documents of each source."""
    rows = []
    for index, stage in enumerate(recipe.stages):
        for name, entry in stage.mixture.items():
            for source in entry.sources:
                curriculum = stage.curriculum_of(name, source)
                rows.append(
                    {"stage": index + 1, "entry": name, "source": source, "scored": curriculum.needs_perplexity}
                    | curriculum.model_dump(mode="json")
                )
    return rows


def _curriculum(workspace: Workspace, recipe: Recipe, problems: list[str]) -> list[Json]:
    """Perplexity along the order of training, once there is a token store."""
    if workspace.manifest("tokenize") is None:
        return []
    from reprise.report.order import order_facts  # imports torch, which an early report can do without

    try:
        return order_facts(workspace, recipe)
    except UserError as error:
        problems.append(str(error))
        return []


def _synthesis(workspace: Workspace, recipe: Recipe) -> Json:
    if not recipe.synthesis.enabled:
        return {"enabled": False}
    folder = stage_folder(workspace, "synthesize")
    samples = _read_json(folder / "samples.json") or {"kept": [], "dropped": []}
    for sample in [*samples["kept"], *samples["dropped"]]:
        sample |= {name: excerpt(sample[name], SAMPLE_CHARS) for name in ("seed", "text")}
    return {"enabled": True, "funnel": _read_json(folder / "funnel.json"), "samples": samples}


def _repeat(workspace: Workspace, recipe: Recipe, stages: list[Json], training: list[Json]) -> Json:
    """What another person needs to get the same numbers."""
    files: dict[str, Any] = {}
    for stage in stages:
        manifest = workspace.manifest(stage["stage"])
        files |= manifest.files if manifest else {}
    return {
        "seed": recipe.seed,
        "recipe": recipe.model_dump(mode="json"),
        "files": [
            {"file": entry["path"], "bytes": entry["size"], "xxh128": entry["xxh128"]} for entry in files.values()
        ],
        "machine": _machine(training),
        "cost": _cost(recipe, training),
        "seconds": round(sum(stage["seconds"] or 0.0 for stage in stages), 1),
    }


def _cost(recipe: Recipe, training: list[Json]) -> Json:
    """What training has taken until now; price null where the recipe names none, flops where they are not known."""
    begun = [stage for stage in training if stage["start"]]
    hours = sum(stage["seconds"] * stage["start"]["processes"] for stage in begun) / 3600
    tokens = sum(stage["tokens"] for stage in begun)
    per_token = _flops_per_token(recipe.model.model_dump_json(), recipe.rows.seq_len) if tokens else 0.0
    return {
        "tokens": tokens,
        "training_flops": None if per_token is None else per_token * tokens,
        "process_hours": round(hours, 4),
        "price": hours * recipe.hardware.price_per_hour if recipe.hardware.price_per_hour else None,
    }


@functools.lru_cache(maxsize=8)
def _flops_per_token(model_json: str, seq_len: int) -> float | None:
    """FLOPs of forward and backward pass; None where the model's configuration is no longer there."""
    from reprise.model.flops import training_flops_per_token
    from reprise.model.loading import load_config

    try:
        return training_flops_per_token(load_config(Model.model_validate_json(model_json)), seq_len)
    except UserError:
        return None


def _machine(training: list[Json]) -> Json:
    """What training ran on, as its last process said when it began; None before there was one."""
    begun = [stage for stage in training if stage["start"]]
    if not begun:
        return None
    start = begun[-1]["start"]
    return start["machine"] | {"processes": start["processes"]}


def _languages(recipe: Recipe) -> list[str]:
    """Languages of the mixtures, each once, in order."""
    parts = (item for stage in recipe.stages for item in stage.mixture.items())
    return list(dict.fromkeys(part.language or name for name, part in parts))

"""`metrics.jsonl` -> what the report says about training."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from reprise.recipe import Recipe
from reprise.storage import Json
from reprise.workspace import Manifest, Workspace

MAX_POINTS = 600
"""Most points of a curve; a longer series is averaged over neighbouring steps."""

EVENTS = ("guard", "resume")
"""What happened, and stays true when the tokens after it are trained again."""

Key = tuple[str, str | None, str | None]
"""Language, source, topic; None: all of them together."""


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Records of a metrics file, and how many of its lines are damaged.

    A last line without its end is one that is being written, not damage.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], 0
    records, damaged = [], 0
    for line in lines[:-1]:
        try:
            record = json.loads(line)
            record["kind"], record["tokens"]
            records.append(record)
        except (ValueError, KeyError, TypeError):
            damaged += 1
    return records, damaged


def drop_repeated(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out what a restart did again: measurements after the checkpoint that it went back to.

    A process begins with `start`. If it found a checkpoint, `resume` follows; else it began from the first token, and
    that becomes a `resume` at 0 here.
    """
    kept: list[dict[str, Any]] = []
    for number, record in enumerate(records):
        following = records[number + 1]["kind"] if number + 1 < len(records) else None
        if record["kind"] == "start" and kept and following != "resume":
            record = record | {"kind": "resume", "checkpoint": None}
        if record["kind"] == "resume":
            kept = [old for old in kept if old["kind"] in EVENTS or old["tokens"] <= record["tokens"]]
        if record["kind"] != "start" or not kept:
            kept.append(record)
    return kept


def training_facts(workspace: Workspace, recipe: Recipe, index: int) -> Json:
    """What is known of one training stage, finished or not.

    Args:
        workspace: the run.
        recipe: its settings.
        index: number of the stage, from 0.
    """
    stage = recipe.stages[index]
    name = f"train-{index + 1}"
    manifest = workspace.manifest(name)
    folder = workspace.folder(name) if manifest else workspace.root / f"{name}.partial"
    everything, damaged = read_metrics(folder / "metrics.jsonl")
    records = drop_repeated(everything)
    steps = _of(records, "step")
    validations = [_validation(record) for record in _of(records, "validation")]
    return {
        "stage": index + 1,
        "name": stage.name,
        "tokens_planned": stage.tokens,
        "tokens": max((record["tokens"] for record in records), default=0),
        "steps": max((record["step"] for record in steps), default=0),
        "seconds": _seconds(manifest, everything),
        "start": next(iter(reversed(_of(everything, "start"))), None),
        "damaged_lines": damaged,
        "series": _series(steps),
        "benchmarks": [
            {"tokens": record["tokens"], "scores": {row["benchmark"]: row["score"] for row in record["benchmarks"]}}
            for record in _of(records, "benchmarks")
        ],
        "validations": validations,
        "shares": _shares(records),
        "events": [_event(record) for record in records if _is_event(record, stage.topics.policy.name)],
        "checkpoints": len(_of(records, "checkpoint")),
        "spent": manifest.counts.get("spent", []) if manifest else _spent_so_far(folder),
    }


def _spent_so_far(folder: Path) -> list[Json]:
    """Tokens of each bucket up to the newest checkpoint of a stage that is not finished."""
    found = sorted(folder.glob("checkpoints/step-*[0-9]/checkpoint.json"))
    try:
        buckets = json.loads(found[-1].read_text(encoding="utf-8"))["sampler"]["buckets"]
    except (IndexError, FileNotFoundError):  # none yet, or one that has just been replaced
        return []
    return [
        {"entry": entry, "source": source, "topic": topic, "spent": bucket["tokens"]}
        for bucket in buckets
        for entry, source, topic in [bucket["bucket"]]
    ]


def _of(records: Iterable[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record for record in records if record["kind"] == kind]


def _seconds(manifest: Manifest | None, records: Sequence[dict[str, Any]]) -> float:
    """Seconds at work: those of the last record of each life of the process, summed."""
    if manifest:
        return manifest.seconds
    total = last = 0.0
    for record in records:
        now = float(record.get("seconds", 0.0))
        total += last if now < last else 0.0
        last = now
    return total + last


def _series(steps: Sequence[dict[str, Any]]) -> Json:
    """Loss, learning rate, gradient norm and speed over tokens, each a list, averaged down to MAX_POINTS."""
    width = max(1, math.ceil(len(steps) / MAX_POINTS))
    groups = [steps[start : start + width] for start in range(0, len(steps), width)]
    series: dict[str, Any] = {"steps_per_point": width, "tokens": [group[-1]["tokens"] for group in groups]}
    for name in ("loss", "lr", "grad_norm", "tokens_per_s"):
        series[name] = [_mean(step.get(name) for step in group) for group in groups]
    return series


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of what is a finite number; None where nothing is, because JSON has no other word for it."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def _validation(record: dict[str, Any]) -> Json:
    """One measurement: bits per byte of every bucket and of the sums over topics, sources and all of a language."""
    sums: dict[Key, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for entry in record["validation"]:
        bits = entry["nll"] * entry["tokens"] / math.log(2)
        if not (math.isfinite(bits) and bits > 0 and entry["bits_per_byte"] > 0):
            continue
        num_bytes = bits / entry["bits_per_byte"]
        for key in _with_sums(entry["language"], entry["source"], entry["topic"]):
            sums[key][0] += bits
            sums[key][1] += num_bytes
    order = sorted(sums, key=lambda key: (key[0], key[1] or "", key[2] or ""))
    return {
        "tokens": record["tokens"],
        "bits_per_byte": [
            {"language": language, "source": source, "topic": topic, "value": sums[key][0] / sums[key][1]}
            for key in order
            for language, source, topic in [key]
        ],
    }


def _with_sums(language: str, source: str, topic: str | None) -> Iterator[Key]:
    yield language, None, None
    yield language, source, None
    if topic is not None:
        yield language, source, topic


def _shares(records: Sequence[dict[str, Any]]) -> list[Json]:
    """Changes of the mixture: where, why, and the shares of the children of `path` before and after."""
    return [
        {name: record[name] for name in ("tokens", "cause", "path", "old", "new")} for record in _of(records, "shares")
    ]


def _is_event(record: dict[str, Any], policy: str) -> bool:
    """A restart, a guard, or a change of the mixture that its policy did not make."""
    return record["kind"] in EVENTS or (record["kind"] == "shares" and record["cause"] != policy)


def _event(record: dict[str, Any]) -> Json:
    """What happened: where it was, and all that the record says of it but the shares, which have a curve."""
    known = (
        "kind",
        "step",
        "tokens",
        "seconds",
        "rows",
        "old",
        "new",
        "machine",
        "settings",
        "processes",
        "speed_settings",
    )
    rest = {name: value for name, value in record.items() if name not in known and value not in (None, [])}
    return {name: record.get(name) for name in ("kind", "step", "tokens", "seconds")} | {"detail": rest}

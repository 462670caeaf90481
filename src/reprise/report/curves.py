"""`metrics.jsonl` -> what the report says about training."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeGuard, cast

from reprise.manifest import Manifest
from reprise.mixture.state import BucketState
from reprise.recipe import Recipe
from reprise.recipe.groups import Groups
from reprise.report.training_records import Series, ShareChange, SpentRow, TrainingEvent, TrainingFacts, ValidationFacts
from reprise.training.events import Event, GuardEvent, Moment, ResumeEvent, SharesEvent, StepEvent, ValidationEvent
from reprise.workspace import Workspace

if TYPE_CHECKING:
    from reprise.training.stage import TrainCounts

MAX_POINTS = 600
"""Maximum points of a curve; longer series are averaged over neighbouring steps."""

EVENTS = ("guard", "resume")
"""Kinds of record that stay valid if the tokens after them are trained again."""

MEASUREMENTS = ("step", "validation", "benchmarks")
"""Kinds of record of which only the latest at each token count is used."""

Key = tuple[str, str | None, str | None]
"""(entry of the mixture or language, source, topic); None: all of them together."""


class FreshStart(Moment):
    """A restart without a checkpoint, as `drop_repeated` inserts it: training restarted from the first token."""

    kind: Literal["resume"]
    checkpoint: None


Record = Event | FreshStart
Reported = ResumeEvent | FreshStart | GuardEvent | SharesEvent


def read_metrics(path: Path) -> tuple[list[Event], int]:
    """Read the records of a metrics file, and count its damaged lines.

    An unfinished last line is still being written and does not count as damaged.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], 0
    records: list[Event] = []
    damaged = 0
    for line in lines[:-1]:
        try:
            record = json.loads(line)
            record["kind"], record["tokens"]
            records.append(record)
        except (ValueError, KeyError, TypeError):
            damaged += 1
    return records, damaged


def drop_repeated(records: Sequence[Event]) -> list[Record]:
    """Drop measurements that were repeated after a restart: those later than the checkpoint that was loaded.

    A process writes `start`, then `resume` once it has loaded a checkpoint. If another record follows `start`, training
    restarted from the first token, and `start` is replaced by a `resume` without a checkpoint. If nothing or another
    `start` follows, the process was killed before it trained, so nothing was repeated.
    """
    kept: list[Record] = []
    record: Record
    for index, record in enumerate(records):
        if record["kind"] == "start" and kept:
            following = records[index + 1]["kind"] if index + 1 < len(records) else None
            if following in (None, "start", "resume"):
                continue
            record = cast(FreshStart, {**record, "kind": "resume", "checkpoint": None})
        if record["kind"] == "resume":
            from_start = record.get("checkpoint", "") is None
            reached = -1 if from_start else record["tokens"]
            kept = [old for old in kept if old["kind"] in (*EVENTS, "start") or old["tokens"] <= reached]
        kept.append(record)
    newest = {(record["kind"], record["tokens"]): record for record in kept if record["kind"] in MEASUREMENTS}
    return [record for record in kept if newest.get((record["kind"], record["tokens"]), record) is record]


def training_facts(workspace: Workspace, recipe: Recipe, index: int) -> TrainingFacts:
    """Curves, events and token counts of one training stage, finished or not.

    Args:
        workspace: the run.
        recipe: its settings.
        index: index of the training stage, from 0.
    """
    stage = recipe.stages[index]
    name = f"train-{index + 1}"
    manifest = workspace.manifest(name)
    folder = workspace.folder(name) if manifest else workspace.root / f"{name}.partial"
    everything, damaged = read_metrics(folder / "metrics.jsonl")
    records = drop_repeated(everything)
    steps = [record for record in records if record["kind"] == "step"]
    groups = recipe.held_out_groups()
    validations = [bits_per_byte_of(record, groups) for record in records if record["kind"] == "validation"]
    return {
        "stage": index + 1,
        "name": stage.name,
        "tokens_planned": stage.tokens,
        "tokens": max((record["tokens"] for record in records), default=0),
        "steps": max((record["step"] for record in steps), default=0),
        "seconds": _seconds(manifest, everything),
        "start": next((record for record in reversed(everything) if record["kind"] == "start"), None),
        "damaged_lines": damaged,
        "series": _series(steps),
        "benchmarks": [
            {"tokens": record["tokens"], "scores": {row["benchmark"]: row["score"] for row in record["benchmarks"]}}
            for record in records
            if record["kind"] == "benchmarks"
        ],
        "validations": validations,
        "shares": _shares(records),
        "events": [_event(record) for record in records if _is_event(record, stage.topics.policy.name)],
        "checkpoints": len({record["name"] for record in everything if record["kind"] == "checkpoint"}),
        "spent": _spent(manifest) if manifest else _spent_so_far(folder),
    }


def _spent(manifest: Manifest) -> list[SpentRow]:
    """Tokens of each bucket of a finished stage."""
    return [{**bucket} for bucket in cast("TrainCounts", manifest.counts)["spent"]]


def _spent_so_far(folder: Path) -> list[SpentRow]:
    """Tokens of each bucket up to the latest checkpoint of an unfinished stage."""
    checkpoints = sorted(folder.glob("checkpoints/step-*[0-9]/checkpoint.json"))
    try:
        buckets: list[BucketState] = json.loads(checkpoints[-1].read_text(encoding="utf-8"))["sampler"]["buckets"]
    except (IndexError, FileNotFoundError):  # there is none yet, or it has just been replaced
        return []
    return [
        {"entry": bucket["entry"], "source": bucket["source"], "topic": bucket["topic"], "spent": bucket["tokens"]}
        for bucket in buckets
    ]


def _seconds(manifest: Manifest | None, records: Sequence[Event]) -> float:
    """Working time in seconds: the last `seconds` of each process, summed over restarts."""
    if manifest:
        return manifest.seconds
    total = last = 0.0
    for record in records:
        now = float(record.get("seconds", 0.0))
        total += last if now < last else 0.0
        last = now
    return total + last


def _series(steps: Sequence[StepEvent]) -> Series:
    """Loss, learning rate, gradient norm and speed over tokens, averaged to at most MAX_POINTS points."""
    width = max(1, math.ceil(len(steps) / MAX_POINTS))
    groups = [steps[start : start + width] for start in range(0, len(steps), width)]
    return {
        "steps_per_point": width,
        "tokens": [group[-1]["tokens"] for group in groups],
        "loss": [_mean(step.get("loss") for step in group) for group in groups],
        "lr": [_mean(step.get("lr") for step in group) for group in groups],
        "grad_norm": [_mean(step.get("grad_norm") for step in group) for group in groups],
        "tokens_per_s": [_mean(step.get("tokens_per_s") for step in group) for group in groups],
    }


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of the finite values; None if there are none, as JSON has no NaN."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def bits_per_byte_of(record: ValidationEvent, groups: Groups) -> ValidationFacts:
    """Bits per byte of one validation: of each entry or language, its sources and their topics."""
    sums: dict[Key, list[float]] = defaultdict(lambda: [0.0, 0.0])
    buckets = [bucket for bucket in record["validation"] if math.isfinite(bucket["nll"]) and bucket["num_bytes"]]
    wholes = [
        group
        for group in groups.over((bucket["language"], bucket["source"]) for bucket in buckets)
        if group.source is None
    ]
    for bucket in buckets:
        bits = bucket["nll"] * bucket["tokens"] / math.log(2)
        language, source, topic = bucket["language"], bucket["source"], bucket["topic"]
        keys: list[Key] = [(whole.path, None, None) for whole in wholes if whole.contains(language, source)]
        entry = groups.entry_of(language, source)
        keys += [(entry, source, None), *([(entry, source, topic)] if topic is not None else [])]
        for key in keys:
            sums[key][0] += bits
            sums[key][1] += bucket["num_bytes"]
    order = sorted(sums, key=lambda key: (key[0], key[1] or "", key[2] or ""))
    return {
        "tokens": record["tokens"],
        "bits_per_byte": [
            {"entry": entry, "source": source, "topic": topic, "value": sums[entry, source, topic][0] / num_bytes}
            for entry, source, topic in order
            if (num_bytes := sums[entry, source, topic][1])
        ],
    }


def _shares(records: Sequence[Record]) -> list[ShareChange]:
    """Every change of the mixture's shares."""
    return [
        {
            "tokens": record["tokens"],
            "cause": record["cause"],
            "path": record["path"],
            "old": record["old"],
            "new": record["new"],
        }
        for record in records
        if record["kind"] == "shares"
    ]


def _is_event(record: Record, policy: str) -> TypeGuard[Reported]:
    """Whether a record is a restart, a guard event, or a share change not made by the policy."""
    return record["kind"] in EVENTS or (record["kind"] == "shares" and record["cause"] != policy)


def _event(record: Reported) -> TrainingEvent:
    """The event with the fields of its record, except for the shares, which are drawn as curves."""
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
    return {
        "kind": record["kind"],
        "step": record["step"],
        "tokens": record["tokens"],
        "seconds": record["seconds"],
        "detail": {name: value for name, value in record.items() if name not in known and value not in (None, [])},
    }

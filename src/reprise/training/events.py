"""The events of `metrics.jsonl`: one TypedDict per kind, as it is written and as it is read.

An event is what the trainer says; a record is the event with its moment, one line of the file.
"""

from typing import Any, Literal, NotRequired, TypedDict

from reprise.workspace import Json


class Moment(TypedDict):
    """When an event happened."""

    step: int
    """Optimizer steps of the stage so far."""
    tokens: int
    """Tokens of the stage so far."""
    seconds: float
    """Seconds since the process opened the file."""


class StartEvent(TypedDict):
    """A process began to work on the stage."""

    kind: Literal["start"]
    processes: int
    total_tokens: int
    """Tokens of the whole stage."""
    settings: Json
    """The settings that decide the result."""
    machine: Json
    """What `describe_machine` tells."""
    speed_settings: dict[str, str]
    """Environment variables that decide the speed of the threads, and their values."""


class StepEvent(TypedDict):
    """An optimizer step."""

    kind: Literal["step"]
    loss: float | None
    """Mean over the targets of the global batch, in nats; null where a guard left the step out."""
    lr: float
    grad_norm: float | None
    """Before clipping."""
    tokens_per_s: float
    """Of all processes together."""
    memory_gb: float
    """Largest memory of the first process so far, in 10^9 bytes: reserved on the GPU, else resident."""
    mfu: NotRequired[float]
    """Share of the accelerators' peak; only where the peak is known."""


class BucketMeasurement(TypedDict):
    """Held-out loss of one bucket."""

    language: str
    source: str
    topic: str | None
    nll: float
    """Nats per token."""
    bits_per_byte: float
    tokens: int
    """Scored tokens."""
    num_bytes: int
    """UTF-8 bytes of the measured documents."""


class ValidationEvent(TypedDict):
    """A measurement on held-out text."""

    kind: Literal["validation"]
    validation: list[BucketMeasurement]


class BenchmarksEvent(TypedDict):
    """Benchmarks of the weights of this moment."""

    kind: Literal["benchmarks"]
    benchmarks: list[Json]


class WeightsEvent(TypedDict):
    """A change of the mixture."""

    kind: Literal["weights"]
    rows: int
    """Rows that were handed out before it came into force."""
    cause: str
    path: str
    """What is divided: "" the stage, `zh` its sources, `zh/web` its topics."""
    old: dict[str, float]
    new: dict[str, float]


class CheckpointEvent(TypedDict):
    """A checkpoint was published."""

    kind: Literal["checkpoint"]
    name: str
    stall_s: float
    """Seconds that training waited for it."""


class ResumeEvent(TypedDict):
    """Training continues from a checkpoint."""

    kind: Literal["resume"]
    checkpoint: str
    refused: list[str]
    """Why newer checkpoints were refused."""
    adopted: NotRequired[list[str]]
    """Settings that differ from those of the checkpoint, under `--adopt`."""
    cause: NotRequired[Literal["spike"]]


class BatchRows(TypedDict):
    """Which rows a step trained on."""

    first_row: int
    """Index of the first row of the global batch in the stage."""
    num_rows: int
    buckets: list[str]
    """Buckets of the rows of the first process."""


class NonFiniteEvent(BatchRows):
    """A step was left out because its loss or gradient was not finite."""

    kind: Literal["guard"]
    guard: Literal["non_finite"]
    action: Literal["skip"]
    loss: str
    grad_norm: str
    in_a_row: int


class SpikeEvent(BatchRows):
    """The loss of a step was far above the recent ones."""

    kind: Literal["guard"]
    guard: Literal["spike"]
    action: Literal["log", "skip", "rollback"]
    loss: float
    mean: float
    """Of the recent losses."""


class RetentionEvent(TypedDict):
    """A kept language got worse than its tolerance allows."""

    kind: Literal["guard"]
    guard: Literal["retention"]
    action: Literal["warn", "stop", "raise_share"]
    path: str
    before: float
    """Bits per byte of the base model."""
    now: float
    tolerance: float


class UnsavedEvent(TypedDict):
    """A checkpoint could not be written; training continues."""

    kind: Literal["guard"]
    guard: Literal["checkpoint"]
    action: Literal["continue"]
    error: str


class EndEvent(TypedDict):
    """The stage is complete."""

    kind: Literal["end"]
    bad_steps: int
    """Steps that were left out because a number was not finite."""
    left_out: int
    """Batches that the spike guard left out for good."""


GuardEvent = NonFiniteEvent | SpikeEvent | RetentionEvent | UnsavedEvent
Event = (
    StartEvent
    | StepEvent
    | ValidationEvent
    | BenchmarksEvent
    | WeightsEvent
    | CheckpointEvent
    | ResumeEvent
    | GuardEvent
    | EndEvent
)


class StartRecord(StartEvent, Moment):
    """Line of a `start`."""


class StepRecord(StepEvent, Moment):
    """Line of a `step`."""


class ValidationRecord(ValidationEvent, Moment):
    """Line of a `validation`."""


class BenchmarksRecord(BenchmarksEvent, Moment):
    """Line of a `benchmarks`."""


class WeightsRecord(WeightsEvent, Moment):
    """Line of a change of the mixture."""


class CheckpointRecord(CheckpointEvent, Moment):
    """Line of a `checkpoint`."""


class ResumeRecord(ResumeEvent, Moment):
    """Line of a `resume`."""


class NonFiniteRecord(NonFiniteEvent, Moment):
    """Line of a `guard`."""


class SpikeRecord(SpikeEvent, Moment):
    """Line of a `guard`."""


class RetentionRecord(RetentionEvent, Moment):
    """Line of a `guard`."""


class UnsavedRecord(UnsavedEvent, Moment):
    """Line of a `guard`."""


class EndRecord(EndEvent, Moment):
    """Line of an `end`."""


MetricsRecord = (
    StartRecord
    | StepRecord
    | ValidationRecord
    | BenchmarksRecord
    | WeightsRecord
    | CheckpointRecord
    | ResumeRecord
    | NonFiniteRecord
    | SpikeRecord
    | RetentionRecord
    | UnsavedRecord
    | EndRecord
)
"""A line of metrics.jsonl."""


def numbers_of(event: Event) -> dict[str, float]:
    """Name -> number, for trackers; names are paths such as `train/loss` and `validation/zh/web/nll`."""
    if event["kind"] == "validation":
        return {
            "/".join(
                ["validation", *(part for part in (row["language"], row["source"], row["topic"]) if part), unit]
            ): value
            for row in event["validation"]
            for unit, value in (("nll", row["nll"]), ("bits_per_byte", row["bits_per_byte"]))
        }
    if event["kind"] == "benchmarks":
        return {f"benchmarks/{row['benchmark']}": row["score"] for row in event["benchmarks"]}
    if event["kind"] == "weights":
        return {f"weights/{path}": share for path, share in event["new"].items()}
    if event["kind"] == "step":
        values: dict[str, Any] = dict(event)
        return {f"train/{name}": value for name, value in values.items() if isinstance(value, int | float)}
    return {}

"""The events of `metrics.jsonl`: one TypedDict per kind, as it is written and as it is read."""

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from reprise.model.machine import Machine
from reprise.records import record
from reprise.storage import Json

# Fields that several kinds share have their meaning in the annotation: pydantic does not see inherited docstrings.


class Moment(TypedDict):
    """When an event happened."""

    step: Annotated[int, Field(description="Optimizer steps of the stage so far.")]
    tokens: Annotated[int, Field(description="Tokens of the stage so far.")]
    seconds: Annotated[float, Field(description="Seconds since the process began to work on the stage.")]


@record
class StartEvent(Moment):
    """A process began to work on the stage."""

    kind: Literal["start"]
    """Which event it is."""
    processes: int
    """Processes of the run."""
    total_tokens: int
    """Tokens of the whole stage."""
    settings: Json
    """The settings that decide the result."""
    machine: Machine
    """What the first process runs on."""
    speed_settings: dict[str, str]
    """Environment variables that decide the speed of the threads, and their values."""


@record
class StepEvent(Moment):
    """An optimizer step."""

    kind: Literal["step"]
    """Which event it is."""
    loss: float | None
    """Mean over the targets of the global batch, in nats; null if a guard skipped the step."""
    lr: float
    """Learning rate."""
    grad_norm: float | None
    """Before clipping."""
    tokens_per_s: float
    """Of all processes together."""
    memory_gb: float
    """Largest memory of the first process so far, in 10^9 bytes: reserved on the GPU, else resident."""
    mfu: float | None
    """Share of the accelerators' peak; null if the peak is not known."""


@record
class BucketMeasurement(TypedDict):
    """Held-out loss of one bucket."""

    language: str
    """Language of the held-out text."""
    source: str
    """Source of it."""
    topic: str | None
    """Topic of it; null if the source is not split."""
    nll: float
    """Nats per token."""
    bits_per_byte: float
    """The same loss per byte of text."""
    tokens: int
    """Scored tokens."""
    num_bytes: int
    """UTF-8 bytes of the measured documents."""
    documents: int
    """Documents that were measured."""
    nll_standard_error: float | None
    """Of `nll`: how far it depends on the choice of the documents; null for a single document."""
    nll_resampled: list[float]
    """`nll` on documents resampled from these, the same draws at every measurement; empty for a single document."""


@record
class ValidationEvent(Moment):
    """A measurement on held-out text."""

    kind: Literal["validation"]
    """Which event it is."""
    validation: list[BucketMeasurement]
    """One entry per bucket."""


@record
class LiveScore(TypedDict):
    """Score of one benchmark while training."""

    benchmark: str
    """Name of the benchmark."""
    metric: str
    """What is scored, such as `acc`."""
    score: float
    """0 to 1."""
    questions: int
    """Questions that were asked."""


@record
class BenchmarksEvent(Moment):
    """Benchmarks of the weights of this moment."""

    kind: Literal["benchmarks"]
    """Which event it is."""
    benchmarks: list[LiveScore]
    """One entry per benchmark: benchmark, metric, score, questions."""


@record
class SharesEvent(Moment):
    """A change of the mixture."""

    kind: Literal["shares"]
    """Which event it is."""
    rows: int
    """Rows that were handed out before it took effect."""
    cause: str
    """A policy, `shares.json`, `recipe`, a guard, or what ran out."""
    path: str
    """What is divided: "" the stage, `zh` its sources, `zh/web` its topics."""
    old: dict[str, float]
    """Child -> its share of `path`, before."""
    new: dict[str, float]
    """Child -> its share of `path`, from now on."""


@record
class CheckpointEvent(Moment):
    """A checkpoint was published."""

    kind: Literal["checkpoint"]
    """Which event it is."""
    name: str
    """Folder of the checkpoint."""
    stall_s: float
    """Seconds that training waited for it."""


@record
class ResumeEvent(Moment):
    """Training continues from a checkpoint."""

    kind: Literal["resume"]
    """Which event it is."""
    checkpoint: str
    """Folder of the checkpoint."""
    refused: list[str]
    """Why newer checkpoints were refused."""
    adopted: list[str]
    """Settings that differ from those of the checkpoint, under `--adopt`."""
    cause: Literal["spike"] | None
    """What rolled training back; null if a process was started."""


class BatchRows(TypedDict):
    """Which rows a step trained on."""

    first_row: Annotated[int, Field(description="Index of the first row of the global batch in the stage.")]
    num_rows: Annotated[int, Field(description="Rows of the global batch.")]
    buckets: Annotated[list[str], Field(description="Buckets of the rows of the first process.")]


@record
class NonFiniteEvent(Moment, BatchRows):
    """A step was skipped because its loss or gradient was not finite."""

    kind: Literal["guard"]
    """Which event it is."""
    guard: Literal["non_finite"]
    """Which guard."""
    action: Literal["skip"]
    """What was done."""
    loss: str
    """As Python writes it: JSON has no NaN."""
    grad_norm: str
    """As Python writes it."""
    in_a_row: int
    """Consecutive steps that were skipped."""


@record
class SpikeEvent(Moment, BatchRows):
    """The loss of a step was far above the recent ones."""

    kind: Literal["guard"]
    """Which event it is."""
    guard: Literal["spike"]
    """Which guard."""
    action: Literal["log", "skip", "rollback"]
    """What was done."""
    loss: float
    """Loss of the step, in nats."""
    mean: float
    """Mean of the recent losses."""


@record
class RetentionEvent(Moment):
    """A kept entry, language or source got worse than its tolerance allows."""

    kind: Literal["guard"]
    """Which event it is."""
    guard: Literal["retention"]
    """Which guard."""
    action: Literal["warn", "stop", "raise_share"]
    """What was done."""
    path: str
    """Entry, language or source (`en/paper`), as in `evaluation.tolerance`."""
    before: float
    """Bits per byte of the base model."""
    now: float
    """Bits per byte now."""
    tolerance: float
    """Largest relative rise that the recipe allows."""


@record
class UnsavedEvent(Moment):
    """A checkpoint could not be written; training continues."""

    kind: Literal["guard"]
    """Which event it is."""
    guard: Literal["checkpoint"]
    """Which guard."""
    action: Literal["continue"]
    """What was done."""
    error: str
    """What the system said."""


@record
class EndEvent(Moment):
    """The stage is complete."""

    kind: Literal["end"]
    """Which event it is."""
    bad_steps: int
    """Steps that were skipped because a loss or gradient was not finite."""
    left_out: int
    """Batches that the spike guard skipped permanently."""


GuardEvent = NonFiniteEvent | SpikeEvent | RetentionEvent | UnsavedEvent
Event = (
    StartEvent
    | StepEvent
    | ValidationEvent
    | BenchmarksEvent
    | SharesEvent
    | CheckpointEvent
    | ResumeEvent
    | GuardEvent
    | EndEvent
)


def numbers_of(event: Event) -> dict[str, float]:
    """Name -> value, for trackers; names are paths such as `train/loss` and `validation/zh/web/nll`."""
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
    if event["kind"] == "shares":
        return {f"shares/{path}": share for path, share in event["new"].items()}
    if event["kind"] == "step":
        values: dict[str, Any] = dict(event)
        return {f"train/{name}": value for name, value in values.items() if isinstance(value, int | float)}
    return {}

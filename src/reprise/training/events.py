"""The events of `metrics.jsonl`: one TypedDict per kind, as it is written and as it is read."""

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from reprise.model.machine import Machine
from reprise.records import record
from reprise.training.checkpoint_facts import StageSettings

# Shared fields are documented in the annotation, as pydantic does not see inherited docstrings.


class Moment(TypedDict):
    """When an event happened."""

    step: Annotated[int, Field(description="Optimizer steps of the stage so far.")]
    tokens: Annotated[int, Field(description="Tokens of the stage so far.")]
    seconds: Annotated[float, Field(description="Seconds since the process began to work on the stage.")]


@record
class StartEvent(Moment):
    """A run of the program started to work on the stage."""

    kind: Literal["start"]
    """Which event it is."""
    processes: int
    """Processes of the run."""
    total_tokens: int
    """Tokens of the whole stage."""
    settings: StageSettings
    """The settings that determine the result."""
    machine: Machine
    """Machine of the first process."""
    speed_settings: dict[str, str]
    """Environment variables that affect speed, and their values."""


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
    """Global norm of the gradients before clipping."""
    tokens_per_s: float
    """Tokens per second, over all processes."""
    memory_gb: float
    """Peak memory of the first process so far, in 10^9 bytes: reserved on the GPU, else resident."""
    mfu: float | None
    """Model FLOPs utilization: share of the accelerators' peak, 0 to 1; null if the peak is not known."""


@record
class BucketMeasurement(TypedDict):
    """Held-out loss of one bucket."""

    language: str
    """Language of the held-out text."""
    source: str
    """Source of the held-out text."""
    topic: str | None
    """Topic of the held-out text; null if the source is not split."""
    nll: float
    """Negative log-likelihood in nats per token."""
    bits_per_byte: float
    """The same loss per byte of text."""
    tokens: int
    """Scored tokens."""
    num_bytes: int
    """UTF-8 bytes of the measured documents."""
    documents: int
    """Documents that were measured."""
    nll_standard_error: float | None
    """Standard error of `nll` due to the choice of the documents; null for a single document."""
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
    """Score of one benchmark during training."""

    benchmark: str
    """Name of the benchmark."""
    metric: str
    """Metric of the score, such as `acc`."""
    score: float
    """Score, 0 to 1."""
    questions: int
    """Questions that were asked."""


@record
class BenchmarksEvent(Moment):
    """Benchmark scores of the current weights."""

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
    """Rows returned before it took effect."""
    cause: str
    """Name of the policy or guard, `shares.json`, `recipe`, or the bucket that ran out."""
    path: str
    """Parent of the changed shares: "" for the entries of the stage, `zh` for its sources, `zh/web` for its topics."""
    old: dict[str, float]
    """Child -> its share of `path` before."""
    new: dict[str, float]
    """Child -> its share of `path` from now on."""


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
class MirrorEvent(Moment):
    """The upload of a checkpoint to the mirror ended."""

    kind: Literal["mirror"]
    """Which event it is."""
    name: str
    """Folder of the checkpoint."""
    num_bytes: int
    """Bytes sent; 0 if the mirror had it already, or it failed."""
    upload_s: float
    """Seconds, while training continued."""
    failures: int
    """Attempts that failed."""
    error: str | None
    """Why it is not in the mirror; null if it is."""


@record
class ResumeEvent(Moment):
    """Training continues from a checkpoint."""

    kind: Literal["resume"]
    """Which event it is."""
    checkpoint: str
    """Folder of the checkpoint."""
    refused: list[str]
    """Why newer checkpoints were rejected."""
    adopted: list[str]
    """Settings that differ from the checkpoint's, with `--adopt`."""
    cause: Literal["spike"] | None
    """Guard that rolled training back; null after a start of the program."""


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
    """Loss in nats as Python's repr, as JSON has no NaN."""
    grad_norm: str
    """Gradient norm as Python's repr."""
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
    """Error message of the operating system."""


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
    | MirrorEvent
    | ResumeEvent
    | GuardEvent
    | EndEvent
)


def numbers_of(event: Event) -> dict[str, float]:
    """Metrics of an event for trackers: name, such as `train/loss` or `validation/zh/web/nll` -> value."""
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

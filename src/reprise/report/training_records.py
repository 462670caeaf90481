"""The records of a report about training: curves, validations, the mixture, events and tokens."""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from reprise.records import record
from reprise.training.events import StartEvent


@record
class BudgetRow(TypedDict):
    """Planned and spent tokens of a bucket."""

    stage: int
    """Training stage, counted from 1."""
    entry: str
    """Entry of the mixture."""
    source: str
    """Source."""
    topic: str | None
    """Topic; null if the stage does not split the source."""
    planned: int | None
    """Tokens that the recipe plans; null for a bucket that it does not name."""
    spent: int | None
    """Tokens trained on; null before training."""
    available: int | None
    """Tokens of its documents; null until the stage is finished."""
    epochs: float | None
    """Passes over them; null until the stage is finished."""
    text_bytes: int | None
    """UTF-8 bytes of text in the tokens trained on, on average; null until the stage is finished, and where there are
    conversations."""


@record
class Series(TypedDict):
    """Curves of training over tokens, each averaged over neighbouring steps to at most 600 points."""

    steps_per_point: int
    """Steps that a point averages."""
    tokens: list[int]
    """Tokens of the stage at the last step of each point."""
    loss: list[float | None]
    """Training loss in nats per token."""
    lr: list[float | None]
    """Learning rate."""
    grad_norm: list[float | None]
    """Gradient norm before clipping."""
    tokens_per_s: list[float | None]
    """Tokens per second of all processes."""


@record
class ScoresPoint(TypedDict):
    """Benchmarks while training."""

    tokens: int
    """Tokens of the stage."""
    scores: dict[str, float]
    """Benchmark -> score, 0 to 1."""


@record
class HeldOutValue(TypedDict):
    """Bits per byte of one group of held-out text."""

    entry: str
    """Entry of the mixture, or a language."""
    source: str | None
    """Source; null: all of them."""
    topic: str | None
    """Topic; null: all of them."""
    value: float
    """Bits per byte."""


@record
class ValidationFacts(TypedDict):
    """One validation."""

    tokens: int
    """Tokens of the stage."""
    bits_per_byte: list[HeldOutValue]
    """Entries, their sources and topics."""


@record
class ShareChange(TypedDict):
    """A change of the mixture."""

    tokens: int
    """Tokens of the stage."""
    cause: str
    """A policy, `shares.json`, `recipe`, a guard, or what ran out."""
    path: str
    """What is divided: "" the stage, `zh` its sources, `zh/web` its topics."""
    old: dict[str, float]
    """Child -> share of `path`, before."""
    new: dict[str, float]
    """Child -> share of `path`, after."""


@record
class TrainingEvent(TypedDict):
    """A restart, a guard, or a change of the mixture that its policy did not make."""

    kind: Literal["resume", "guard", "shares"]
    """What happened."""
    step: int
    """Optimizer steps of the stage."""
    tokens: int
    """Tokens of the stage."""
    seconds: float
    """Seconds of the process."""
    detail: dict[str, Any]
    """The other fields of the event in `metrics.jsonl`."""


@record
class SpentRow(TypedDict):
    """Tokens that a stage took from a bucket."""

    entry: str
    """Entry of the mixture."""
    source: str
    """Source."""
    topic: str | None
    """Topic; null if the stage does not split the source."""
    spent: int
    """Tokens trained on."""
    available: NotRequired[int]
    """Tokens of its documents; only of a finished stage."""
    epochs: NotRequired[float]
    """Passes over them; only of a finished stage."""
    answer_tokens: NotRequired[int]
    """Tokens of answers among those trained on, on average; only of a finished stage, and with conversations."""
    text_bytes: NotRequired[int]
    """UTF-8 bytes of text in those trained on, on average; only of a finished stage, and without conversations."""


@record
class TrainingFacts(TypedDict):
    """One training stage, finished or not."""

    stage: int
    """Counted from 1."""
    name: str
    """Its name in the recipe."""
    tokens_planned: int
    """Tokens of the recipe."""
    tokens: int
    """Tokens so far."""
    steps: int
    """Optimizer steps so far."""
    seconds: float
    """Time at work, of all processes that were started one after another."""
    start: StartEvent | None
    """The last start of the process; null before the first."""
    damaged_lines: int
    """Lines of `metrics.jsonl` that could not be read."""
    series: Series
    """Curves over tokens."""
    benchmarks: list[ScoresPoint]
    """Benchmarks while training."""
    validations: list[ValidationFacts]
    """Held-out text while training."""
    shares: list[ShareChange]
    """Changes of the mixture."""
    events: list[TrainingEvent]
    """Restarts, guards and changes by hand."""
    checkpoints: int
    """Checkpoints that were written."""
    spent: list[SpentRow]
    """Tokens of each bucket; up to the last checkpoint while unfinished."""

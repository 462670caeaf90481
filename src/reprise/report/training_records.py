"""The records of a report about training: curves, validations, the mixture, events and tokens."""

from typing import Literal, NotRequired

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
    """Tokens that the recipe plans; null for a bucket that the recipe does not name."""
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
    """Scores of benchmarks during training."""

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
    """A policy, `shares.json`, `recipe`, a guard, or the bucket that ran out."""
    path: str
    """What the shares divide: "" the stage, `zh` its sources, `zh/web` its topics."""
    old: dict[str, float]
    """Child of `path` -> its share before."""
    new: dict[str, float]
    """Child of `path` -> its share after."""


@record
class TrainingEvent(TypedDict):
    """A restart, a guard event, or a share change not made by the policy."""

    kind: Literal["resume", "guard", "shares"]
    """What happened."""
    step: int
    """Optimizer steps of the stage."""
    tokens: int
    """Tokens of the stage."""
    seconds: float
    """Seconds since the process started."""
    detail: dict[str, object]
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
    """Tokens of its documents; absent until the stage is finished."""
    epochs: NotRequired[float]
    """Passes over them; absent until the stage is finished."""
    answer_tokens: NotRequired[int]
    """Tokens of answers among those trained on, on average; absent until the stage is finished, and without
    conversations."""
    text_bytes: NotRequired[int]
    """UTF-8 bytes of text in the tokens trained on, on average; absent until the stage is finished, and with
    conversations."""


@record
class TrainingFacts(TypedDict):
    """One training stage, finished or not."""

    stage: int
    """Counted from 1."""
    name: str
    """Its name in the recipe."""
    tokens_planned: int
    """Tokens that the recipe plans."""
    tokens: int
    """Tokens so far."""
    steps: int
    """Optimizer steps so far."""
    seconds: float
    """Working time, summed over restarts."""
    start: StartEvent | None
    """The last `start` event; null before the first."""
    damaged_lines: int
    """Lines of `metrics.jsonl` that could not be read."""
    series: Series
    """Curves over tokens."""
    benchmarks: list[ScoresPoint]
    """Scores of benchmarks during training."""
    validations: list[ValidationFacts]
    """Validations on held-out text."""
    shares: list[ShareChange]
    """Changes of the mixture."""
    events: list[TrainingEvent]
    """Restarts, guard events and share changes not made by the policy."""
    checkpoints: int
    """Checkpoints written."""
    spent: list[SpentRow]
    """Tokens of each bucket; up to the last checkpoint while unfinished."""

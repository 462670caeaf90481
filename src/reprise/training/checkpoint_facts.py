"""What `checkpoint.json` holds: everything that resumes besides the tensors."""

from dataclasses import dataclass, field
from typing import TypedDict

from reprise.storage import FileChecksum, Json

VERSION = 4

NEVER = 2**63
"""More tokens than any stage has."""


@dataclass
class Progress:
    """Counters of a stage."""

    step: int = 0
    tokens: int = 0
    next_validation: int = 0
    """Tokens at which the next measurement is due."""
    last_validation: int = -1
    """Tokens at the newest measurement."""
    next_checkpoint: int = NEVER
    next_benchmarks: int = NEVER
    last_rate: float = 0.0
    """Learning rate of the newest step."""
    rate_before: float = 0.0
    """Learning rate at the end of the stage before."""
    bad_steps: int = 0
    """Consecutive steps that were left out because a number was not finite."""
    bad_steps_total: int = 0
    recent_losses: list[float] = field(default_factory=list)
    """Losses of the newest steps, for the spike guard."""
    left_out: list[int] = field(default_factory=list)
    """First rows of the batches that the spike guard left out."""
    baseline: dict[str, float] = field(default_factory=dict)
    """Kept language, or source of it -> bits per byte of the base model."""
    raised: dict[str, float] = field(default_factory=dict)
    """Entry of the mixture whose share the retention guard raised -> its share before."""


class ResumeFacts(TypedDict):
    """What the trainer keeps. Randomness is a function of seed and step, so none is kept."""

    progress: dict[str, Json]
    """Fields of `Progress`."""
    sampler: dict[str, Json]
    settings: dict[str, Json]
    """What decides the result of the stage; a checkpoint of other settings is refused."""
    processes: int
    optimizer_steps: int
    averaged: int
    """Samples in the mean of the weights; 0: the checkpoint has none."""


class CheckpointFacts(ResumeFacts):
    """The content of `checkpoint.json`."""

    version: int
    files: dict[str, FileChecksum]


def next_multiple(tokens: int, every: int) -> int:
    """The next multiple of an interval; never, where the interval is 0."""
    return (tokens // every + 1) * every if every else NEVER

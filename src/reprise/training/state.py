"""What a training run holds, and what of it a checkpoint keeps."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from reprise.mixture.sampler import Sampler
from reprise.mixture.shares import ShareChange
from reprise.recipe.groups import Groups
from reprise.recipe.mixture import Stage
from reprise.recipe.tokens import Rows
from reprise.recipe.training import Training
from reprise.tokens.store import TokenStore
from reprise.training.averaging import Average
from reprise.training.checkpoint import load_checkpoint, tensors_of
from reprise.training.metrics import Metrics
from reprise.training.network import Network
from reprise.training.optimizer import optimizer_steps
from reprise.training.parallel import Processes
from reprise.training.status_line import StatusLine
from reprise.training.validation import BucketLoss, HeldOut
from reprise.training.writer import CheckpointWriter
from reprise.workspace import Json, Work

Benchmarks = Callable[[Any, str], list[Json]]
"""Measures a model that is in memory; the text identifies its weights. Evaluation, which stands above, provides it."""

NEVER = 2**63
"""More tokens than any stage has."""


@dataclass
class Progress:
    """Counters that a checkpoint keeps."""

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
    """Steps in a row that were left out because a number was not finite."""
    bad_steps_total: int = 0
    recent_losses: list[float] = field(default_factory=list)
    """Losses of the newest steps, for the spike guard."""
    left_out: list[int] = field(default_factory=list)
    """First rows of the batches that the spike guard left out."""
    baseline: dict[str, float] = field(default_factory=dict)
    """Kept group (`en`, `en/code`) -> bits per byte of the base model."""
    raised: dict[str, float] = field(default_factory=dict)
    """Entry of the mixture whose share the retention guard raised -> its share before."""


@dataclass
class Run:
    """Everything that the loop works with."""

    work: Work
    stage: Stage
    rows: Rows
    training: Training
    kept: Groups
    """Groups of held-out documents that must be kept."""
    processes: Processes
    network: Network
    optimizer: torch.optim.AdamW
    store: TokenStore
    sampler: Sampler
    held_out: HeldOut
    metrics: Metrics | None
    """Of the first process."""
    average: Average
    writer: CheckpointWriter
    status: StatusLine
    benchmarks: Benchmarks | None
    settings: Json
    """What decides the result of the stage; a checkpoint of other settings is refused."""
    progress: Progress = field(default_factory=Progress)
    losses: list[BucketLoss] = field(default_factory=list)
    """Of the newest validation."""

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.work.output / "checkpoints"

    def log(self, kind: str, **values: Any) -> None:
        """One line of metrics.jsonl, at this step."""
        if self.metrics is not None:
            self.metrics.write(kind, self.progress.step, self.progress.tokens, **values)

    def facts(self) -> dict[str, Json]:
        """Everything that resumes besides weights and moments. Randomness is a function of seed and step."""
        return {
            "progress": vars(self.progress),
            "sampler": self.sampler.state(),
            "settings": self.settings,
            "processes": self.processes.world,
            "optimizer_steps": optimizer_steps(self.optimizer),
            "averaged": self.average.count,
        }

    def save_to(self, folder: Path, published: Callable[[], None] = lambda: None) -> None:
        """Begin to write a checkpoint; `published` is called when it has its name.

        Raises:
            CheckpointError: the disk is full or gone.
        """
        tensors = tensors_of(self.network.weights, self.optimizer, self.average.weights)
        self.writer.begin(folder, tensors, self.facts(), published)

    def load_from(self, folder: Path, facts: dict[str, Json], *, adopt: bool = False) -> list[ShareChange]:
        """Stand where a checkpoint stood; gives the changes of shares that adopted settings make."""
        count = facts["averaged"]
        mean = self.average.template() if count else {}
        load_checkpoint(folder, self.network.weights, self.optimizer, mean)
        self.average.weights, self.average.count = mean, count
        self.network.refresh()
        self.progress = Progress(**facts["progress"])
        return self.sampler.load_state(facts["sampler"], adopt=adopt)


def next_multiple(tokens: int, every: int) -> int:
    """The next multiple of an interval; never, where the interval is 0."""
    return (tokens // every + 1) * every if every else NEVER

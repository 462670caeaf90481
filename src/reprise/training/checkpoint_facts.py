"""The content of `checkpoint.json`: all training state besides the tensors."""

from dataclasses import asdict, dataclass, field
from typing import Annotated

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from reprise.mixture.state import SamplerState
from reprise.records import record
from reprise.storage import FileChecksum

VERSION = 5

NEVER = 2**63
"""More tokens than any stage has."""


@record
@dataclass
class Progress:
    """Counters of a stage."""

    step: int = 0
    """Optimizer steps."""
    tokens: int = 0
    """Tokens trained on."""
    next_validation: int = 0
    """Tokens at which the next validation is due."""
    last_validation: int = -1
    """Tokens at the latest validation."""
    next_checkpoint: int = NEVER
    """Tokens at which the next checkpoint is due."""
    next_benchmarks: int = NEVER
    """Tokens at which benchmarks are due."""
    last_rate: float = 0.0
    """Learning rate of the latest step."""
    rate_before: float = 0.0
    """Learning rate at the end of the previous stage."""
    bad_steps: int = 0
    """Consecutive steps that were skipped because a loss or gradient was not finite."""
    bad_steps_total: int = 0
    """All steps of the stage that were skipped for that reason."""
    recent_losses: list[float] = field(default_factory=list)
    """Losses of the latest steps, for the spike guard."""
    left_out: list[int] = field(default_factory=list)
    """First rows of the batches that the spike guard skips."""
    baseline: dict[str, float] = field(default_factory=dict)
    """Kept entry, language or source -> bits per byte of the base model."""
    raised: dict[str, float] = field(default_factory=dict)
    """Entry of the mixture whose share the retention guard raised -> its share before."""


@record
class StageSettings(TypedDict):
    """Settings that determine the result of a training stage; a checkpoint with other settings is rejected."""

    stage: dict[str, object]
    """The training stage of the recipe."""
    stage_index: int
    """Index of the training stage, from 0."""
    rows: dict[str, object]
    """The section `rows`."""
    optimizer: dict[str, object]
    """`training.optimizer`."""
    adapter: dict[str, object]
    """`training.adapter`."""
    master_weights: str
    """`training.master_weights`."""
    step_in_backward: bool
    """`training.step_in_backward`."""
    averaging: dict[str, object]
    """`training.averaging`."""
    batch_rows: int
    """`training.batch_rows`."""
    precision: str
    """Compute type, such as `torch.bfloat16`."""
    model: dict[str, object]
    """The base model."""
    seed: int
    """Random seed of the run."""
    store: str
    """Fingerprint of the token store."""


# Inherited fields are documented in the annotation, as pydantic does not see inherited docstrings.


class ResumeFacts(TypedDict):
    """State of the trainer. Randomness is a function of seed and step, so no generator state is saved."""

    progress: Annotated[Progress, Field(description="Counters of the stage.")]
    sampler: Annotated[SamplerState, Field(description="Which rows were handed out, and what decides the next ones.")]
    settings: Annotated[StageSettings, Field(description="What decides the result of the stage.")]
    processes: Annotated[int, Field(description="Processes of the run.")]
    optimizer_steps: Annotated[int, Field(description="Steps that the optimizer counted.")]
    averaged: Annotated[int, Field(description="Samples in the mean of the weights; 0: the checkpoint has none.")]


@record
class CheckpointFacts(ResumeFacts):
    """The content of `checkpoint.json`."""

    version: int
    """Version of this record."""
    files: dict[str, FileChecksum]
    """File of the checkpoint -> its size and checksum."""


_RECORD = TypeAdapter(CheckpointFacts)


def write_facts(facts: ResumeFacts, files: dict[str, FileChecksum]) -> dict[str, object]:
    """The content of `checkpoint.json`, as JSON."""
    return {"version": VERSION, "files": files, **facts, "progress": asdict(facts["progress"])}


def parse_facts(text: str) -> CheckpointFacts:
    """The content of a `checkpoint.json` of this version.

    Raises:
        pydantic.ValidationError: a field is missing or is of another type.
    """
    return _RECORD.validate_json(text)


def next_multiple(tokens: int, every: int) -> int:
    """The next multiple of `every` after `tokens`; NEVER if the interval is 0."""
    return (tokens // every + 1) * every if every else NEVER

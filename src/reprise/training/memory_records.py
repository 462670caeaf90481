"""Records of a memory estimate, without torch, so that `reprise plan` stays fast."""

from typing_extensions import TypedDict

from reprise.records import record


@record
class MemoryEstimate(TypedDict):
    """Bytes that one process uses at the peak of a step, by purpose."""

    fixed: int
    """Libraries; on a GPU its context."""
    frozen: int
    """Weights that are frozen beside an adapter."""
    master: int
    """Trained weights, or this process's shards of them, in the type that the optimizer updates."""
    working: int
    """Copy of the weights in the compute type; 0 if they are gathered, or used as they are."""
    moments: int
    """Both moments of AdamW; for a matrix that Muon trains, its momentum."""
    average: int
    """Mean of the weights."""
    gradients: int
    """Gradients in float32: between micro-batches, or as they accumulate in the backward pass."""
    gathered: int
    """Layers that are gathered at one time, including their gradients before these are reduced."""
    activations: int
    """Activations that the forward pass saves for the backward pass of a micro-batch."""
    layer_work: int
    """Additional memory for the backward pass of one layer, including recomputed activations."""
    head_and_loss: int
    """Logits of one chunk of tokens, and the gradients of the output layer and its input."""
    total: int
    """The peak: the sum without what is not allocated at the same time."""
    host_while_saving: int
    """Host memory for the copy of weights and moments while a checkpoint is written, and for offloaded weights; 0 on a
    CPU."""


@record
class MemoryPlan(TypedDict):
    """Whether training fits the memory of one GPU."""

    gpu: str
    """Name of the GPU."""
    gpus: int
    """GPUs that train together."""
    memory_gb: float | None
    """Memory of each GPU in 10^9 bytes; null if it is not known."""
    estimate: MemoryEstimate | None
    """Bytes that one process uses; null if the model could not be measured."""
    fits: bool | None
    """Whether the estimate is below the usable memory; null if either is unknown."""
    changes: list[str]
    """Changes of settings, each sufficient by itself, smallest first, if it does not fit."""
    note: str | None
    """Why something is not known."""

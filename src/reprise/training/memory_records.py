"""Records of a memory estimate; without torch, so that `reprise plan` stays quick."""

from typing_extensions import TypedDict

from reprise.records import record


@record
class MemoryEstimate(TypedDict):
    """Bytes that one process takes at the peak of a step, by what takes them."""

    fixed: int
    """Libraries; on a GPU its context."""
    frozen: int
    """Weights that are not trained, beside an adapter."""
    master: int
    """Weights that are trained, or the shards of them that this process holds, as the optimizer changes them."""
    working: int
    """Copy of the weights in the compute type; 0 if they are gathered, or computed with as they are."""
    moments: int
    """Both moments of AdamW; of a matrix that Muon trains, its momentum."""
    average: int
    """Mean of the weights."""
    gradients: int
    """In float32: between micro-batches, or as they grow in the backward pass."""
    gathered: int
    """Layers that are gathered at one time, their gradients before these are reduced included."""
    activations: int
    """What the forward pass keeps for the backward pass of a micro-batch."""
    layer_work: int
    """What the backward pass of one layer needs besides; recomputed activations among it."""
    head_and_loss: int
    """Logits of one chunk of tokens, and the gradients of the output layer and its input."""
    total: int
    """The peak: the sum, less what is not there at the same time."""
    host_while_saving: int
    """Host memory for the copy of weights and moments while a checkpoint is written, and for what is offloaded; 0 on a
    CPU."""


@record
class MemoryPlan(TypedDict):
    """Whether training fits the memory of one GPU."""

    gpu: str
    """Named GPU of the estimate."""
    gpus: int
    """GPUs that train together."""
    memory_gb: float | None
    """Memory of each in 10^9 bytes; null if it is not known."""
    estimate: MemoryEstimate | None
    """Bytes that one process takes; null if the model could not be measured."""
    fits: bool | None
    """Whether that is less than the usable memory; null if one of them is not known."""
    changes: list[str]
    """Changes of settings, each sufficient by itself, smallest first, if it does not fit."""
    note: str | None
    """Why something is not known."""

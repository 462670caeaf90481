"""The part of a possibly sharded tensor that one process has."""

from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor, Shard


def local_part(tensor: Any) -> Tensor:
    """The part of a tensor that this process has."""
    local: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local


def first_row(tensor: Any) -> int:
    """Index of the first row that this process has of a tensor."""
    if not isinstance(tensor, DTensor):
        return 0
    for dimension, placement in enumerate(tensor.placements):
        if isinstance(placement, Shard):
            assert placement.dim == 0
            # The rule of torch.chunk, which FSDP2 uses.
            rows = -(-tensor.shape[0] // tensor.device_mesh.size(dimension))
            return min(rows * tensor.device_mesh.get_local_rank(dimension), tensor.shape[0])
    return 0

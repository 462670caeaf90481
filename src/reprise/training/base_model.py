"""The base model into the processes: each gets its shards, and no accelerator ever holds the whole of it."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from reprise.model.loading import load_config, load_model, load_skeleton, weight_files
from reprise.model.objective import Objective
from reprise.recipe.model import Model
from reprise.training.optimizer import local_part
from reprise.training.parallel import Processes
from reprise.training.sharded_weights import allocate, locate_weights, read_shards

log = logging.getLogger(__name__)


class WeightSource(NamedTuple):
    """Where the weights of a model on the meta device come from."""

    files: dict[str, Path] | None
    """Name of each weight -> its safetensors file; None where the files use other names than the model."""
    whole: nn.Module | None
    """The whole model in host memory, in the first process only, where `files` is None."""


def load_base(model: Model, processes: Processes) -> tuple[Any, WeightSource | None]:
    """The base model; where several processes share it, without its weights and with the source of these."""
    if processes.world == 1:
        return load_model(model, device=processes.device), None
    if processes.is_first:  # a GGUF file is converted once, a model of the Hub downloaded once
        weight_files(model)
    processes.wait()
    skeleton = load_skeleton(model)
    files = locate_weights(skeleton, weight_files(model))
    if files is not None:
        return skeleton, WeightSource(files, None)
    whole = None
    if processes.is_first:
        log.info("%s is converted while it is loaded: the first process holds all of it for that time", model.path)
        whole = load_model(model, dtype=load_config(model).dtype or torch.float32)
    return skeleton, WeightSource(None, whole)


def load_weights(objective: Objective, source: WeightSource, processes: Processes) -> None:
    """Give a sharded model on the meta device its weights; every process calls."""
    if source.files is not None:
        read_shards(objective, source.files, processes)
    else:
        scatter_weights(objective, source.whole, processes)


@torch.no_grad()
def scatter_weights(objective: Objective, whole: nn.Module | None, processes: Processes) -> None:
    """Send each process its rows of every weight, one weight after the other.

    Args:
        objective: after `fully_shard`, on the meta device; its buffers are real.
        whole: the model with its weights, in the first process; None in the others.
        processes: all of them call.
    """
    allocate(objective, processes.device)
    for name, weight in objective.named_parameters():
        if whole is None:
            full = torch.empty(weight.shape, dtype=weight.dtype, device=processes.device)
        else:
            stored = whole.get_parameter(name.removeprefix("model."))
            full = stored.detach().to(processes.device, weight.dtype)
        assert isinstance(weight, DTensor)
        sent = distribute_tensor(full, weight.device_mesh, weight.placements)
        local_part(weight).copy_(local_part(sent))

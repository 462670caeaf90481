"""Loads the base model into the processes: each gets its shards, and no accelerator ever has the whole model."""

import logging
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from reprise.model.loading import load_config, load_model, load_skeleton, names_match, open_model_weights
from reprise.model.objective import Objective
from reprise.model.weight_files import StoredWeights
from reprise.model.weights import compare
from reprise.recipe.model import Model
from reprise.training.adapter import is_adapter, stored_name
from reprise.training.local_parts import local_part
from reprise.training.parallel import Processes
from reprise.training.sharded_weights import allocate, read_shards

log = logging.getLogger(__name__)


class WeightSource(NamedTuple):
    """Where the weights of a model on the meta device come from."""

    stored: StoredWeights | None
    """The files, if they contain each weight under its own name; None if they have to be converted."""
    whole: nn.Module | None
    """The whole model in host memory, in the first process only and only if `stored` is None."""


def load_base(
    model: Model,
    processes: Processes,
    dtype: torch.dtype = torch.float32,
    *,
    sharded: bool = True,
    on_host: bool = False,
) -> tuple[Any, WeightSource | None]:
    """The base model; if it is to be sharded, without its weights but with their source.

    Args:
        model: settings of the base model.
        processes: all processes, which must all call.
        dtype: type of the weights if they are not sharded; shards are float32 until an adapter freezes them.
        sharded: whether FSDP shards the model.
        on_host: whether a single process keeps the weights on the CPU, to shrink them before they move to the device.

    Raises:
        UserError: the files do not contain what the model needs; raised alike in one process and in many.
    """
    if not sharded:
        return load_model(model, dtype, "cpu" if on_host else processes.device), None
    # A GGUF file is converted once, a model of the Hub downloaded once.
    processes.first(lambda: open_model_weights(model))
    skeleton, stored = load_skeleton(model), open_model_weights(model)
    if names_match(skeleton, model, stored):
        processes.first(lambda: compare(skeleton, stored).refuse(stored.folder))
        return skeleton, WeightSource(stored, None)
    if processes.is_first:
        log.info("%s is converted while it is loaded: the first process holds all of it for that time", model.path)
    return skeleton, WeightSource(
        None, processes.first(lambda: load_model(model, load_config(model).dtype or torch.float32))
    )


@torch.no_grad()
def read_trained(base: Any, model: Model) -> None:
    """Read the trained weights of the model again, as they were rounded to the type of the frozen ones.

    Args:
        base: the model, with an adapter.
        model: settings that say where its files are.
    """
    stored = open_model_weights(model)
    for name, weight in base.named_parameters():
        if weight.requires_grad and not is_adapter(name) and stored_name(name) in stored.files:
            weight.copy_(stored.read(stored_name(name))[...])


def load_weights(objective: Objective, source: WeightSource, processes: Processes, *, offload: bool = False) -> None:
    """Load the weights of a sharded model on the meta device, onto the host with `offload`; every process must call."""
    allocate(objective, processes.device, offload=offload)
    if source.stored is not None:
        read_shards(objective, source.stored, processes)
    else:
        scatter_weights(objective, source.whole, processes)


@torch.no_grad()
def scatter_weights(objective: Objective, whole: nn.Module | None, processes: Processes) -> None:
    """Send each process its rows of every weight, one weight at a time.

    Args:
        objective: the sharded model, after `allocate`.
        whole: the model with its weights in the first process; None in the others.
        processes: all processes, which must all call.
    """
    buffers = processes.same(None if whole is None else {f"model.{name}": one for name, one in whole.named_buffers()})
    for name, buffer in objective.named_buffers():
        buffer.copy_(buffers[name])
    for name, weight in objective.named_parameters():
        if is_adapter(name):
            continue
        if whole is None:
            full = torch.empty(weight.shape, dtype=weight.dtype, device=processes.device)
        else:
            stored = whole.get_parameter(stored_name(name).removeprefix("model."))
            full = stored.detach().to(processes.device, weight.dtype)
        assert isinstance(weight, DTensor)
        sent = distribute_tensor(full, weight.device_mesh, weight.placements)
        local_part(weight).copy_(local_part(sent))

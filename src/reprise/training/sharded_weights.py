"""Read and write the weights of a sharded model as safetensors files; no process holds the whole model."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from reprise.model.objective import Objective
from reprise.model.weight_files import StoredWeights
from reprise.model.weights import refuse_not_finite
from reprise.training.adapter import MergedWeight, is_adapter, stored_name
from reprise.training.local_parts import first_row
from reprise.training.parallel import Processes

FILE_BYTES = 5 * 10**9
"""Maximum bytes of a weight file, as in transformers."""


@torch.no_grad()
def read_shards(objective: Objective, stored: StoredWeights, processes: Processes) -> None:
    """Load weights into a sharded model; each process reads its own rows.

    Args:
        objective: the model, after `allocate`.
        stored: weight files with the model's names and shapes.
        processes: all processes, which must all call.

    Raises:
        UserError: a weight is infinite or NaN in any process.
    """
    refused = []
    for name, buffer in objective.named_buffers():
        if _plain(name) in stored.files:
            buffer.copy_(stored.read(_plain(name))[...])
            if bool(buffer.isnan().any()):  # infinity is allowed, as in masks
                refused.append(_plain(name))
    for name, weight in objective.named_parameters():
        if is_adapter(name):
            continue
        local: Any = weight.to_local() if isinstance(weight, DTensor) else weight
        start = first_row(weight)
        stored_weight = stored.read(_plain(name))  # open one at a time, as mapped pages count as memory
        local.copy_(stored_weight[start : start + len(local)] if local.dim() else stored_weight[...])
        if not bool(local.isfinite().all()):
            refused.append(_plain(name))
    everywhere = {name for names in processes.gather(refused) for name in names}
    processes.first(lambda: refuse_not_finite(everywhere, str(stored.folder)))


def _plain(name: str) -> str:
    """Name of a weight in the model's files."""
    return stored_name(name).removeprefix("model.")


def allocate(objective: Objective, device: torch.device, *, offload: bool = False) -> None:
    """Allocate memory for the weights of a sharded model on the meta device; buffers keep their values.

    Args:
        objective: the model, after `fully_shard`; its buffers are not on the meta device.
        device: device that computes.
        offload: whether the weights are kept on the host; buffers are on the device in any case.
    """
    buffers = {name: buffer.clone() for name, buffer in objective.named_buffers(remove_duplicate=False)}
    objective.to_empty(device="cpu" if offload else device)
    objective.model.tie_weights()  # to_empty unties them
    for name, value in buffers.items():
        prefix, _, own = name.rpartition(".")
        setattr(objective.get_submodule(prefix), own, value.to(device))


def write_shards(weights: Mapping[str, Any], dtype: torch.dtype, folder: Path, *, writes: bool) -> None:
    """Write weights as safetensors files of at most FILE_BYTES, with one file at a time in memory.

    Args:
        weights: name -> tensor, which may be sharded.
        dtype: dtype of floating-point tensors in the files.
        folder: folder to write.
        writes: whether this process writes; the others only take part in gathering.
    """
    sizes = {name: _num_bytes(value, dtype) for name, value in weights.items()}
    write_files(sizes, lambda name: whole(weights[name], dtype, writes=writes), folder, writes=writes)


def write_files(
    sizes: Mapping[str, int], read: Callable[[str], torch.Tensor], folder: Path, *, writes: bool = True
) -> None:
    """Write tensors as safetensors files of at most FILE_BYTES, with one file at a time in memory.

    Args:
        sizes: name -> bytes of the tensor.
        read: returns the tensor of a name; called once per name, in the order of `sizes`.
        folder: folder to write.
        writes: whether this process writes; the others only call `read`.
    """
    groups = list(_groups(sizes))
    files: dict[str, str] = {}
    for shard, names in enumerate(groups, start=1):
        file = f"model-{shard:05d}-of-{len(groups):05d}.safetensors" if len(groups) > 1 else "model.safetensors"
        files |= dict.fromkeys(names, file)
        part = {name: read(name) for name in names}
        if writes:
            save_file(part, folder / file, metadata={"format": "pt"})
    if writes and len(groups) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": files}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


def whole(value: Any, dtype: torch.dtype, *, writes: bool = True) -> torch.Tensor:
    """Gather a tensor on the CPU, floating-point ones as `dtype`; empty in a process that writes nothing."""
    if isinstance(value, MergedWeight):
        full = value.full()
    else:
        full = value.full_tensor() if isinstance(value, DTensor) else value
    if not writes:
        return torch.empty(0)
    tensor: torch.Tensor = full.detach().to("cpu", dtype if full.is_floating_point() else full.dtype).contiguous()
    return tensor


def _groups(sizes: Mapping[str, int]) -> Iterable[list[str]]:
    """Names of the weights in each file."""
    names: list[str] = []
    size = 0
    for name, num_bytes in sizes.items():
        if names and size + num_bytes > FILE_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += num_bytes
    yield names


def _num_bytes(value: Any, dtype: torch.dtype) -> int:
    return int(value.numel() * (dtype.itemsize if value.is_floating_point() else value.element_size()))

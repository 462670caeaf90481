"""Processes and devices: one code path for a single CPU process and for many nodes."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from reprise import processes
from reprise.model.devices import own_device
from reprise.model.likelihood import native_dtype
from reprise.recipe.training import Training
from reprise.training.memory import keep_freed_memory


@dataclass(frozen=True)
class Processes(processes.Processes):
    """This process among those that train, with its device and the device mesh."""

    device: torch.device = field(default_factory=own_device)
    mesh: Any = None
    """Device mesh with the dimensions (shard,), or (replicate, shard) for hybrid sharding."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over the processes, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all processes get the same answer."""
        if self.world == 1:
            return flag
        flags = torch.tensor(int(flag))  # on the CPU by gloo, so that no process waits for its device
        dist.all_reduce(flags)
        return bool(flags.item())


def start_processes(timeout_s: int) -> bool:
    """Join the processes that `torchrun` started, or form a group of one process.

    Args:
        timeout_s: seconds that a process waits for the others in a collective.

    Returns:
        Whether the process group was created; False if it already existed.
    """
    if dist.is_initialized():
        return False
    if torch.cuda.is_available():
        torch.cuda.set_device(own_device())
    # gloo as well: checkpoints are written with CPU collectives while the GPU computes.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    return True


def join_processes(timeout_s: int) -> processes.Processes:
    """Join the processes of the launcher, in a group without a timeout.

    While the first process cleans a corpus, the others may wait for hours; a dead process is noticed by the launcher.

    Args:
        timeout_s: see `start_processes`.
    """
    start_processes(timeout_s)
    group = dist.new_group(backend="gloo", timeout=timedelta(weeks=52))
    return processes.Processes(dist.get_rank(), dist.get_world_size(), group=group)


@contextlib.contextmanager
def open_processes(training: Training) -> Iterator[Processes]:
    """Context with the processes of the run; a group that existed before is kept afterwards."""
    begun = start_processes(training.collective_timeout_s)
    if training.threads:
        torch.set_num_threads(training.threads)
    try:
        with keep_freed_memory(own_device()):
            yield Processes(dist.get_rank(), dist.get_world_size(), own_device(), _mesh(training, own_device()))
    finally:
        if begun:
            dist.destroy_process_group()


def _mesh(training: Training, device: torch.device) -> DeviceMesh:
    world = dist.get_world_size()
    if training.sharding != "hybrid":
        return init_device_mesh(device.type, (world,), mesh_dim_names=("shard",))
    within = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return init_device_mesh(device.type, (world // within, within), mesh_dim_names=("replicate", "shard"))


def is_sharded(training: Training, world: int) -> bool:
    """Whether the model is sharded by FSDP2; a single process only is with `training.shard_one_process`."""
    return world > 1 or training.shard_one_process


def compute_dtype(training: Training, device: torch.device) -> torch.dtype:
    """Dtype of the matrix products."""
    if training.precision == "auto":
        return native_dtype(device)
    return torch.bfloat16 if training.precision == "bf16" else torch.float32

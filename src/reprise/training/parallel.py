"""Processes and devices: the same code for one process on a CPU and for many nodes."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from reprise.errors import UserError
from reprise.model.likelihood import native_dtype
from reprise.recipe.training import Training
from reprise.training.first_process import first_does
from reprise.training.memory import keep_freed_memory

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among those of the run."""

    rank: int
    world: int
    device: torch.device
    mesh: DeviceMesh

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files that exist once."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the processes."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process: all of them get the same answer."""
        if self.world == 1:
            return flag
        flags = torch.tensor(int(flag))  # on the CPU, by gloo: nobody waits for the device
        dist.all_reduce(flags)
        return bool(flags.item())

    def wait(self) -> None:
        """Go on when every process is here."""
        if self.world > 1:
            dist.barrier()

    def gather(self, value: Any) -> list[Any]:
        """What each process says, in the order of their ranks."""
        values = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values

    def same(self, value: Any) -> Any:
        """What the first process says."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def first(self, action: Callable[[], T]) -> T | None:
        """See `first_does`."""
        return first_does(action, is_first=self.is_first, world=self.world)


def start_processes(timeout_s: int) -> bool:
    """Join the processes that `torchrun` started, or be the only one; gives False where that was done before.

    Args:
        timeout_s: seconds that a process waits for the others in one collective.
    """
    if dist.is_initialized():
        return False
    if torch.cuda.is_available():
        torch.cuda.set_device(_device())
    # Checkpoints are written by CPU collectives while the GPU computes.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    return True


@contextlib.contextmanager
def open_processes(training: Training) -> Iterator[Processes]:
    """The processes of the run while the block runs; those that were started before stay afterwards."""
    begun = start_processes(training.collective_timeout_s)
    if training.threads:
        torch.set_num_threads(training.threads)
    try:
        with keep_freed_memory(_device()):
            yield Processes(dist.get_rank(), dist.get_world_size(), _device(), _mesh(training, _device()))
    finally:
        if begun:
            dist.destroy_process_group()


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank, visible = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if visible == 1:  # Slurm may show each task its own GPU only
        return torch.device("cuda", 0)
    if local_rank >= visible:
        raise UserError(
            f"this machine has {visible} GPUs and at least {local_rank + 1} processes",
            where=f"LOCAL_RANK = {local_rank}",
            remedy="start one process per GPU (torchrun --nproc-per-node, Slurm --ntasks-per-node)",
        )
    return torch.device("cuda", local_rank)


def _mesh(training: Training, device: torch.device) -> DeviceMesh:
    world = dist.get_world_size()
    if training.sharding != "hybrid":
        return init_device_mesh(device.type, (world,), mesh_dim_names=("shard",))
    within = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return init_device_mesh(device.type, (world // within, within), mesh_dim_names=("replicate", "shard"))


def is_sharded(training: Training, world: int) -> bool:
    """Whether the model is one FSDP2 module: one process has nothing to gather, unless it is asked to do so."""
    return world > 1 or training.shard_one_process


def compute_dtype(training: Training, device: torch.device) -> torch.dtype:
    """The type of matrix products."""
    if training.precision == "auto":
        return native_dtype(device)
    return torch.bfloat16 if training.precision == "bf16" else torch.float32

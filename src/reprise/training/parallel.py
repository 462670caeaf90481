"""Processes, devices and FSDP2: the same code for one process on a CPU and for many nodes."""

import contextlib
import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from reprise.errors import UserError
from reprise.model.likelihood import native_dtype
from reprise.model.objective import Objective
from reprise.recipe.training import Training


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
        """Whether any process says so: all of them get the same answer."""
        if self.world == 1:
            return flag
        return bool(self.sum(torch.tensor(int(flag), device=self.device)).item())

    def wait(self) -> None:
        """Go on when every process is here."""
        if self.world > 1:
            dist.barrier()

    def same(self, value: Any) -> Any:
        """What the first process says."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]


def start_processes() -> bool:
    """Join the processes that `torchrun` started, or be the only one; gives False where that was done before."""
    if dist.is_initialized():
        return False
    if torch.cuda.is_available():
        torch.cuda.set_device(_device())
    # Checkpoints are written by CPU collectives while the GPU goes on.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    return True


@contextlib.contextmanager
def open_processes(training: Training) -> Iterator[Processes]:
    """The processes of the run while the block runs; those that were started before stay afterwards."""
    begun = start_processes()
    if training.threads:
        torch.set_num_threads(training.threads)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), _device(), _mesh(training, _device()))
    finally:
        if begun:
            dist.destroy_process_group()


def _device() -> torch.device:
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def _mesh(training: Training, device: torch.device) -> DeviceMesh:
    world = dist.get_world_size()
    if training.sharding != "hybrid":
        return init_device_mesh(device.type, (world,), mesh_dim_names=("shard",))
    within = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return init_device_mesh(device.type, (world // within, within), mesh_dim_names=("replicate", "shard"))


def compute_dtype(training: Training, device: torch.device) -> torch.dtype:
    """The type of matrix products."""
    if training.precision == "auto":
        return native_dtype(device)
    return torch.bfloat16 if training.precision == "bf16" else torch.float32


class Network:
    """The model of a run: `weights` are the float32 master weights, `objective` is what runs.

    With several processes both are one FSDP2 module, which gathers the weights in the compute type layer by layer. One
    process has nothing to gather, and FSDP's copies in and out of its buffers cost a tenth of a step on a CPU; so there
    `objective` is a copy of the model in the compute type, made once a step, whose gradients go to the master weights.
    """

    def __init__(self, objective: Objective, training: Training, processes: Processes) -> None:
        dtype = compute_dtype(training, processes.device)
        self.weights = self.objective = objective
        self._sharded = processes.world > 1
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        self._touched: set[nn.Parameter] = set()
        layers = decoder_layers(objective.model)
        if self._sharded:
            shard(objective, layers, dtype, training, processes)
        elif dtype != torch.float32:
            self.objective = copy.deepcopy(objective)
            self._pairs = list(zip(self.weights.parameters(), self.objective.parameters(), strict=True))
            for master, working in self._pairs:
                working.data = working.data.to(dtype)
                working.register_post_accumulate_grad_hook(partial(self._hand_over, master))  # type: ignore[no-untyped-call]
        if training.compile:
            for layer in decoder_layers(self.objective.model):
                layer.compile()
        self.objective.train()

    def begin_backward(self, *, is_last: bool) -> None:
        """Call before each forward and backward pass of a step."""
        if self._sharded:
            module: Any = self.objective
            module.set_requires_gradient_sync(is_last)
            module.set_is_last_backward(is_last)
            module.set_reshard_after_backward(is_last)

    def _hand_over(self, master: nn.Parameter, working: torch.Tensor) -> None:
        """Add a gradient to that of the master weight, in float32. Its memory is kept from step to step."""
        gradient, working.grad = working.grad, None
        assert gradient is not None
        if master.grad is None:
            master.grad = gradient.to(master.dtype)
        elif master in self._touched:
            master.grad.add_(gradient)
        else:
            master.grad.copy_(gradient)
        self._touched.add(master)

    def end_backward(self) -> None:
        """Call when the gradients of a step are complete: weights that took no part have none."""
        for master, _ in self._pairs:
            if master not in self._touched:
                master.grad = None
        self._touched.clear()

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the copy to the master weights, after these were changed."""
        if self._pairs:
            masters, working = zip(*self._pairs, strict=True)
            torch._foreach_copy_(working, masters)

    def drop_gradients(self) -> None:
        """End a step. The copy's gradients are overwritten in the next one."""
        if not self._pairs:
            self.weights.zero_grad(set_to_none=True)


def shard(
    objective: Objective, layers: list[Any], dtype: torch.dtype, training: Training, processes: Processes
) -> None:
    """Shard a model in place with FSDP2: float32 shards, gathered in the compute type layer by layer."""
    policy = MixedPrecisionPolicy(param_dtype=dtype if dtype != torch.float32 else None, reduce_dtype=torch.float32)
    for layer in layers:
        fully_shard(
            layer, mesh=processes.mesh, mp_policy=policy, reshard_after_forward=training.sharding != "gradients"
        )
    fully_shard(objective, mesh=processes.mesh, mp_policy=policy, reshard_after_forward=False)


def decoder_layers(model: Any) -> list[Any]:
    """The repeated blocks of a model: the entries of its longest list of modules.

    Raises:
        UserError: it has none.
    """
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise UserError("the model has no list of layers", where="model.path", remedy="use a decoder-only transformer")
    return max(lists, key=len)


_MATRIX_PRODUCTS = frozenset(
    {
        torch.ops.aten.mm.default,
        torch.ops.aten.addmm.default,
        torch.ops.aten.bmm.default,
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        torch.ops.aten._scaled_dot_product_cudnn_attention.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
)


def recompute_activations(model: Any, training: Training) -> None:
    """Keep less for the backward pass: only the layers' inputs (`full`), or also results of products (`selective`)."""
    if training.activation_checkpointing == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if training.activation_checkpointing == "selective":
        options["context_fn"] = _keep_products
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def _keep_products() -> Any:
    def choose(_context: Any, operation: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if operation in _MATRIX_PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(choose)  # type: ignore[no-untyped-call]

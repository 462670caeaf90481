"""The model that is trained: loading, sharding, compute dtype and activation checkpointing."""

import contextlib
import copy
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from reprise.errors import UserError
from reprise.model.attention import choose_attention
from reprise.model.check import is_rotary, positions_finding
from reprise.model.objective import Objective
from reprise.recipe.model import Model
from reprise.recipe.tokens import Rows
from reprise.recipe.training import Training
from reprise.training.adapter import add_adapter, check_adapter, initialise
from reprise.training.base_model import load_base, load_weights, read_trained
from reprise.training.parallel import Processes, compute_dtype, is_sharded
from reprise.training.single_adamw import SingleAdamW

log = logging.getLogger(__name__)


def open_network(
    model: Model, rows: Rows, training: Training, highest_id: int, seed: int, processes: Processes
) -> "Network":
    """Load the base model, ready to train.

    Args:
        model: the base model.
        rows: whether documents in a row see each other.
        training: settings of precision, sharding and activation checkpointing.
        highest_id: largest token id in the text.
        seed: random seed of the run, for the weights of an adapter.
        processes: all processes, which must all call.

    Raises:
        UserError: the model cannot be loaded, or has no embedding for a token of the text.
    """
    dtype = compute_dtype(training, processes.device)
    processes.first(lambda: check_adapter(training.adapter, processes.device, processes.world))
    narrow = training.adapter.kind != "none" or training.master_weights == "bf16"
    loaded_as = dtype if narrow else torch.float32
    four_bit = training.adapter.kind != "none" and training.adapter.base == "nf4"
    base, source = load_base(
        model, processes, loaded_as, sharded=is_sharded(training, processes.world), on_host=four_bit
    )
    vocabulary = base.get_input_embeddings().weight.shape[0]
    if highest_id >= vocabulary:
        raise UserError(
            f"the text has the token id {highest_id:,}, the model embeds {vocabulary:,} tokens",
            where=f"model.path = {model.path}",
            remedy="use the tokenizer that belongs to the model",
        )
    check_positions(base.config, rows.seq_len)
    as_loaded = base.config._attn_implementation
    choose_attention(base, model.attention, processes.device, document_mask=rows.document_mask, dtype=dtype)
    add_adapter(base, decoder_layers(base), training.adapter, dtype)
    if source is None and training.adapter.kind != "none":
        read_trained(base, model)
    if four_bit:
        base.to(processes.device)
    if training.master_weights == "bf16":
        for weight in base.parameters():  # a model to be sharded is in float32, on the meta device
            weight.data = weight.data.to(torch.bfloat16)
    recompute_activations(base, training)
    network = Network(Objective(base), training, processes)
    network.attention_as_loaded = as_loaded
    if source is not None:
        load_weights(network.weights, source, processes, offload=training.offload)
        initialise(network.weights, training.adapter, seed)
        network.weights.find_head()
        network.reshard()  # the optimizer must get the shards, not the gathered weights
    else:
        initialise(network.weights, training.adapter, seed)
    if training.compile:
        network.compile()
    return network


def check_positions(config: Any, seq_len: int) -> None:
    """Refuse rows longer than a model's table of position embeddings; warn if positions are computed instead.

    Raises:
        UserError: the model has a table that is shorter than a row.
    """
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if positions is not None and seq_len > positions:
        finding = positions_finding(positions, seq_len, is_rotary=is_rotary(text.to_dict()))
        if finding.severity == "error":
            raise UserError(finding.what, where=finding.where, remedy=finding.remedy)
        log.warning("%s", finding.what)


@dataclass
class _Stepping:
    """State of a backward pass that steps the optimizer."""

    optimizer: SingleAdamW
    squared: float = 0.0
    """Squared norm of the gradients so far."""
    refused: Any = None
    """The first weight with a non-finite gradient; later weights are not changed."""


class Network:
    """The model of a run: `weights` holds the master weights (float32 by default), `objective` computes the loss.

    With several processes both are the same FSDP2 module, which gathers weights in the compute dtype layer by layer.
    One process has nothing to gather, and FSDP's copies to and from its buffers would cost a tenth of a step on a CPU.
    There `objective` is a copy of the model in the compute dtype, refreshed after each step, whose gradients are added
    to those of the master weights. bfloat16 master weights are used for computing without a copy.
    """

    def __init__(self, objective: Objective, training: Training, processes: Processes) -> None:
        dtype = compute_dtype(training, processes.device)
        self.weights = self.objective = objective
        self._training = training
        self._sharded = is_sharded(training, processes.world)
        self._is_compiled = False
        self.attention_as_loaded: str | None = None
        """Attention implementation that accepts any mask; None: the current one."""
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        self._stepping: _Stepping | None = None
        """Set during a backward pass that steps the optimizer."""
        if self._sharded:
            shard(objective, dtype, training, processes)
        elif training.master_weights == "bf16":
            for weight in objective.parameters():
                weight.grad_dtype = torch.float32  # sum micro-batches in float32
        elif dtype != torch.float32:
            frozen: dict[int, Any] = {id(one): one for one in objective.parameters() if not one.requires_grad}
            self.objective = copy.deepcopy(objective, frozen)  # frozen weights are shared, not copied
            pairs = zip(self.weights.parameters(), self.objective.parameters(), strict=True)
            self._pairs = [(master, working) for master, working in pairs if master.requires_grad]
            for master, working in self._pairs:
                working.data = working.data.to(dtype)
                working.register_post_accumulate_grad_hook(partial(self._hand_over, master))  # type: ignore[no-untyped-call]
        if training.step_in_backward and not self._pairs:
            for weight in self.weights.parameters():
                weight.register_post_accumulate_grad_hook(self._step_weight)  # type: ignore[no-untyped-call]
        self.objective.train()

    def compile(self) -> None:
        """Compile each layer for the fixed shape of the rows; call it after all passes with other shapes."""
        for layer in decoder_layers(self.objective.model):
            layer.compile(dynamic=False)
        self._is_compiled = True

    @contextlib.contextmanager
    def eager(self) -> Iterator[None]:
        """Context in which layers run uncompiled, as inputs of other shapes would trigger recompilation."""
        if not self._is_compiled:
            yield
            return
        stance: Any = torch.compiler.set_stance("force_eager")
        with stance:
            yield

    @contextlib.contextmanager
    def as_loaded(self) -> Iterator[None]:
        """Context in which the model accepts any input, such as any length or left padding, in evaluation mode."""
        model = self.objective.model
        present = model.config._attn_implementation
        model.set_attn_implementation(self.attention_as_loaded or present)
        model.eval()
        try:
            with self.eager():
                yield
        finally:
            model.set_attn_implementation(present)
            model.train()

    def begin_backward(self, *, is_last: bool) -> None:
        """Call before each forward and backward pass of a step.

        By default, gradients are reduced to shards after every micro-batch, so no process holds full gradients.

        Args:
            is_last: whether this is the last micro-batch of the step.
        """
        if not self._sharded:
            return
        module: Any = self.objective
        if self._training.gradient_accumulation == "whole":
            module.set_requires_gradient_sync(is_last)
            module.set_is_last_backward(is_last)
            module.set_reshard_after_backward(is_last)
        elif self._training.sharding == "hybrid":
            module.set_requires_all_reduce(is_last)  # all-reduce between nodes once per step
        elif self._training.sharding == "gradients":
            module.set_reshard_after_backward(is_last)

    def _hand_over(self, master: nn.Parameter, working: torch.Tensor) -> None:
        """Add the gradient of a working weight to that of its master weight, in float32."""
        gradient, working.grad = working.grad, None
        assert gradient is not None
        if master.grad is None:
            master.grad = gradient.to(master.dtype)
        else:
            master.grad.add_(gradient)
        if self._stepping is not None:
            self._step_weight(master)
            with torch.no_grad():
                working.copy_(master)

    def step_in_backward(self, loss: torch.Tensor, optimizer: SingleAdamW) -> float:
        """Run the backward pass; each weight is stepped as soon as its gradient is ready, which is then freed.

        Args:
            loss: scalar tensor.
            optimizer: steps single weights.

        Returns:
            Squared norm of all gradients.

        Raises:
            UserError: a gradient is not finite, and other weights were already changed.
        """
        self._stepping = stepping = _Stepping(optimizer)
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        finally:
            self._stepping = None
        if stepping.refused is not None:
            names = {id(weight): name for name, weight in self.weights.named_parameters()}
            self.drop_gradients()
            raise UserError(
                f"the gradient of {names[id(stepping.refused)]} is not finite, and other weights were changed already",
                where="training.step_in_backward = true",
                remedy="the same command resumes from the last checkpoint: lower the learning rate, or set it to "
                "false, which leaves such a step out",
            )
        return stepping.squared

    def _step_weight(self, weight: Any) -> None:
        """Step a weight whose gradient is ready; does nothing outside of `step_in_backward`."""
        stepping = self._stepping
        if stepping is None or stepping.refused is not None:
            return
        squared = float(torch.linalg.vector_norm(weight.grad.float())) ** 2
        if not math.isfinite(squared):
            stepping.refused = weight
            return
        stepping.squared += squared
        stepping.optimizer.step_weight(weight)
        weight.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy changed master weights to the working weights."""
        if self._pairs:
            masters, working = zip(*self._pairs, strict=True)
            torch._foreach_copy_(working, masters)

    def drop_gradients(self) -> None:
        """Free the gradients: the next forward pass needs the memory for activations."""
        self.weights.zero_grad(set_to_none=True)

    def reshard(self) -> None:
        """Free the gathered weights."""
        for module in self.weights.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def shard(objective: Objective, dtype: torch.dtype, training: Training, processes: Processes) -> None:
    """Shard a model in place with FSDP2: float32 shards, gathered in the compute dtype group by group.

    Each layer is a group, and so are embeddings and output layer. If these are tied, the weight belongs to the root
    group, which stays gathered.
    """
    frees = training.sharding != "gradients"
    wrap = partial(
        fully_shard,
        mesh=processes.mesh,
        mp_policy=MixedPrecisionPolicy(
            param_dtype=dtype if dtype != torch.float32 else None, reduce_dtype=torch.float32
        ),
        offload_policy=CPUOffloadPolicy() if training.offload else OffloadPolicy(),
    )
    embeddings, head = objective.model.get_input_embeddings(), objective.get_output_embeddings()
    for layer in decoder_layers(objective.model):
        wrap(layer, reshard_after_forward=frees)
    if head is not None and head.weight is not embeddings.weight:
        wrap(embeddings, reshard_after_forward=frees)
        wrap(head, reshard_after_forward=False)  # its backward pass comes next
    wrap(objective, reshard_after_forward=False)


def decoder_layers(model: Any) -> list[Any]:
    """The decoder layers of a model: its longest `nn.ModuleList`.

    Raises:
        UserError: the model has no `nn.ModuleList`.
    """
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise UserError("the model has no list of layers", where="model.path", remedy="use a decoder-only transformer")
    return max(lists, key=len)


# Not bmm: blocked attention modifies its results in place, and saved tensors must not change.
MATRIX_PRODUCTS = frozenset(
    {
        torch.ops.aten.mm.default,
        torch.ops.aten.addmm.default,
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        torch.ops.aten._scaled_dot_product_cudnn_attention.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
        torch.ops.torch_attn._varlen_attn.default,
    }
)


def recompute_activations(model: Any, training: Training) -> None:
    """Save less for the backward pass: only the layers' inputs (`full`), or also results of products (`selective`).

    The forward method of each layer is replaced, so that checkpointing happens inside the compiled layer: outside, the
    selective policy would see no operations.
    """
    if training.activation_checkpointing == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if training.activation_checkpointing == "selective":
        options["context_fn"] = _keep_products
    for layer in decoder_layers(model):
        layer.recompute_options = options
        layer.forward = MethodType(_recomputed_forward, layer)


def _recomputed_forward(layer: Any, *args: Any, **inputs: Any) -> Any:
    """A layer's own forward method under activation checkpointing."""
    return checkpoint(partial(type(layer).forward, layer), *args, **layer.recompute_options, **inputs)


def _keep_products() -> Any:
    def choose(_context: Any, operation: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if operation in MATRIX_PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(choose)  # type: ignore[no-untyped-call]

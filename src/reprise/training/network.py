"""The model that is trained: loaded, sharded, with its weights in the compute type."""

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
    """The base model, ready to train.

    Args:
        model: the base model.
        rows: whether documents in a row see each other.
        training: precision, sharding, what is recomputed.
        highest_id: largest token id in the text.
        seed: random seed of the run, for the weights of an adapter.
        processes: all of them call.

    Raises:
        UserError: the model cannot be loaded, or it does not embed every token of the text.
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
        for weight in base.parameters():  # a model that is to be sharded was made in float32, on the meta device
            weight.data = weight.data.to(torch.bfloat16)
    recompute_activations(base, training)
    network = Network(Objective(base), training, processes)
    network.attention_as_loaded = as_loaded
    if source is not None:
        load_weights(network.weights, source, processes, offload=training.offload)
        initialise(network.weights, training.adapter, seed)
        network.weights.find_head()
        network.reshard()  # the optimizer must get the shards, not what that pass gathered
    else:
        initialise(network.weights, training.adapter, seed)
    if training.compile:
        network.compile()
    return network


def check_positions(config: Any, seq_len: int) -> None:
    """Refuse rows that are longer than a model's table of positions; warn where positions are computed.

    Raises:
        UserError: the model has a table, and it is shorter than a row.
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
    """A backward pass that changes the weights."""

    optimizer: SingleAdamW
    squared: float = 0.0
    """Sum of the squares of the gradients so far."""
    refused: Any = None
    """The weight whose gradient is not finite; no weight is changed after it."""


class Network:
    """The model of a run: `weights` are the master weights, float32 if not asked otherwise; `objective` is what runs.

    With several processes both are one FSDP2 module, which gathers the weights in the compute type layer by layer. One
    process has nothing to gather, and FSDP's copies in and out of its buffers cost a tenth of a step on a CPU; so there
    `objective` is a copy of the model in the compute type, made once a step, whose gradients go to the master weights.
    bfloat16 master weights are computed with as they are.
    """

    def __init__(self, objective: Objective, training: Training, processes: Processes) -> None:
        dtype = compute_dtype(training, processes.device)
        self.weights = self.objective = objective
        self._training = training
        self._sharded = is_sharded(training, processes.world)
        self._is_compiled = False
        self.attention_as_loaded: str | None = None
        """Attention that takes any mask; None: the present one."""
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        self._stepping: _Stepping | None = None
        """While a backward pass changes the weights."""
        if self._sharded:
            shard(objective, dtype, training, processes)
        elif training.master_weights == "bf16":
            for weight in objective.parameters():
                weight.grad_dtype = torch.float32  # in which micro-batches are summed
        elif dtype != torch.float32:
            frozen: dict[int, Any] = {id(one): one for one in objective.parameters() if not one.requires_grad}
            self.objective = copy.deepcopy(objective, frozen)  # which holds the frozen weights themselves
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
        """Compile each layer for the one shape of the rows; call after any pass of another shape."""
        for layer in decoder_layers(self.objective.model):
            layer.compile(dynamic=False)
        self._is_compiled = True

    @contextlib.contextmanager
    def eager(self) -> Iterator[None]:
        """While the block runs, compute without the compiled layers, which would be compiled again for each shape."""
        if not self._is_compiled:
            yield
            return
        stance: Any = torch.compiler.set_stance("force_eager")
        with stance:
            yield

    @contextlib.contextmanager
    def as_loaded(self) -> Iterator[None]:
        """While the block runs, the model takes any input: text of any length, padding on the left."""
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

        By default gradients are reduced to shards after every micro-batch, so that no process ever holds whole ones.
        """
        if not self._sharded:
            return
        module: Any = self.objective
        if self._training.gradient_accumulation == "whole":
            module.set_requires_gradient_sync(is_last)
            module.set_is_last_backward(is_last)
            module.set_reshard_after_backward(is_last)
        elif self._training.sharding == "hybrid":
            module.set_requires_all_reduce(is_last)  # between the nodes once a step
        elif self._training.sharding == "gradients":
            module.set_reshard_after_backward(is_last)

    def _hand_over(self, master: nn.Parameter, working: torch.Tensor) -> None:
        """Add a gradient to the gradient of the master weight, in float32."""
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
        """Run the backward pass, in which each weight is changed as soon as its gradient is there, which is then freed.

        Args:
            loss: scalar.
            optimizer: changes the weights.

        Returns:
            Squared norm of all gradients.

        Raises:
            UserError: a gradient is not finite; weights were changed already.
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
        """Change a weight whose gradient is there; without a step under way nothing happens."""
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
        """Copy the master weights to the working weights, after the former changed."""
        if self._pairs:
            masters, working = zip(*self._pairs, strict=True)
            torch._foreach_copy_(working, masters)

    def drop_gradients(self) -> None:
        """End a step. The memory is needed for activations, which are largest while gradients are few."""
        self.weights.zero_grad(set_to_none=True)

    def reshard(self) -> None:
        """Free the gathered weights."""
        for module in self.weights.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def shard(objective: Objective, dtype: torch.dtype, training: Training, processes: Processes) -> None:
    """Shard a model in place with FSDP2: float32 shards, gathered in the compute type group by group.

    Each layer is a group. So are the embeddings and the output layer, unless they share their weight: it then belongs
    to the outermost group, which is gathered throughout.
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
        wrap(head, reshard_after_forward=False)  # its backward pass is next
    wrap(objective, reshard_after_forward=False)


def decoder_layers(model: Any) -> list[Any]:
    """The repeated blocks of a model: the entries of its longest list of modules.

    Raises:
        UserError: it has no list of modules.
    """
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise UserError("the model has no list of layers", where="model.path", remedy="use a decoder-only transformer")
    return max(lists, key=len)


# Not bmm: the blocked attention works on its results in place, and what is kept must stay as it was.
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
    """Keep less for the backward pass: only the layers' inputs (`full`), or also results of products (`selective`).

    Replaces a layer's own forward, so that it is part of what `compile` compiles: around a compiled layer the choice
    of what is kept would see no operation.
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
    """Run a layer's own forward and save little of it for the backward pass."""
    return checkpoint(partial(type(layer).forward, layer), *args, **layer.recompute_options, **inputs)


def _keep_products() -> Any:
    def choose(_context: Any, operation: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if operation in MATRIX_PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(choose)  # type: ignore[no-untyped-call]

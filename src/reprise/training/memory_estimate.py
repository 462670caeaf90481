"""Estimates the memory of a training process before it starts.

Weights, moments and gradients are counted. Activations are measured on fake tensors, which have shapes but no content:
one forward pass of the model shows everything that autograd saves for the backward pass.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from reprise.model.attention import BLOCKED_UNMASKED, CAUSAL
from reprise.model.loss import FEW_CHUNKS, chunk_rows
from reprise.recipe.tokens import Rows
from reprise.recipe.training import Adapter, Training
from reprise.training.adapter import add_adapter
from reprise.training.memory_records import MemoryEstimate
from reprise.training.network import MATRIX_PRODUCTS, decoder_layers
from reprise.training.single_adamw import block_of

FIXED_BYTES = {"cpu": 450 * 10**6, "cuda": 900 * 10**6}
"""Bytes taken by the libraries of the process; on a GPU by its context and the workspaces of cuBLAS and NCCL."""


@dataclass(frozen=True)
class Setup:
    """Everything that memory depends on besides the model."""

    device: Literal["cpu", "cuda"]
    world: int
    """Processes of the run."""
    local_world: int
    """Processes on one node."""
    compute_bytes: int
    """Bytes of an element in the compute type: 2 or 4."""
    seq_len: int
    micro_batch_rows: int
    micro_batches: int
    """Micro-batches of one process per step."""
    sharding: Literal["full", "gradients", "hybrid"]
    gradient_accumulation: Literal["sharded", "whole"]
    activation_checkpointing: Literal["none", "full", "selective"]
    averaging: bool
    adapter: Adapter = field(default_factory=Adapter)
    shard_one_process: bool = False
    master_weights: Literal["float32", "bf16"] = "float32"
    optimizer: Literal["adamw", "muon"] = "adamw"
    moments: Literal["float32", "8bit"] = "float32"
    offload: bool = False
    step_in_backward: bool = False

    @property
    def is_sharded(self) -> bool:
        """Whether the model is one FSDP2 module."""
        return self.world > 1 or self.shard_one_process

    @classmethod
    def of(
        cls, training: Training, rows: Rows, *, device: Literal["cpu", "cuda"], world: int, local_world: int, bf16: bool
    ) -> "Setup":
        """The setup of a recipe's settings on some machine."""
        return cls(
            device=device,
            world=world,
            local_world=min(world, local_world),
            compute_bytes=2 if bf16 else 4,
            seq_len=rows.seq_len,
            micro_batch_rows=training.micro_batch_rows,
            micro_batches=max(1, training.batch_rows // (training.micro_batch_rows * world)),
            sharding=training.sharding,
            gradient_accumulation=training.gradient_accumulation,
            activation_checkpointing=training.activation_checkpointing,
            averaging=training.averaging.kind != "none",
            adapter=training.adapter,
            shard_one_process=training.shard_one_process,
            master_weights=training.master_weights,
            optimizer=training.optimizer.kind,
            moments=training.optimizer.moments,
            offload=training.offload,
            step_in_backward=training.step_in_backward,
        )


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that determine its memory, for one micro-batch."""

    parameters: int
    """Parameters of the base model."""
    trained: int
    """Trained parameters: all, or the adapter's, with the embeddings if these are trained too."""
    four_bit: int
    """Parameters of the base model that are stored in 4 bits."""
    largest_layer: int
    """Parameters of the largest decoder layer."""
    embeddings: int
    """Parameters of the input embeddings."""
    head: int
    """Parameters of the output layer; 0 if it is tied to the embeddings."""
    vocabulary: int
    hidden_size: int
    kept: int
    """Bytes that autograd saves for one micro-batch if nothing is recomputed."""
    kept_of_layer: int
    """Bytes that autograd saves for one decoder layer."""
    products_of_layer: int
    """Bytes of the results of matrix products and attention in one layer."""
    layer_input: int
    """Bytes of a layer's input."""
    layers: int
    matrices: int
    """Parameters of the matrices of the layers."""
    quantizable: int
    """Parameters whose moments can be kept in 8 bits."""
    largest_weight: int
    """Parameters of the largest weight."""
    largest_result: int
    """Bytes of the largest result of one operation."""


class _Kept(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the sizes of results: of matrix products, and the largest of all."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                size = tensor.numel() * tensor.element_size()
                self.largest = max(self.largest, size)
                self.products += size if func in MATRIX_PRODUCTS else 0
        return result


NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes per 4-bit weight: two per byte, an 8-bit scale per 64 weights, a float32 scale per 256 scales."""

EIGHT_BIT_BYTES = 2 * (1 + 4 / 64)
"""Bytes of both moments per value in 8 bits: a code, and a float32 scale per block of at least 64."""

MEASURED_LAYERS = 4
"""Layers of the model that are run; the others are assumed to be like these."""


def measure_shape(config: Any, setup: Setup) -> Shape:
    """Count the parameters of a model, and run its first layers forward on fake tensors.

    Args:
        config: the model's configuration; no weights are loaded.
        setup: dtype, length and count of rows.

    Raises:
        UnknownShapeError: its forward pass depends on values, as for mixtures of experts.
    """
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    layers, total = decoder_layers(model), sum(parameter.numel() for parameter in model.parameters())
    largest_layer = max(sum(parameter.numel() for parameter in layer.parameters()) for layer in layers)
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    tied = head is None or head.weight is embeddings
    measured = min(MEASURED_LAYERS, len(layers))
    try:
        with FakeTensorMode():
            kept, products, largest = _forward(config, setup, measured)
            outside, _, largest_outside = _forward(config, setup, 0)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise UnknownShapeError(str(error)) from error
    of_layer = (kept - outside) // measured
    trained, four_bit = _trained(model, layers, setup.adapter)
    kept_beside, products_beside = _kept_beside(layers[0], setup)
    of_layer += kept_beside
    tokens = setup.micro_batch_rows * setup.seq_len
    return Shape(
        parameters=total,
        trained=trained,
        four_bit=four_bit,
        largest_layer=largest_layer,
        embeddings=embeddings.numel(),
        head=0 if tied else head.weight.numel(),
        vocabulary=embeddings.shape[0],
        hidden_size=embeddings.shape[1],
        kept=outside + of_layer * len(layers),
        kept_of_layer=of_layer,
        products_of_layer=products // measured + products_beside,
        layer_input=tokens * config.get_text_config().hidden_size * setup.compute_bytes,
        layers=len(layers),
        matrices=sum(one.numel() for layer in layers for one in layer.parameters() if one.dim() == 2),
        quantizable=sum(one.numel() for one in model.parameters() if block_of(one.shape) is not None),
        largest_weight=max(one.numel() for one in model.parameters()),
        largest_result=max(largest, largest_outside),
    )


def _trained(model: Any, layers: list[Any], adapter: Adapter) -> tuple[int, int]:
    """Add the adapter to the model; returns the count of trained parameters and of parameters in 4 bits."""
    if adapter.kind == "none":
        return sum(parameter.numel() for parameter in model.parameters()), 0
    add_adapter(model, layers, adapter.model_copy(update={"base": "compute"}), torch.float32)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    adapted = sum(one.numel() for name, one in model.named_parameters() if name.endswith(".base_layer.weight"))
    return trained, adapted if adapter.base == "nf4" else 0


def _kept_beside(layer: Any, setup: Setup) -> tuple[int, int]:
    """Bytes that autograd saves for the adapter of a layer, and bytes of the results of its matrix products.

    LoRA saves the result of its first factor; its input is saved already. DoRA scales two results of the layer's width
    by a trained vector, so it saves both.
    """
    width = products = 0
    for module in layer.modules():
        if hasattr(module, "lora_A"):
            out = module.base_layer.weight.shape[0]
            width += setup.adapter.rank + (2 * out if setup.adapter.kind == "dora" else 0)
            products += setup.adapter.rank + out
    tokens = setup.micro_batch_rows * setup.seq_len
    return tokens * width * setup.compute_bytes, tokens * products * setup.compute_bytes


class UnknownShapeError(Exception):
    """The model cannot be run without the values of its tensors."""


def _forward(config: Any, setup: Setup, num_layers: int) -> tuple[int, int, int]:
    """Run the first layers of a model under fake tensors.

    Returns:
        Bytes that autograd saves, bytes of the results of matrix products, bytes of the largest result.
    """
    small = type(config).from_dict(config.to_dict())
    text = small.get_text_config()
    text.num_hidden_layers = max(num_layers, 1)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[: text.num_hidden_layers]
    dtype = torch.bfloat16 if setup.compute_bytes == 2 else torch.float32
    model: Any = AutoModelForCausalLM.from_config(small, dtype=dtype)
    model.config.use_cache = False
    model.set_attn_implementation(BLOCKED_UNMASKED if setup.device == "cpu" else CAUSAL)
    if num_layers == 0:
        for layer in decoder_layers(model):
            layer.forward = _pass_through
    if setup.adapter.kind != "none":
        _freeze(model, setup.adapter)
    ids = torch.zeros((setup.micro_batch_rows, setup.seq_len), dtype=torch.int64)
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept, dispatched = _kept_bytes(model.base_model, ids, weights)
    return kept, dispatched.products, dispatched.largest


def _freeze(model: Any, adapter: Adapter) -> None:
    """Freeze norms and embeddings, for which autograd saves less; linear layers save their input for the adapter."""
    ends = {model.get_input_embeddings(), model.get_output_embeddings()} if adapter.train_embeddings else set()
    for module in model.modules():
        if module not in ends and not isinstance(module, torch.nn.Linear):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(requires_grad=False)


def _pass_through(hidden_states: torch.Tensor, *_args: Any, **_others: Any) -> torch.Tensor:
    return hidden_states


def _kept_bytes(model: Any, ids: torch.Tensor, weights: set[int]) -> tuple[int, _Kept]:
    """Bytes of distinct storages that autograd saves in a forward pass, without the weights."""
    kept: dict[int, Any] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # keep a reference, so that its address is not reused
        return tensor

    with _Kept() as dispatched, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(ids)
    return sum(storage.nbytes() for storage in kept.values()), dispatched


def estimate_memory(shape: Shape, setup: Setup) -> MemoryEstimate:
    """The peak memory of one process, in bytes.

    Args:
        shape: sizes of the model for this setup's type, length and rows.
        setup: how it is trained.
    """
    c = setup.compute_bytes
    lasting = _lasting(shape, setup)
    gradients = _gradients(shape, setup)
    activations, layer_work = _activations(shape, setup)
    rows = chunk_rows(setup.micro_batch_rows * setup.seq_len, shape.vocabulary, torch.device(setup.device))
    tokens = setup.micro_batch_rows * setup.seq_len
    head = shape.vocabulary * shape.hidden_size
    logits = rows * shape.vocabulary * (c + 8)
    head_gradient = head * (c if tokens <= rows * FEW_CHUNKS or c == 4 else 4 + c)
    if setup.adapter.kind != "none" and not setup.adapter.train_embeddings:
        head_gradient = 0
    head_and_loss = logits + head_gradient + 2 * tokens * shape.hidden_size * c
    gathered = _gathered(shape, setup)
    kept = lasting.master + lasting.moments + lasting.average
    on_host = kept + gradients if setup.offload else 0
    between = gradients if setup.micro_batches > 1 and not setup.offload else 0
    if setup.offload:
        lasting, gradients = lasting._replace(master=0, moments=0, average=0), 0
    peak = (
        FIXED_BYTES[setup.device]
        + sum(lasting)
        + max(
            between + activations + head_and_loss + gathered,  # the end of the forward pass
            between
            + activations
            + min(head_gradient, head * c)
            + layer_work
            + gathered,  # from the forward to the backward pass
            gradients + layer_work + gathered,  # the end of the backward pass
        )
    )
    return {
        "fixed": FIXED_BYTES[setup.device],
        "frozen": lasting.frozen,
        "master": lasting.master,
        "working": lasting.working,
        "moments": lasting.moments,
        "average": lasting.average,
        "gradients": gradients,
        "gathered": gathered,
        "activations": activations,
        "layer_work": layer_work,
        "head_and_loss": head_and_loss,
        "total": peak,
        "host_while_saving": 0 if setup.device == "cpu" else kept + on_host,
    }


class _Lasting(NamedTuple):
    """Bytes that are allocated throughout a step."""

    frozen: int
    master: int
    working: int
    moments: int
    average: int


def _shards(setup: Setup) -> int:
    """Count of shards of the weights."""
    return 1 if setup.world == 1 else setup.local_world if setup.sharding == "hybrid" else setup.world


def _lasting(shape: Shape, setup: Setup) -> _Lasting:
    """Weights, moments and mean."""
    total, c, shards = shape.trained, setup.compute_bytes, _shards(setup)
    frozen = 0
    if setup.adapter.kind != "none":
        ends = shape.embeddings + shape.head if setup.adapter.train_embeddings else 0
        frozen = int((c * (shape.parameters - ends - shape.four_bit) + NF4_BYTES * shape.four_bit) // shards)
    narrow = setup.master_weights == "bf16"
    return _Lasting(
        frozen=frozen,
        master=(2 if narrow else 4) * total // shards,
        working=2 * total if not setup.is_sharded and c == 2 and not narrow else 0,
        moments=int(8 * total - _moment_savings(shape, setup)) // shards,
        average=4 * total // shards if setup.averaging else 0,
    )


def _moment_savings(shape: Shape, setup: Setup) -> float:
    """Bytes by which the moments are smaller than two float32 values per parameter."""
    if setup.optimizer == "muon":
        return 4 * shape.matrices
    return (8 - EIGHT_BIT_BYTES) * shape.quantizable if setup.moments == "8bit" else 0


def _gradients(shape: Shape, setup: Setup) -> int:
    """Bytes of the gradients of a step. With FSDP they have the type of the weights."""
    if setup.step_in_backward:
        return (4 + setup.compute_bytes) * shape.largest_weight
    each = 2 if setup.is_sharded and setup.master_weights == "bf16" else 4
    whole = 4 * shape.trained if setup.is_sharded and setup.gradient_accumulation == "whole" else 0
    return whole + each * shape.trained // _shards(setup)


def _activations(shape: Shape, setup: Setup) -> tuple[int, int]:
    """Bytes saved by the forward pass, and additional bytes for the backward pass of one layer."""
    outside = shape.kept - shape.layers * shape.kept_of_layer
    work = 2 * shape.largest_result + setup.compute_bytes * shape.four_bit // shape.layers  # 4-bit weights unpacked
    if setup.activation_checkpointing == "none":
        return shape.kept, work
    kept = shape.layer_input
    if setup.activation_checkpointing == "selective":
        kept += shape.products_of_layer
    return outside + shape.layers * min(kept, shape.kept_of_layer), work + shape.kept_of_layer


def _gathered(shape: Shape, setup: Setup) -> int:
    """Bytes that FSDP has gathered at one time."""
    if not setup.is_sharded:
        return 0
    c = setup.compute_bytes
    adapted = setup.adapter.kind != "none"
    trained_layer = shape.trained // shape.layers if adapted else shape.largest_layer
    # A layer and the next one, the gradients of one in the compute type, and their float32 copy that is being reduced.
    layers = shape.largest_layer * 2 * c + trained_layer * (c + 4)
    outside = shape.parameters - shape.layers * shape.largest_layer - shape.embeddings - shape.head
    root = max(outside, 0) + (shape.embeddings if shape.head == 0 else 0)
    ends = max(shape.embeddings, shape.head) if shape.head else 0
    if setup.sharding == "gradients":
        return shape.parameters * c + trained_layer * (c + 4)
    return layers + (root + ends) * c

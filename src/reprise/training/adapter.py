"""LoRA and DoRA by peft: trains a few weights beside frozen ones and merges them at the end.

The layers of peft replace linear layers of the model itself, so that everything else sees the same model:
`q_proj.weight` becomes `q_proj.base_layer.weight`, and `q_proj.lora_A.default.weight`, `lora_B` and, for DoRA,
`lora_magnitude_vector` are added beside it.
"""

import importlib.util
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from reprise.errors import UserError, missing_extra
from reprise.recipe.training import Adapter
from reprise.training.local_parts import local_part

log = logging.getLogger(__name__)

_NAME = "default"
"""peft's default name for an adapter."""
_BASE = ".base_layer."
_PARTS = (".lora_A.", ".lora_B.", ".lora_magnitude_vector.")


def stored_name(name: str) -> str:
    """Name that a weight has in the files of the base model, whether or not its layer has an adapter."""
    return name.replace(_BASE, ".")


def frozen_names(model: nn.Module) -> set[str]:
    """Names of the weights that are not trained; both names of tied ones, of which torch lists only the first."""
    parameters = model.named_parameters(remove_duplicate=False)
    return {name for name, parameter in parameters if not parameter.requires_grad}


def is_adapter(name: str) -> bool:
    """Whether a weight belongs to an adapter, and so is in no file of the base model."""
    return any(part in name for part in _PARTS)


def check_adapter(adapter: Adapter, device: torch.device, world: int) -> None:
    """Raise if the adapter cannot be trained on this device and with so many processes.

    Raises:
        UserError: a package is not installed, or 4-bit weights are asked for without a GPU or on several processes.
    """
    if adapter.kind == "none":
        return
    _check_peft(adapter)
    if adapter.base != "nf4":
        return
    where = "training.adapter.base = nf4"
    if device.type != "cuda":
        raise UserError("4-bit weights need a GPU", where=where, remedy="set it to compute")
    if world > 1:
        raise UserError(
            f"4-bit weights are trained by one process, and there are {world}",
            where=where,
            remedy="set it to compute, whose weights are sharded, or start one process",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise missing_extra("bitsandbytes", "bitsandbytes", where)


def _check_peft(adapter: Adapter) -> None:
    if importlib.util.find_spec("peft") is None:
        raise missing_extra("peft", "adapters", f"training.adapter.kind = {adapter.kind}")


def add_adapter(model: Any, layers: list[Any], adapter: Adapter, dtype: torch.dtype) -> None:
    """Freeze a model and add an adapter to it; does nothing for `kind: none`.

    Args:
        model: a transformers model, with its weights or on the meta device.
        layers: its decoder layers.
        adapter: settings that passed `check_adapter`.
        dtype: type of the frozen weights. Trained ones are float32.

    Raises:
        UserError: peft is not installed, or `targets` names no linear layer.
    """
    if adapter.kind == "none":
        return
    _check_peft(adapter)
    from peft import LoraConfig, inject_adapter_in_model

    targets = _targets(model, layers, adapter)
    on_meta = next(model.parameters()).is_meta
    if adapter.base == "nf4":
        _to_nf4(model, targets, dtype)
    inject_adapter_in_model(
        LoraConfig(r=adapter.rank, lora_alpha=adapter.alpha, target_modules=targets, use_dora=adapter.kind == "dora"),
        model,
        low_cpu_mem_usage=on_meta,
    )
    # peft's own casts do not work on the meta device, so every type is set here.
    ends = {model.get_input_embeddings(), model.get_output_embeddings()} - {None}
    whole = {id(one) for module in ends for one in module.parameters()} if adapter.train_embeddings else set()
    for name, parameter in model.named_parameters():
        trained = is_adapter(name) or id(parameter) in whole
        parameter.requires_grad_(trained)
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.float32 if trained else dtype)
    trained_count = sum(one.numel() for one in model.parameters() if one.requires_grad)
    log.info("%s: %s weights are trained in %d linear layers", adapter.kind, f"{trained_count:,}", len(targets))


def _targets(model: Any, layers: list[Any], adapter: Adapter) -> list[str]:
    """Full names of the linear layers that get an adapter.

    Raises:
        UserError: an entry of `targets` matches no linear layer.
    """
    inside = {id(module) for layer in layers for module in layer.modules()}
    from transformers.pytorch_utils import Conv1D

    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and id(module) in inside
    ]
    known = sorted({name.rpartition(".")[2] for name in linear})
    if unknown := [name for name in adapter.targets if name not in known]:
        raise UserError(
            f"the blocks of the model have no linear layer {unknown[0]}",
            where=f"training.adapter.targets = {adapter.targets}",
            remedy=f"choose from {', '.join(known)}",
        )
    stacked = [name for layer in layers for name, one in layer.named_parameters() if one.dim() == 3]
    if stacked:
        log.warning("experts that are stacked in one weight (%s) stay as they are", stacked[0])
    return [name for name in linear if not adapter.targets or name.rpartition(".")[2] in adapter.targets]


def _to_nf4(model: Any, targets: list[str], dtype: torch.dtype) -> None:
    """Replace linear layers by bitsandbytes' layers, whose weights become 4-bit when they move to their device."""
    import bitsandbytes

    for name in targets:
        linear = model.get_submodule(name)
        small = bitsandbytes.nn.Linear4bit(
            linear.in_features, linear.out_features, bias=linear.bias is not None, compute_dtype=dtype,
            quant_type="nf4", compress_statistics=True, device="meta",
        )  # fmt: skip
        small.weight = bitsandbytes.nn.Params4bit(
            linear.weight.data.to(dtype), requires_grad=False, quant_type="nf4", compress_statistics=True
        )
        small.bias = linear.bias
        model.set_submodule(name, small.to(linear.weight.device))


@torch.no_grad()
def initialise(objective: nn.Module, adapter: Adapter, seed: int) -> None:
    """Initialize the weights of an adapter; the values of a layer depend on its name and the seed.

    The adapter's change is zero at first. If the model is sharded, every process must call.

    Args:
        objective: the model, with the weights of the base model.
        adapter: settings.
        seed: random seed of the run.
    """
    if adapter.kind == "none":
        return
    for index, (name, layer) in enumerate(_adapted(objective)):
        a, b = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
        rng = np.random.default_rng([seed, index])
        bound = 1 / math.sqrt(a.shape[1])  # as nn.Linear, and peft with it
        _fill(a, torch.from_numpy(rng.uniform(-bound, bound, tuple(a.shape)).astype(np.float32)))
        _fill(b, torch.zeros(tuple(b.shape)))
        if adapter.kind == "dora":
            weight = _whole(layer.base_layer.weight).float()
            norm = torch.linalg.norm(weight, dim=0 if layer.fan_in_fan_out else 1)
            _fill(layer.lora_magnitude_vector[_NAME].weight, norm)
        assert name


def _fill(weight: Any, full: Tensor) -> None:
    full = full.to(weight.device, weight.dtype)
    if isinstance(weight, DTensor):
        local_part(weight).copy_(local_part(distribute_tensor(full, weight.device_mesh, weight.placements)))
    else:
        weight.copy_(full)


def _adapted(objective: nn.Module) -> list[tuple[str, Any]]:
    """Name and module of each layer that has an adapter."""
    return [(name, module) for name, module in objective.named_modules() if hasattr(module, "lora_A")]


@dataclass(frozen=True)
class MergedWeight:
    """A weight plus the change of its adapter, computed on demand."""

    base: Any
    a: Any
    """[rank, in]"""
    b: Any
    """[out, rank]"""
    magnitude: Any | None
    """[out]: DoRA's magnitudes; None for LoRA."""
    scaling: float
    transposed: bool
    """Whether the weight is [in, out] instead of [out, in]."""

    def numel(self) -> int:
        """Number of elements, as for a tensor."""
        return int(self.a.shape[1] * self.b.shape[0])

    def is_floating_point(self) -> bool:
        """As for a tensor."""
        return True

    def full(self) -> Tensor:
        """The merged weight, float32, gathered; if it is sharded, every process must call."""
        base = _whole(self.base).float()
        base = base.T if self.transposed else base
        merged = base + self.scaling * (_whole(self.b).float() @ _whole(self.a).float())
        if self.magnitude is not None:
            merged *= (_whole(self.magnitude).float() / torch.linalg.norm(merged, dim=1))[:, None]
        return merged.T if self.transposed else merged


def _whole(weight: Any) -> Tensor:
    """The gathered weight, dequantized if it is 4-bit."""
    if isinstance(weight, DTensor):
        return weight.full_tensor()
    if type(weight).__name__ == "Params4bit":
        import bitsandbytes

        dequantized: Tensor = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
        return dequantized
    tensor: Tensor = weight.detach()
    return tensor


def merge_adapters(objective: nn.Module, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Weights under the names of the base model, with adapters merged.

    Args:
        objective: the model that the weights belong to.
        weights: name in `objective` -> tensor, for all weights.
    """
    merged: dict[str, Any] = {
        stored_name(name): one
        for name, one in weights.items()
        if not is_adapter(name) and f"{_BASE}weight." not in name  # what bitsandbytes saves beside 4-bit weights
    }
    for name, layer in _adapted(objective):
        merged[f"{name}.weight"] = MergedWeight(
            base=layer.base_layer.weight,
            a=weights[f"{name}.lora_A.{_NAME}.weight"],
            b=weights[f"{name}.lora_B.{_NAME}.weight"],
            magnitude=weights.get(f"{name}.lora_magnitude_vector.{_NAME}.weight"),
            scaling=layer.scaling[_NAME],
            transposed=layer.fan_in_fan_out,
        )
    return merged

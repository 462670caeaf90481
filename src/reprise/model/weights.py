"""Compare the tensors in a model's files with those that the model needs.

Every tensor of the model must be in the files, with its shape and in floating point, and nothing else may be: a
missing tensor would be initialized at random, an unexpected one belongs to another architecture.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter

from reprise.errors import UserError
from reprise.model.weight_files import StoredWeights, show_names

_FLOATING = {"F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16"}
_CONSTANTS = {"inv_freq", "position_ids", "masked_bias"}
"""Last part of the name of tensors that older files contain and no model trains."""


def are_names_of(model: PreTrainedModel, stored: StoredWeights) -> bool:
    """Whether the files contain every weight under the model's own name; else transformers converts them."""
    if not all(name in stored.files for name, _ in model.named_parameters()):
        return False
    converters = [entry for entry in get_model_conversion_mapping(model) if isinstance(entry, WeightConverter)]
    patterns = [re.compile(pattern) for entry in converters for pattern in entry.source_patterns if "*" not in pattern]
    return not any(pattern.search(name) for pattern in patterns for name in stored.files)


@dataclass(frozen=True)
class Misfits:
    """How the tensors in the files differ from those that a model needs, by name."""

    missing: Sequence[str] = ()
    surplus: Sequence[str] = ()
    reshaped: Sequence[str] = ()
    """Names with both shapes."""
    untied: Sequence[str] = ()
    """Pairs of names that config.json ties but that have different values in the files."""
    integers: Sequence[str] = ()
    """Names with their dtype."""

    def refuse(self, folder: Path) -> None:
        """Raise an error if there are any.

        Raises:
            UserError: there are any; the message lists the names.
        """
        problems = [
            f"{len(names)} {noun}{'s' if len(names) > 1 else ''} {what}: {show_names(names)}"
            for names, noun, what in (
                (self.missing, "weight", "of the model missing in the files"),
                (self.surplus, "tensor", "in the files that the model of config.json does not have"),
                (self.reshaped, "weight", "of another shape than config.json says"),
                (self.untied, "weight", "that config.json ties, with different values in the files"),
                (self.integers, "weight", "not stored as floating-point numbers"),
            )
            if names
        ]
        if problems:
            raise UserError("; ".join(problems), where=str(folder), remedy=_SAME_MODEL)


_SAME_MODEL = "config.json and the weights must be of the same model: download it again, with all its files"


def compare(model: PreTrainedModel, stored: StoredWeights) -> Misfits:
    """Compare files that use the model's own names with the model; only values of tied weights are read.

    Args:
        model: may be on the meta device.
        stored: the files, for which `are_names_of` is true.
    """
    needed, tensors = model.state_dict(), stored.open()
    tied = tied_pairs(model)
    present = {*tensors, *(name for pair in tied for name in pair if set(pair) & tensors.keys())}
    both = needed.keys() & tensors.keys()
    shapes = {name: (_shape(tensors[name]), list(needed[name].shape)) for name in both}
    return Misfits(
        missing=sorted(name for name in needed if name not in present and not _may_be_missing(model, name)),
        surplus=surplus(model, tensors),
        reshaped=sorted(
            f"{name} is {own} in the files and {expected} by config.json"
            for name, (own, expected) in shapes.items()
            if own != expected
        ),
        untied=untied(model, tensors),
        integers=sorted(
            f"{name} ({_dtype(tensors[name])})"
            for name in both
            if needed[name].is_floating_point() and _dtype(tensors[name]) not in _FLOATING
        ),
    )


def compare_loaded(model: PreTrainedModel, loading_info: Mapping[str, Iterable[Any]]) -> Misfits:
    """Like `compare`, from the report of transformers about a model that it converted while loading."""
    return Misfits(
        missing=sorted(loading_info["missing_keys"]),
        surplus=surplus(model, loading_info["unexpected_keys"]),
        reshaped=sorted(
            f"{name} is {list(own)} in the files and {list(expected)} by config.json"
            for name, own, expected in loading_info["mismatched_keys"]
        ),
    )


def surplus(model: PreTrainedModel, names: Iterable[str]) -> list[str]:
    """Names that the model does not have, except constants and those that its authors declare ignorable."""
    known = set(model.state_dict())
    patterns = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    buffers = {tuple(name.split(".")[-2:]) for name, _ in model.named_buffers()}
    return sorted(
        name
        for name in names
        if name not in known
        and name.rpartition(".")[2] not in _CONSTANTS
        and tuple(name.split(".")[-2:]) not in buffers
        and not any(pattern.search(name) for pattern in patterns)
    )


def tied_pairs(model: PreTrainedModel) -> list[tuple[str, str]]:
    """Pairs of names that are the same weight."""
    return [(str(target), str(source)) for target, source in getattr(model, "all_tied_weights_keys", {}).items()]


def vocabulary_tensors(model: PreTrainedModel) -> set[str]:
    """Names of the tensors with a row for each token: embeddings and output layer."""
    modules: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    own = {id(tensor) for module in modules if module is not None for tensor in module.parameters()}
    return {name for name, tensor in model.named_parameters(remove_duplicate=False) if id(tensor) in own}


def untied(model: PreTrainedModel, tensors: Mapping[str, Any]) -> list[str]:
    """Pairs of names that are one weight in the model but two different ones in the files."""
    return sorted(
        f"{one} and {other}"
        for one, other in tied_pairs(model)
        if one in tensors and other in tensors and not torch.equal(tensors[one][:], tensors[other][:])
    )


def _may_be_missing(model: PreTrainedModel, name: str) -> bool:
    return any(re.search(pattern, name) for pattern in model._keys_to_ignore_on_load_missing or ())


def _shape(tensor: Any) -> list[int]:
    return list(tensor.shape) if isinstance(tensor, torch.Tensor) else list(tensor.get_shape())


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.") if isinstance(tensor, torch.Tensor) else str(tensor.get_dtype())


def refuse_not_finite(names: Iterable[str], where: str) -> None:
    """Refuse a model with infinite or NaN weights.

    Args:
        names: the weights in question.
        where: the model.

    Raises:
        UserError: a weight is infinite or NaN.
    """
    if names := sorted(names):
        raise UserError(
            f"{len(names)} weights are infinite or NaN: {show_names(names)}",
            where=where,
            remedy="download the model again, or name a checkpoint from before its training diverged",
        )


@torch.no_grad()
def not_finite(model: nn.Module) -> list[str]:
    """Names of the weights with infinite or NaN elements."""
    # A buffer may be a mask, in which minus infinity is intended.
    nans = [name for name, value in model.named_buffers() if bool(value.isnan().any())]
    return [name for name, value in model.named_parameters() if not bool(value.isfinite().all())] + nans

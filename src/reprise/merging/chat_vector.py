"""Residual merge: the weights that instruction tuning added to a base model, added to the trained model.

trained + factor * (chat - base), tensor by tensor: the chat vector (arXiv 2310.04799 and 2410.10739).
Models are read and written one tensor at a time, in blocks of rows.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reprise.errors import UserError
from reprise.merging.checks import check_architectures, check_tokens
from reprise.merging.output import check_merged, write_descriptions
from reprise.merging.sides import SAME_ARCHITECTURE, Side, blocks, shape_of
from reprise.recipe.model import Model
from reprise.training.export import new_folder, system_errors
from reprise.training.sharded_weights import write_files

_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class ChatMerge:
    """What a residual merge did."""

    largest_difference: float
    """Largest absolute difference of a weight between the chat model and its base."""
    rows_of_chat: int
    """Rows of the embeddings that were copied from the chat model, as the trained model lacks them."""
    rows_of_trained: int
    """Rows of the embeddings that were kept from the trained model, as the chat model lacks them."""
    has_template: bool
    """Whether the chat model has a chat template."""


def add_chat_vector(
    trained: Path, base: Model, chat: Model, folder: Path, *, factor: float = 1.0, verify: bool = False
) -> ChatMerge:
    """Write trained + factor * (chat - base), with the chat model's template, special tokens and generation settings.

    A token that the base model lacks, though its embeddings may have an unused row there, keeps the row of the trained
    model, or of the chat model if only that has it. All other tokens get the sum.

    Args:
        trained: Hugging Face directory of the trained model.
        base: the model that the chat model was made from.
        chat: the chat model.
        folder: folder to write; must not exist.
        factor: multiplies the difference, 0 to 2; 0 is the trained model with the chat model's template.
        verify: load the folder in another process and compare ids and logits.

    Raises:
        UserError: the models differ in architecture, in the meaning of their ids or in how they split text; chat and
            base are the same; a sum is not finite; or the folder exists or cannot be written.
    """
    if not 0.0 <= factor <= 2.0:
        raise UserError("the factor must be 0 to 2", where=f"--factor {factor:g}", remedy="1 adds the whole difference")
    sides = [Side("trained", Model(path=str(trained), trust_remote_code=base.trust_remote_code)),
             Side("base", base), Side("chat", chat)]  # fmt: skip
    own, _, other = sides
    check_architectures(sides)
    source = check_tokens(sides)
    with new_folder(folder) as partial, system_errors(folder):
        result = _write_weights(sides, factor, partial)
        write_descriptions(own, other, source, partial, rows=_rows(own, other))
        if verify:
            check_merged(partial, own, other)
    return result


def _rows(own: Side, chat: Side) -> int:
    """Rows of the merged embeddings: the trained model's, or the chat model's if it has tokens beyond them."""
    rows = own.embedded_rows
    return rows if max(chat.tokens, default=0) < rows else max(rows, chat.embedded_rows)


def _write_weights(sides: list[Side], factor: float, folder: Path) -> ChatMerge:
    """Write the sums, one tensor at a time."""
    own, base, chat = sides
    rows, largest = _rows(own, chat), 0.0
    names = sorted(own.stored.files)
    shapes = {name: shape_of(own.stored.read(name)) for name in names}
    dtypes = {name: _type(own.stored.read(name)) for name in names}
    for name in own.vocabulary & set(names):
        shapes[name] = (rows, *shapes[name][1:])

    def read(name: str) -> torch.Tensor:
        nonlocal largest
        tensors = [side.open(name) for side in sides]
        if not dtypes[name].is_floating_point:
            kept: torch.Tensor = own.stored.read(name)[...].clone()
            return kept
        if name in own.vocabulary:
            value, difference = _sum_of_rows(tensors, sides, shapes[name], dtypes[name], factor)
        else:
            for side, tensor in zip(sides[1:], tensors[1:], strict=True):
                if shape_of(tensor) != shapes[name]:
                    raise UserError(
                        f"{name} is {list(shape_of(tensor))} there and {list(shapes[name])} in the trained model",
                        where=side.where,
                        remedy=SAME_ARCHITECTURE,
                    )
            value, difference = _sum(tensors, shapes[name], dtypes[name], factor)
        if not bool(value.isfinite().all()):
            raise UserError(
                f"{name} would hold numbers that are not finite in {dtypes[name]}",
                where=f"--factor {factor:g}",
                remedy="take a smaller factor, or models whose weights are finite",
            )
        largest = max(largest, difference)
        return value

    sizes = {name: int(np.prod(shapes[name], dtype=np.int64)) * dtypes[name].itemsize for name in names}
    write_files(sizes, read, folder)
    if largest == 0.0:
        raise UserError(
            "the chat model and its base have the same weights: there is nothing to add",
            where=base.where,
            remedy="the run may have started from the chat model: name the model that it was made from with --base",
        )
    copied = _copied_rows(sides, rows)
    return ChatMerge(
        largest_difference=largest,
        rows_of_chat=copied.count("chat"),
        rows_of_trained=copied.count("trained"),
        has_template=chat.tokenizer.chat_template is not None,
    )


def _copied_rows(sides: list[Side], rows: int) -> list[str | None]:
    """For each row of the embeddings, the model from which it is copied; None: it is the sum."""
    own, base, chat = sides
    common = min(side.embedded_rows for side in sides)
    sources: list[str | None] = []
    for row in range(rows):
        is_known = row in own.tokens or row in chat.tokens
        if row < common and (row in base.tokens or not is_known):
            sources.append(None)
        elif row >= own.embedded_rows or (row in chat.tokens and row not in own.tokens):
            sources.append("chat")
        else:
            sources.append("trained")
    return sources


def _sum_of_rows(
    tensors: list[Any], sides: list[Side], shape: tuple[int, ...], dtype: torch.dtype, factor: float
) -> tuple[torch.Tensor, float]:
    """The sum of the rows whose tokens the base model has; others are copied from the model that has them."""
    common = min(shape_of(tensor)[0] for tensor in tensors)
    result = torch.empty(shape, dtype=dtype)
    result[:common], difference = _sum([tensor[:common] for tensor in tensors], (common, *shape[1:]), dtype, factor)
    for row, source in enumerate(_copied_rows(sides, shape[0])):
        if source is not None:
            tensor = tensors[2] if source == "chat" else tensors[0]
            result[row] = tensor[row : row + 1][0].to(dtype)
    return result, difference


def _sum(tensors: list[Any], shape: tuple[int, ...], dtype: torch.dtype, factor: float) -> tuple[torch.Tensor, float]:
    """Compute trained + factor * (chat - base) block by block, and the largest absolute difference chat - base.

    With factor 1 the sum is rounded only once: it is computed in float64, and the error of each addition is carried
    along (Knuth's two-sum), so that base + (chat - base) equals chat bit for bit.
    """
    result = torch.empty(shape, dtype=dtype)
    largest = 0.0
    for out, *parts in zip(blocks(result), *map(blocks, tensors), strict=True):
        own, base, chat = (part.double() for part in parts)
        difference, below = _two_sum(chat, -base)
        largest = max(largest, float(difference.abs().max()) if difference.numel() else 0.0)
        total, error = _two_sum(own, factor * difference)
        out.copy_((total + (error + factor * below)).to(dtype))
    return result, largest


def _two_sum(one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Add two tensors; returns the rounded sum and its rounding error (Knuth's two-sum)."""
    total = one + other
    part = total - one
    return total, (one - (total - part)) + (other - part)


def _type(tensor: Any) -> torch.dtype:
    """The dtype of a stored tensor.

    Raises:
        UserError: the tensor is quantized.
    """
    if isinstance(tensor, torch.Tensor):
        return tensor.dtype
    name = str(tensor.get_dtype())
    if name.startswith("F8"):
        raise UserError(
            f"its weights are stored as {name}", where="trained model", remedy="name a model with ordinary weights"
        )
    stored: torch.dtype = _FLOATS.get(name) or tensor[...].dtype
    return stored

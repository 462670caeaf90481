"""Residual merge: what instruction tuning added to a base model, added to the weights that were trained from it.

trained + factor * (chat - base), tensor by tensor: the chat vector (arXiv 2310.04799 and 2410.10739).
The three models are read and the result is written one tensor at a time, in blocks of rows.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reprise.errors import UserError
from reprise.model.loading import (
    copy_tokenizer_and_code,
    load_config,
    load_generation_settings,
    load_model,
    load_skeleton,
    load_tokenizer,
    open_model_weights,
)
from reprise.model.objective import Objective
from reprise.model.tokenizer import compared_texts, open_tokenizer
from reprise.model.weight_files import StoredWeights, show_names
from reprise.model.weights import tied_pairs, vocabulary_tensors
from reprise.recipe.model import Model
from reprise.storage import write_json
from reprise.training.export import new_folder, system_errors
from reprise.training.published import check_published, make_probe
from reprise.training.sharded_weights import write_files

BLOCK_NUMBERS = 1 << 24
"""Numbers of a tensor that are worked on at a time: three models in float64 take 24 bytes for each."""

_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_SAME_ARCHITECTURE = "name the chat model that was made from this base model, and that base model with --base"


@dataclass(frozen=True)
class ChatMerge:
    """What a residual merge did."""

    largest_difference: float
    """Largest absolute difference of a weight between the chat model and its base."""
    rows_of_chat: int
    """Rows of the embeddings that only the chat model has: they are its own, whole."""
    rows_of_trained: int
    """Rows that only the trained model has."""
    has_template: bool
    """Whether the chat model has a chat template."""


class Side:
    """One of the three models: its files, and which of its tensors have a row for each token."""

    def __init__(self, role: str, settings: Model) -> None:
        self.role, self.settings = role, settings

    @cached_property
    def config(self) -> Any:
        """Its configuration."""
        return load_config(self.settings)

    @cached_property
    def stored(self) -> StoredWeights:
        """Its tensors."""
        return open_model_weights(self.settings)

    @cached_property
    def skeleton(self) -> Any:
        """The model without its weights."""
        return load_skeleton(self.settings)

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer, as transformers builds it."""
        return load_tokenizer(self.settings)

    @cached_property
    def tokens(self) -> dict[int, str]:
        """Id -> token."""
        return {int(token_id): token for token, token_id in self.tokenizer.get_vocab().items()}

    @property
    def where(self) -> str:
        """Its name for messages."""
        return f"{self.role} model {self.settings.path}"

    @cached_property
    def vocabulary(self) -> set[str]:
        """Names of the tensors with a row for each token: embeddings and output layer."""
        return vocabulary_tensors(self.skeleton)

    def open(self, name: str) -> Any:
        """A tensor that is read when it is sliced; a tied one is found under its other name.

        Raises:
            UserError: there is none.
        """
        tied = {name} | {other for pair in tied_pairs(self.skeleton) if name in pair for other in pair}
        for candidate in sorted(tied, key=lambda one: one != name):
            if candidate in self.stored.files:
                return self.stored.read(candidate)
        raise UserError(f"it has no tensor {name}", where=self.where, remedy=_SAME_ARCHITECTURE)


def add_chat_vector(
    trained: Path, base: Model, chat: Model, folder: Path, *, factor: float = 1.0, verify: bool = False
) -> ChatMerge:
    """Write trained + factor * (chat - base), with the chat model's template, special tokens and generation settings.

    Embeddings of another size: a token that all three have gets the sum, a token that only the chat or only the trained
    model has keeps its row from there.

    Args:
        trained: Hugging Face directory of the trained model.
        base: the model that the chat model was made from.
        chat: the chat model.
        folder: to write; must not exist.
        factor: how much of the difference is added; 0 is the trained model with the chat model's template.
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
            published = Model(path=str(partial), trust_remote_code=base.trust_remote_code)
            objective = Objective(load_model(published))
            check_published(partial, make_probe(objective, {}, published), published, weight_type(own, other))
    return result


def check_mergeable(trained: Model, base: Model, chat: Model, *, grows: bool = False) -> None:
    """Refuse models that `add_chat_vector` would refuse, as far as their descriptions tell: before anything is trained.

    Args:
        trained: the model that is trained, or what training begins with.
        base: the model that the chat model was made from.
        chat: the chat model.
        grows: more tokens will be added to `trained` behind its own.

    Raises:
        UserError: with the setting, the tensors or the token.
    """
    sides = [Side("trained", trained), Side("base", base), Side("chat", chat)]
    check_architectures(sides)
    check_tokens(sides)
    own, _, other = sides
    if grows and (beyond := sorted(other.tokens.keys() - own.tokens.keys())):
        raise UserError(
            f"its token {other.tokens[beyond[0]]!r} has the id {beyond[0]}, which `vocabulary` gives to another",
            where=other.where,
            remedy="leave `vocabulary` or `evaluation.chat_merge` out, or train a base model that has the chat model's "
            "special tokens",
        )


def check_architectures(sides: list[Side]) -> None:
    """Refuse models that compute in another way, or that hold other tensors.

    Raises:
        UserError: with the setting or the tensors.
    """
    own = sides[0]
    for side in sides[1:]:
        ours, theirs = (one.config.get_text_config().to_dict() for one in (own, side))
        for name in sorted(ours.keys() & theirs.keys()):
            if _decides(name) and ours[name] != theirs[name]:
                raise UserError(
                    f"its config.json has {name} = {theirs[name]}, that of the trained model {ours[name]}",
                    where=side.where,
                    remedy=_SAME_ARCHITECTURE,
                )
        constants = ("inv_freq", "position_ids", "masked_bias")
        tied = {name for one in (own, side) for pair in tied_pairs(one.skeleton) for name in pair}
        differing = {
            name
            for name in own.stored.files.keys() ^ side.stored.files.keys()
            if name not in tied and not name.endswith(constants)
        }
        if differing:
            raise UserError(
                f"its tensors are not those of the trained model: {show_names(sorted(differing))}",
                where=side.where,
                remedy=_SAME_ARCHITECTURE,
            )
        _refuse_untied(own, side)


def _decides(setting: str) -> bool:
    """Whether a setting of config.json decides what the weights compute."""
    parts = ("rope", "norm_eps", "layer_norm_epsilon", "hidden_act", "num_", "head_dim", "hidden_size", "scaling")
    return setting == "model_type" or (any(part in setting for part in parts) and setting != "num_labels")


def _refuse_untied(own: Side, side: Side) -> None:
    """Refuse two tensors where the trained model has one for both."""
    for one, other in tied_pairs(own.skeleton):
        names = [name for name in (one, other) if name in side.stored.files]
        if len(names) == 2:
            pair = [side.stored.read(name) for name in names]
            if not all(torch.equal(first, second) for first, second in zip(*map(_blocks, pair), strict=True)):
                raise UserError(
                    f"{one} and {other} are two tensors there and one in the trained model",
                    where=side.where,
                    remedy=_SAME_ARCHITECTURE,
                )


def check_tokens(sides: list[Side]) -> Side:
    """Refuse models in which an id means another token or text is split in another way.

    Returns:
        The side whose tokenizer knows every token of trained and chat model: it is published.

    Raises:
        UserError: with the token.
    """
    own, base, chat = sides
    for side in (base, chat):
        clash = next((pair for pair in _clashes(own, side)), None)
        if clash is not None:
            token_id, ours, theirs = clash
            raise UserError(
                f"the id {token_id} is {theirs!r} there and {ours!r} in the trained model",
                where=side.where,
                remedy="the vocabularies must agree where they overlap: name a chat model with the trained one's "
                "tokenizer, or continue the chat model itself, with conversations in the mixture",
            )
    if set(own.tokens) == set(chat.tokens):
        texts = compared_texts(own.tokenizer)
        encoded = [open_tokenizer(side.settings).encode_batch(texts) for side in (own, chat)]
        for text, ours, theirs in zip(texts, *encoded, strict=True):
            if not np.array_equal(ours, theirs):
                raise UserError(
                    f"it splits {text[:40]!r} into other tokens than the trained model",
                    where=chat.where,
                    remedy=_SAME_ARCHITECTURE,
                )
    if own.tokens.keys() <= chat.tokens.keys():
        return chat
    if chat.tokens.keys() <= own.tokens.keys():
        return own
    raise UserError(
        f"it has {len(chat.tokens.keys() - own.tokens.keys())} tokens that the trained model lacks, and lacks "
        f"{len(own.tokens.keys() - chat.tokens.keys())} of the trained model's",
        where=chat.where,
        remedy="no tokenizer holds both: add the chat model's special tokens to the base model before it is trained",
    )


def _clashes(own: Side, side: Side) -> Iterator[tuple[int, str, str]]:
    """(id, our token, its token) if they differ; a reserved token that got a name is none."""
    added = [set(one.tokenizer.added_tokens_decoder) for one in (own, side)]
    for token_id in sorted(own.tokens.keys() & side.tokens.keys()):
        renamed = token_id in added[0] and token_id in added[1]
        if own.tokens[token_id] != side.tokens[token_id] and not renamed:
            yield token_id, own.tokens[token_id], side.tokens[token_id]
    ids = {token: token_id for token_id, token in side.tokens.items()}
    for token_id, token in own.tokens.items():
        if ids.get(token, token_id) != token_id:
            yield token_id, token, f"{side.tokens.get(token_id)} (which has {token!r} at {ids[token]})"


def _embedded(side: Side) -> int:
    """Rows of its embeddings."""
    return int(side.skeleton.get_input_embeddings().weight.shape[0])


def _rows(own: Side, chat: Side) -> int:
    """Rows of the result's embeddings: the trained model's, or the chat model's if it has tokens beyond them."""
    rows = _embedded(own)
    return rows if max(chat.tokens, default=0) < rows else max(rows, _embedded(chat))


def weight_type(own: Side, chat: Side) -> torch.dtype:
    """Type that config.json of the result says."""
    dtype = own.config.dtype or chat.config.dtype or torch.float32
    assert isinstance(dtype, torch.dtype)
    return dtype


def _write_weights(sides: list[Side], factor: float, folder: Path) -> ChatMerge:
    """Write the sums, one tensor after the other."""
    own, base, chat = sides
    rows, largest = _rows(own, chat), 0.0
    names = sorted(own.stored.files)
    shapes = {name: _shape(own.stored.read(name)) for name in names}
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
                if _shape(tensor) != shapes[name]:
                    raise UserError(
                        f"{name} is {list(_shape(tensor))} there and {list(shapes[name])} in the trained model",
                        where=side.where,
                        remedy=_SAME_ARCHITECTURE,
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
    common = min(_embedded(side) for side in sides)
    return ChatMerge(
        largest_difference=largest,
        rows_of_chat=sum(1 for row in range(common, rows) if _takes_chat(row, sides)),
        rows_of_trained=sum(1 for row in range(common, rows) if not _takes_chat(row, sides)),
        has_template=chat.tokenizer.chat_template is not None,
    )


def _takes_chat(row: int, sides: list[Side]) -> bool:
    """Whether a row that not all three have is the chat model's."""
    own, _, chat = sides
    if row >= _embedded(own):
        return True
    return row < _embedded(chat) and row in chat.tokens and row not in own.tokens


def _sum_of_rows(
    tensors: list[Any], sides: list[Side], shape: tuple[int, ...], dtype: torch.dtype, factor: float
) -> tuple[torch.Tensor, float]:
    """The sum where all three have a row; each other row from the model that knows its token."""
    common = min(_shape(tensor)[0] for tensor in tensors)
    result = torch.empty(shape, dtype=dtype)
    result[:common], difference = _sum([tensor[:common] for tensor in tensors], (common, *shape[1:]), dtype, factor)
    for row in range(common, shape[0]):
        source = tensors[2] if _takes_chat(row, sides) else tensors[0]
        result[row] = source[row : row + 1][0].to(dtype)
    return result, difference


def _sum(tensors: list[Any], shape: tuple[int, ...], dtype: torch.dtype, factor: float) -> tuple[torch.Tensor, float]:
    """trained + factor * (chat - base), block by block, and the largest absolute difference.

    For factor 1 the sum of the three numbers is rounded once: in float64 with the error of each addition kept (Knuth's
    two-sum), so that base + (chat - base) is chat to the bit whatever the sizes of the two.
    """
    result = torch.empty(shape, dtype=dtype)
    largest = 0.0
    for out, *blocks in zip(_blocks(result), *map(_blocks, tensors), strict=True):
        own, base, chat = (block.double() for block in blocks)
        difference, below = _two_sum(chat, -base)
        largest = max(largest, float(difference.abs().max()) if difference.numel() else 0.0)
        total, error = _two_sum(own, factor * difference)
        out.copy_((total + (error + factor * below)).to(dtype))
    return result, largest


def _two_sum(one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The rounded sum, and what rounding took from it (Knuth)."""
    total = one + other
    part = total - one
    return total, (one - (total - part)) + (other - part)


def _blocks(tensor: Any) -> Iterator[torch.Tensor]:
    """The tensor in blocks of rows of about `BLOCK_NUMBERS`; writing into a block of a tensor writes into it."""
    shape = _shape(tensor)
    if not shape:
        yield tensor[...]
        return
    step = max(1, BLOCK_NUMBERS // max(1, int(np.prod(shape[1:], dtype=np.int64))))
    for start in range(0, shape[0], step):
        yield tensor[start : start + step]


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(tensor.shape if isinstance(tensor, torch.Tensor) else tensor.get_shape())


def _type(tensor: Any) -> torch.dtype:
    """Type of a stored tensor.

    Raises:
        UserError: it is quantized.
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


def write_descriptions(own: Side, chat: Side, source: Side, folder: Path, *, rows: int) -> None:
    """Write everything but the weights: the trained model's configuration, the chat model's way of talking."""
    config = own.config
    config.get_text_config().vocab_size = rows
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(chat.config, name, None))
    config.save_pretrained(folder)
    copy_tokenizer_and_code(source.settings, folder)
    if (generation := load_generation_settings(chat.settings)) is not None:
        generation.save_pretrained(folder)
    if source is not chat:
        _take_chat_settings(chat, folder)


def _take_chat_settings(chat: Side, folder: Path) -> None:
    """Give a tokenizer that the trained model has more of than the chat model its template and special tokens."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name in ("bos_token", "eos_token", "pad_token"):
        if (token := getattr(chat.tokenizer, name)) is not None:
            settings[name] = str(token)
    settings.pop("chat_template", None)
    template = folder / "chat_template.jinja"
    template.unlink(missing_ok=True)
    if isinstance(chat.tokenizer.chat_template, str):
        template.write_text(chat.tokenizer.chat_template, encoding="utf-8")
    write_json(path, settings)

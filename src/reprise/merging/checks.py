"""Whether models can be merged: the same architecture and tensors, and ids that mean the same tokens."""

from collections.abc import Iterator

import numpy as np
import torch

from reprise.errors import UserError
from reprise.merging.sides import SAME_ARCHITECTURE, Side, blocks
from reprise.model.tokenizer import compared_texts, open_tokenizer
from reprise.model.weight_files import show_names
from reprise.model.weights import tied_pairs
from reprise.recipe.model import Model


def check_mergeable(trained: Model, base: Model, chat: Model, *, grows: bool = False) -> None:
    """Refuse models that `add_chat_vector` would refuse, judging by their configurations and tokenizers alone.

    Called before anything is trained.

    Args:
        trained: the trained model; before training, the model that it starts from.
        base: the model that the chat model was made from.
        chat: the chat model.
        grows: whether `vocabulary` will append tokens to `trained`.

    Raises:
        UserError: the models differ; names the setting, the tensors or the token.
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
    """Refuse models whose architectures or tensors differ.

    Raises:
        UserError: they differ; names the setting or the tensors.
    """
    own = sides[0]
    for side in sides[1:]:
        ours, theirs = (one.config.get_text_config().to_dict() for one in (own, side))
        for name in sorted(ours.keys() & theirs.keys()):
            if _decides(name) and ours[name] != theirs[name]:
                raise UserError(
                    f"its config.json has {name} = {theirs[name]}, that of the trained model {ours[name]}",
                    where=side.where,
                    remedy=SAME_ARCHITECTURE,
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
                remedy=SAME_ARCHITECTURE,
            )
        _refuse_untied(own, side)


def _decides(setting: str) -> bool:
    """Whether a setting of config.json changes what the weights compute."""
    parts = ("rope", "norm_eps", "layer_norm_epsilon", "hidden_act", "num_", "head_dim", "hidden_size", "scaling")
    return setting == "model_type" or (any(part in setting for part in parts) and setting != "num_labels")


def _refuse_untied(own: Side, side: Side) -> None:
    """Refuse a model with two different tensors where the trained model ties them."""
    for one, other in tied_pairs(own.skeleton):
        names = [name for name in (one, other) if name in side.stored.files]
        if len(names) == 2:
            pair = [side.stored.read(name) for name in names]
            if not all(torch.equal(first, second) for first, second in zip(*map(blocks, pair), strict=True)):
                raise UserError(
                    f"{one} and {other} are two tensors there and one in the trained model",
                    where=side.where,
                    remedy=SAME_ARCHITECTURE,
                )


def check_tokens(sides: list[Side]) -> Side:
    """Refuse models whose ids mean different tokens, or that split text differently.

    Returns:
        The side whose tokenizer has every token of both the trained and the chat model; it is published.

    Raises:
        UserError: they differ; names the token or the text.
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
    _compare_splitting(base, chat)
    if not _learned(own) - _learned(base):
        _compare_splitting(base, own)
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


def _learned(side: Side) -> set[int]:
    """Ids of the tokens that splitting text can give: all but the added ones."""
    return side.tokens.keys() - set(side.tokenizer.added_tokens_decoder)


def _compare_splitting(base: Side, side: Side) -> None:
    """Refuse a model that splits text into other tokens than its base; added tokens of only one of them do not count.

    Raises:
        UserError: they differ; names the text.
    """
    spellings = [{token.content for token in one.tokenizer.added_tokens_decoder.values()} for one in (base, side)]
    only_one = spellings[0] ^ spellings[1]
    texts = [text for text in compared_texts(base.tokenizer) if not any(name in text for name in only_one)]
    encoded = [open_tokenizer(one.settings).encode_batch(texts) for one in (base, side)]
    for text, expected, ids in zip(texts, *encoded, strict=True):
        if not np.array_equal(ids, expected):
            raise UserError(
                f"it splits {text[:40]!r} into other tokens than the base model {base.settings.path}",
                where=side.where,
                remedy=SAME_ARCHITECTURE,
            )


def _clashes(own: Side, side: Side) -> Iterator[tuple[int, str, str]]:
    """Yield (id, our token, its token) where they differ, except for reserved tokens that were given a name."""
    added = [set(one.tokenizer.added_tokens_decoder) for one in (own, side)]
    for token_id in sorted(own.tokens.keys() & side.tokens.keys()):
        renamed = token_id in added[0] and token_id in added[1]
        if own.tokens[token_id] != side.tokens[token_id] and not renamed:
            yield token_id, own.tokens[token_id], side.tokens[token_id]
    ids = {token: token_id for token_id, token in side.tokens.items()}
    for token_id, token in own.tokens.items():
        if ids.get(token, token_id) != token_id:
            yield token_id, token, f"{side.tokens.get(token_id)} (which has {token!r} at {ids[token]})"

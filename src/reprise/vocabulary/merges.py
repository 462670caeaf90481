"""Continue the merges of a byte-level BPE on more text (arXiv 2512.03989), so that every added token can be reached.

New merges come after all old ones, so encoding first does what it did before, and then merges further: a text without
new tokens keeps its ids, and each new token stands for exactly the old tokens that it was merged from.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from reprise.errors import UserError
from reprise.recipe.model import Model

_FIRST_CHAR = 0x10000
"""While merges are learned, the old token with id i is written as the character FIRST + i, as the trainer merges
characters."""
_MAX_PARTS = 24
"""Maximum old tokens in one new token."""
_REMEDY = (
    "extend a model with a byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM2 and their kin), or leave `vocabulary` out"
)


@dataclass(frozen=True)
class AddedToken:
    """A new token."""

    text: str
    """Spelling in the vocabulary: bytes as printable characters."""
    parts: tuple[str, str]
    """The two tokens that are merged into it."""
    pieces: tuple[int, ...]
    """Ids of the old tokens that it replaces."""


def read_bpe(settings: Model) -> dict[str, Any]:
    """Read a model's tokenizer.json, whose merges can be continued.

    Raises:
        UserError: it has no readable tokenizer.json, or its merges cannot be continued.
    """
    from reprise.model.loading import tokenizer_file  # imports torch

    file = tokenizer_file(settings)
    if file is None:
        raise UserError(
            "the vocabulary cannot be extended: the model has no tokenizer.json",
            where=f"model.path = {settings.path}",
            remedy=f"{_REMEDY}; sentencepiece models are not supported",
        )
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        tokenizers.Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # `tokenizers` raises plain Exception
        raise UserError(
            f"the tokenizer cannot be read ({str(error)[:200]})",
            where=str(file),
            remedy="take a complete copy of the model",
        ) from error
    check_bpe(content, str(file))
    return content


def check_bpe(content: Mapping[str, Any], where: str) -> None:
    """Refuse a tokenizer.json whose merges cannot be continued.

    Raises:
        UserError: they cannot; names the kind of tokenizer.
    """
    model = content["model"]
    steps = [content.get("pre_tokenizer") or {}]
    steps += steps[0].get("pretokenizers", [])
    kind = model.get("type")
    problem = None
    if kind != "BPE":
        problem = f"it is a {kind} model, which has no merges to continue"
    elif not model.get("merges"):
        problem = "it is a BPE without merges"
    elif not model.get("vocab"):
        problem = "it has no vocabulary"
    elif model.get("byte_fallback"):
        problem = "it is a BPE with byte fallback, as sentencepiece makes it"
    elif not any(step.get("type") == "ByteLevel" for step in steps):
        problem = "it is a BPE over characters, not over bytes"
    elif model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        problem = "it marks the parts of words with a prefix or suffix"
    elif model.get("dropout"):
        problem = "it drops merges at random (dropout)"
    if problem:
        raise UserError(f"the vocabulary cannot be extended: {problem}", where=where, remedy=_REMEDY)


def learn_tokens(content: Mapping[str, Any], texts: Iterable[str], num_tokens: int, min_count: int) -> list[AddedToken]:
    """Learn tokens, most frequent first, then drop those that are rare once all are known.

    Args:
        content: tokenizer.json, accepted by `check_bpe`.
        texts: text to learn from.
        num_tokens: maximum tokens to add.
        min_count: occurrences in the text below which a token is not added.

    Returns:
        The tokens in the order of their merges.
    """
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    counts = _count_words(tokenizer, texts)
    encoded = {word: [token.id for token in tokenizer.model.tokenize(word)] for word in counts}
    merges = _continue_merges(encoded, counts, num_tokens, min_count)
    names = {token_id: token for token, token_id in content["model"]["vocab"].items()}
    taken, learned = set(content["model"]["vocab"]), []
    taken |= {token["content"] for token in content.get("added_tokens") or ()}
    texts_of: dict[tuple[int, ...], str] = {(token_id,): name for token_id, name in names.items()}
    for one, other in merges:
        # A part is missing if its text already exists as a token, which other merges lead to.
        if one not in texts_of or other not in texts_of:
            continue
        text = texts_of[one] + texts_of[other]
        if text not in taken:
            taken.add(text)
            texts_of[one + other] = text
            learned.append(AddedToken(text, (texts_of[one], texts_of[other]), one + other))
    return _without_rare(content, learned, counts, min_count) if learned else []


def _count_words(tokenizer: tokenizers.Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """Count the words that the tokenizer's pre-tokenizer splits text into, in the vocabulary's spelling."""
    counts: Counter[str] = Counter()
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
        counts.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal))
    return counts


def _continue_merges(
    encoded: Mapping[str, Sequence[int]], counts: Counter[str], num_tokens: int, min_count: int
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Learn pairs to merge with the trainer of `tokenizers`; each side is a tuple of old ids."""
    alphabet = {chr(_FIRST_CHAR + token_id) for ids in encoded.values() for token_id in ids}
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + num_tokens,
        min_frequency=max(1, min_count),
        show_progress=False,
        max_token_length=_MAX_PARTS,
    )
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    lines = (
        " ".join([word] * min(count - start, 1000))
        for word, count in ((_as_characters(encoded[word]), counts[word]) for word in sorted(counts))
        for start in range(0, count, 1000)
    )
    learner.train_from_iterator(lines, trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [(_as_ids(one), _as_ids(other)) for one, other in merges]


def _as_characters(ids: Sequence[int]) -> str:
    return "".join(chr(_FIRST_CHAR + token_id) for token_id in ids)


def _as_ids(text: str) -> tuple[int, ...]:
    return tuple(ord(char) - _FIRST_CHAR for char in text)


def _without_rare(
    content: Mapping[str, Any], learned: Sequence[AddedToken], counts: Counter[str], min_count: int
) -> list[AddedToken]:
    """Drop tokens that occur less than `min_count` times in encoded text and are not a part of another token.

    Tokens are examined last to first; the occurrences of a dropped token count for its two parts.
    """
    whole, ids = extended(content, learned)
    model = tokenizers.Tokenizer.from_str(json.dumps(whole)).model
    texts = dict(zip(ids, (token.text for token in learned), strict=True))
    uses: Counter[str] = Counter()
    for word, count in counts.items():
        for token in model.tokenize(word):
            if token.id in texts:
                uses[texts[token.id]] += count
    needed: Counter[str] = Counter(part for token in learned for part in token.parts)
    kept = []
    for token in reversed(learned):
        if uses[token.text] < min_count and not needed[token.text]:
            for part in token.parts:
                needed[part] -= 1
                uses[part] += uses[token.text]
        else:
            kept.append(token)
    return kept[::-1]


def extended(content: Mapping[str, Any], learned: Sequence[AddedToken]) -> tuple[dict[str, Any], list[int]]:
    """Extend a tokenizer.json by tokens and their merges; returns it and the new ids. Old tokens keep their ids.

    Added tokens, such as control tokens, are also written into the vocabulary: `tokenizers` would otherwise give them
    new ids after the larger vocabulary.
    """
    vocabulary: dict[str, int] = dict(content["model"]["vocab"])
    for token in content.get("added_tokens") or ():
        vocabulary.setdefault(token["content"], int(token["id"]))
    first = max(vocabulary.values()) + 1
    ids = list(range(first, first + len(learned)))
    vocabulary |= {token.text: token_id for token, token_id in zip(learned, ids, strict=True)}
    old = content["model"]["merges"]
    as_text = isinstance(old[0], str)
    merges = [*old, *(" ".join(token.parts) if as_text else list(token.parts) for token in learned)]
    model = {**content["model"], "vocab": vocabulary, "merges": merges}
    return {**content, "model": model}, ids


def unreachable(content: Mapping[str, Any], ids: Sequence[int]) -> list[str]:
    """Tokens that encoding their own text does not produce."""
    model = tokenizers.Tokenizer.from_str(json.dumps(content)).model
    names = {token_id: token for token, token_id in content["model"]["vocab"].items()}
    return [
        names[token_id] for token_id in ids if [token.id for token in model.tokenize(names[token_id])] != [token_id]
    ]

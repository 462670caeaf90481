"""A model with a vocabulary that continues its own on the user's text, for `reprise extend`.

The folder that is written is an ordinary model: name it as `model.path` and train.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reprise.documents.table import read_table
from reprise.errors import UserError
from reprise.model.loading import (
    copy_tokenizer_and_code,
    load_config,
    load_generation_settings,
    load_model,
    load_skeleton,
    load_tokenizer,
    names_match,
    open_model_weights,
    tokenizer_file,
)
from reprise.model.objective import Objective
from reprise.model.tokenizer import open_tokenizer
from reprise.model.weights import vocabulary_tensors
from reprise.recipe.model import Model
from reprise.storage import write_json
from reprise.training.export import new_folder, system_errors
from reprise.training.published import check_published, make_probe
from reprise.training.sharded_weights import write_files
from reprise.vocabulary.merges import AddedToken, check_bpe, extended, learn_tokens, unreachable

HELD_OUT_BYTES = 2_000_000
"""Held-out text of a language on which the two vocabularies are compared."""


@dataclass(frozen=True)
class Compression:
    """Bytes of text that a token stands for, before and after."""

    language: str
    held_out: bool
    """Whether the text was held out from learning; a language without held-out documents is measured on what was
    learned from."""
    before: float
    after: float


@dataclass(frozen=True)
class Extension:
    """What was added."""

    tokens: int
    rows: int
    """Rows of the embeddings now."""
    compression: list[Compression]


def extend_model(
    settings: Model,
    texts: Mapping[str, Sequence[str]],
    held_out: Mapping[str, Sequence[str]],
    folder: Path,
    *,
    num_tokens: int,
    min_count: int,
    verify: bool = True,
) -> Extension:
    """Write the model with more tokens: merges continued on the texts, rows by the mean of the old pieces.

    Args:
        settings: the model.
        texts: language -> text to learn from.
        held_out: language -> text to compare the vocabularies on.
        folder: to write; must not exist.
        num_tokens: most tokens to add.
        min_count: occurrences below which a token is not added.
        verify: load the folder in another process and compare ids and logits.

    Raises:
        UserError: the tokenizer cannot be extended, the text gives no token, or the folder exists or cannot be written.
    """
    file = tokenizer_file(settings)
    if file is None:
        raise UserError(
            "the vocabulary cannot be extended: the model has no tokenizer.json",
            where=settings.path,
            remedy="extend a model with a byte-level BPE; a sentencepiece model is not handled",
        )
    content = json.loads(file.read_text(encoding="utf-8"))
    check_bpe(content, str(file))
    learned = learn_tokens(content, (text for part in texts.values() for text in part), num_tokens, min_count)
    if not learned:
        raise UserError(
            f"no pair of tokens occurs {min_count} times in the text",
            where=f"--min-count {min_count}",
            remedy="give more text, or lower it",
        )
    new, ids = extended(content, learned)
    if lost := unreachable(new, ids):
        raise AssertionError(f"{len(lost)} added tokens cannot be reached, such as {lost[0]!r}")
    with new_folder(folder) as partial, system_errors(folder):
        rows = _write_weights(settings, learned, ids, partial)
        _write_descriptions(settings, new, rows, partial)
        published = Model(path=str(partial), **settings.model_dump(include={"eos", "bos", "trust_remote_code"}))
        if verify:
            config = load_config(settings)
            probe = make_probe(Objective(load_model(published)), {}, published)
            check_published(partial, probe, published, config.dtype or torch.float32)
        _check_control_tokens(settings, published)
        compression = list(_compare(settings, published, texts, held_out))
    return Extension(len(learned), rows, compression)


def sample_texts(
    folder: Path, shares: Mapping[str, float], num_bytes: int
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Text of each language from the document table: what tokens are learned from, and what is held out.

    Args:
        folder: the table.
        shares: language -> its part of the bytes to learn from.
        num_bytes: UTF-8 bytes to learn from, of all languages.
    """
    total = sum(shares.values())
    left: dict[str, float] = {language: num_bytes * share / total for language, share in shares.items() if share}
    room: dict[str, float] = dict.fromkeys(left, float(HELD_OUT_BYTES))
    texts: dict[str, list[str]] = {language: [] for language in left}
    held_out: dict[str, list[str]] = {language: [] for language in left}
    for batch in read_table(folder, ["text", "lang", "split"]):
        for row in batch.to_pylist():
            language = row["lang"]
            kept, budget = (texts, left) if row["split"] == "train" else (held_out, room)
            if budget.get(language, 0) > 0:
                kept[language].append(row["text"])
                budget[language] -= len(row["text"].encode())
    if missing := [language for language, part in texts.items() if not part]:
        raise UserError(
            f"there is no text in {', '.join(missing)} to learn from", where=str(folder), remedy="name another language"
        )
    return texts, held_out


def _write_weights(settings: Model, learned: Sequence[AddedToken], ids: Sequence[int], folder: Path) -> int:
    """Write the weights, one tensor after the other; returns the rows of the embeddings."""
    skeleton, stored = load_skeleton(settings), open_model_weights(settings)
    if not names_match(skeleton, settings, stored):
        raise UserError(
            "its weights are quantized or stored under other names than the model's own",
            where=settings.path,
            remedy="save it with transformers once (save_pretrained) and name that folder",
        )
    with_rows = vocabulary_tensors(skeleton) & stored.files.keys()
    embeddings: Any = skeleton.get_input_embeddings()
    rows = max(int(embeddings.weight.shape[0]), ids[-1] + 1)
    names = sorted(stored.files)
    shapes = {name: list(stored.read(name)[...].shape) for name in names if name in with_rows}

    def read(name: str) -> torch.Tensor:
        value: torch.Tensor = stored.read(name)[...]
        if name not in with_rows:
            return value.clone()
        larger = torch.empty((rows, *value.shape[1:]), dtype=value.dtype)
        larger[: len(value)] = value
        mean = value.double().mean(dim=0).to(value.dtype)
        larger[len(value) :] = mean  # rows that no token has
        for token_id, token in zip(ids, learned, strict=True):
            larger[token_id] = value[list(token.pieces)].double().mean(dim=0).to(value.dtype)
        return larger

    sizes = {}
    for name in names:
        value = stored.read(name)[...]
        count = value.numel() // value.shape[0] * rows if name in shapes else value.numel()
        sizes[name] = int(count) * value.element_size()
    write_files(sizes, read, folder)
    return rows


def _write_descriptions(settings: Model, content: Mapping[str, Any], rows: int, folder: Path) -> None:
    config = load_config(settings)
    config.get_text_config().vocab_size = rows
    config.save_pretrained(folder)
    if (generation := load_generation_settings(settings)) is not None:
        generation.save_pretrained(folder)
    copy_tokenizer_and_code(settings, folder)
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    if (folder / "vocab.json").is_file():
        write_json(folder / "vocab.json", content["model"]["vocab"])
    if (folder / "merges.txt").is_file():
        merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"])
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")


def _compare(
    before: Model, after: Model, texts: Mapping[str, Sequence[str]], held_out: Mapping[str, Sequence[str]]
) -> Iterable[Compression]:
    tokenizers = [open_tokenizer(before), open_tokenizer(after)]
    for language, learned_from in texts.items():
        part = list(held_out.get(language) or learned_from[:200])
        num_bytes = sum(len(text.encode()) for text in part)
        counts = [sum(map(len, tokenizer.encode_batch(part))) for tokenizer in tokenizers]
        yield Compression(language, bool(held_out.get(language)), *(num_bytes / max(1, count) for count in counts))


def _check_control_tokens(before: Model, after: Model) -> None:
    """Refuse a tokenizer that transformers reads with other ids for the old one's added tokens.

    Raises:
        UserError: with the token.
    """
    old, new = (load_tokenizer(settings) for settings in (before, after))
    for token_id, token in old.added_tokens_decoder.items():
        if (other := new.convert_tokens_to_ids(str(token))) != token_id:
            raise UserError(
                f"the token {str(token)!r} would get the id {other} instead of {token_id}",
                where=before.path,
                remedy="report it with the model's name; train it with its own vocabulary",
            )

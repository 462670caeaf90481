"""Write a model with more tokens, learned from the user's text, as a folder that transformers loads."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import tokenizers
import torch
import xxhash

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
)
from reprise.model.new_tokens import NewTokens
from reprise.model.objective import Objective
from reprise.model.tokenizer import open_tokenizer
from reprise.model.weights import vocabulary_tensors
from reprise.recipe.model import Model
from reprise.storage import write_json
from reprise.training.export import new_folder, system_errors
from reprise.training.published import check_published, make_probe
from reprise.training.sharded_weights import write_files
from reprise.vocabulary.merges import AddedToken, extended, learn_tokens, read_bpe, unreachable
from reprise.vocabulary.records import Compression, VocabularyCounts

HELD_OUT_BYTES = 2_000_000
"""Approximate UTF-8 bytes of held-out text per language on which the vocabularies are compared."""
LONGEST_CHARS = 1_000_000
"""Maximum characters of a document to learn from, so that no book replaces many documents."""


def extend_model(
    settings: Model,
    texts: Mapping[str, Sequence[str]],
    held_out: Mapping[str, Sequence[str]],
    folder: Path,
    *,
    num_tokens: int,
    min_count: int,
    verify: bool = True,
) -> tuple[VocabularyCounts, NewTokens]:
    """Write the model with more tokens: BPE merges are continued on the texts, and the embedding of a new token is the
    mean of those of its old tokens.

    Args:
        settings: the model.
        texts: language -> text to learn from.
        held_out: language -> text to compare the vocabularies on.
        folder: folder to write; must not exist.
        num_tokens: maximum tokens to add.
        min_count: occurrences below which a token is not added.
        verify: load the folder in another process and compare ids and logits.

    Returns:
        Counts of the new vocabulary, and the new tokens.

    Raises:
        UserError: the tokenizer cannot be extended, no token is frequent enough, or the folder exists or cannot be
            written.
    """
    content = read_bpe(settings)
    learned = learn_tokens(content, (text for part in texts.values() for text in part), num_tokens, min_count)
    if not learned:
        raise UserError(
            f"no pair of tokens occurs {min_count} times in the text",
            where=f"vocabulary.min_count = {min_count}",
            remedy="give more text (documents.inputs, vocabulary.megabytes), or lower it",
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
    decoder = tokenizers.decoders.ByteLevel()
    counts: VocabularyCounts = {
        "tokens_added": len(learned),
        "first_id": ids[0],
        "rows": rows,
        "bytes_learned_from": sum(len(text.encode()) for part in texts.values() for text in part),
        "compression": compression,
    }
    return counts, {"first_id": ids[0], "tokens": [decoder.decode([token.text]) for token in learned]}


def sample_texts(
    folder: Path, shares: Mapping[str, Mapping[str, float]], num_bytes: int
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Sample text of each language from the document table: training text to learn from, and held-out text.

    Documents are chosen by the hash of their id, so the sample does not depend on how the text is divided into files,
    nor on the random seed of the run. A source with less text than its share is used completely.

    Args:
        folder: folder of the table.
        shares: language -> source -> its share of the bytes to learn from; all shares sum to 1.
        num_bytes: approximate UTF-8 bytes to learn from.

    Returns:
        Language -> texts to learn from, and language -> held-out texts.

    Raises:
        UserError: a language has no training text.
    """
    sizes = _count_bytes(folder)
    held_out_sizes: Counter[str] = Counter()
    for (language, _, split), size in sizes.items():
        held_out_sizes[language] += size if split == "valid" else 0
    texts: dict[str, list[str]] = {language: [] for language in shares}
    held_out: dict[str, list[str]] = {language: [] for language in shares}
    first: dict[_Key, tuple[int, str]] = {}
    for batch in read_table(folder, ["id", *_KEYS, "text"]):
        keys = zip(*(batch.column(name).to_pylist() for name in _KEYS), strict=True)
        for row, (document, key) in enumerate(zip(batch.column("id").to_pylist(), keys, strict=True)):
            language, source, split = key
            if language not in shares or (split == "train" and source not in shares[language]):
                continue
            if split == "train":
                kept, part = texts[language], num_bytes * shares[language][source] / max(1, sizes[key])
            else:
                kept, part = held_out[language], HELD_OUT_BYTES / max(1, held_out_sizes[language])
            rank = xxhash.xxh3_64_intdigest(document.encode())
            is_first = rank < first.get(key, (2**64, ""))[0]
            if rank < part * 2.0**64 or is_first:
                text = batch.column("text")[row].as_py()[:LONGEST_CHARS]
                if rank < part * 2.0**64:
                    kept.append(text)
                if is_first:
                    first[key] = (rank, text)
    for (language, source, split), (rank, text) in first.items():
        # A share smaller than a document still gets one document.
        if split == "train" and rank >= num_bytes * shares[language][source] / sizes[language, source, split] * 2.0**64:
            texts[language].append(text)
    if missing := [language for language, part in texts.items() if not part]:
        raise UserError(
            f"there is no text in {', '.join(missing)} to learn tokens from",
            where=f"vocabulary.languages, {folder}",
            remedy="name languages of the mixture that have training documents",
        )
    return texts, held_out


_KEYS = ("lang", "source", "split")
_Key = tuple[str, str, str]


def _count_bytes(folder: Path) -> Counter[_Key]:
    """(language, source, split) -> UTF-8 bytes of text."""
    sizes: Counter[_Key] = Counter()
    for batch in read_table(folder, [*_KEYS, "text"]):
        lengths = pc.binary_length(batch.column("text"))
        totals = pa.table([*(batch.column(name) for name in _KEYS), lengths], names=[*_KEYS, "bytes"])
        for row in totals.group_by(list(_KEYS)).aggregate([("bytes", "sum")]).to_pylist():
            sizes[row["lang"], row["source"], row["split"]] += row["bytes_sum"]
    return sizes


def _write_weights(settings: Model, learned: Sequence[AddedToken], ids: Sequence[int], folder: Path) -> int:
    """Write the weights, one tensor at a time; returns the rows of the embeddings."""
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
        larger[len(value) :] = mean  # rows without a token
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
        yield {
            "language": language,
            "held_out": bool(held_out.get(language)),
            "num_bytes": num_bytes,
            "before": num_bytes / max(1, counts[0]),
            "after": num_bytes / max(1, counts[1]),
        }


def _check_control_tokens(before: Model, after: Model) -> None:
    """Refuse a tokenizer in which transformers gives the old added tokens other ids.

    Raises:
        UserError: an id differs; names the token.
    """
    old, new = (load_tokenizer(settings) for settings in (before, after))
    for token_id, token in old.added_tokens_decoder.items():
        if (other := new.convert_tokens_to_ids(str(token))) != token_id:
            raise UserError(
                f"the token {str(token)!r} would get the id {other} instead of {token_id}",
                where=before.path,
                remedy="report it with the model's name; train it with its own vocabulary",
            )

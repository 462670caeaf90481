"""Exact copies: documents that equal another one except for white space, case and full width."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from reprise.documents.deduplicate.records import Range, load_table_range, save_table

SCHEMA = pa.schema(
    [
        ("exact", pa.uint64()),
        ("exact_low", pa.uint64()),
        ("rank", pa.uint8()),
        ("text_hash", pa.binary(16)),
        ("origin", pa.string()),
        ("source", pa.string()),
        ("id", pa.string()),
        ("key", pa.int64()),
    ]
)
"""One document: the hash of its normalised text in two halves, then the fields that decide which copy is kept, in
order."""

DECISIONS = pa.schema(
    [
        ("key", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("kept_key", pa.int64()),
        ("held_out", pa.bool_()),
        ("priority", pa.uint64()),
        ("tie", pa.uint64()),
    ]
)
"""A document that is dropped. `kept_key`: the document that it equals or resembles; `held_out`: whether it, or any
document that it resembles, is held out; `priority` and `tie`: its order among the copies of a document."""

_TRAIN_BIT = np.uint64(1 << 63)


def hash_normal(normal: Sequence[str]) -> np.ndarray:
    """Hash of each normalised text without its white space, uint64[texts, 2]."""
    hashes = (xxhash.xxh3_128_intdigest("".join(text.split()).encode()) for text in normal)
    return np.array([(value >> 64, value & 0xFFFFFFFFFFFFFFFF) for value in hashes], np.uint64).reshape(-1, 2)


def find_exact_copies(folder: str, target: str, chosen: Range) -> int:
    """Find the copies among the documents whose hash is in a range; write their keys and decisions. Runs in a
    worker."""
    table = load_table_range(Path(folder), "exact", chosen, SCHEMA)
    high, low = (table[name].to_numpy() for name in ("exact", "exact_low"))
    order = np.lexsort([low, high])
    same = (high[order][1:] == high[order][:-1]) & (low[order][1:] == low[order][:-1])
    several = np.zeros(len(order), bool)
    several[1:] |= same
    several[:-1] |= same
    groups = table.take(order[several]).sort_by([(name, "ascending") for name in SCHEMA.names])
    high, low = (groups[name].to_numpy() for name in ("exact", "exact_low"))
    is_first = np.ones(len(high), bool)
    is_first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    stays = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
    origins = groups["origin"].combine_chunks().take(pa.array(stays[~is_first]))
    count = int((~is_first).sum())
    copies, ranks = groups.filter(pa.array(~is_first)), groups["rank"].to_numpy()
    heads = [int.from_bytes(digest[:8], "big") >> 1 for digest in copies["text_hash"].to_pylist()]
    names = zip(*(copies[name].to_pylist() for name in ("origin", "source", "id")), strict=True)
    ties = [xxhash.xxh3_64_intdigest("\0".join(map(str, name)).encode()) for name in names]
    decisions = pa.table(
        [
            copies["key"].combine_chunks(),
            pa.array(["exact_duplicate"] * count, pa.string()),
            pc.binary_join_element_wise(pa.scalar("copy of"), origins, " ") if count else pa.array([], pa.string()),
            pa.array(groups["key"].to_numpy()[stays[~is_first]], pa.int64()),
            pa.array(ranks[stays[~is_first]] == 0),
            pa.array(np.array(heads, np.uint64) | _TRAIN_BIT * (ranks[~is_first] != 0)),
            pa.array(np.array(ties, np.uint64)),
        ],
        schema=DECISIONS,
    )
    save_table(Path(target, f"exact-{chosen.index:06d}.arrow"), decisions.sort_by("key"))
    return count

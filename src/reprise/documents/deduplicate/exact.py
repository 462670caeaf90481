"""Exact copies: documents that equal another but for white space, case and full width."""

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
"""One document: the hash of its normalised text in two halves, then what decides which copy stays, in this order."""

DECISIONS = pa.schema([("key", pa.int64()), ("reason", pa.string()), ("detail", pa.string())])
"""A document that is dropped."""


def hash_normal(normal: Sequence[str]) -> np.ndarray:
    """uint64[texts, 2]: hash of each normalised text without its white space."""
    hashes = (xxhash.xxh3_128_intdigest("".join(text.split()).encode()) for text in normal)
    return np.array([(value >> 64, value & 0xFFFFFFFFFFFFFFFF) for value in hashes], np.uint64).reshape(-1, 2)


def find_exact_copies(folder: str, target: str, chosen: Range) -> int:
    """Decide on the documents whose hash lies in a range; write the copies' keys and decisions. Runs in a worker."""
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
    decisions = pa.table(
        [
            groups["key"].combine_chunks().filter(pa.array(~is_first)),
            pa.array(["exact_duplicate"] * count, pa.string()),
            pc.binary_join_element_wise(pa.scalar("copy of"), origins, " ") if count else pa.array([], pa.string()),
        ],
        schema=DECISIONS,
    )
    save_table(Path(target, f"exact-{chosen.index:06d}.arrow"), decisions.sort_by("key"))
    return count

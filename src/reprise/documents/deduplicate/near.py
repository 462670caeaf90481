"""Near copies: pairs of documents that share a band are compared by signature, then all pairs decide what is
dropped."""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reprise.documents.deduplicate.exact import DECISIONS
from reprise.documents.deduplicate.records import (
    BAND,
    EDGE,
    PAIR,
    Range,
    Records,
    as_ranges,
    load_range,
    save_sorted,
    save_table,
    sort_once,
)
from reprise.documents.deduplicate.signatures import Signatures, estimate_similarity

_PARTNERS = 8
"""A document is compared with at most this many of the first documents that share its band hash: the cost is linear."""
_COMPARED_ROWS = 50_000
"""Pairs whose signatures are in memory at one time."""

DROP = np.dtype(
    [
        ("kept_key", np.int64),
        ("key", np.int64),
        ("similarity", np.float64),
        ("priority", np.uint64),
        ("held_out", np.bool_),
    ]
)
"""A near copy and the document that is kept; `held_out`: whether it, or any document that it resembles, is held out."""
FIRST_TRAIN = np.uint64(1 << 63)
"""Smallest priority of a training document."""


def pair_up(bands: str, copies: str, target: str, chosen: Range) -> int:
    """Write the pairs of documents that share a band hash in a range; exact copies are skipped. Runs in a worker.

    Each document of a bucket is paired with the first few before it, in the order of (priority, key).
    """
    records = load_range(Path(bands), "hash", chosen, BAND)
    is_copy = np.load(copies, mmap_mode="r")
    records = records[~is_copy[records["key"]]]
    records = records[np.lexsort([records["key"], records["priority"], records["hash"]])]
    pairs = [np.zeros(0, PAIR)]
    if len(records):
        starts_bucket = np.ones(len(records), bool)
        starts_bucket[1:] = records["hash"][1:] != records["hash"][:-1]
        first = np.flatnonzero(starts_bucket)[np.cumsum(starts_bucket) - 1]
        rank = np.arange(len(records)) - first
        for partner in range(_PARTNERS):
            later = np.flatnonzero(rank > partner)
            pairs.append(_pairs(records[later], records[first[later] + partner]))
    joined = sort_once(np.concatenate(pairs))
    save_sorted(Path(target, f"{chosen.index:06d}.npy"), joined, "key", "kept_key")
    return len(joined)


def _pairs(second: Records, kept: Records) -> Records:
    pairs = np.zeros(len(second), PAIR)
    pairs["key"], pairs["priority"] = second["key"], second["priority"]
    pairs["kept_key"], pairs["kept_priority"] = kept["key"], kept["priority"]
    return pairs


@dataclass(frozen=True)
class SignatureFiles:
    """The signatures of all documents, in one file per part of the table."""

    folder: str
    first_keys: tuple[int, ...]
    """Key of the first document of each part, then the count of documents."""
    permutations: int

    def load(self, keys: NDArray[np.int64]) -> Signatures:
        """Signatures of the documents with these keys, in the order of `keys`."""
        once, where = np.unique(keys, return_inverse=True)
        loaded = np.empty((len(once), self.permutations), np.uint32)
        start = 0
        while start < len(once):
            part = bisect.bisect_right(self.first_keys, int(once[start])) - 1
            end = int(np.searchsorted(once, self.first_keys[part + 1]))
            rows = np.load(Path(self.folder, f"{part:06d}.npy"), mmap_mode="r")
            loaded[start:end] = rows[once[start:end] - self.first_keys[part]]
            start = end
        return loaded[where]


def compare_pairs(pairs: str, target: str, signatures: SignatureFiles, threshold: float, chosen: Range) -> int:
    """Write the pairs in a range of keys that reach the threshold; returns how many. Runs in a worker."""
    once = sort_once(load_range(Path(pairs), "key", chosen, PAIR))
    once = once[np.argsort(once["kept_key"], kind="stable")]
    edges = [np.zeros(0, EDGE)]
    for start in range(0, len(once), _COMPARED_ROWS):
        block = once[start : start + _COMPARED_ROWS]
        similarity = estimate_similarity(signatures.load(block["kept_key"]), signatures.load(block["key"]))
        close = similarity >= threshold
        found_edges = np.zeros(int(close.sum()), EDGE)
        for name in PAIR.names or ():
            found_edges[name] = block[name][close]
        found_edges["similarity"] = similarity[close]
        edges.append(found_edges)
    joined = np.concatenate(edges)
    save_sorted(Path(target, f"{chosen.index:06d}.npy"), joined, "priority", "key")
    return len(joined)


def choose_near_copies(edges: str, target: str, block_edges: int, num_documents: int) -> int:
    """Decide on all documents in order, a block of edges at a time; write the drops, return how many. Runs in one
    worker."""
    is_dropped = np.zeros(num_documents, bool)
    count = 0
    for chosen in _blocks(Path(edges), block_edges):
        drops = choose_copies(load_range(Path(edges), "priority", chosen, EDGE), is_dropped)
        is_dropped[drops["key"]] = True
        save_sorted(Path(target, f"{chosen.index:06d}.npy"), drops, "kept_key", "key")
        count += len(drops)
    return count


def _blocks(folder: Path, block_edges: int) -> Iterator[Range]:
    """Ranges of priority with about this many edges each; all edges of a document are in the same range."""
    sample, total = [], 0
    for path in sorted(folder.glob("*.npy")):
        priorities = np.load(path, mmap_mode="r")["priority"]
        total += len(priorities)
        sample.append(np.array(priorities[:: max(1, block_edges // 64)]))
    priorities = np.sort(np.concatenate(sample)) if sample else np.zeros(0, np.uint64)
    num_blocks = max(1, -(-total // block_edges))
    firsts = priorities[:: max(1, len(priorities) // num_blocks)].tolist()
    yield from as_ranges([0, *sorted(set(firsts[1:]) - {0})])


def choose_copies(edges: Records, is_dropped: NDArray[np.bool_]) -> Records:
    """Decide which documents to drop: in the order of (priority, key), each with an edge to a document that is kept.

    All edges of a document must be given in one call. Each round decides the documents whose earlier neighbours are
    decided.

    Args:
        edges: EDGE[edges].
        is_dropped: bool[documents]: what earlier blocks dropped.

    Returns:
        DROP[dropped]: each with the most similar document that is kept; among equally similar ones the first in the
        order.
    """
    seconds, document = np.unique(edges["key"], return_inverse=True)
    position = np.searchsorted(seconds, edges["kept_key"]).clip(max=max(0, len(seconds) - 1))
    undecided, stays, goes = 0, 1, 2
    state = np.full(len(seconds), undecided, np.uint8)
    is_second = seconds[position] == edges["kept_key"] if len(seconds) else np.zeros(0, bool)
    settled = np.where(is_dropped[edges["kept_key"]], goes, stays).astype(np.uint8)
    open_edges = np.arange(len(edges))
    while len(open_edges):
        partner = np.where(is_second, state[position], settled)[open_edges] if len(seconds) else settled
        of = document[open_edges]
        state[of[partner == stays]] = goes
        waits = np.zeros(len(seconds), bool)
        waits[of[partner == undecided]] = True
        mine = state[of]
        state[of[(mine == undecided) & ~waits[of]]] = stays
        open_edges = open_edges[state[of] == undecided]
    partner = np.where(is_second, state[position], settled) if len(seconds) else settled
    last = edges[(partner == stays) & (state[document] == goes)] if len(seconds) else edges
    last = last[np.lexsort([last["kept_key"], last["kept_priority"], -last["similarity"], last["key"]])]
    best = np.ones(len(last), bool)
    best[1:] = last["key"][1:] != last["key"][:-1]
    drops = np.zeros(int(best.sum()), DROP)
    for name in ("kept_key", "key", "similarity", "priority"):
        drops[name] = last[name][best]
    resembles = (edges["priority"] < FIRST_TRAIN) | (edges["kept_priority"] < FIRST_TRAIN)
    drops["held_out"] = np.isin(drops["key"], edges["key"][resembles])
    return drops


@dataclass(frozen=True)
class PartGroup:
    """Adjacent parts of the table."""

    index: int
    paths: Sequence[str]
    first_keys: Sequence[int]
    """Key of the first document of each part, then the first key after the last part."""


def describe_drops(drops: str, target: str, group: PartGroup) -> int:
    """Write the decisions on near copies among the documents of some parts, with their origins. Runs in a worker."""
    chosen = Range(group.index, group.first_keys[0], group.first_keys[-1])
    records = load_range(Path(drops), "kept_key", chosen, DROP)
    records = records[np.argsort(records["kept_key"], kind="stable")]
    details: list[str] = []
    for part, first, end in zip(group.paths, group.first_keys[:-1], group.first_keys[1:], strict=True):
        start, stop = np.searchsorted(records["kept_key"], [first, end]).tolist()
        if start == stop:
            continue
        rows = pa.array(records["kept_key"][start:stop] - first)
        origins = pq.read_table(part, columns=["origin"])["origin"].take(rows).to_pylist()
        similarities = records["similarity"][start:stop].tolist()
        details += [f"similarity {value:.2f} to {origin}" for value, origin in zip(similarities, origins, strict=True)]
    reasons = pa.array(["near_duplicate"] * len(records), pa.string())
    rest = [records[name] for name in ("kept_key", "held_out", "priority")]
    columns = [pa.array(records["key"]), reasons, pa.array(details, pa.string()), *map(pa.array, rest)]
    table = pa.table([*columns, pa.array(np.zeros(len(records), np.uint64))], schema=DECISIONS)
    save_table(Path(target, f"near-{group.index:06d}.arrow"), table.sort_by("key"))
    return len(records)

"""Sorted files of records: what one step of deduplication writes part by part and the next reads range by range."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Records = NDArray[np.void]
"""A structured array with one of the types below."""

BAND = np.dtype([("hash", np.uint64), ("priority", np.uint64), ("key", np.int64)])
"""One band of one document. `priority` orders documents: the smaller one is kept; `key` is the row in the table."""
PAIR = np.dtype([("key", np.int64), ("priority", np.uint64), ("kept_key", np.int64), ("kept_priority", np.uint64)])
"""Two documents with a common band; the one of `kept_key` comes first in the order."""
EDGE = np.dtype([*PAIR.descr, ("similarity", np.float64)])
"""A pair whose similarity reaches the threshold."""


@dataclass(frozen=True)
class Range:
    """A half-open range of the sorted field; the last range has no end."""

    index: int
    first: int
    end: int | None


def save_sorted(path: Path, records: Records, *fields: str) -> None:
    """Write records sorted by `fields`, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        np.save(file, records[np.lexsort([records[field] for field in reversed(fields)])])
    temporary.replace(path)


def load_range(folder: Path, field: str, chosen: Range, dtype: np.dtype[np.void]) -> Records:
    """The records of all files in a folder with `first <= field < end`, file after file; each file is sorted by
    `field`."""
    slices = [np.zeros(0, dtype)]
    for path in sorted(folder.glob("*.npy")):
        records = np.load(path, mmap_mode="r")
        start, stop = _bounds(records[field], chosen)
        slices.append(np.array(records[start:stop]))
    return np.concatenate(slices)


def save_table(path: Path, table: pa.Table) -> None:
    """Write a table that `load_table_range` reads, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    temporary.replace(path)


def load_table_range(folder: Path, field: str, chosen: Range, schema: pa.Schema) -> pa.Table:
    """Like `load_range`, for tables."""
    tables = []
    for path in sorted(folder.glob("*.arrow")):
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
            if table.num_rows:
                start, stop = _bounds(table[field].chunk(0).to_numpy(), chosen)
                piece = table.slice(start, stop - start)
                tables.append(pa.Table.from_batches(piece.to_batches(), schema).take(np.arange(stop - start)))
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _bounds(values: NDArray[np.generic], chosen: Range) -> tuple[int, int]:
    """Indices at which the range begins and ends; np.searchsorted would copy the field of the whole file first."""
    start = bisect.bisect_left(values, chosen.first)
    stop = len(values) if chosen.end is None else bisect.bisect_left(values, chosen.end)
    return start, stop


def sort_once(pairs: Records) -> Records:
    """Sort pairs by their two keys and remove duplicates."""
    pairs = pairs[np.lexsort([pairs["kept_key"], pairs["key"]])]
    is_new = np.ones(len(pairs), bool)
    is_new[1:] = (pairs["key"][1:] != pairs["key"][:-1]) | (pairs["kept_key"][1:] != pairs["kept_key"][:-1])
    return pairs[is_new]


def split_hashes(num_bytes: int, memory_bytes: int, workers: int) -> list[Range]:
    """Ranges of a 64-bit hash, small enough that `workers` of them fit into the memory three times over."""
    count = max(workers, -(-3 * num_bytes * workers // memory_bytes), 1) if num_bytes else 1
    bounds = [(index << 64) // count for index in range(count + 1)]
    return as_ranges(bounds[:-1])


def as_ranges(firsts: Sequence[int]) -> list[Range]:
    """Ranges from each value to the next."""
    return [
        Range(index, first, end) for index, (first, end) in enumerate(zip(firsts, [*firsts[1:], None], strict=True))
    ]


def count_bytes(folder: Path, suffix: str) -> int:
    """Total size in bytes of all files in a folder with this suffix."""
    return sum(path.stat().st_size for path in folder.glob(f"*{suffix}"))

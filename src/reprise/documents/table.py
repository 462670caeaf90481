"""The document table: one schema for every stage, in a folder of Parquet files ("parts").

    STAGE/documents/part-00000.parquet   documents that are kept
    STAGE/dropped/part-00000.parquet     documents that are dropped, each with its reason
    STAGE/removed/part-00000.parquet     text that was removed from documents that are kept, with the reason

Parts are ordered by name and rows by position, so a table has one order on every machine. A part is written to a
temporary file and renamed, so that a killed stage leaves only whole parts. Nothing here imports Daft.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("topic", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("topic_confidence", pa.float32()),
        pa.field("grade", pa.float32()),
        pa.field("nll", pa.float64()),
        pa.field("num_tokens", pa.int64()),
        pa.field("ppl", pa.float64()),
        pa.field("bits_per_byte", pa.float64()),
        pa.field("messages", pa.string()),
    ]
)
"""Columns of `documents/`; every stage writes all of them, null until the stage that computes them. `messages` is JSON,
and null if the document is not a conversation."""

DROPPED_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
"""Columns of `dropped/`: `reason` is a word such as `too_short`, `detail` is for a person."""

DOCUMENTS, DROPPED, REMOVED = "documents", "dropped", "removed"

PART_BYTES = 8 << 20
"""Bytes of text at which a part is closed, and so what a worker has in memory at a time. Larger parts leave cores idle:
with 40 MB in parts of 32 MB one worker would process four fifths."""

Rows: TypeAlias = pa.Table | pa.RecordBatch | Sequence[Mapping[str, Any]]
"""Rows of a table; columns that are not given are null."""


def hash_text(text: str) -> str:
    """Identifier of a text: xxh3-128 of its UTF-8 bytes, as 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(text.encode())


def list_parts(folder: Path) -> list[Path]:
    """The parts of a table in order; empty if the folder does not exist."""
    return sorted(folder.glob("*.parquet"))


def link_parts(source: Path, target: Path) -> None:
    """The same table in another folder, as hard links if the file system has them; continues if it was interrupted."""
    target.mkdir(parents=True, exist_ok=True)
    for part in list_parts(source):
        link = target / part.name
        if link.exists():
            continue
        try:
            os.link(part, link)
        except OSError:
            temporary = link.with_name(f".{part.name}.tmp")
            shutil.copyfile(part, temporary)
            temporary.replace(link)


def count_rows(folder: Path) -> int:
    """Rows of a table, from the footers of its parts."""
    return sum(pq.read_metadata(part).num_rows for part in list_parts(folder))


def read_table(
    folder: Path, columns: Sequence[str] | None = None, *, batch_rows: int = 1024
) -> Iterator[pa.RecordBatch]:
    """Batches of at most `batch_rows` rows, in the order of the table.

    Args:
        folder: the table, such as `work.inputs["label"] / "documents"`.
        columns: names of the columns to read, None for all.
        batch_rows: most rows in a batch; bounds the memory.
    """
    names = None if columns is None else list(columns)
    for part in list_parts(folder):
        with pq.ParquetFile(part) as file:
            yield from file.iter_batches(batch_size=batch_rows, columns=names)


def as_table(rows: Rows, schema: pa.Schema = SCHEMA) -> pa.Table:
    """Rows with exactly the columns of `schema`, in its order and types; missing nullable columns are null.

    Raises:
        ValueError: a non-nullable column is missing or contains a null, or `schema` does not have a column.
    """
    if isinstance(rows, pa.RecordBatch):
        rows = pa.Table.from_batches([rows])
    if isinstance(rows, pa.Table):
        unknown = set(rows.column_names) - set(schema.names)
        columns = [
            rows[field.name].cast(field.type)
            if field.name in rows.column_names
            else pa.nulls(rows.num_rows, field.type)
            for field in schema
        ]
        table = pa.table(columns, schema=schema)
    else:
        unknown = {name for row in rows for name in row} - set(schema.names)
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    if unknown:
        raise ValueError(f"columns that are not of the table: {', '.join(sorted(unknown))}")
    for field in schema:
        if not field.nullable and table[field.name].null_count:
            raise ValueError(f"the column {field.name} holds {table[field.name].null_count} nulls")
    return table


def write_part(path: Path, rows: Rows, schema: pa.Schema = SCHEMA) -> int:
    """Write one part atomically; returns how many rows it has."""
    table = as_table(rows, schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, temporary, compression="zstd", compression_level=1, row_group_size=8192)
    temporary.replace(path)
    return int(table.num_rows)


class TableWriter:
    """Writes rows into `folder` as parts of about PART_BYTES of text; keeps at most one part in memory.

    A context manager. If its block raises, the parts that were full remain. A table without rows still gets one part,
    so that its folder exists.
    """

    def __init__(self, folder: Path, schema: pa.Schema = SCHEMA, *, prefix: str = "part") -> None:
        self._folder, self._schema, self._prefix = folder, schema, prefix
        self._held: list[pa.Table] = []
        self._held_bytes = 0
        self._num_parts = 0
        self.num_rows = 0

    def write(self, rows: Rows) -> None:
        """Add rows (see `as_table`)."""
        table = as_table(rows, self._schema)
        self._held.append(table)
        self._held_bytes += table["text"].nbytes
        self.num_rows += table.num_rows
        if self._held_bytes >= PART_BYTES:
            self._flush()

    def _flush(self) -> None:
        table = pa.concat_tables(self._held) if self._held else self._schema.empty_table()
        write_part(self._folder / f"{self._prefix}-{self._num_parts:05d}.parquet", table, self._schema)
        self._num_parts += 1
        self._held, self._held_bytes = [], 0

    def close(self) -> None:
        """Write the rows that are still in memory."""
        if self._held or not self._num_parts:
            self._flush()

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

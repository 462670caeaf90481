"""What the stages that keep, change or drop documents share: part in, part out, and counts that must balance."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field
from typing_extensions import TypedDict

from reprise.documents.engine import Engine, run_pieces
from reprise.documents.table import (
    DOCUMENTS,
    DROPPED,
    DROPPED_SCHEMA,
    REMOVED,
    SCHEMA,
    count_rows,
    link_parts,
    list_parts,
    read_table,
    write_part,
)
from reprise.records import record
from reprise.workspace import Work

Drop = tuple[int, str, str]
"""(row, reason, detail)."""

Removal = tuple[int, str, str, str]
"""(row, reason, detail, the part of its text that was removed); the row itself is kept."""

Tally = Counter[tuple[str, ...]]
"""Counts of a step; each step chooses its own keys."""


@dataclass(frozen=True)
class Outcome:
    """What a step made of some rows."""

    columns: dict[str, Any] = field(default_factory=dict)
    """Column -> new values, one for each input row, dropped rows included."""
    drops: list[Drop] = field(default_factory=list)
    removals: list[Removal] = field(default_factory=list)
    tally: Tally = field(default_factory=Counter)
    """Summed over all rows; each step defines the meaning of its keys."""


@dataclass(frozen=True)
class RowsOrigin:
    """Where rows come from."""

    part: str
    """Name of the part."""
    first_row: int
    """Their first row in it, from 0."""


Step = Callable[[pa.Table, RowsOrigin], Outcome]
"""Function that decides what to do with some rows, given where they come from."""

_BATCH_ROWS = 2000

Bucket = tuple[str, str, str]
"""(language, source, split)."""


@record
class BucketFlow(TypedDict):
    """What a stage did to the documents of one language, source and split."""

    language: str
    """Language."""
    source: str
    """Source."""
    split: str
    """`train` or `valid`."""
    documents_in: int
    """Documents that came in."""
    dropped: dict[str, int]
    """Reason -> documents."""


@record
class StepCounts(TypedDict):
    """Counts in the manifest of every stage that drops documents."""

    # In the annotation, because a record that inherits these fields shows their meaning too.
    documents_in: Annotated[int, Field(description="Documents that came in.")]
    documents_out: Annotated[int, Field(description="Documents that were written.")]
    dropped: Annotated[int, Field(description="Documents that were dropped.")]
    dropped_by_reason: Annotated[dict[str, int], Field(description="Reason -> documents, most frequent first.")]
    buckets: Annotated[list[BucketFlow], Field(description="The same for each language, source and split.")]


@dataclass
class PartCounts:
    """What a step counted in one part, or in all parts."""

    tally: Tally = field(default_factory=Counter)
    documents_in: Counter[Bucket] = field(default_factory=Counter)
    drops: Counter[tuple[Bucket, str]] = field(default_factory=Counter)
    """(bucket, reason) -> documents."""

    def add(self, other: "PartCounts") -> None:
        """Add the counts of another part."""
        self.tally.update(other.tally)
        self.documents_in.update(other.documents_in)
        self.drops.update(other.drops)


def run_step(work: Work, before: str, step: Step, *, engine: Engine, what: str) -> tuple[StepCounts, Tally]:
    """Run a step over the documents of the stage `before`, part by part; write `documents/`, `dropped/`, `removed/`.

    Returns:
        The counts of documents that came in and were kept or dropped, and the step's tally.
    """
    source, target = work.inputs[before].resolve() / DOCUMENTS, work.output.resolve()
    parts = list_parts(source)
    apply = functools.partial(_apply_to_part, step, str(source), str(target))
    num_bytes = sum(part.stat().st_size for part in parts)
    total = PartCounts()
    for counts in run_pieces(apply, [part.name for part in parts], engine=engine, what=what, num_bytes=2 * num_bytes):
        total.add(counts)
    return balance(work, total), total.tally


def balance(work: Work, counted: PartCounts) -> StepCounts:
    """Count what was written, and check that no document was lost.

    Raises:
        RuntimeError: documents in != documents out + dropped. A bug of Reprise, never an error of the user.
    """
    documents_out, dropped = count_rows(work.output / DOCUMENTS), count_rows(work.output / DROPPED)
    documents_in = counted.documents_in.total()
    by_reason: Counter[str] = Counter()
    flows = {
        bucket: BucketFlow(language=bucket[0], source=bucket[1], split=bucket[2], documents_in=count, dropped={})
        for bucket, count in sorted(counted.documents_in.items())
    }
    for (bucket, reason), count in sorted(counted.drops.items()):
        by_reason[reason] += count
        flows[bucket]["dropped"][reason] = count
    counts: StepCounts = {
        "documents_in": documents_in,
        "documents_out": documents_out,
        "dropped": dropped,
        "dropped_by_reason": dict(by_reason.most_common()),
        "buckets": list(flows.values()),
    }
    if documents_in != documents_out + dropped or dropped != by_reason.total():
        raise RuntimeError(f"documents were lost: {counts}")
    return counts


def pass_through(work: Work, before: str) -> StepCounts:
    """A step that is switched off: the same documents (as hard links if the file system has them)."""
    source = work.inputs[before] / DOCUMENTS
    link_parts(source, work.output / DOCUMENTS)
    counted = PartCounts()
    for batch in read_table(source, ["lang", "source", "split"]):
        counted.documents_in.update(_buckets_of(batch))
    return balance(work, counted)


def _buckets_of(rows: pa.Table | pa.RecordBatch) -> Iterator[Bucket]:
    columns = (rows.column(rows.schema.names.index(name)).to_pylist() for name in ("lang", "source", "split"))
    return zip(*columns, strict=True)


def _apply_to_part(step: Step, source: str, target: str, name: str) -> PartCounts:
    """Runs in a worker."""
    kept: list[pa.Table] = []
    dropped: list[pa.Table] = []
    removed: list[pa.Table] = []
    counts = PartCounts()
    first_row = 0
    for rows in _slices(Path(source, name)):
        outcome = step(rows, RowsOrigin(name, first_row))
        first_row += rows.num_rows
        counts.tally.update(outcome.tally)
        buckets = list(_buckets_of(rows))
        counts.documents_in.update(buckets)
        gone = {row for row, _, _ in outcome.drops}
        if gone:
            counts.drops.update((buckets[row], reason) for row, reason, _ in outcome.drops)
            dropped.append(_as_dropped(rows, outcome.drops))
        if outcome.removals:
            table = _as_dropped(rows, [removal[:3] for removal in outcome.removals])
            texts = pa.array([removal[3] for removal in outcome.removals], pa.string())
            removed.append(table.set_column(table.column_names.index("text"), "text", texts))
        for column, values in outcome.columns.items():
            index = rows.column_names.index(column)
            rows = rows.set_column(index, SCHEMA.field(column), pa.array(values, SCHEMA.field(column).type))
        kept.append(rows.filter(pa.array([row not in gone for row in range(rows.num_rows)])) if gone else rows)
    write_part(Path(target, DOCUMENTS, name), pa.concat_tables(kept) if kept else SCHEMA.empty_table())
    if dropped:
        write_part(Path(target, DROPPED, name), pa.concat_tables(dropped), DROPPED_SCHEMA)
    if removed:
        write_part(Path(target, REMOVED, name), pa.concat_tables(removed), DROPPED_SCHEMA)
    return counts


def _slices(part: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(part) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            yield pa.Table.from_batches([batch])


def _as_dropped(rows: pa.Table, drops: Sequence[Drop]) -> pa.Table:
    rows = rows.take([row for row, _, _ in drops])
    columns = [rows[name] for name in DROPPED_SCHEMA.names[:-2]]
    reasons, details = pa.array([drop[1] for drop in drops]), pa.array([drop[2] for drop in drops])
    return pa.table([*columns, reasons, details], names=DROPPED_SCHEMA.names)

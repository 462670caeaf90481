"""What the stages that keep, change or drop documents share: part in, part out, and the books that must balance."""

import functools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reprise.documents.engine import Engine, run_pieces
from reprise.documents.table import DOCUMENTS, DROPPED, DROPPED_SCHEMA, SCHEMA, count_rows, list_parts, write_part
from reprise.workspace import Work

Drop = tuple[int, str, str]
"""(row, reason, detail)."""


@dataclass(frozen=True)
class Outcome:
    """What a step made of some rows."""

    columns: dict[str, Any] = field(default_factory=dict)
    """New values of columns, one to each row that was given, dropped ones included."""
    drops: list[Drop] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    """Added up over all rows, for the manifest."""


@dataclass(frozen=True)
class Place:
    """Where rows come from."""

    part: str
    """Name of the part."""
    first_row: int
    """Their first row in it, from 0."""


Step = Callable[[pa.Table, Place], Outcome]
"""Looks at some rows."""

_BATCH_ROWS = 2000


def run_step(work: Work, before: str, step: Step, *, engine: Engine, what: str) -> None:
    """Run a step over the documents of the stage `before`, part by part; write `documents/` and `dropped/`.

    Puts into `work.counts`: documents_in, documents_out, dropped, dropped_by_reason, dropped_by_bucket and the step's
    own numbers.
    """
    source, target = work.inputs[before].resolve() / DOCUMENTS, work.output.resolve()
    parts = list_parts(source)
    apply = functools.partial(_apply_to_part, step, str(source), str(target))
    num_bytes = sum(part.stat().st_size for part in parts)
    results = run_pieces(apply, [part.name for part in parts], engine=engine, what=what, num_bytes=2 * num_bytes)
    numbers: Counter[str] = Counter()
    drops: Counter[tuple[str, str, str]] = Counter()
    for result in results:
        numbers.update(result["numbers"])
        drops.update({(lang, name, reason): count for lang, name, reason, count in result["drops"]})
    work.counts.update(numbers)
    balance(work, documents_in=count_rows(source), drops=drops)


def balance(work: Work, *, documents_in: int, drops: Counter[tuple[str, str, str]]) -> None:
    """Count what was written, put the numbers into the manifest, and make sure that nothing was lost.

    Args:
        work: of the stage.
        documents_in: documents of the stage before.
        drops: (language, source, reason) -> documents.

    Raises:
        RuntimeError: documents in != documents out + dropped. A fault of ours, never of the user.
    """
    documents_out, dropped = count_rows(work.output / DOCUMENTS), count_rows(work.output / DROPPED)
    by_reason: Counter[str] = Counter()
    by_bucket: dict[str, dict[str, int]] = {}
    for (lang, source, reason), count in sorted(drops.items()):
        by_reason[reason] += count
        by_bucket.setdefault(f"{lang}/{source}", {})[reason] = count
    work.counts.update(
        documents_in=documents_in,
        documents_out=documents_out,
        dropped=dropped,
        dropped_by_reason=dict(by_reason.most_common()),
        dropped_by_bucket=by_bucket,
    )
    if documents_in != documents_out + dropped or dropped != by_reason.total():
        raise RuntimeError(f"documents were lost: {work.counts}")


def pass_through(work: Work, before: str) -> None:
    """A step that is switched off: the same documents (hard links where the file system has them)."""
    source = work.inputs[before] / DOCUMENTS
    (work.output / DOCUMENTS).mkdir(parents=True, exist_ok=True)
    for part in list_parts(source):
        try:
            os.link(part, work.output / DOCUMENTS / part.name)
        except OSError:
            shutil.copyfile(part, work.output / DOCUMENTS / part.name)
    balance(work, documents_in=count_rows(source), drops=Counter())


def _apply_to_part(step: Step, source: str, target: str, name: str) -> dict[str, Any]:
    """Runs in a worker."""
    kept: list[pa.Table] = []
    dropped: list[pa.Table] = []
    numbers: Counter[str] = Counter()
    drops: Counter[tuple[str, str, str]] = Counter()
    first_row = 0
    for rows in _slices(Path(source, name)):
        outcome = step(rows, Place(name, first_row))
        first_row += rows.num_rows
        numbers.update(outcome.numbers)
        gone = {row for row, _, _ in outcome.drops}
        if gone:
            lost = rows.take([row for row, _, _ in outcome.drops])
            drops.update(
                zip(lost["lang"].to_pylist(), lost["source"].to_pylist(), [d[1] for d in outcome.drops], strict=True)
            )
            dropped.append(_as_dropped(lost, outcome.drops))
        for column, values in outcome.columns.items():
            place = rows.column_names.index(column)
            rows = rows.set_column(place, SCHEMA.field(column), pa.array(values, SCHEMA.field(column).type))
        kept.append(rows.filter(pa.array([row not in gone for row in range(rows.num_rows)])) if gone else rows)
    write_part(Path(target, DOCUMENTS, name), pa.concat_tables(kept) if kept else SCHEMA.empty_table())
    if dropped:
        write_part(Path(target, DROPPED, name), pa.concat_tables(dropped), DROPPED_SCHEMA)
    return {"numbers": dict(numbers), "drops": [[*key, count] for key, count in drops.items()]}


def _slices(part: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(part) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            yield pa.Table.from_batches([batch])


def _as_dropped(rows: pa.Table, drops: list[Drop]) -> pa.Table:
    columns = [rows[name] for name in DROPPED_SCHEMA.names[:-2]]
    reasons, details = pa.array([drop[1] for drop in drops]), pa.array([drop[2] for drop in drops])
    return pa.table([*columns, reasons, details], names=DROPPED_SCHEMA.names)

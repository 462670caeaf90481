"""Files to records, whatever their format."""

import codecs
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa

from reprise.documents.read import tables, values
from reprise.documents.read.encoding import to_utf8
from reprise.documents.read.fields import names_to_read
from reprise.documents.read.files import SkippedFile, SourceFile
from reprise.documents.read.formats import DAMAGED, SEEKING, format_of
from reprise.documents.read.record import Item, Record, Reject, read_one, split_documents
from reprise.documents.read.remote import is_remote
from reprise.documents.read.spans import Span, SpanStream
from reprise.documents.read.streams import damaged, decompress, open_raw, printable
from reprise.recipe.documents import Input

__all__ = ["Item", "Record", "Reject", "SourceFile", "read_records"]


@dataclass(frozen=True)
class Reading:
    """How a file is read."""

    entry: Input
    skip: Callable[[SkippedFile], None] = lambda skipped: None
    """Told of members of archives that are left out."""


def read_records(file: SourceFile, entry: Input, skip: Callable[[SkippedFile], None] | None = None) -> Iterator[Item]:
    """The records of a file in order; holds one at a time, or one batch of a table's rows.

    Args:
        file: the file.
        entry: its input in the recipe.
        skip: told of members of archives that are left out.

    Raises:
        UserError: the file cannot be read at all, is damaged, or lacks the column that holds the text.
    """
    reading = Reading(entry) if skip is None else Reading(entry, skip)
    line = 0
    try:
        with contextlib.closing(open_raw(file.path)) as raw:
            compression = None if file.format in SEEKING else format_of(file.path).compression
            for item in read_stream(decompress(raw, compression), printable(file.path), file.format, reading):
                line = item.line
                yield item
    except _failures(file) as error:
        raise damaged(printable(file.path), line + 1, error) from error


def _failures(file: SourceFile) -> tuple[type[Exception], ...]:
    """What reading the file may raise; behind a URL that is whatever the store's library raises when it says no."""
    return (Exception,) if is_remote(file.path) else (*DAMAGED, OSError, pa.ArrowException)


def read_span(file: SourceFile, entry: Input, span: Span) -> Iterator[Item]:
    """The records of the lines that belong to a part of a JSON Lines file; raises as `read_records` does."""
    name, names = printable(file.path), names_to_read(entry)
    line = span.first_line
    try:
        with open_raw(file.path) as raw:
            opened = SpanStream(raw, span, format_of(file.path).compression)
            for line, document in split_documents(opened.stream, "jsonl", span.first_line, lambda: opened.size):
                if line == 1 and document is not None:
                    document = document.removeprefix(codecs.BOM_UTF8)
                yield read_one(name, line, document, "jsonl", entry, names)
    except DAMAGED as error:
        raise damaged(name, line + 1, error) from error


def read_stream(stream: BinaryIO, name: str, format: str, reading: Reading) -> Iterator[Item]:
    """The records of an open file, without its compression."""
    if format == "parquet":
        yield from tables.read_parquet(stream, name, reading.entry)
    elif format == "arrow":
        yield from tables.read_arrow(stream, name, reading.entry)
    elif format in ("csv", "tsv"):
        yield from tables.read_csv(to_utf8(stream, reading.entry.encoding), name, format, reading.entry)
    elif format == "json":
        yield from values.read_json(to_utf8(stream, reading.entry.encoding), name, reading.entry)
    else:
        utf8 = to_utf8(stream, reading.entry.encoding)
        names = names_to_read(reading.entry)
        for line, raw in split_documents(utf8, format):
            yield read_one(name, line, raw, format, reading.entry, names)

"""Read the records of files of any format."""

import codecs
import contextlib
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import BinaryIO, cast

import pyarrow as pa

from reprise.documents.read import containers, tables, values
from reprise.documents.read.encoding import to_utf8
from reprise.documents.read.fields import UnreadableError, names_to_read
from reprise.documents.read.files import SkippedFile, SourceFile
from reprise.documents.read.formats import ARCHIVES, DAMAGED, PAGES, SEEKING, format_of
from reprise.documents.read.parsing import PageParser
from reprise.documents.read.record import (
    MAX_DOCUMENT_BYTES,
    Item,
    Record,
    Reject,
    as_record,
    excerpt_of,
    read_one,
    split_documents,
)
from reprise.documents.read.remote import is_remote
from reprise.documents.read.spans import Span, SpanStream
from reprise.documents.read.streams import damaged, decompress, open_raw
from reprise.errors import UserError
from reprise.recipe.documents import Input
from reprise.storage import printable

__all__ = ["Item", "Record", "Reject", "SourceFile", "read_records"]


_HELD_BYTES = 64 << 20
"""Bytes of a table in an archive that are kept in memory; a larger one is written to a temporary file."""


@dataclass(frozen=True)
class Reading:
    """How files are read."""

    entry: Input
    parser: PageParser
    skip: Callable[[SkippedFile], None] = lambda skipped: None
    """Called with each skipped member of an archive."""


def read_records(
    file: SourceFile,
    entry: Input,
    skip: Callable[[SkippedFile], None] | None = None,
    parser: PageParser | None = None,
) -> Iterator[Item]:
    """Yield the records of a file in order; keeps one in memory at a time, or one batch of a table's rows.

    Args:
        file: the file to read.
        entry: its input in the recipe.
        skip: called with each skipped member of an archive; None: not reported.
        parser: converts web pages, PDF and the like; None: a new one is started.

    Raises:
        UserError: the file cannot be read at all, is damaged, or lacks the column with the text.
    """
    if parser is None:
        with PageParser() as parser:
            yield from read_records(file, entry, skip, parser)
        return
    reading = Reading(entry, parser) if skip is None else Reading(entry, parser, skip)
    line = 0
    try:
        with contextlib.closing(open_raw(file.path)) as raw:
            compression = None if file.format in SEEKING else format_of(file.path).compression
            for item in read_stream(decompress(raw, compression), printable(file.path), file.format, reading):
                line = item.line
                yield item
    except UserError:
        raise
    except failures(file) as error:
        raise damaged(printable(file.path), line + 1, error) from error


def failures(file: SourceFile) -> tuple[type[Exception], ...]:
    """Exceptions that reading the file may raise; for a URL, any that the library of its object store raises."""
    if is_remote(file.path):
        return (Exception,)
    # UnicodeDecodeError: from names of columns, and of files in an archive.
    return (*DAMAGED, *containers.DAMAGED, OSError, pa.ArrowException, UnicodeDecodeError)


def read_span(file: SourceFile, entry: Input, span: Span) -> Iterator[Item]:
    """Yield the records of the lines in a span of a JSON Lines file; raises the errors of `read_records`."""
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
    """Yield the records of an open, uncompressed file."""
    entry = reading.entry
    if format == "parquet":
        yield from tables.read_parquet(stream, name, entry)
    elif format == "arrow":
        yield from tables.read_arrow(stream, name, entry)
    elif format in ("csv", "tsv"):
        yield from tables.read_csv(to_utf8(stream, entry.encoding), name, format, entry)
    elif format == "json":
        yield from values.read_json(to_utf8(stream, entry.encoding), name, entry)
    elif format == "warc":
        yield from _read_warc(stream, name, reading)
    elif format in ("tar", "zip"):
        yield from _read_archive(stream, name, format, reading)
    elif format in PAGES:
        data = stream.read(MAX_DOCUMENT_BYTES + 1)
        yield from _read_pages(data if len(data) <= MAX_DOCUMENT_BYTES else None, name, 1, format, reading)
    else:
        names = names_to_read(entry)
        for line, raw in split_documents(to_utf8(stream, entry.encoding), format):
            yield read_one(name, line, raw, format, entry, names)


def _read_pages(
    data: bytes | None, name: str, line: int, format: str, reading: Reading, *, in_warc: bool = False
) -> Iterator[Item]:
    """The document of a page, or of each chapter of a book or page of a PDF, with its index as the line."""
    entry = reading.entry
    try:
        if data is None:
            raise UnreadableError("too_long")
        way = entry.pdf if format == "pdf" and not in_warc else entry.html
        texts = reading.parser.parse(format, way, data, seconds=entry.parse_seconds, memory_gb=entry.parse_memory_gb)
        if not any(texts):
            raise UnreadableError("no_text_inside")
    except UnreadableError as reason:
        yield Reject(name, line, str(reason), "")
        return
    for chapter, text in enumerate(texts, line):
        if text:
            try:
                yield as_record(name, chapter, {"text": text.replace("\0", "")}, entry)
            except UnreadableError as reason:
                yield Reject(name, chapter, str(reason), excerpt_of(text))


_CONTENT_TYPES = {"text/html": "html", "application/xhtml+xml": "html", "text/plain": "text", "application/pdf": "pdf"}


def _read_warc(stream: BinaryIO, name: str, reading: Reading) -> Iterator[Item]:
    """The pages in a WARC file, with the index of the record as the line."""
    for response in containers.read_warc(stream, MAX_DOCUMENT_BYTES):
        kind = _CONTENT_TYPES.get(response.content_type)
        size = len(response.content or b"")
        if response.status != HTTPStatus.OK:
            reading.skip(SkippedFile(name, f"HTTP status {response.status}", size, response.content_type))
        elif kind is None:
            reading.skip(SkippedFile(name, "content type", size, response.content_type or "no content type"))
        elif kind == "text" and response.content is not None:
            text = to_utf8(io.BytesIO(response.content), reading.entry.encoding).read()
            yield read_one(name, response.index, text, "text", reading.entry, {})
        else:
            yield from _read_pages(response.content, name, response.index, kind, reading, in_warc=True)


def _read_archive(stream: BinaryIO, name: str, format: str, reading: Reading) -> Iterator[Item]:
    """The documents of the files in an archive; each is named `ARCHIVE!FILE`."""
    for member in containers.read_tar(stream) if format == "tar" else containers.read_zip(stream):
        path = f"{name}!{printable(member.name)}"
        kind = format_of(member.name)
        if member.kind:
            reading.skip(SkippedFile(path, f"{member.kind} in an archive", member.size))
        elif any(part.startswith(".") for part in PurePosixPath(member.name).parts):
            reading.skip(SkippedFile(path, "hidden", member.size))
        elif kind.format is None or kind.format in ARCHIVES:
            reason = "unknown extension" if kind.format is None else "archive in an archive"
            reading.skip(SkippedFile(path, reason, member.size))
        elif member.stream is None:
            yield Reject(path, 1, "encrypted", "")
        elif kind.format in SEEKING:
            with tempfile.SpooledTemporaryFile(_HELD_BYTES) as held:
                shutil.copyfileobj(member.stream, held)
                held.seek(0)
                yield from read_stream(cast(BinaryIO, held), path, kind.format, reading)
        else:
            yield from read_stream(decompress(member.stream, kind.compression), path, kind.format, reading)

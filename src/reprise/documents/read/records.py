"""Files to records, one at a time: a record is a document of its file, or the reason why it is none."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from reprise.documents.read.files import DAMAGED, SourceFile, open_file
from reprise.documents.read.remote import is_remote
from reprise.errors import UserError
from reprise.recipe.documents import Input
from reprise.recipe.languages.codes import find_language, is_undetermined

MAX_DOCUMENT_BYTES = 64 << 20
"""A longer line or text file is rejected: one document must fit into the memory of a worker many times over."""

FIELDS = ("text", "id", "lang", "source", "topic", "origin", "split")

_EXCERPT_CHARS = 200


@dataclass(frozen=True)
class Record:
    """A document as its file gives it."""

    line: int
    """Line or row, counted from 1."""
    fields: dict[str, str | None]
    """Known field -> value."""


@dataclass(frozen=True)
class Reject:
    """A document that cannot be read."""

    file: str
    line: int
    reason: str
    excerpt: str


class _UnreadableError(Exception):
    """The reason why a record is none."""


def read_records(file: SourceFile, entry: Input) -> Iterator[Record | Reject]:
    """The records of a file in order; holds one at a time, or one row group of Parquet's batches.

    Raises:
        UserError: the file cannot be read at all, is damaged, or lacks the column that holds the text.
    """
    if file.format == "parquet":
        yield from _read_parquet(file, entry)
        return
    line = 0
    with open_file(file.path) as stream:
        try:
            for line, raw in _documents(stream, file.format):
                yield _read_one(file, entry, line, raw)
        except _failures(file, *DAMAGED) as error:
            what = "is damaged or cut off" if isinstance(error, DAMAGED) else "cannot be read"
            raise UserError(
                f"the file {what}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
                where=f"{file.path}:{line + 1}",
                remedy="get the file again, or take it out of documents.inputs",
            ) from error


def _failures(file: SourceFile, *known: type[Exception]) -> tuple[type[Exception], ...]:
    """What reading the file may raise; behind a URL that is whatever the store's library raises when it says no."""
    return (Exception,) if is_remote(file.path) else (*known, OSError)


def _documents(stream: BinaryIO, format: str) -> Iterator[tuple[int, bytes | None]]:
    """(line, bytes) of each document; None for one that is too long, which is passed over without being held."""
    if format == "text":
        raw = stream.read(MAX_DOCUMENT_BYTES + 1)
        yield 1, raw if len(raw) <= MAX_DOCUMENT_BYTES else None
        return
    number = 0
    while raw := stream.readline(MAX_DOCUMENT_BYTES + 1):
        number += 1
        if len(raw) <= MAX_DOCUMENT_BYTES:
            if raw.strip():
                yield number, raw
            continue
        yield number, None
        while raw and not raw.endswith(b"\n"):
            raw = stream.readline(1 << 20)


def _read_one(file: SourceFile, entry: Input, line: int, raw: bytes | None) -> Record | Reject:
    try:
        if raw is None:
            raise _UnreadableError("too_long")
        try:
            text = raw.decode("utf-8-sig" if line == 1 else "utf-8")
        except UnicodeDecodeError:
            raise _UnreadableError("not_utf8") from None
        values = {"text": text} if file.format == "text" else _parse_object(text, entry)
        return Record(line, _check_fields(values, entry))
    except _UnreadableError as reason:
        return Reject(file.path, line, str(reason), _excerpt(raw))


def _excerpt(raw: bytes | None) -> str:
    return "" if raw is None else raw[: 4 * _EXCERPT_CHARS].decode("utf-8", "backslashreplace")[:_EXCERPT_CHARS].strip()


def _parse_object(text: str, entry: Input) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise _UnreadableError("not_json") from None
    if not isinstance(value, dict):
        raise _UnreadableError("not_an_object")
    return {name: value.get(entry.fields.get(name, name)) for name in _wanted(entry)}


def _wanted(entry: Input) -> list[str]:
    """Fields to take. `origin` and `split` often mean something else in files: they count only where mapped."""
    return [name for name in FIELDS if name in entry.fields or name not in ("origin", "split")]


def _check_fields(values: dict[str, Any], entry: Input) -> dict[str, str | None]:
    text = values.get("text")
    if text is None:
        raise _UnreadableError("no_text")
    if not isinstance(text, str):
        raise _UnreadableError("text_is_not_a_string")
    if not text.strip("\ufeff \t\r\n\x00"):
        raise _UnreadableError("empty_text")
    if isinstance(values.get("id"), int) and not isinstance(values["id"], bool):
        values["id"] = str(values["id"])
    values.update(entry.constants)
    for name, value in values.items():
        if value is not None and not isinstance(value, str):
            raise _UnreadableError(f"{name}_is_not_a_string")
        try:
            (value or "").encode("utf-8")
        except UnicodeEncodeError:
            raise _UnreadableError("lone_surrogate") from None
    if values.get("lang"):
        values["lang"] = _language_of(values["lang"])
    if not values.get("source"):
        raise _UnreadableError("no_source")
    if values.get("split") not in (None, "train", "valid"):
        raise _UnreadableError("split_is_not_train_or_valid")
    if "split" in entry.fields and values.get("split") is None:
        raise _UnreadableError("no_split")
    return {name: values.get(name) or None for name in FIELDS}


def _language_of(code: str) -> str | None:
    """The normalised code; None where the file says that it does not know, so that the language is detected."""
    language = find_language(code)
    if language is None and not is_undetermined(code):
        raise _UnreadableError("unknown_language_code")
    return language


def _read_parquet(file: SourceFile, entry: Input) -> Iterator[Record | Reject]:
    try:
        with pq.ParquetFile(open_file(file.path) if is_remote(file.path) else file.path) as parquet:
            columns = _parquet_columns(file, entry, parquet.schema_arrow)
            row = 0
            for batch in parquet.iter_batches(batch_size=256, columns=list(columns.values())):
                for values in pa.Table.from_batches([batch]).to_pylist():
                    row += 1
                    yield _read_row(file, entry, row, {name: values[column] for name, column in columns.items()})
    except UserError:
        raise
    except _failures(file, pa.ArrowException) as error:
        raise UserError(
            f"the Parquet file cannot be read: {str(error).splitlines()[0]}",
            where=file.path,
            remedy="get the file again, or take it out of documents.inputs",
        ) from error


def _parquet_columns(file: SourceFile, entry: Input, schema: pa.Schema) -> dict[str, str]:
    """Field -> column, for the fields that the file has."""
    columns = {name: entry.fields.get(name, name) for name in _wanted(entry)}
    for name, column in columns.items():
        if (name == "text" or name in entry.fields) and column not in schema.names:
            raise UserError(
                f"there is no column {column!r} for the field {name}; the columns are {', '.join(schema.names)}",
                where=file.path,
                remedy=f"map it in documents.inputs: `fields: {{{name}: COLUMN}}`",
            )
    for column in columns.values():
        if schema.names.count(column) > 1:
            raise UserError(
                f"there are {schema.names.count(column)} columns {column!r}",
                where=file.path,
                remedy="rename all but one of them",
            )
    kind = schema.field(columns["text"]).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
                                       pa.types.is_binary, pa.types.is_large_binary)):  # fmt: skip
        raise UserError(
            f"the column {columns['text']!r} holds {kind}, not text",
            where=file.path,
            remedy="map the right one in documents.inputs: `fields: {text: COLUMN}`",
        )
    return {name: column for name, column in columns.items() if column in schema.names}


def _read_row(file: SourceFile, entry: Input, row: int, values: dict[str, Any]) -> Record | Reject:
    text = values["text"]
    raw = text if isinstance(text, bytes) else None
    try:
        if raw is not None:
            try:
                values["text"] = raw.decode("utf-8")
            except UnicodeDecodeError:
                raise _UnreadableError("not_utf8") from None
        return Record(row, _check_fields(values, entry))
    except _UnreadableError as reason:
        return Reject(file.path, row, str(reason), _excerpt(raw) if raw else str(text or "")[:_EXCERPT_CHARS])

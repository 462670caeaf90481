"""Read tables: Parquet, Arrow (as written by `save_to_disk` of Hugging Face datasets), CSV and TSV."""

import csv
import io
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reprise.documents.read import record
from reprise.documents.read.conversations import is_told, names_of_conversations
from reprise.documents.read.fields import UnreadableError, find_value, names_to_read
from reprise.errors import UserError
from reprise.recipe.documents import Input

_BATCH_ROWS = 256
_ARROW_FILE = b"ARROW1"


def read_parquet(stream: BinaryIO, name: str, entry: Input) -> Iterator[record.Item]:
    """Yield the rows of a Parquet file; only the required columns are read."""
    with pq.ParquetFile(stream) as file:
        columns = _Columns(name, entry, file.schema_arrow)
        yield from columns.read(file.iter_batches(batch_size=_BATCH_ROWS, columns=columns.paths()))


def read_arrow(stream: BinaryIO, name: str, entry: Input) -> Iterator[record.Item]:
    """Yield the rows of an Arrow file or stream."""
    is_file = stream.read(len(_ARROW_FILE)) == _ARROW_FILE
    stream.seek(0)
    if is_file:
        file = pa.ipc.open_file(stream)
        columns = _Columns(name, entry, file.schema)
        batches = (file.get_batch(index) for index in range(file.num_record_batches))
        yield from columns.read(columns.checked(batch) for batch in batches)
    else:
        reader = pa.ipc.open_stream(stream)
        columns = _Columns(name, entry, reader.schema)
        yield from columns.read(map(columns.checked, reader))


class _Columns:
    """Which columns of a table contain the fields of a document."""

    def __init__(self, name: str, entry: Input, schema: pa.Schema) -> None:
        self._name, self._entry = name, entry
        self._columns: dict[str, tuple[list[str], str]] = {}
        """Field -> (column and nested struct fields, rest of the dotted name)."""
        self._others = _conversation_columns(schema, entry)
        """The same for the columns of conversations."""
        for field, column in names_to_read(entry).items():
            located = _locate(schema, column)
            if located is not None:
                self._columns[field] = located
            elif (field == "text" and not self._others) or field in entry.fields:
                raise UserError(
                    f"there is no column {column!r} for the field {field}; the columns are {', '.join(schema.names)}",
                    where=name,
                    remedy=f"map it in documents.inputs: `fields: {{{field}: COLUMN}}`",
                )
        for path, _ in [*self._columns.values(), *self._others.values()]:
            if schema.names.count(path[0]) > 1:
                raise UserError(
                    f"there are {schema.names.count(path[0])} columns {path[0]!r}",
                    where=name,
                    remedy="rename all but one of them",
                )
        if "text" in self._columns:
            self._check_text(schema)

    def _check_text(self, schema: pa.Schema) -> None:
        path, rest = self._columns["text"]
        kind = schema.field(path[0]).type
        for child in path[1:]:
            kind = kind.field(child).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not rest and not _is_text(kind) and not _is_binary(kind):
            raise UserError(
                f"the column {'.'.join(path)!r} holds {kind}, not text",
                where=self._name,
                remedy="map the right one in documents.inputs: `fields: {text: COLUMN}`",
            )

    def paths(self) -> list[str]:
        """Dotted names of the columns to read."""
        paths = [*self._columns.values(), *self._others.values()]
        return list(dict.fromkeys(".".join(path) for path, _ in paths))

    def checked(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Validate a batch: Arrow does not check offsets and sizes in a file, and wrong ones make it read any memory.

        Raises:
            pa.ArrowInvalid: an offset or a size is wrong.
        """
        for name in dict.fromkeys(path[0] for path, _ in [*self._columns.values(), *self._others.values()]):
            column = batch.column(batch.schema.names.index(name))
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                # As bytes: text that is not UTF-8 rejects its row, not the file.
                column = column.view(pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary())
            column.validate(full=True)
        return batch

    def read(self, batches: Iterator[pa.RecordBatch]) -> Iterator[record.Item]:
        """Yield the records of all rows."""
        row = 0
        for batch in batches:
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                rows = batch.slice(start, _BATCH_ROWS)
                values = {field: _values(rows, path) for field, (path, _) in self._columns.items()}
                others = {name: _values(rows, path) for name, (path, _) in self._others.items()}
                for index in range(rows.num_rows):
                    row += 1
                    yield self._read_row(
                        row,
                        {field: column[index] for field, column in values.items()},
                        {name: column[index] for name, column in others.items()},
                    )

    def _read_row(self, row: int, values: dict[str, Any], others: dict[str, Any]) -> record.Item:
        text = values.get("text") or next(iter(others.values()), None)
        try:
            self._decode(values, self._columns)
            self._decode(others, self._others)
            return record.as_record(self._name, row, values, self._entry, others.get if others else None)
        except UnreadableError as reason:
            excerpt = text if isinstance(text, bytes) else str("" if text in (None, _UNDECODABLE) else text)
            return record.Reject(self._name, row, str(reason), record.excerpt_of(excerpt))

    def _decode(self, values: dict[str, Any], columns: dict[str, tuple[list[str], str]]) -> None:
        """Decode bytes of text columns, and look up the rest of each dotted name inside other columns."""
        for field, value in values.items():
            if value is _UNDECODABLE:
                raise UnreadableError("not_utf8")
            if isinstance(value, _Utf8) or (field == "text" and isinstance(value, bytes)):
                values[field] = record.decode(bytes(value), self._entry)
            if rest := columns[field][1]:
                values[field] = find_value(values[field], rest)


def _conversation_columns(schema: pa.Schema, entry: Input) -> dict[str, tuple[list[str], str]]:
    """The columns of conversations, if the recipe maps them or there is no text column."""
    if not is_told(entry) and ("text" in entry.fields or "text" in schema.names):
        return {}
    names = [name for field_names in names_of_conversations(entry).values() for name in field_names]
    located = {name: _locate(schema, name) for name in names}
    return {name: where for name, where in located.items() if where is not None}


class _Utf8(bytes):
    """Bytes from a column whose type is text."""


_UNDECODABLE = object()
"""Replaces a value that Arrow cannot convert to Python, because of invalid UTF-8 somewhere inside."""


def _locate(schema: pa.Schema, name: str) -> tuple[list[str], str] | None:
    """Column of a dotted name, its nested struct fields, and the rest of the name; None if there is no such column."""
    if name in schema.names:
        return [name], ""
    for cut in (index for index, char in enumerate(name) if char == "."):
        if name[:cut] in schema.names:
            path, rest = [name[:cut]], name[cut + 1 :]
            kind = schema.field(name[:cut]).type if schema.names.count(name[:cut]) == 1 else pa.null()
            while rest and pa.types.is_struct(kind):
                child = next((c for c in _heads(rest) if kind.get_field_index(c) >= 0), None)
                if child is None:
                    return None
                path.append(child)
                kind, rest = kind.field(child).type, rest[len(child) + 1 :]
            return (path, rest) if not rest or pa.types.is_list(kind) or pa.types.is_large_list(kind) else None
    return None


def _heads(name: str) -> Iterator[str]:
    """For `a.b`, yield `a.b`, then `a`: longest first."""
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(len(parts), 0, -1))


def _values(rows: pa.RecordBatch, path: list[str]) -> list[Any]:
    """The values of a column, text as _Utf8 bytes, because Arrow does not check that it is valid."""
    column = rows.column(rows.schema.names.index(path[0]))
    for child in path[1:]:
        column = pc.struct_field(column, child)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if _is_text(column.type):
        as_bytes = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
        return [None if value is None else _Utf8(value) for value in column.cast(as_bytes).to_pylist()]
    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        return [_as_python(value) for value in column]


def _as_python(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return _UNDECODABLE


def _is_text(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _is_binary(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


def read_csv(stream: BinaryIO, name: str, format: str, entry: Input) -> Iterator[record.Item]:
    """Yield the rows of a text table whose first line names the columns; the line of a record is the one where it ends.

    Raises:
        UserError: a required column does not exist, or a quotation mark is not closed.
    """
    csv.field_size_limit(record.MAX_DOCUMENT_BYTES)
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    reader = csv.reader(text, delimiter="\t" if format == "tsv" else ",", strict=True)
    names = names_to_read(entry)
    try:
        header = next(reader, [])
        others = _conversation_header(header, entry)
        _check_header(header, names, name, entry, needs_text=not others)
        columns = {field: header.index(column) for field, column in names.items() if column in header}
        for row in reader:
            if not row:
                continue
            yield _read_csv_row(name, reader.line_num, row, len(header), columns, entry, others)
    except csv.Error as error:
        raise UserError(
            f"the table is damaged: {error}", where=f"{name}:{reader.line_num}", remedy="correct its quotation marks"
        ) from None


def _conversation_header(header: list[str], entry: Input) -> dict[str, int]:
    """Name -> column of the conversation fields, if the recipe maps them or there is no text column."""
    if not is_told(entry) and ("text" in entry.fields or "text" in header):
        return {}
    names = [name for field_names in names_of_conversations(entry).values() for name in field_names]
    return {name: header.index(name) for name in names if name in header}


def _check_header(
    header: list[str], names: dict[str, str], name: str, entry: Input, *, needs_text: bool = True
) -> None:
    for field, column in names.items():
        if header.count(column) > 1:
            raise UserError(
                f"there are {header.count(column)} columns {column!r}", where=f"{name}:1", remedy="rename all but one"
            )
        if column not in header and ((field == "text" and needs_text) or field in entry.fields):
            raise UserError(
                f"there is no column {column!r} for the field {field}; the columns are {', '.join(header)[:300]}",
                where=f"{name}:1",
                remedy=f"map it in documents.inputs: `fields: {{{field}: COLUMN}}`",
            )


def _read_csv_row(
    name: str,
    line: int,
    row: list[str],
    num_columns: int,
    columns: dict[str, int],
    entry: Input,
    others: dict[str, int],
) -> record.Item:
    try:
        if len(row) != num_columns:
            raise UnreadableError("wrong_number_of_columns")
        values, more = (
            {field: record.decode(row[column].encode("utf-8", "surrogateescape"), entry) or None
             for field, column in fields.items()}
            for fields in (columns, others)
        )  # fmt: skip
        return record.as_record(name, line, dict(values), entry, more.get if more else None)
    except UnreadableError as reason:
        return record.Reject(name, line, str(reason), record.excerpt_of(",".join(row)))

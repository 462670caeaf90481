"""JSON files: JSON Lines named .json, an array of objects, or objects one after another on any lines."""

import functools
import io
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from reprise.documents.read import record
from reprise.documents.read.fields import UnreadableError, find_value, names_to_read
from reprise.documents.read.streams import peek
from reprise.errors import UserError
from reprise.recipe.documents import Input

_LOOKED_AT = 1 << 20
_BLOCK = 1 << 20
_SPACE = " \t\r\n"


def read_json(stream: BinaryIO, name: str, entry: Input) -> Iterator[record.Item]:
    """Yield the documents of a JSON file; each element of an array is one, and its index is its line.

    Raises:
        UserError: what follows a document is not JSON: it is unknown what would be lost.
    """
    head, stream = peek(stream, _LOOKED_AT)
    names = names_to_read(entry)
    if _is_json_lines(head):
        for line, raw in record.split_documents(stream, "jsonl"):
            yield record.read_one(name, line, raw, "jsonl", entry, names)
        return
    for index, (value, text) in enumerate(_top_values(stream, name), 1):
        try:
            if not text.isascii() and "\udc80" <= max(text) <= "\udcff":
                raise UnreadableError("not_utf8")
            if not isinstance(value, dict):
                raise UnreadableError("not_an_object")
            fields = {field: find_value(value, key) for field, key in names.items()}
            yield record.as_record(name, index, fields, entry, functools.partial(find_value, value))
        except UnreadableError as reason:
            yield record.Reject(name, index, str(reason), record.excerpt_of(text))


def _is_json_lines(head: bytes) -> bool:
    """Whether the first line that is not blank is a complete object, so that no JSON value continues after it."""
    for line in head.splitlines()[:100]:
        if line.strip():
            try:
                return isinstance(json.loads(line), dict)
            except (ValueError, RecursionError):
                return False
    return False


def _top_values(stream: BinaryIO, name: str) -> Iterator[tuple[Any, str]]:
    """Yield each element of the array, or each value in the file, with its text; keeps one in memory at a time."""
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    decoder = json.JSONDecoder()
    buffer, start, count, in_array = "", 0, 0, False
    at_end = False
    while True:
        start = _skip_space(buffer, start)
        if start == len(buffer) and not at_end:
            buffer, start = text.read(_BLOCK), 0
            at_end = not buffer
            continue
        if start == len(buffer):
            if in_array:
                raise _damaged(name, count, "the array has no end")
            return
        if count == 0 and not in_array and buffer[start] == "[":
            in_array, start = True, start + 1
            continue
        if in_array and buffer[start] in ",]":
            in_array = buffer[start] == ","
            start += 1
            continue
        try:
            value, end = decoder.raw_decode(buffer, start)
            # A number may continue in the next block.
            complete = end < len(buffer) or at_end
        except (ValueError, RecursionError) as error:
            complete = False
            if at_end or len(buffer) - start > record.MAX_DOCUMENT_BYTES:
                raise _damaged(name, count, str(error)) from None
        if not complete:
            more = text.read(max(_BLOCK, len(buffer) - start))
            at_end = not more
            buffer, start = buffer[start:] + more, 0
            continue
        count += 1
        yield value, buffer[start:end]
        start = end


def _skip_space(buffer: str, start: int) -> int:
    while start < len(buffer) and buffer[start] in _SPACE:
        start += 1
    return start


def _damaged(name: str, count: int, what: str) -> UserError:
    return UserError(
        f"what follows document {count} is no JSON: {what}",
        where=f"{name}:{count + 1}",
        remedy="correct the file, or set `format: jsonl` if it holds one object to a line",
    )

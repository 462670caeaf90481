"""A record: a document as read from its file, or the reason why it cannot be read."""

import contextlib
import functools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from reprise.documents.read.conversations import (
    UNANSWERED,
    Lookup,
    find_conversation,
    is_told,
    may_be_recognised,
)
from reprise.documents.read.fields import UnreadableError, check_fields, find_value
from reprise.documents.read.formats import NO_TEXT_FILES
from reprise.model.conversation import dump_messages, text_of
from reprise.recipe.documents import Input

MAX_DOCUMENT_BYTES = 64 << 20
"""Longer lines and text files are rejected: a document must fit into the memory of a worker many times over."""

_EXCERPT_CHARS = 200


@dataclass(frozen=True)
class Record:
    """A document as read from its file."""

    file: str
    """Path as shown to the user."""
    line: int
    """Line or row, from 1."""
    fields: dict[str, str | None]
    """Known field -> value."""
    left_out: tuple[str, ...] = ()
    """Fields that were skipped because their value is not text."""


@dataclass(frozen=True)
class Reject:
    """A document that cannot be read, and why."""

    file: str
    line: int
    reason: str
    excerpt: str


Item = Record | Reject


def split_documents(
    stream: BinaryIO, format: str, first_line: int = 1, size: Callable[[], float] = lambda: math.inf
) -> Iterator[tuple[int, bytes | None]]:
    """Yield (line, bytes) of each document; None if it is too long, and skipped without being kept in memory.

    Args:
        stream: UTF-8 text.
        format: `text` (the whole stream is one document) or `jsonl`.
        first_line: line at which the stream begins, from 1; above 1, the stream begins inside the line before it.
        size: returns the offset in bytes at or after which no line may begin.
    """
    if format == "text":
        raw = stream.read(MAX_DOCUMENT_BYTES + 1)
        yield 1, raw if len(raw) <= MAX_DOCUMENT_BYTES else None
        return
    line, position = first_line - 1, 0
    if first_line > 1:
        position += _pass_line(stream)
    while position <= size() and (raw := stream.readline(MAX_DOCUMENT_BYTES + 1)):
        line += 1
        position += len(raw)
        if len(raw) > MAX_DOCUMENT_BYTES:
            yield line, None
            if not raw.endswith(b"\n"):
                position += _pass_line(stream)
        elif raw.strip():
            yield line, raw


def _pass_line(stream: BinaryIO) -> int:
    """Skip the rest of the line; returns its length in bytes."""
    count = 0
    while raw := stream.readline(1 << 20):
        count += len(raw)
        if raw.endswith(b"\n"):
            break
    return count


def read_one(file: str, line: int, raw: bytes | None, format: str, entry: Input, names: dict[str, str]) -> Item:
    """The record of one line of JSON Lines, or of a whole text file."""
    try:
        if raw is None:
            raise UnreadableError("too_long")
        if format == "text" and raw.startswith(NO_TEXT_FILES):
            raise UnreadableError("not_text")
        text = decode(raw, entry)
        if format == "text":
            return as_record(file, line, {"text": text}, entry)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise UnreadableError("not_json") from None
        if not isinstance(value, dict):
            raise UnreadableError("not_an_object")
        values = {field: find_value(value, name) for field, name in names.items()}
        return as_record(file, line, values, entry, functools.partial(find_value, value))
    except UnreadableError as reason:
        return Reject(file, line, str(reason), excerpt_of(raw))


def decode(raw: bytes, entry: Input) -> str:
    """Decode UTF-8; surrogates that were encoded separately are kept if they will be repaired.

    Raises:
        UnreadableError: it is not valid UTF-8.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        if entry.lone_surrogates == "repair" and entry.encoding in ("auto", "utf-8"):
            with contextlib.suppress(UnicodeDecodeError):
                return raw.decode("utf-8", "surrogatepass")
        raise UnreadableError("not_utf8" if entry.encoding == "auto" else "wrong_encoding") from None


def as_record(file: str, line: int, values: dict[str, Any], entry: Input, lookup: Lookup | None = None) -> Record:
    """The record with a document's values.

    Args:
        file: path as shown to the user.
        line: line or row, from 1.
        values: field -> value in the file.
        entry: the input in the recipe.
        lookup: returns the value of any other name in the record, for conversations; None if there are none.

    Raises:
        UnreadableError: the values are not a document.
    """
    unanswered = False
    if lookup is not None and (is_told(entry) or (values.get("text") is None and may_be_recognised(entry))):
        conversation = find_conversation(lookup, entry)
        if conversation is not None:
            messages, unanswered = conversation
            values = {**values, "text": text_of(messages), "messages": dump_messages(messages)}
    fields, left_out = check_fields(values, entry)
    return Record(file, line, fields, (*left_out, UNANSWERED) if unanswered else left_out)


def excerpt_of(raw: bytes | str | None) -> str:
    """The first characters of a document that cannot be read."""
    if raw is None:
        return ""
    if isinstance(raw, str):
        raw = raw[: 4 * _EXCERPT_CHARS].encode("utf-8", "backslashreplace")
    return raw[: 4 * _EXCERPT_CHARS].decode("utf-8", "backslashreplace")[:_EXCERPT_CHARS].strip()

"""Convert the values of a record to the fields of a document: nested names, types other than text, lone surrogates."""

import datetime
import decimal
import math
import uuid
from collections.abc import Mapping
from typing import Any

from reprise.recipe.documents import Input
from reprise.recipe.languages.codes import find_language, is_undetermined

FIELDS = ("text", "id", "lang", "source", "topic", "origin", "split", "licence")
_USUAL_NAMES = {"licence": "license", "origin": None, "split": None}
"""Names that are read if the recipe maps none; `origin` and `split` often mean something else in files."""
_OPTIONAL = ("id", "topic", "licence")
"""Fields that no stage requires: a value that cannot be converted to text is skipped and counted."""
_UUID_BYTES = 16


class UnreadableError(Exception):
    """The reason why a record is not a document."""


class _NoTextError(Exception):
    """A value that cannot be converted to one text."""


def names_to_read(entry: Input) -> dict[str, str]:
    """Field -> its name in the file."""
    names = {}
    for field in FIELDS:
        name = entry.fields.get(field, _USUAL_NAMES.get(field, field))
        if name is not None and not (field in entry.fields and entry.fields[field] is None):
            names[field] = name
    return names


def find_value(values: Any, name: str) -> Any:
    """The value of a name, or None; `a.b.0` looks inside objects and lists if no key is equal to the whole name."""
    if isinstance(values, Mapping):
        if name in values:
            return values[name]
        for cut in (index for index, char in enumerate(name) if char == "."):
            if name[:cut] in values:
                return find_value(values[name[:cut]], name[cut + 1 :])
    elif isinstance(values, list | tuple):
        head, _, rest = name.partition(".")
        if head.isdecimal() and int(head) < len(values):
            return find_value(values[int(head)], rest) if rest else values[int(head)]
    return None


def check_fields(values: dict[str, Any], entry: Input) -> tuple[dict[str, str | None], tuple[str, ...]]:
    """The fields of a document, and the names of fields that were skipped because their value is not text.

    Args:
        values: field -> value in the file.
        entry: the input in the recipe, with its constants.

    Raises:
        UnreadableError: the record is not a document; the message is the reason.
    """
    text = values.get("text")
    if text is None or (isinstance(text, float) and math.isnan(text)):
        raise UnreadableError("no_text")
    if not isinstance(text, str):
        raise UnreadableError("text_is_not_a_string")
    if not text.strip("\ufeff \t\r\n\x00"):
        raise UnreadableError("empty_text")
    fields: dict[str, str | None] = {"text": text}
    left_out = []
    for name, value in {**values, **entry.constants}.items():
        if name != "text":
            try:
                fields[name] = as_text(value)
            except _NoTextError:
                if name not in _OPTIONAL:
                    raise UnreadableError(f"{name}_is_not_a_string") from None
                left_out.append(name)
                fields[name] = None
    for name, value in fields.items():
        if value is not None and not value.isascii():
            fields[name] = _without_surrogates(value, entry)
    if fields.get("lang"):
        fields["lang"] = _language_of(str(fields["lang"]))
    if not fields.get("source"):
        raise UnreadableError("no_source")
    if fields.get("split") not in (None, "train", "valid"):
        raise UnreadableError("split_is_not_train_or_valid")
    if entry.fields.get("split") and fields.get("split") is None:
        raise UnreadableError("no_split")
    return {name: fields.get(name) or None for name in (*FIELDS, "messages")}, tuple(left_out)


def as_text(value: Any) -> str | None:
    """Convert a value of another type to text; None if it represents a missing value.

    Floats without a fractional part are written as integers (pandas turns an id into 1.0), bytes as UTF-8, or as a UUID
    if there are 16, or in hexadecimal; for `{"$oid": ...}` and for a list with one element, that value is converted.

    Raises:
        _NoTextError: the value contains several values, or none that is text.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, bytes):
        return _bytes_as_text(value)
    if isinstance(value, int | decimal.Decimal | datetime.date | datetime.time | uuid.UUID):
        return str(value)
    if isinstance(value, list | tuple) and len(value) == 1:
        return as_text(value[0])
    if isinstance(value, Mapping) and len(value) == 1 and next(iter(value)).startswith("$"):
        return as_text(next(iter(value.values())))
    raise _NoTextError


def _bytes_as_text(value: bytes) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if text.isprintable():
        return text
    return str(uuid.UUID(bytes=value)) if len(value) == _UUID_BYTES else value.hex()


def _without_surrogates(value: str, entry: Input) -> str:
    """The value, if it is valid Unicode text.

    Raises:
        UnreadableError: it contains a lone surrogate, and the recipe does not repair these.
    """
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        if entry.lone_surrogates == "reject":
            raise UnreadableError("lone_surrogate") from None
        # Adjacent halves are joined to one character; a single half becomes U+FFFD.
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def _language_of(code: str) -> str | None:
    """The normalised code; None if the file says that the language is unknown, so that it is detected."""
    language = find_language(code)
    if language is None and not is_undetermined(code):
        raise UnreadableError("unknown_language_code")
    return language

"""The types of value that settings have."""

import os
import re
import urllib.parse
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


class Settings(BaseModel):
    """Base class of every section of a recipe: unknown keys are errors, and values do not change after the check.

    The string below a field is its one-line doc; `reprise init` writes it as a comment.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    means: ClassVar[frozenset[str]] = frozenset()
    """Names of fields that change only the speed and the records of a stage, not what it writes."""
    path_fields: ClassVar[frozenset[str]] = frozenset()
    """Names of fields that contain paths. For files on this machine the content is compared, not the path."""

    def idle(self) -> frozenset[str]:
        """Names of fields that have no effect, given the values of the other fields."""
        return frozenset()


def decisive(value: Any) -> Any:
    """The part of a setting that can change the output of a stage, as JSON.

    The fields in `means` and `idle` are left out, and the paths of files on this machine: their content is included in
    the fingerprint separately.
    """
    if isinstance(value, Settings):
        names = [name for name in type(value).model_fields if name not in value.means | value.idle()]
        return {
            name: _outside(getattr(value, name)) if name in value.path_fields else decisive(getattr(value, name))
            for name in names
        }
    if isinstance(value, dict):
        return {str(key): decisive(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [decisive(inner) for inner in value]
    return value


def _outside(value: Any) -> Any:
    """The path, or null if it is on this machine."""
    if isinstance(value, list):
        return [_outside(inner) for inner in value]
    if not isinstance(value, str) or "://" in value:
        return value
    is_here = value.startswith("package:") or Path(value).expanduser().exists() or any(c in value for c in "*?[")
    return None if is_here else value


MAX_COUNT = 10**15
"""Largest count: 60 times the tokens of the largest training run so far."""


def parse_count(value: Any) -> Any:
    """Convert `92.5B`, `40M`, `8k` or a plain integer to an exact integer."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return value
    text = str(value).strip().replace("_", "").replace(",", "")
    suffix = text[-1:].lower() if text[-1:].lower() in "kmbt" else ""
    try:
        count = Decimal(text[: len(text) - len(suffix)]) * _SUFFIXES[suffix]
        is_whole = count == count.to_integral_value()
    except ArithmeticError:
        raise ValueError(f"{value!r} is not a count; write for example 92.5B, 40M, 8k or 512") from None
    if count.is_finite() and abs(count) > MAX_COUNT:
        raise ValueError(f"{value!r} is more than {float(MAX_COUNT):.0e}")
    if not count.is_finite() or not is_whole:
        raise ValueError(f"{value!r} is not an integer")
    return int(count)


Count = Annotated[int, BeforeValidator(parse_count), Field(ge=0)]
"""A count of tokens, documents or rows: an integer, or text with the suffix k, M, B or T."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A share of a whole, 0 to 1."""


def check_server_url(url: str) -> str:
    """The address without a trailing slash; ValueError if it is not an address, or contains credentials."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable() or " " in url:
        raise ValueError("write an address with http:// or https://, such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query:
        raise ValueError("an address in the recipe carries no key; put the key into the variable of api_key_env")
    if parts.port == 0:  # the property raises ValueError for one above 65535
        raise ValueError("no server has the port 0")
    return url.rstrip("/")


ServerUrl = Annotated[str, AfterValidator(check_server_url)]
"""Address of a server, without credentials."""


_SIGNED = re.compile(
    r"(?:^|[-_.])(?:signature|sig|token|credential|secret|password|passwd|api-?key|apikey|accesskeyid|key)$",
    re.IGNORECASE,
)


def holds_credentials(address: str) -> bool:
    """Whether an address contains a password or a signature: `user:password@`, or a query such as
    `X-Amz-Signature=`."""
    if "://" not in address:
        return False
    try:
        parts = urllib.parse.urlsplit(address)
        queries = urllib.parse.parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return True
    return bool(parts.username or parts.password) or any(_SIGNED.search(name) for name, _ in queries)


def check_path(path: str) -> str:
    """The path; ValueError if no file can have it. An empty path would be the current folder."""
    if not path.strip() or "\0" in path:
        raise ValueError("write the path of a file or folder")
    if path.startswith("~") and os.path.expanduser(path) == path:  # noqa: PTH111  pathlib raises RuntimeError
        raise ValueError("there is no such home folder; write the whole path, or `./~...` for a file of this name")
    return path


def check_folder(path: str) -> str:
    """The path with the user's home folder instead of `~`."""
    return os.path.expanduser(check_path(path))  # noqa: PTH111  keeps what pathlib would rewrite


FolderPath = Annotated[str, AfterValidator(check_folder)]
"""A folder that is written to."""

AnyPath = Annotated[str, AfterValidator(check_path)]
"""A file or folder, or a name that represents one."""


def check_input_path(path: str) -> str:
    """The path; ValueError, without repeating it, if it is an address with a password or a signature."""
    check_path(path)
    if holds_credentials(path):
        raise ValueError(
            "an address in the recipe carries no password or signature, as recipe.yaml and the origin of each document "
            "would repeat it; put credentials into the environment (docs/documents.md), or download the file first"
        )
    return path


InputPath = Annotated[str, AfterValidator(check_input_path)]
"""File, folder, glob or address of documents, without credentials."""


def check_mirror_url(url: str) -> str:
    """The URL without a trailing slash; ValueError if it is not one of a bucket, or contains credentials."""
    if not url:
        return url
    parts = urllib.parse.urlsplit(check_input_path(url))
    if parts.scheme not in ("s3", "gs") or not parts.netloc or parts.query or parts.fragment or not url.isprintable():
        raise ValueError("write s3://bucket/folder or gs://bucket/folder, or nothing for a run without a mirror")
    if not parts.path.strip("/"):
        raise ValueError(f"name a folder of this run in the bucket, such as {url.rstrip('/')}/my-run")
    if any(part in ("", ".", "..") for part in parts.path.strip("/").split("/")):
        raise ValueError("write the folder without empty parts, `.` and `..`")
    return url.rstrip("/")


MirrorUrl = Annotated[
    str, BeforeValidator(lambda value: "" if value is None else value), AfterValidator(check_mirror_url)
]
"""Folder in a bucket of an object store, without credentials; empty: none."""


def check_key_variable(name: str) -> str:
    """The name of an environment variable; ValueError, without repeating it, if it looks like a key itself."""
    looks_like_a_key = len(name) >= 16 and "_" not in name and sum(char.isdigit() for char in name) >= 2
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name) or looks_like_a_key:
        raise ValueError(
            "write the name of an environment variable in capitals, such as OPENAI_API_KEY; "
            "if this was the key itself, it belongs into that variable"
        )
    return name


KeyVariable = Annotated[str, AfterValidator(check_key_variable)]
"""Name of the environment variable that contains a key."""

CONFIDENTIAL = frozenset({"base_url", "api_key_env"})
"""Settings whose invalid values are never shown: they may contain a password or a key."""


def check_sum(shares: dict[str, float], what: str) -> None:
    """Raise ValueError unless the shares sum to 1 within 1e-6."""
    total = sum(shares.values())
    if abs(total - 1.0) > 1e-6:
        listing = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        raise ValueError(f"{what} must sum to 1 but sum to {total:.6g} ({listing})")

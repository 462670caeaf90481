"""The kinds of value that settings are made of."""

import urllib.parse
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


class Settings(BaseModel):
    """Base of every section of a recipe: unknown keys are errors, values do not change after the check.

    The string under a field is its one-line doc; `reprise init` writes it as the comment.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)

    means: ClassVar[frozenset[str]] = frozenset()
    """Names of fields that change nothing in what a stage writes but its speed and its records."""


def parse_count(value: Any) -> Any:
    """Turn `92.5B`, `40M`, `8k` or a plain integer into an exact integer."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return value
    text = str(value).strip().replace("_", "").replace(",", "")
    suffix = text[-1:].lower() if text[-1:].lower() in "kmbt" else ""
    try:
        number = Decimal(text[: len(text) - len(suffix)]) * _SUFFIXES[suffix]
        is_whole = number == number.to_integral_value()
    except InvalidOperation:
        raise ValueError(f"{value!r} is not a count; write for example 92.5B, 40M, 8k or 512") from None
    if not number.is_finite() or not is_whole:
        raise ValueError(f"{value!r} is not a whole number")
    return int(number)


Count = Annotated[int, BeforeValidator(parse_count), Field(ge=0)]
"""A number of things (tokens, documents, rows): an integer, or text with the suffix k, M, B or T."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A part of a whole, 0 to 1."""


def check_server_url(url: str) -> str:
    """The address without a slash at its end; ValueError where it is none, or carries a key."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("write an address with http:// or https://, such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query:
        raise ValueError("an address in the recipe carries no key; put the key into the variable of api_key_env")
    return url.rstrip("/")


ServerUrl = Annotated[str, AfterValidator(check_server_url)]
"""Address of a server, without credentials."""


def check_sum(shares: dict[str, float], what: str) -> None:
    """Raise ValueError unless the shares sum to 1 within 1e-6."""
    total = sum(shares.values())
    if abs(total - 1.0) > 1e-6:
        listing = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        raise ValueError(f"{what} must sum to 1 but sum to {total:.6g} ({listing})")

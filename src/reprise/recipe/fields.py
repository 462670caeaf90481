"""The kinds of value that settings are made of."""

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


class Settings(BaseModel):
    """Base of every section of a recipe: unknown keys are errors, values do not change after the check.

    The string under a field is its one-line doc; `reprise init` writes it as the comment.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


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


def check_sum(shares: dict[str, float], what: str) -> None:
    """Raise ValueError unless the shares sum to 1 within 1e-6."""
    total = sum(shares.values())
    if abs(total - 1.0) > 1e-6:
        listing = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        raise ValueError(f"{what} must sum to 1 but sum to {total:.6g} ({listing})")

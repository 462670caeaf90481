"""Exact division of an integer among shares."""

from collections.abc import Sequence
from fractions import Fraction


def exact(share: float) -> Fraction:
    """The decimal number as written in the recipe: 0.7 is 7/10, not the nearest binary fraction."""
    return Fraction(repr(float(share)))


def apportion(total: int, shares: Sequence[Fraction | float | int]) -> list[int]:
    """Whole numbers in the ratio of the shares that sum exactly to `total`.

    The method of largest remainders: round down, then give the remaining units to the largest fractions, ties in order.

    Args:
        total: the integer to divide.
        shares: at least one above 0; they need not sum to 1. Floats are taken as the decimals they print as.
    """
    parts = [exact(share) if isinstance(share, float) else Fraction(share) for share in shares]
    whole = sum(parts, Fraction(0))
    quotas = [total * part / whole for part in parts]
    counts = [quota.numerator // quota.denominator for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda i: (counts[i] - quotas[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts

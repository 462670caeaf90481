from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprise.recipe.fields import parse_count


@pytest.mark.parametrize(
    ("text", "count"),
    [("92.5B", 92_500_000_000), ("40M", 40_000_000), ("8k", 8000), ("7", 7), (12, 12), ("1_000", 1000), ("1e3", 1000)],
)
def test_count_with_suffix(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "B", "1.5", "0.0001k", "ten", "1G", "inf", "nanM", 2.5])
def test_count_refuses(text):
    with pytest.raises(ValueError, match=r"count|integer"):
        parse_count(text)


@given(st.integers(0, 10**15), st.sampled_from(["", "k", "M", "B", "T"]))
def test_count_is_exact(number, suffix):
    scale = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}[suffix]
    text = f"{Decimal(number) / scale:f}{suffix}"
    assert parse_count(text) == number

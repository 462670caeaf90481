"""Tables on narrow terminals."""

import random
import re

import pytest
from rich.table import Table

from reprise.tables import LONGEST_WORD, print_table


def word(rng):
    return "".join(rng.choice("abcdefghijklmnop-_/[]") for _ in range(rng.randint(1, LONGEST_WORD)))


def cell(rng):
    numbers = (f"{rng.randint(-(10**12), 10**12):,}", f"{rng.uniform(-1e6, 1e6):.4f}", f"{rng.random():.1%}")
    return " ".join(rng.choice((word(rng), *numbers)) for _ in range(rng.randint(1, 6)))


def shown(headers, rows, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    table = Table(*headers, title="a title")
    for row in rows:
        table.add_row(*row)
    print_table(table)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80])
def test_no_word_is_cut(width, monkeypatch, capsys):
    rng = random.Random(width)
    layouts = set()
    for _ in range(40):
        count = rng.randint(1, 9)
        headers = [word(rng) for _ in range(count)]
        rows = [[cell(rng) for _ in range(count)] for _ in range(rng.randint(1, 4))]
        out = shown(headers, rows, width, monkeypatch, capsys)
        pieces = set(re.split(r"[\s│┃]+", out)) | {piece.rstrip(":") for piece in out.split()}
        words = [each for text in [*headers, *(text for row in rows for text in row)] for each in text.split()]
        assert not [each for each in words if each not in pieces], out
        layouts.add("┃" in out)
        assert "┃" not in out or max(map(len, out.splitlines())) <= width
    assert layouts == {True, False}


def test_a_long_name_goes_on_in_the_next_line(monkeypatch, capsys):
    out = shown(["file", "documents"], [["/a/very/long/" * 12, "1,234,567"]], 60, monkeypatch, capsys)
    assert "1,234,567" in out
    assert "…" not in out
    assert "".join(re.findall(r"│ (\S+) +│", out)).startswith("/a/very/long/")

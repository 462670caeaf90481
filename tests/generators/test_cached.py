"""What a person sees while requests are asked, and what is counted."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from reprise import progress
from reprise.generators.cached import Asker
from reprise.generators.generator import Answer, Failure, Outcome, Request
from reprise.generators.journal import Journal
from reprise.recipe.generator import Generator as GeneratorSettings

PRICES = {"input_price": 1.0, "output_price": 2.0, "max_failed_share": 1.0}


class Fixed:
    """Answers one request at a time; each fourth fails."""

    def __init__(self) -> None:
        self.asked = 0
        self.identity: dict[str, Any] = {"name": "fixed"}

    def answer(
        self, requests: Sequence[Request], keys: Sequence[str], budget: float = 0.0
    ) -> Iterator[list[tuple[int, Outcome]]]:
        for index in range(len(requests)):
            self.asked += 1
            yield [(index, Failure("no") if index % 4 == 3 else Answer("text", "stop", 1000, 5000))]

    def close(self) -> None:
        pass


def requests_of(count: int) -> list[Request]:
    return [Request((("user", str(number)),), 10, 0.7, 1.0) for number in range(count)]


def test_a_log_shows_requests_tokens_cost_failures_and_the_time_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    monkeypatch.setattr(progress, "console", Console(stderr=True, force_terminal=False))
    Asker(Fixed(), GeneratorSettings(**PRICES), Journal(tmp_path)).ask(requests_of(8), "synthesize")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 8
    shown = r"synthesize: 5 of 8 requests, [\d,.]+/s, \d+ min left, 20,000 tokens \([\d,]+/s\), cost 0.04, 1 failed"
    assert re.fullmatch(shown, lines[4])
    assert "failed" not in lines[2]


def test_a_terminal_shows_the_same_beside_the_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(force_terminal=True, width=200, record=True, file=(tmp_path / "screen").open("w"))
    monkeypatch.setattr(progress, "console", screen)
    Asker(Fixed(), GeneratorSettings(**PRICES), Journal(tmp_path)).ask(requests_of(8), "synthesize")
    shown = screen.export_text()
    assert re.search(r"synthesize.*8/8 requests.*30,000 tokens \([\d,]+/s\), cost 0.07, 2 failed", shown)


def test_what_the_journal_knows_is_counted_but_not_asked(tmp_path: Path) -> None:
    generator, journal = Fixed(), Journal(tmp_path)
    Asker(generator, GeneratorSettings(**PRICES), journal).ask(requests_of(4), "first")
    asker = Asker(generator, GeneratorSettings(**PRICES), journal)
    outcomes = asker.ask([*requests_of(4), requests_of(1)[0]], "second")
    assert generator.asked == 4 + 1  # the one that failed
    assert outcomes[0] == outcomes[4]
    spent = asker.spending
    assert (spent.requests, spent.from_journal, spent.failed, spent.completion_tokens) == (4, 3, 0, 20000)
    assert spent.cost == pytest.approx(4 * (1000 * 1.0 + 5000 * 2.0) / 1e6)

"""The line for a person."""

import io

import pytest
from rich.console import Console
from tests.training.conftest import SEQ_LEN, make_stage, make_training

from reprise.training import status_line as terminal
from reprise.training.stage import run


@pytest.fixture
def said(monkeypatch):
    output = io.StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=output, width=400))
    return lambda: output.getvalue().splitlines()


def test_a_line_says_where_training_stands(arguments, make_work, said):
    arguments["training"] = make_training(say_every_seconds=1e-6)
    run(make_work(), **arguments)
    lines = said()
    assert len(lines) == 12
    assert "left" not in lines[0]  # one step says nothing of how long the others take
    assert lines[-1].startswith(f"train-1: step 12, {SEQ_LEN * 48:,} of {SEQ_LEN * 48:,} tokens | loss ")
    for wanted in ("bits/byte en ", " zh ", "tokens/s", " GB", "0:00:00 left", "zh/book 0.20"):
        assert wanted in lines[-1]
    assert "MFU" not in lines[-1]  # no peak is known for a CPU


def test_silence(arguments, make_work, said):
    arguments["training"] = make_training(say_every_seconds=0)
    arguments["stage"] = make_stage(tokens=SEQ_LEN * 8)
    run(make_work(), **arguments)
    assert said() == []

"""In the log of a job, work that takes long says how far it is."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from reprise import progress


def test_a_log_gets_a_line_now_and_then(capsys, monkeypatch):
    clock = iter([0.0, 30.0, 61.0, 90.0, 122.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(progress, "console", progress.Console(stderr=True, force_terminal=False))
    with progress.track("score", 1000, "documents") as advance:
        for _ in range(4):
            advance(61)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "score: 122 of 1,000 documents, 2.0/s, 7 min left",
        "score: 244 of 1,000 documents, 2.0/s, 6 min left",
    ]


def test_work_of_unknown_size_has_no_time_left(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    monkeypatch.setattr(progress, "console", progress.Console(stderr=True, force_terminal=False))
    with progress.track("read", None, "bytes") as advance:
        advance(5)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("read: 5 bytes, ")
    assert "left" not in line


def test_a_note_stands_at_the_end_of_the_line(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    monkeypatch.setattr(progress, "console", progress.Console(stderr=True, force_terminal=False))
    with progress.track("ask", 2, "requests") as advance:
        advance(1, "3 failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("min left, 3 failed")


WORK = """
import sys
from reprise import progress
with progress.track("train", 100, "tokens") as advance:
    for _ in range(100):
        advance()
        progress.console.print("a line")
print("done")
"""


@pytest.mark.parametrize("terminal", [True, False])
def test_a_closed_terminal_or_pipe_ends_no_work(terminal):
    ours, theirs = os.openpty() if terminal else os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", WORK], stdout=subprocess.PIPE, stderr=theirs, text=True, start_new_session=True
    )
    os.close(theirs)
    os.close(ours)
    assert process.communicate(timeout=60)[0] == "done\n"

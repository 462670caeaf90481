"""Work that takes long says how far it is, in the log of a job and on terminals of any width."""

import io
import os
import pty
import random
import subprocess
import sys
import termios
import time
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import Task, TaskID

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


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_bar_never_cuts_a_number(width, monkeypatch):
    rng = random.Random(width)
    monkeypatch.setattr(progress, "console", Console(file=io.StringIO(), width=width, color_system=None))
    bars = 0
    for _ in range(200):
        task = Task(
            TaskID(0), rng.choice(["score", "deduplicate"]), None, rng.choice([0, 1e5, 10**9]), _get_time=time.time
        )
        task.total = rng.choice([None, task.completed + rng.randrange(10**9)])
        rate, note = f"{rng.uniform(0, 1e6):,.1f}/s", rng.choice(["", "3 failed", "zh/web 0.52, en/web 0.31, ..."])
        task.fields.update(rate=rate, note=note)
        task.start_time = time.time() - rng.randrange(100_000)
        with progress.console.capture() as shown:
            progress.console.print(progress._Line("documents").render(task))
        lines = shown.get().splitlines()
        assert len(lines) == 1 and len(lines[0]) <= width and "…" not in lines[0]
        bars += "━" in lines[0]
        words = {word.strip(",") for word in lines[0].replace("━", " ").split()}
        done = f"{task.completed:,.0f}" + ("" if task.total is None else f"/{task.total:,.0f}")
        if len(f"{task.description} {done} documents") <= width:
            assert {task.description, done, "documents"} <= words
        if "/s" in lines[0]:
            assert rate in words
        assert "failed" not in lines[0] or "3 failed" in lines[0]
    assert bars


def test_a_bar_on_a_terminal_of_60_columns():
    program = """
from reprise import progress
with progress.track("deduplicate", 1_234_567, "documents") as advance:
    advance(1000, "3 failed")
    import time
    time.sleep(0.3)
"""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 60))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")} | {
        "TERM": "xterm"
    }
    subprocess.run([sys.executable, "-c", program], stderr=follower, env=environment, check=True)
    os.close(follower)
    shown = os.read(leader, 1 << 16).decode()
    os.close(leader)
    assert "1,000/1,234,567 documents" in shown and "3 failed" in shown and "…" not in shown

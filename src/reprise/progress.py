"""Progress of the work: a bar with rate and remaining time in a terminal, an occasional line in a log."""

import contextlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import Progress, ProgressColumn, Task
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text


class _Stderr:
    """stderr, which may go away: a closed terminal or the end of a `| tee` must not end work of many hours."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._file.flush()

    @property
    def _file(self) -> Any:
        # While a bar is shown, rich replaces stderr with an object that prints to the console.
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


console = Console(file=_Stderr())  # type: ignore[arg-type]
"""Messages for people go to stderr; results that a program may read go to stdout."""


LINE_EVERY_S = 60.0
"""Seconds between two lines if stderr is not a terminal but a job's log."""
_BAR_WIDTH = 40
_SHORTEST_BAR = 8
"""Shorter bars are left out."""


class Advance(Protocol):
    """Called with the amount of work that was done since the last call."""

    def __call__(self, amount: float = 1.0, note: str = "", /) -> None:
        """Add to the amount done; the note, such as `3 failed`, is shown beside the rate."""


@contextmanager
def track(what: str, total: float | None, unit: str, *, logs: bool = True) -> Iterator[Advance]:
    """Show the progress of the block: as a bar, or in a log as one line per minute.

    Args:
        what: name of the work, such as `score`.
        total: total amount of work, or None if it is not known.
        unit: unit of the amount, such as `documents`.
        logs: whether to write lines to a log; False if the block writes better ones.
    """
    with Progress(_Line(unit), console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total, rate="", note="")
        start = line = time.monotonic()

        def advance(amount: float = 1.0, note: str = "", /) -> None:
            nonlocal line
            progress.advance(task, amount)
            speed = progress.tasks[0].speed
            progress.update(task, rate=f"{speed:,.1f}/s" if speed else "", note=note)
            now = time.monotonic()
            if logs and not console.is_terminal and now - line >= LINE_EVERY_S:
                line = now
                _say(what, progress.tasks[0].completed, total, unit, now - start, note)

        yield advance


class _Line(ProgressColumn):
    """`score ━━━━━━ 1,200/6,000 documents, 10.0/s, 3 failed, 0:02:00, 0:08:00 left`; what does not fit is left out.

    Args:
        unit: unit of the amount.
    """

    max_refresh = 0.1

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> RenderableType:
        """Render the line, at most as wide as the terminal."""
        done = f"{task.completed:,.0f}" + ("" if task.total is None else f"/{task.total:,.0f}")
        left = "" if task.time_remaining is None else f"{format_duration(task.time_remaining)} left"
        elapsed = "" if task.elapsed is None else format_duration(task.elapsed)
        parts = [f"{done} {self._unit}", task.fields["rate"], task.fields["note"], elapsed, left]
        room = console.width - cell_len(task.description) - 1
        for dropped in (3, 1, 4, 2):  # the least important first
            if cell_len(", ".join(filter(None, parts))) > room:
                parts[dropped] = ""
        text = ", ".join(filter(None, parts))
        width = min(_BAR_WIDTH, room - cell_len(text) - 1)
        if task.total is None or width < _SHORTEST_BAR:
            return Text(f"{task.description} {text}", no_wrap=True, overflow="crop")
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_row(Text(task.description), ProgressBar(task.total, task.completed, width), Text(text))
        return line


def format_duration(seconds: float) -> str:
    """`1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _say(what: str, done: float, total: float | None, unit: str, seconds: float, note: str) -> None:
    """`score: 1,200 of 6,000 documents, 10.0/s, 8 min left`, and the note."""
    rate = done / seconds
    text = f"{what}: {done:,.0f}{'' if total is None else f' of {total:,.0f}'} {unit}, {rate:,.1f}/s"
    if total is not None and rate:
        text += f", {(total - done) / rate / 60:,.0f} min left"
    if note:
        text += f", {note}"
    console.print(text, markup=False, highlight=False, soft_wrap=True)

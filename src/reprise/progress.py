"""How far the work is: a bar with rate and remaining time in a terminal, a line now and then in a log."""

import contextlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


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
        # While a bar is shown rich replaces stderr with an object that prints to the console.
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


console = Console(file=_Stderr())  # type: ignore[arg-type]
"""Everything that is for a person goes to stderr; results that a program may read go to stdout."""


LINE_EVERY_S = 60.0
"""Seconds between two lines where stderr is not a terminal, but the log of a job."""


class Advance(Protocol):
    """Called with the amount of work that was done since the last call."""

    def __call__(self, amount: float = 1.0, note: str = "", /) -> None:
        """Add to what is done; the note, such as `3 failed`, is shown beside the rate."""


@contextmanager
def track(what: str, total: float | None, unit: str, *, logs: bool = True) -> Iterator[Advance]:
    """Show how far the block is: as a bar, or in a log as a line a minute.

    Args:
        what: the work, such as `score`.
        total: amount of work, or None if it is not known.
        unit: what the amount counts, such as `documents`.
        logs: whether a log gets lines; not where the block writes better ones.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total, rate="")
        start = line = time.monotonic()

        def advance(amount: float = 1.0, note: str = "", /) -> None:
            nonlocal line
            progress.advance(task, amount)
            speed = progress.tasks[0].speed
            rate = f"{speed:,.1f}/s" if speed else ""
            progress.update(task, rate=", ".join(part for part in (rate, note) if part))
            now = time.monotonic()
            if logs and not console.is_terminal and now - line >= LINE_EVERY_S:
                line = now
                _say(what, progress.tasks[0].completed, total, unit, now - start, note)

        yield advance


def _say(what: str, done: float, total: float | None, unit: str, seconds: float, note: str) -> None:
    """`score: 1,200 of 6,000 documents, 10.0/s, 8 min left`, and the note."""
    rate = done / seconds
    text = f"{what}: {done:,.0f}{'' if total is None else f' of {total:,.0f}'} {unit}, {rate:,.1f}/s"
    if total is not None and rate:
        text += f", {(total - done) / rate / 60:,.0f} min left"
    if note:
        text += f", {note}"
    console.print(text, markup=False, highlight=False, soft_wrap=True)

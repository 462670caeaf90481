"""Progress bars with rate and remaining time; silent where nobody looks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True)
"""Everything that is for a person goes to stderr; results that a program may read go to stdout."""


class Advance(Protocol):
    """Called with the amount of work that was done since the last call."""

    def __call__(self, amount: float = 1.0, /) -> None:
        """Add to what is done."""


@contextmanager
def track(what: str, total: float | None, unit: str) -> Iterator[Advance]:
    """Show a bar while the block runs.

    Args:
        what: the work, such as `score`.
        total: amount of work, or None where it is not known.
        unit: what the amount counts, such as `documents`.
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

        def advance(amount: float = 1.0, /) -> None:
            progress.advance(task, amount)
            speed = progress.tasks[0].speed
            progress.update(task, rate=f"{speed:,.1f}/s" if speed else "")

        yield advance

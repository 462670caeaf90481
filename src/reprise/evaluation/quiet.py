"""Hides the progress bars of lm-evaluation-harness from terminal and log; one bar of ours replaces them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import tqdm.std


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Disable tqdm's bars inside the block: the harness has one per task, and no setting that disables them all."""
    bar: Any = tqdm.std.tqdm
    begin = bar.__init__

    def begin_unseen(self: Any, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **(options | {"disable": True}))

    bar.__init__ = begin_unseen
    try:
        yield
    finally:
        bar.__init__ = begin

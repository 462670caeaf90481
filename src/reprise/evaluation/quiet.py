"""Keep the progress bars of lm-evaluation-harness off terminal and log; one bar of ours stands for them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import tqdm.std


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Draw no bar of tqdm while the block runs: the harness has one per task, and no setting that stops them all."""
    bar: Any = tqdm.std.tqdm
    begin = bar.__init__

    def begin_unseen(self: Any, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **(options | {"disable": True}))

    bar.__init__ = begin_unseen
    try:
        yield
    finally:
        bar.__init__ = begin

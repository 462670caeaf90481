"""SIGTERM and Ctrl-C: save, then leave."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """Training was asked to stop, and saved; the same command resumes from the checkpoint."""

    def __init__(self, step: int, tokens: int, checkpoint: Path) -> None:
        self.step, self.tokens, self.checkpoint = step, tokens, checkpoint
        self.by_user = StopSignal.last == signal.SIGINT
        """Whether the signal was Ctrl-C, not one from a scheduler."""
        super().__init__(
            f"stopped after step {step:,} ({tokens:,} tokens) and saved {checkpoint}; the same command continues"
        )


class StopSignal:
    """Whether a signal asked to stop. A second Ctrl-C stops at once, without saving."""

    last: int | None = None
    """The signal that came last, in this process."""

    def __init__(self) -> None:
        self.received = False

    def _receive(self, signal_number: int, _frame: FrameType | None) -> None:
        if self.received and signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received, StopSignal.last = True, signal_number


@contextlib.contextmanager
def catch_stop() -> Iterator[StopSignal]:
    """Note SIGTERM and SIGINT while the block runs, instead of ending.

    SIGHUP, which makes daemons reload their settings, stops nothing: `shares.json` is examined before
    every step in any case.
    """
    stop = StopSignal()
    handlers = {signal.SIGTERM: stop._receive, signal.SIGINT: stop._receive, signal.SIGHUP: lambda *_: None}
    before = {signal_number: signal.signal(signal_number, handler) for signal_number, handler in handlers.items()}
    try:
        yield stop
    finally:
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)

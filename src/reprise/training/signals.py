"""SIGTERM and Ctrl-C: save a checkpoint, then stop."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """Training stopped after a signal and saved a checkpoint; the same command resumes from it."""

    def __init__(self, step: int, tokens: int, checkpoint: Path) -> None:
        self.step, self.tokens, self.checkpoint = step, tokens, checkpoint
        self.by_user = StopSignal.last == signal.SIGINT
        """Whether the signal was Ctrl-C, not a scheduler's SIGTERM."""
        super().__init__(
            f"stopped after step {step:,} ({tokens:,} tokens) and saved {checkpoint}; the same command continues"
        )


class StopSignal:
    """Whether a signal asked to stop. A second Ctrl-C stops at once without saving."""

    last: int | None = None
    """Last signal that this process received."""

    def __init__(self) -> None:
        self.received = False

    def _receive(self, signal_number: int, _frame: FrameType | None) -> None:
        if self.received and signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received, StopSignal.last = True, signal_number


@contextlib.contextmanager
def catch_stop() -> Iterator[StopSignal]:
    """Context in which SIGTERM and SIGINT are recorded instead of ending the process.

    SIGHUP, which makes daemons reload their settings, is ignored: `shares.json` is checked before every step anyway.
    """
    stop = StopSignal()
    handlers = {signal.SIGTERM: stop._receive, signal.SIGINT: stop._receive, signal.SIGHUP: lambda *_: None}
    before = {signal_number: signal.signal(signal_number, handler) for signal_number, handler in handlers.items()}
    try:
        yield stop
    finally:
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)

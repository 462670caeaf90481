"""Ctrl-C and SIGTERM end a command with one line and the exit code 130 or 143, whenever they arrive.

Only imports fast modules: the handlers are installed before the rest of the program is imported.
"""

import os
import signal
from types import FrameType
from typing import NoReturn

MESSAGE = "stopped; the same command continues from here"

_REPEAT_S = 1.0
"""An exception raised inside a destructor or a callback of a library is swallowed, so it is raised again."""


class Stopped(BaseException):
    """SIGTERM; Ctrl-C is Python's KeyboardInterrupt."""


_received: list[int] = []


def exit_at_once() -> None:
    """Exit at a signal without unwinding. Used during imports, when there is no work to lose yet."""

    def leave(signal_number: int, frame: FrameType | None) -> NoReturn:
        os.write(2, f"{MESSAGE}\n".encode())
        os._exit(128 + signal_number)

    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, leave)


def raise_at_signals() -> None:
    """Raise an exception in the main thread at a signal, until `settle`."""
    _received.clear()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, _receive)
    signal.signal(signal.SIGALRM, _receive)


def _receive(signal_number: int, frame: FrameType | None) -> NoReturn:
    if signal_number != signal.SIGALRM:
        _received.append(signal_number)
    signal.setitimer(signal.ITIMER_REAL, _REPEAT_S)
    raise KeyboardInterrupt if _received[-1] == signal.SIGINT else Stopped


def settle() -> int | None:
    """Return the signal that ended the command, or None, and ignore any further ones.

    Does nothing in a process that did not call `raise_at_signals`.
    """
    if signal.getsignal(signal.SIGALRM) is not _receive:
        return _received[0] if _received else None
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(signal_number, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    return _received[0] if _received else None

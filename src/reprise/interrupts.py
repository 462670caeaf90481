"""Ctrl-C and SIGTERM end a command with one line and the exit code 130 or 143, at whatever moment they come.

Imports nothing that takes long: the handlers are installed before the rest of the program is imported.
"""

import os
import signal
from types import FrameType
from typing import NoReturn

MESSAGE = "stopped; the same command continues from here"

_REPEAT_S = 1.0
"""An exception that is raised inside a destructor or a callback of a library is swallowed: raise it again then."""


class Stopped(BaseException):
    """SIGTERM; Ctrl-C is Python's KeyboardInterrupt."""


_received: list[int] = []


def exit_at_once() -> None:
    """Leave at a signal without unwinding: for the time of imports, when nothing has begun that could be lost."""

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
    """The signal that ended the command, None if none came; further ones are ignored from now on.

    Nothing happens in a process that did not call `raise_at_signals`.
    """
    if signal.getsignal(signal.SIGALRM) is not _receive:
        return _received[0] if _received else None
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(signal_number, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    return _received[0] if _received else None

"""Call the command line in this process, and tell what went wrong with the program and not with its input."""

import contextlib
import io
import signal
import sys
from dataclasses import dataclass

from reprise.cli import main

HANG_S = 240
"""Imports alone can take a minute where others use the machine."""


class Hang(BaseException):
    pass


@dataclass
class Outcome:
    code: int | None
    """None where the program did not end by itself."""
    out: str
    err: str
    fault: str
    """`hang`, `traceback`, `message` (an error that is not exactly one message), or nothing."""


@contextlib.contextmanager
def time_limit(seconds=HANG_S):
    """Raise `Hang` after so many seconds."""

    def stop(number, frame):
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def call(*arguments):
    """Run `reprise` with these arguments."""
    out, err, given = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["reprise", *arguments]
    code, fault = None, ""
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), time_limit():
            main()
    except SystemExit as stop:
        code = stop.code
    except Hang:
        fault = "hang"
    except BaseException as error:
        fault = f"traceback: {type(error).__name__}: {error}"[:300]
    finally:
        sys.argv = given
    if not fault and code == 2 and err.getvalue().count("error:") != 1:
        fault = "message"
    return Outcome(code, out.getvalue(), err.getvalue(), fault)

"""`reprise`, `python -m reprise` and `torchrun -m reprise`."""

import atexit
import contextlib
import os
import sys
from typing import NoReturn

from reprise import interrupts

# Iterations that a GNU OpenMP thread spins before it sleeps (default: 300,000, a few milliseconds). With the
# default, waiting threads take the core from the thread that they wait for as soon as another program runs.
SPIN_COUNT = "1000"


def yield_cores() -> None:
    """Make waiting OpenMP threads sleep early, unless the environment decides. Call this before importing torch."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def main() -> NoReturn:
    """Run the command line, then exit without the interpreter's shutdown of its libraries.

    Threads of Daft and others crash in it ("FATAL: exception not rethrown", SIGSEGV); everything is written by then.
    """
    yield_cores()
    interrupts.exit_at_once()
    from reprise.cli import main as run_command

    interrupts.raise_at_signals()
    try:
        run_command()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    interrupts.settle()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a closed terminal or pipe
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()

"""`reprise`, `python -m reprise` and `torchrun -m reprise`."""

import atexit
import contextlib
import os
import sys
from typing import NoReturn

from reprise import interrupts

# Turns of GNU OpenMP's waiting loop before a thread sleeps (default: 300,000, some milliseconds). With the default,
# threads that wait take the core from the one that they wait for as soon as another program runs beside them.
SPIN_COUNT = "1000"


def yield_cores() -> None:
    """Let OpenMP's threads sleep soon where they wait, unless the environment decides. Torch comes after this."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def main() -> NoReturn:
    """Run the command line, and end the process before the interpreter takes its libraries apart.

    Threads of Daft and others crash in that ("FATAL: exception not rethrown", SIGSEGV); by then all is written.
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

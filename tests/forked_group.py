"""What torchrun does, without its cost: processes that join in a group, forked from one that has imported everything.

A process that torchrun starts imports for longer than a tiny stage runs. Tests of torchrun itself, of its signals and
of memory start the real one.
"""

import multiprocessing
import os
import runpy
import socket
import sys
import time
from pathlib import Path

PRELOADED = [
    "reprise.synthesis.stage",
    "reprise.training.stage",
    "transformers.models.llama.modeling_llama",
    "torch._dynamo",  # FSDP imports it
    "peft",
    "bitsandbytes",  # peft imports it, where it is installed
]
_GRACE_S = 30.0
"""Time for the others to leave after one failed; torchrun waits so long too."""


def context():
    """A context of multiprocessing whose processes begin with the imports done; no thread of a library is copied."""
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(PRELOADED)
    return forkserver


def run_group(script, arguments, processes, errors, environment=None, timeout_s=300):
    """Run a script in so many processes that form a group.

    Args:
        script: Python file, run as `__main__`.
        arguments: of its command line.
        processes: their number.
        errors: file that takes what they write to stderr.
        environment: more variables.
        timeout_s: they are killed after this.

    Returns:
        Exit codes by rank; negative: the signal.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {
        "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **(environment or {}),
    }  # fmt: skip
    started = [
        context().Process(
            target=_run,
            args=(str(script), list(map(str, arguments)), {**variables, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                  str(errors)),
        )
        for rank in range(processes)
    ]  # fmt: skip
    for process in started:
        process.start()
    deadline = time.monotonic() + timeout_s
    while any(process.is_alive() for process in started) and time.monotonic() < deadline:
        if any(process.exitcode for process in started):  # one failed
            deadline = min(deadline, time.monotonic() + _GRACE_S)
        time.sleep(0.01)
    for process in started:
        process.kill()
        process.join()
    return [process.exitcode for process in started]


def _run(script, arguments, variables, errors):
    os.environ.update(variables)
    with Path(errors).open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 2)
    root = Path(__file__).parents[1]
    sys.path[:0] = [str(Path(script).parent), str(root), str(root / "src")]
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")

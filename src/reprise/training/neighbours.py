"""Measures how busy other programs keep the cores when training starts, and describes threads for the log."""

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

from reprise.progress import console
from reprise.recipe.training import Training

_LEAST_SECONDS = 0.5
"""Shortest interval to measure, as the kernel counts in hundredths of a second."""
_LEAST_CORES = 0.5
"""Fewest busy cores that are reported."""


@dataclass(frozen=True)
class CoreTimes:
    """Processor time since the machine started, in seconds, at one moment."""

    moment: float
    busy: float
    """Seconds of all programs on the cores that this process may use."""
    own: float
    """Seconds of this process and the children that it waited for, on any core."""


def read_core_times() -> CoreTimes | None:
    """Processor times now; None if the system does not report them."""
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    names = {f"cpu{index}" for index in os.sched_getaffinity(0)}
    ticks = 0
    for fields in (line.split() for line in lines):
        if fields[0] in names:
            user, nice, system, _idle, _waiting, interrupts, soft, *_ = map(int, fields[1:])
            ticks += user + nice + system + interrupts + soft
    own = sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )
    return CoreTimes(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), own)


def busy_cores(before: CoreTimes | None, now: CoreTimes | None) -> float | None:
    """Cores that other programs kept busy between two measurements; None if unknown."""
    if before is None or now is None or now.moment - before.moment < _LEAST_SECONDS:
        return None
    return max(0.0, (now.busy - before.busy) - (now.own - before.own)) / (now.moment - before.moment)


def describe_threads(training: Training, threads: int, cores: int, processes: int, others: float | None) -> list[str]:
    """Lines for the log on the threads of training on a CPU.

    Threads are never changed automatically, as sums in another order would give other weights.

    Args:
        training: settings of training.
        threads: threads of each process.
        cores: cores that the process may use.
        processes: processes of the run on this machine.
        others: cores that other programs keep busy; None if unknown.
    """
    lines = []
    if others is not None and others >= _LEAST_CORES:
        spin = os.environ.get("GOMP_SPINCOUNT")
        policy = os.environ.get("OMP_WAIT_POLICY")
        waiting = (
            f"OMP_WAIT_POLICY={policy}" if policy else f"GOMP_SPINCOUNT={spin}" if spin else "the defaults of OpenMP"
        )
        fewer = max(1, cores - round(others))
        line = (
            f"other programs keep {others:.1f} of {cores} cores busy, so training is slower; it uses {threads} "
            f"thread{'s' if threads > 1 else ''} ({waiting})"
        )
        lines.append(f"{line}; training.threads={fewer} leaves the others their cores" if fewer < threads else line)
    if processes > 1 and not training.threads and threads * processes < cores and "OMP_NUM_THREADS" in os.environ:
        lines.append(
            f"each of {processes} processes uses {threads} of {cores} cores (OMP_NUM_THREADS="
            f"{os.environ['OMP_NUM_THREADS']}, which torchrun sets to 1 by itself); training.threads="
            f"{cores // processes} uses all"
        )
    return lines


def say_threads(name: str, training: Training, threads: int, processes: int, before: CoreTimes | None) -> None:
    """Print `describe_threads`.

    Args:
        name: name of the stage.
        training: settings of training.
        threads: threads of this process.
        processes: processes of the run on this machine.
        before: processor times when the stage started; other processes of the run count as other programs.
    """
    others = busy_cores(before, read_core_times()) if processes == 1 else None
    for line in describe_threads(training, threads, len(os.sched_getaffinity(0)), processes, others):
        console.print(f"{name}: {line}", markup=False, highlight=False, soft_wrap=True)

"""Memory of the training process."""

import contextlib
import ctypes
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Numbers of mallopt's settings (malloc.h of glibc)."""


@contextlib.contextmanager
def keep_freed_memory(device: torch.device) -> Iterator[None]:
    """While the block runs, on a CPU, keep what is freed for the next allocation instead of returning it.

    Activations come and go every step. glibc maps large blocks afresh each time, and the system fills every page with
    zeros at its first touch. Afterwards the freed memory goes back. Without glibc nothing happens.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if device.type != "cpu" or not hasattr(library, "mallopt"):
        yield
        return
    assert library is not None
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        # The values that glibc begins with.
        library.mallopt(_MMAP_MAX, 65_536)
        library.mallopt(_MMAP_THRESHOLD, 128 * 1024)
        library.mallopt(_TRIM_THRESHOLD, 128 * 1024)
        library.malloc_trim(0)


def peak_memory(device: torch.device) -> int:
    """Largest memory of this process so far, in bytes: reserved on the GPU, or resident if there is none.

    Resident memory is that of the whole process, libraries included.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    # Not getrusage on Linux: its value survives exec, so a child begins with what its parent had.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

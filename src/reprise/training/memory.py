"""Memory of the training process."""

import contextlib
import ctypes
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Parameters of mallopt (glibc's malloc.h)."""


@contextlib.contextmanager
def keep_freed_memory(device: torch.device) -> Iterator[None]:
    """On a CPU, keep freed memory for the next allocation inside the block instead of returning it to the system.

    Activations are allocated and freed in every step. glibc maps large blocks again each time, and the system fills
    every page with zeros on first access. Afterwards the freed memory is returned. Without glibc this does nothing.
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
        # glibc's defaults.
        library.mallopt(_MMAP_MAX, 65_536)
        library.mallopt(_MMAP_THRESHOLD, 128 * 1024)
        library.mallopt(_TRIM_THRESHOLD, 128 * 1024)
        library.malloc_trim(0)


def peak_memory(device: torch.device) -> int:
    """Peak memory of this process so far, in bytes: reserved on the GPU, or resident if there is none.

    Resident memory includes the libraries.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    # Not getrusage on Linux: its value survives exec, so a child starts with its parent's peak.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

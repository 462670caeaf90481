"""Describe the machine that computed a result, so that the result can be reproduced."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from reprise.records import record

PACKAGES = ("reprise", "torch", "transformers", "safetensors", "numpy", "pyarrow", "tokenizers")
"""Packages whose versions can change a result."""
CPU_FLOPS_PER_CORE = {"bfloat16": 1.0e11, "float32": 3.0e10}
"""FLOP/s of training on one core, for estimates (measured: 1.2e11 in bfloat16 if the core supports it)."""


@record
class Machine(TypedDict):
    """The machine that a process ran on."""

    processor: Annotated[str, Field(description="Name of the processor.")]
    cores: Annotated[int | None, Field(description="Cores that the process may use; null if not known.")]
    memory_gib: Annotated[float | None, Field(description="Memory of the machine in 2^30 bytes; null if not known.")]
    accelerators: Annotated[list[str], Field(description="Names of the GPUs.")]
    system: Annotated[str, Field(description="Operating system.")]
    python: Annotated[str, Field(description="Version of Python.")]
    versions: Annotated[dict[str, str], Field(description="Package that can change a result -> its version.")]


def describe_machine() -> Machine:
    """Processor, memory, accelerators, operating system and versions of this process's machine."""
    import torch  # not at the top: programs that read the record need no torch

    return {
        "processor": _processor(),
        "cores": count_cores(),
        "memory_gib": _memory_gib(),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_flops_per_s() -> float:
    """FLOP/s of training on the cores of this process, in the precision that they support in hardware."""
    import torch

    from reprise.model.likelihood import native_dtype

    return count_cores() * CPU_FLOPS_PER_CORE["bfloat16" if native_dtype() is torch.bfloat16 else "float32"]


def _processor() -> str:
    """Name of the processor; its architecture if the system does not report one."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    """Memory of the machine in GiB, None if the system does not report it."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

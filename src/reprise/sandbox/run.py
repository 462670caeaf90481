"""Run an unreviewed program against its tests, in a child process with few rights.

What confines it (Linux 5.13 or later, x86-64; written for 64-bit ARM too, but not tested there):

    time          wall clock by the parent, without time spent waiting for a processor; processor time by rlimit
    memory        address space by rlimit
    processes     none but its own threads: seccomp refuses fork and exec
    files         Landlock: reads the interpreter's library, writes files in a scratch folder that is removed
    size          each file by rlimit, the whole scratch folder by the parent, which checks every 50 ms
    network       seccomp refuses every kind of socket
    other work    no signals to others, no capabilities (also for root), no environment, no open descriptors

What it does not protect against: bugs of the kernel or the processor; a program that uses its share of processor,
memory and disk until a limit stops it, or writes faster than the parent checks; queries for the names and sizes of
files, although none can be opened; a program that finds the report in the interpreter's memory and forges it, so
"passed" is evidence only for honest programs. Run hostile code in a virtual machine.
"""

import contextlib
import importlib.resources
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from reprise.errors import UserError
from reprise.run_delay import run_delay

if TYPE_CHECKING:
    from reprise.sandbox.confinement import Task

VERDICTS = ("passed", "failed", "timeout", "memory", "size", "crashed")
_LOOK_EVERY_S = 0.05
_MAX_FILES = 1000
_PROBE = """
import os, socket
for forbidden in (os.fork, socket.socket, lambda: os.listdir("/")):
    try:
        forbidden()
    except PermissionError:
        continue
    raise AssertionError("not confined")
"""


@dataclass(frozen=True)
class Limits:
    """Limits on what a program may use."""

    seconds: float = 10.0
    memory_mb: int = 512
    file_mb: int = 4
    """Limit on each file, on all files together, and on printed text, in MB."""


@dataclass(frozen=True)
class Verdict:
    """How a program ended."""

    verdict: Literal["passed", "failed", "timeout", "memory", "size", "crashed"]
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether every test passed."""
        return self.verdict == "passed"


_DEFAULT = Limits()


def run_program(program: str, tests: str, limits: Limits = _DEFAULT) -> Verdict:
    """Run `program`, then `tests` in the same namespace; both are Python. No exception means passed.

    Args:
        program: Python source.
        tests: Python source, such as assert statements that call functions of the program.
        limits: limits of time, memory and file sizes.

    Raises:
        UserError: this machine cannot confine a program.
    """
    require_sandbox()
    return _run(program, tests, limits)


@cache
def require_sandbox() -> None:
    """Check, once per process, that this machine can confine a program.

    Raises:
        UserError: it cannot.
    """
    problem = f"it works on Linux only, and this is {sys.platform}"
    if sys.platform == "linux":
        verdict = _run("", _PROBE, _DEFAULT)
        if verdict.passed:
            return
        problem = verdict.detail
    raise UserError(
        f"the sandbox for generated programs does not work on this machine: {problem}",
        where="synthesis.allow_code_execution=true",
        remedy="use Linux 5.13 or later with Landlock and seccomp, or set it to false: programs stay unverified",
    )


def _run(program: str, tests: str, limits: Limits) -> Verdict:
    scratch = Path(tempfile.mkdtemp(prefix="reprise-sandbox-"))
    receive, send = os.pipe()
    nonce = secrets.token_hex(16)
    task: Task = {
        "program": program,
        "tests": tests,
        "nonce": nonce,
        "report_fd": send,
        "scratch": str(scratch),
        "readable": _readable(),
        "seconds": int(limits.seconds) + 1,
        "memory_bytes": limits.memory_mb << 20,
        "file_bytes": limits.file_mb << 20,
    }
    try:
        with (
            tempfile.TemporaryFile() as printed,
            importlib.resources.as_file(importlib.resources.files("reprise.sandbox") / "confinement.py") as script,
        ):
            process = subprocess.Popen(
                [sys.executable, "-S", "-s", "-P", "-B", str(script)],
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=printed,
                pass_fds=[send],
                env={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "HOME": str(scratch)},
                start_new_session=True,
            )
            os.close(send)
            stopped = _watch(process, json.dumps(task).encode(), scratch, limits)
            printed.seek(0)
            tail = printed.read()[-300:].decode(errors="replace").strip()
        with os.fdopen(receive, "rb") as report:
            return stopped or _read_report(report.read(1 << 16), nonce, process.returncode, tail)
    finally:
        shutil.rmtree(scratch)


def _watch(process: "subprocess.Popen[bytes]", task: bytes, scratch: Path, limits: Limits) -> Verdict | None:
    """Send the task to the child and wait until it ends; returns the verdict if a limit ended it."""
    deadline = time.monotonic() + limits.seconds
    try:
        assert process.stdin is not None
        try:
            process.stdin.write(task)
            process.stdin.close()
        except BrokenPipeError:
            pass
        while True:
            try:
                process.wait(_LOOK_EVERY_S)
                return None
            except subprocess.TimeoutExpired:
                pass
            # Time spent waiting for a processor does not count: a busy machine does not change a verdict.
            if time.monotonic() > deadline and time.monotonic() > deadline + run_delay(process.pid):
                return Verdict("timeout", f"not at its end after {limits.seconds:g} s")
            if (problem := _oversized(scratch, limits)) is not None:
                return Verdict("size", problem)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _oversized(scratch: Path, limits: Limits) -> str | None:
    """What is too large in the scratch folder (which has no subfolders), or None."""
    num_bytes = 0
    for files, file in enumerate(scratch.iterdir(), start=1):
        with contextlib.suppress(FileNotFoundError):
            num_bytes += file.lstat().st_size
        if files > _MAX_FILES:
            return f"more than {_MAX_FILES} files"
    return f"more than {limits.file_mb} MB of files" if num_bytes > limits.file_mb << 20 else None


def _read_report(report: bytes, nonce: str, status: int, printed: str) -> Verdict:
    try:
        entry = json.loads(report)
        if entry["nonce"] == nonce and entry["verdict"] in VERDICTS:
            # A program can raise an error whose text contains lone surrogates, which no file can contain.
            return Verdict(entry["verdict"], str(entry["detail"]).encode(errors="replace").decode())
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    if status == -signal.SIGXCPU:
        return Verdict("timeout", "processor time used up")
    if status == -signal.SIGXFSZ:
        return Verdict("size", "a file or the output grew too large")
    if "MemoryError" in printed or "can't start new thread" in printed:
        return Verdict("memory", printed[-200:])
    how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
    return Verdict("crashed", f"ended by itself ({how}) {printed}".strip())


@cache
def _readable() -> list[str]:
    """Paths that the interpreter reads while it runs: its library, shared libraries, random numbers, time zones."""
    library = Path(os.path.realpath(sysconfig.get_path("stdlib")))
    paths = [str(library), f"{sys.base_prefix}/lib", "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo"]
    return [*dict.fromkeys(os.path.realpath(path) for path in paths), "/dev/urandom", "/dev/null", "/etc/localtime"]

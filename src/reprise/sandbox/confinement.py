"""The child process of `run.py`: drops every right that a program under test does not need, then runs the program.

Run as a script with an empty environment; reads one JSON object from stdin and writes one to the descriptor it names.
Uses only the standard library: it starts without site-packages. Linux only; the numbers are those of kernel headers.
"""

import ctypes
import json
import os
import platform
import resource
import stat
import struct
import sys
from typing import Any, TypedDict

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 38, 22
SECCOMP_MODE_FILTER = 2
RET_KILL_PROCESS, RET_ERRNO, RET_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
EPERM, ENOSYS, SIGKILL = 1, 38, 9
CLONE_THREAD = 0x00010000
LOAD_WORD, JUMP_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x45, 0x06
"""Opcodes of classic BPF."""
OFFSET_NUMBER, OFFSET_ARCH, OFFSET_ARGUMENTS = 0, 4, 16
TERMINAL_QUERIES = (0x5401, 0x5450, 0x5451)
"""ioctl: TCGETS, FIONCLEX, FIOCLEX: required to open a file."""

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
READ_FILE, READ_DIR = 1 << 2, 1 << 3
WRITE_FILE, REMOVE_FILE, MAKE_REG, TRUNCATE = 1 << 1, 1 << 5, 1 << 8, 1 << 14
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Landlock version -> how many file access rights it knows; all are handled, so all are denied unless granted."""

# What an interpreter needs to compute, sleep, use threads and access files: everything else fails with EPERM.
# Not allowed: sockets, exec, fork, kill, ptrace, mount, io_uring, bpf, shared memory, links, folders, changes of mode.
ALLOWED = {
    "x86_64": (
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 28, 32, 33, 35,
        36, 37, 38, 39, 60, 63, 73, 74, 75, 77, 78, 79, 80, 82, 87, 89, 96, 97, 98, 99, 100, 102, 104,
        107, 108, 110, 131, 158, 186, 202, 204, 217, 218, 219, 228, 229, 230, 231, 257, 262, 263, 264, 267, 269,
        270, 271, 273, 292, 293, 318, 324, 332, 334, 439,
    ),
    "aarch64": (
        17, 23, 24, 32, 35, 38, 46, 48, 49, 56, 57, 59, 61, 62, 63, 64, 65, 66, 67, 68, 72, 73, 78, 79, 80, 82,
        83, 93, 94, 96, 98, 99, 101, 102, 103, 113, 114, 115, 123, 124, 128, 132, 134, 135, 139, 153, 160, 165, 169,
        172, 173, 174, 175, 176, 177, 178, 179, 214, 215, 216, 222, 226, 227, 233, 276, 278, 283, 291, 293, 439,
    ),
}  # fmt: skip
SPECIAL = {  # clone, clone3, tgkill, ioctl, fcntl, prlimit64, and the architecture's name for seccomp
    "x86_64": (56, 435, 234, 16, 72, 302, 0xC000003E),
    "aarch64": (220, 435, 131, 29, 25, 261, 0xC00000B7),
}
FILE_COMMANDS = (0, 1, 2, 3, 5, 6, 7, 1030, 1034)
"""fcntl: F_DUPFD, F_GETFD, F_SETFD, F_GETFL, file locks, F_DUPFD_CLOEXEC, F_GET_SEALS. Not F_SETOWN, F_SETSIG and
F_SETFL with O_ASYNC: with these the kernel sends any signal to any process of the user."""


class Task(TypedDict):
    """The JSON object that the parent writes to stdin."""

    program: str
    tests: str
    report_fd: int
    """Descriptor that the verdict is written to."""
    nonce: str
    """Random text, repeated in the report so that the program cannot forge one."""
    scratch: str
    """Folder that the program may write to."""
    readable: list[str]
    """Folders that the program may read."""
    seconds: int
    """Limit on processor time, in seconds."""
    memory_bytes: int
    file_bytes: int
    """Limit on the size of a file, in bytes."""


class Outcome(TypedDict):
    """How the program and its tests ended."""

    verdict: str
    detail: str


def main() -> None:
    """Read what to run, confine this process, run it, and report."""
    task: Task = json.load(sys.stdin)
    report = os.fdopen(task["report_fd"], "w")
    nonce = task["nonce"]
    confine(task)
    verdict = execute(task["program"], task["tests"])
    report.write(json.dumps({"nonce": nonce, **verdict}))
    report.flush()
    os._exit(0)


def execute(program: str, tests: str) -> Outcome:
    """Run the program, then its tests in the same namespace."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for name, text in (("program", program), ("tests", tests)):
        try:
            exec(compile(text, name, "exec"), namespace)
        except MemoryError:
            return {"verdict": "memory", "detail": f"the {name} ran out of memory"}
        except BaseException as error:  # also SystemExit: an early exit does not pass
            return {"verdict": "failed", "detail": f"{name}: {type(error).__name__}: {error}"[:300]}
    return {"verdict": "passed", "detail": ""}


def confine(task: Task) -> None:
    """Give up rights permanently; raises OSError if the kernel cannot enforce it."""
    libc = ctypes.CDLL(None, use_errno=True)
    os.chdir(task["scratch"])
    for name, limit in (
        ("CPU", task["seconds"]),
        ("AS", task["memory_bytes"]),
        ("FSIZE", task["file_bytes"]),
        ("NOFILE", 64),
        ("CORE", 0),
        ("MEMLOCK", 0),
    ):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    _call(libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "prctl(PDEATHSIG)")
    _call(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(NO_NEW_PRIVS)")
    drop_capabilities(libc)
    restrict_files(libc, task["readable"], task["scratch"])
    restrict_calls(libc)


def drop_capabilities(libc: Any) -> None:
    """Drop all capabilities, also of root. The user id is unchanged: the interpreter may be in root's home."""
    header = struct.pack("<Ii", 0x20080522, 0)
    _call(libc.capset(header, struct.pack("<6I", 0, 0, 0, 0, 0, 0)), "capset")


def restrict_files(libc: Any, readable: list[str], scratch: str) -> None:
    """Landlock: the interpreter's library can be read, the scratch folder can be written, nothing else can be
    opened."""
    version = libc.syscall(CREATE_RULESET, None, 0, 1)
    if version < 1:
        raise OSError(ctypes.get_errno(), "this kernel has no Landlock")
    rights = (1 << FILE_RIGHTS.get(version, 16)) - 1
    network = 3 if version >= 4 else 0
    scope = 3 if version >= 6 else 0
    fields = struct.pack("<QQQ", rights, network, scope)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = _call(libc.syscall(CREATE_RULESET, fields, len(fields), 0), "landlock_create_ruleset")
    write = READ_FILE | READ_DIR | WRITE_FILE | REMOVE_FILE | MAKE_REG | TRUNCATE
    for path, allowed in [*((path, READ_FILE | READ_DIR) for path in readable), (scratch, write & rights)]:
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            allowed &= READ_FILE
        rule = struct.pack("<Qi", allowed, handle)
        _call(libc.syscall(ADD_RULE, ruleset, 1, rule, 0), "landlock_add_rule")
        os.close(handle)
    _call(libc.syscall(RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def restrict_calls(libc: Any) -> None:
    """seccomp: allow a list of system calls; any other call fails, and no new process can be created."""
    machine = platform.machine()
    clone, clone3, tgkill, ioctl, fcntl, prlimit, arch = SPECIAL[machine]
    program = [
        (LOAD_WORD, 0, 0, OFFSET_ARCH),
        (JUMP_EQUAL, 1, 0, arch),
        (RETURN, 0, 0, RET_KILL_PROCESS),
        (LOAD_WORD, 0, 0, OFFSET_NUMBER),
    ]
    for call in ALLOWED[machine]:
        program += [(JUMP_EQUAL, 0, 1, call), (RETURN, 0, 0, RET_ALLOW)]
    program += [(JUMP_EQUAL, 0, 1, clone3), (RETURN, 0, 0, RET_ERRNO | ENOSYS)]
    # clone may create threads of this process, and nothing else.
    program += [(JUMP_EQUAL, 0, 4, clone), (LOAD_WORD, 0, 0, OFFSET_ARGUMENTS), (JUMP_SET, 0, 1, CLONE_THREAD)]
    program += [(RETURN, 0, 0, RET_ALLOW), (RETURN, 0, 0, RET_ERRNO | EPERM)]
    for call, argument, values in (
        (tgkill, 0, (os.getpid(),)),
        (prlimit, 0, (0,)),
        (ioctl, 1, TERMINAL_QUERIES),
        (fcntl, 1, FILE_COMMANDS),
    ):
        body = [(LOAD_WORD, 0, 0, OFFSET_ARGUMENTS + 8 * argument)]
        for value in values:
            body += [(JUMP_EQUAL, 0, 1, value), (RETURN, 0, 0, RET_ALLOW)]
        body += [(RETURN, 0, 0, RET_ERRNO | EPERM)]
        program += [(JUMP_EQUAL, 0, len(body), call), *body]
    program += [(RETURN, 0, 0, RET_ERRNO | EPERM)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in program))
    filter_ = struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(code))
    _call(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_, 0, 0), "prctl(SECCOMP)")


def _call(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


if __name__ == "__main__":
    main()

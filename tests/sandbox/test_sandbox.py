"""Attacks on the sandbox: none gets through."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from reprise.errors import UserError
from reprise.run_delay import run_delay
from reprise.sandbox.run import Limits, require_sandbox, run_program

QUICK = Limits(seconds=2.0, memory_mb=256, file_mb=2)


@pytest.fixture(autouse=True, scope="module")
def _sandbox_works() -> None:
    try:
        require_sandbox()
    except UserError as error:
        pytest.skip(str(error))


def test_right_and_wrong_programs() -> None:
    program = "def add(a, b):\n    return a + b"
    assert run_program(program, "assert add(2, 3) == 5\nassert add('a', 'b') == 'ab'").passed
    wrong = run_program(program, "assert add(2, 3) == 6, 'sum'")
    assert (wrong.verdict, wrong.detail) == ("failed", "tests: AssertionError: sum")
    assert run_program("def add(a, b) return", "").verdict == "failed"


def test_time_that_other_programs_had_the_processor_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine must not make a right program wrong; one that sleeps waits for nobody."""
    slow, limits = "import time\ntime.sleep(0.9)", Limits(seconds=0.6)
    assert run_program(slow, "", limits).verdict == "timeout"
    monkeypatch.setattr("reprise.sandbox.run.run_delay", lambda pid: 30.0)
    assert run_program(slow, "", limits).passed


def test_the_system_tells_how_long_a_process_waited_for_the_processor() -> None:
    before = run_delay(os.getpid())
    assert run_delay(os.getpid()) >= before >= 0.0
    assert run_delay(2**31 - 1) == 0.0, "no such process"


def test_what_an_honest_program_needs_is_there() -> None:
    program = """
import bisect, collections, concurrent.futures, dataclasses, datetime, decimal, fractions, functools, hashlib, heapq, io
import itertools, json, math, os, random, re, statistics, string, tempfile, threading, time, typing, zoneinfo
assert hashlib.sha256(b"").hexdigest().startswith("e3b0")
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    assert list(pool.map(abs, [-1, -2])) == [1, 2]
with open("notes.txt", "w") as file:
    file.write("x" * 1000)
os.rename("notes.txt", "other.txt")
assert len(open("other.txt").read()) == 1000
time.sleep(0.01); print("done")
"""
    verdict = run_program(program, "assert __name__ == '__main__'", QUICK)
    assert verdict.passed, verdict


@pytest.mark.parametrize(
    ("attack", "wanted"),
    [
        ("import os\nwhile True: os.fork()", "PermissionError"),
        ("import subprocess\nsubprocess.run(['/bin/ls'])", "PermissionError"),
        ("import os\nos.execv('/bin/ls', ['ls'])", "PermissionError"),
        ("import multiprocessing\nmultiprocessing.Pool(2)", "PermissionError"),
        ("import socket\nsocket.socket()", "PermissionError"),
        ("import socket\nsocket.socket(socket.AF_UNIX)", "PermissionError"),
        ("import socket\nsocket.create_connection(('127.0.0.1', 80))", "PermissionError"),
        ("import urllib.request\nurllib.request.urlopen('http://127.0.0.1')", "Operation not permitted"),
        ("import os\nos.kill(os.getppid(), 9)", "PermissionError"),
        ("import os, signal\nsignal.pthread_kill(1, 9)\nos.kill(1, 9)", ""),
        ("open('/etc/passwd').read()", "PermissionError"),
        ("open(f'/proc/{__import__(\"os\").getppid()}/environ').read()", "PermissionError"),
        ("open('/proc/self/mem', 'r+b')", "PermissionError"),
        ("open('/dev/shm/left', 'w')", "PermissionError"),
        ("open('/dev/tty', 'w')", "Error"),
        ("import os\nos.listdir('/')", "PermissionError"),
        ("import os\nos.symlink('/etc/passwd', 'here')", "PermissionError"),
        ("import os\nos.chmod('/tmp', 0)", "PermissionError"),
        ("import os\nos.truncate('/etc/hostname', 0)", "PermissionError"),
        ("import os\nos.setuid(0) or os.chroot('/')", "PermissionError"),
        ("import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "Error"),
        ("import threading, time\nfor _ in range(10**5): threading.Thread(target=time.sleep, args=(9,)).start()", ""),
    ],
)  # fmt: skip
def test_attacks_fail(attack: str, wanted: str) -> None:
    verdict = run_program(attack, "", QUICK)
    assert verdict.verdict in ("failed", "crashed"), verdict
    assert wanted in verdict.detail


STUBBORN = """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    try:
        while True:
            pass
    except BaseException:
        pass
"""


def test_endless_loops_end_even_if_they_catch_everything() -> None:
    for program in ("while True: pass", "import time\ntime.sleep(99)", STUBBORN):
        started = time.monotonic()
        assert run_program(program, "", QUICK).verdict == "timeout"
        assert time.monotonic() - started < 8


@pytest.mark.parametrize(
    "program", ["block = bytearray(10 << 30)", "held = []\nwhile 1: held.append(bytearray(1 << 20))"]
)
def test_ten_gigabytes_are_refused(program: str) -> None:
    assert run_program(program, "", QUICK).verdict == "memory"


@pytest.mark.parametrize(
    "program",
    [
        "open('big', 'wb').write(bytes(10 << 20))",
        "print('x' * (10 << 20))",
        "for number in range(10**6): open(f'{number}', 'wb').write(bytes(10_000))",
        "import os\nfor number in range(10**6): os.mkdir(f'{number}'); os.chdir(f'{number}')",
        "for number in range(60): open(f'{number}', 'wb').write(bytes(1 << 20))\nimport time; time.sleep(5)",
    ],
)
def test_the_disk_is_not_filled(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert run_program(program, "", QUICK).verdict in ("size", "failed")
    assert list(tmp_path.iterdir()) == []


def test_writes_outside_leave_nothing(tmp_path: Path) -> None:
    target = tmp_path / "target.txt"
    target.write_text("untouched")
    target.chmod(0o666)
    tmp_path.chmod(0o777)
    attacks = [
        f"open({str(target)!r}, 'w')", f"open({str(tmp_path / 'new')!r}, 'w')",
        f"__import__('os').remove({str(target)!r})",
        f"__import__('os').rename({str(target)!r}, 'mine')", f"__import__('os').mkdir({str(tmp_path / 'folder')!r})",
        f"__import__('os').truncate({str(target)!r}, 0)", f"open({str(target)!r}).read()",
    ]  # fmt: skip
    for attack in attacks:
        assert run_program(attack, "", QUICK).verdict == "failed", attack
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_text() == "untouched"


def test_the_environment_and_the_home_folder_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    tests = f"""
import os
assert not any('KEY' in name for name in os.environ), os.environ
for path in [{str(Path.home())!r}, '/root', {str(Path.cwd())!r}]:
    try:
        os.listdir(path)
    except PermissionError:
        continue
    raise AssertionError(path)
"""
    verdict = run_program("", tests, QUICK)
    assert verdict.passed, verdict


@pytest.mark.parametrize("program", ["raise SystemExit(0)", "import os\nos._exit(0)", "import sys\nsys.exit()"])
def test_leaving_early_is_not_passing(program: str) -> None:
    assert run_program(program, "assert 1 == 2", QUICK).verdict in ("failed", "crashed")


def test_system_calls_that_python_does_not_wrap_are_refused() -> None:
    program = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
calls = {
    "io_uring_setup": 425, "bpf": 321, "memfd_create": 319, "unshare": 272, "ptrace": 101, "keyctl": 250, "mount": 165,
    "userfaultfd": 323, "perf_event_open": 298, "process_vm_readv": 310, "vfork": 58, "x32": 0x40000001,
}
for name, number in calls.items():
    assert libc.syscall(number, 0, 0, 0, 0, 0) == -1 and ctypes.get_errno() == errno.EPERM, name
"""
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers are those of x86-64")
    verdict = run_program(program, "", QUICK)
    assert verdict.passed, verdict


def test_no_process_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Recorded(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            started.append(self.pid)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    run_program("import threading\nthreading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()", "", QUICK)
    assert len(started) == 1
    # By session: other tests run programs at the same time, and a thread's or child's parent may have changed.
    sessions = []
    for process in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            sessions.append(int(process.read_text().rpartition(")")[2].split()[3]))
    assert os.getsid(0) in sessions and started[0] not in sessions


@pytest.mark.skipif(sys.platform == "linux", reason="for machines without Landlock")
def test_other_systems_are_refused() -> None:
    with pytest.raises(UserError, match="Linux"):
        run_program("", "")


CALLS = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def refused(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(number, *arguments)
    assert result == -1 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS), (number, result, ctypes.get_errno())
"""
ESCAPES = {
    "F_SETOWN to the parent": "fd = os.open('/dev/null', 0)\nrefused(72, fd, 8, os.getppid())",
    "F_SETOWN to all processes": "fd = os.open('/dev/null', 0)\nrefused(72, fd, 8, -1)",
    "F_SETOWN_EX": "fd = os.open('/dev/null', 0)\nrefused(72, fd, 15, ctypes.create_string_buffer(8))",
    "F_SETSIG SIGKILL": "fd = os.open('/dev/null', 0)\nrefused(72, fd, 10, 9)",
    "F_SETFL O_ASYNC": "fd = os.open('/dev/null', 0)\nrefused(72, fd, 4, 0o20000)",
    "F_SETFL O_ASYNC, high bits set":
        "fd = os.open('/dev/null', 0)\nrefused(72, fd, ctypes.c_ulong(4 | 1 << 32), 0o20000)",
    "F_NOTIFY": "fd = os.open('.', 0)\nrefused(72, fd, 1026, 1 << 31)",
    "F_SETLEASE": "fd = os.open('mine', os.O_CREAT)\nrefused(72, fd, 1024, 1)",
    "F_SETPIPE_SZ": "refused(72, 0, 1031, 1 << 20)",
    "FIOASYNC": "refused(16, 0, 0x5452, ctypes.byref(ctypes.c_int(1)))",
    "FIOSETOWN": "refused(16, 0, 0x8901, ctypes.byref(ctypes.c_int(os.getppid())))",
    "SIOCSPGRP": "refused(16, 0, 0x8902, ctypes.byref(ctypes.c_int(os.getppid())))",
    "TIOCSTI": "refused(16, 0, 0x5412, b'x')",
    "kill": "refused(62, os.getppid(), 9)",
    "kill of the group": "refused(62, 0, 9)",
    "kill of all": "refused(62, -1, 9)",
    "tkill": "refused(200, os.getppid(), 9)",
    "tgkill": "refused(234, os.getppid(), os.getppid(), 9)",
    "rt_sigqueueinfo": "refused(129, os.getppid(), 9, ctypes.create_string_buffer(128))",
    "pidfd_send_signal": "refused(424, 0, 9, None, 0)",
    "pidfd_open": "refused(434, os.getppid(), 0)",
    "pidfd_getfd": "refused(438, 0, 0, 0)",
    "prlimit of the parent": "refused(302, os.getppid(), 7, None, None)",
    "setpriority": "refused(141, 0, 0, -20)",
    "sched_setscheduler": "refused(144, 0, 1, None)",
    "clone without a thread": "refused(56, 0, 0, 0, 0, 0)",
    "clone3": "refused(435, ctypes.create_string_buffer(88), 88)",
    "fork": "refused(57)",
    "vfork": "refused(58)",
    "execve": "refused(59, b'/bin/sh', None, None)",
    "execveat": "refused(322, -100, b'/bin/sh', None, None, 0)",
    "ptrace": "refused(101, 16, os.getppid(), 0, 0)",
    "process_vm_writev": "refused(311, os.getppid(), 0, 0, 0, 0, 0)",
    "kcmp": "refused(312, 1, 2, 0, 0, 0)",
    "socket": "refused(41, 2, 1, 0)",
    "socketpair": "refused(53, 1, 1, 0, 0)",
    "sendmsg": "refused(46, 0, 0, 0)",
    "io_uring_setup": "refused(425, 1, 0)",
    "memfd_create": "refused(319, b'x', 0)",
    "memfd_secret": "refused(447, 0)",
    "shmget": "refused(29, 0, 4096, 0o1777)",
    "msgget": "refused(68, 0, 0o1777)",
    "semget": "refused(64, 0, 1, 0o1777)",
    "mq_open": "refused(240, b'x', 0o102, 0o777, 0)",
    "unshare": "refused(272, 0x10000000)",
    "setns": "refused(308, 0, 0)",
    "mount": "refused(165, 0, 0, 0, 0, 0)",
    "move_mount": "refused(429, 0, 0, 0, 0, 0)",
    "open_tree": "refused(428, -100, b'/', 1)",
    "fsopen": "refused(430, b'tmpfs', 0)",
    "chroot": "refused(161, b'/')",
    "pivot_root": "refused(155, b'/', b'/')",
    "link": "refused(86, b'/etc/passwd', b'x')",
    "symlink": "refused(88, b'/etc/passwd', b'x')",
    "mknod": "refused(133, b'x', 0o20666, 0x101)",
    "chmod": "refused(90, b'.', 0)",
    "fchmodat": "refused(268, -100, b'.', 0, 0)",
    "chown": "refused(92, b'.', 0, 0)",
    "setxattr": "refused(188, b'.', b'user.x', b'y', 1, 0)",
    "open_by_handle_at": "refused(304, -100, 0, 0)",
    "inotify_init": "refused(253)",
    "fanotify_init": "refused(300, 0, 0)",
    "bpf": "refused(321, 0, 0, 0)",
    "perf_event_open": "refused(298, 0, 0, 0, 0, 0)",
    "userfaultfd": "refused(323, 0)",
    "keyctl": "refused(250, 0, 0)",
    "add_key": "refused(248, b'user', b'x', b'y', 1, -1)",
    "personality": "refused(135, 0x40000)",
    "prctl": "refused(157, 22, 0, 0, 0, 0)",
    "seccomp": "refused(317, 0, 0, 0)",
    "setuid": "refused(105, 0)",
    "setgroups": "refused(116, 0, 0)",
    "capset": "refused(126, 0, 0)",
    "reboot": "refused(169, 0xfee1dead, 672274793, 0, 0)",
    "kexec_load": "refused(246, 0, 0, 0, 0)",
    "init_module": "refused(175, 0, 0, b'')",
    "settimeofday": "refused(164, 0, 0)",
    "sethostname": "refused(170, b'x', 1)",
    "syslog": "refused(103, 3, 0, 0)",
    "acct": "refused(163, b'x')",
    "swapon": "refused(167, b'x', 0)",
    "setsid": "refused(112)",
    "setpgid": "refused(109, 0, 0)",
    "timer_create": "refused(222, 0, 0, 0)",
    "kill by x32": "refused(62 | 0x40000000, os.getppid(), 9)",
}  # fmt: skip


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
def test_every_escape_of_the_list_is_refused() -> None:
    """One run: each escape is refused by the kernel, and the process goes on."""
    verdict = run_program(CALLS + "\n".join(ESCAPES.values()), "", QUICK)
    assert verdict.passed, verdict


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
def test_no_escape_through_a_thread() -> None:
    program = (
        CALLS
        + """
import threading
problems = []
def attack():
    try:
        refused(62, os.getppid(), 9)
        refused(72, os.open('/dev/null', 0), 8, os.getppid())
    except AssertionError as error:
        problems.append(error)
thread = threading.Thread(target=attack)
thread.start(); thread.join()
assert not problems, problems
"""
    )
    verdict = run_program(program, "", QUICK)
    assert verdict.passed, verdict


def test_an_error_with_half_a_character_can_be_written() -> None:
    verdict = run_program("raise ValueError('half \\ud83d of it')", "", QUICK)
    assert verdict.verdict == "failed"
    verdict.detail.encode()
    verdict = run_program("print('\\ud83d', flush=True)", "", QUICK)
    verdict.detail.encode()


def test_locks_and_copies_of_files_still_work() -> None:
    program = """
import fcntl, os, tempfile
with open("x", "w") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    os.dup(file.fileno())
    os.set_inheritable(file.fileno(), True)
with tempfile.TemporaryFile() as file:
    file.write(b"x")
"""
    verdict = run_program(program, "", QUICK)
    assert verdict.passed, verdict

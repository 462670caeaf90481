"""Worker processes of this machine. Each runs one piece of work at a time and answers over a pipe.

The parent stays free of threads, so that Ctrl-C, an error or a killed worker is an ordinary exception there. Workers
are in process groups of their own, where the terminal's Ctrl-C does not reach them; the parent kills them when it
stops early, and the kernel does when the parent is killed.
"""

import contextlib
import ctypes
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar, cast

from reprise.errors import UserError

P = TypeVar("P")
R = TypeVar("R")

_ATTEMPTS = 2
"""Attempts at a piece whose worker dies: one worker may have been killed by chance, but not two."""
_PR_SET_PDEATHSIG = 1
_PROGRAM = """
import sys
sys.path[:] = {path!r}
from reprise.documents.workers import serve
serve({reads}, {writes}, {parent})
"""


class WorkerDiedError(Exception):
    """A worker ended in the middle of a piece."""


@dataclass(frozen=True)
class _Answer:
    """What a worker sends back: a value, or one of three kinds of failure."""

    value: Any = None
    user_error: tuple[str, str, str] | None = None
    """What went wrong, where, and the remedy."""
    os_error: tuple[Any, ...] | None = None
    """errno, message and file."""
    trace: str | None = None
    """Traceback of any other exception: a bug of Reprise."""


class Worker:
    """One worker process."""

    def __init__(self) -> None:
        request_reads, request_writes = os.pipe()
        answer_reads, answer_writes = os.pipe()
        program = _PROGRAM.format(path=sys.path, reads=request_reads, writes=answer_writes, parent=os.getpid())
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            pass_fds=(request_reads, answer_writes),
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        os.close(request_reads)
        os.close(answer_writes)
        self._requests = Connection(request_writes, readable=False)
        self.answers = Connection(answer_reads, writable=False)

    def submit(self, function: Callable[[Any], Any], piece: Any) -> None:
        """Start a piece; the worker must be idle.

        Raises:
            WorkerDiedError: the process has ended.
        """
        try:
            self._requests.send_bytes(pickle.dumps((function, piece)))
        except OSError:
            raise WorkerDiedError(self.ending()) from None

    def result(self) -> Any:
        """Wait for the piece and return its value, or raise what it raised (see `open_answer`).

        Raises:
            WorkerDiedError: the process ended before it answered.
        """
        try:
            answer = self.answers.recv_bytes()
        except (EOFError, OSError):
            raise WorkerDiedError(self.ending()) from None
        return open_answer(answer)

    def ending(self) -> str:
        """How the process ended, such as `signal 9`; waits for it."""
        code = self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """Kill the process immediately."""
        self._process.kill()
        self._process.wait()
        self._requests.close()
        self.answers.close()


class Pool:
    """A fixed set of workers, each started with its first piece. A context manager: leaving it kills the workers."""

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._idle: list[Worker] = []
        self._busy: dict[Connection, tuple[Worker, int]] = {}

    def map(self, function: Callable[[P], R], pieces: Sequence[P]) -> Iterator[tuple[int, R]]:
        """Yield (index of the piece, result) in the order in which the pieces finish.

        Raises:
            UserError: raised by the function, or a piece ended its worker twice.
            OSError: raised by the function.
        """
        waiting = list(range(len(pieces) - 1, -1, -1))
        deaths = [0] * len(pieces)
        try:
            while waiting or self._busy:
                while waiting and len(self._busy) < self._num_workers:
                    self._start(function, pieces, waiting.pop())
                for answers in wait(list(self._busy)):
                    worker, index = self._busy[cast(Connection, answers)]
                    try:
                        value = worker.result()
                    except WorkerDiedError as death:
                        deaths[index] += 1
                        if deaths[index] >= _ATTEMPTS:
                            raise _died(pieces[index], str(death)) from None
                        self._kill(worker.answers)
                        waiting.append(index)
                    else:
                        del self._busy[worker.answers]
                        self._idle.append(worker)
                        yield index, value
        finally:
            self._kill(*self._busy)

    def _start(self, function: Callable[[P], R], pieces: Sequence[P], index: int) -> None:
        with _without_interrupts():
            worker = self._idle.pop() if self._idle else Worker()
            self._busy[worker.answers] = (worker, index)  # if it is dead, its answer is the end of the file
        with contextlib.suppress(WorkerDiedError):
            worker.submit(function, pieces[index])

    def _kill(self, *busy: Connection) -> None:
        """Kill these workers, which have not answered."""
        with _without_interrupts():
            for answers in busy:
                self._busy.pop(answers)[0].kill()

    def close(self) -> None:
        """Kill the workers; unfinished pieces are lost."""
        with _without_interrupts():
            self._kill(*self._busy)
            while self._idle:
                self._idle.pop().kill()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Delay a second Ctrl-C until the end of the block, so that no worker stays alive."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGALRM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _died(piece: object, ending: str) -> UserError:
    return UserError(
        f"a worker process ended twice in the middle of the same piece of work ({ending})",
        where=str(piece)[:300],
        remedy="signal 9 is most often a machine that ran out of memory: free some, or split the file",
    )


def serve(reads: int, writes: int, parent: int) -> None:
    """Main loop of a worker process: answer requests until the parent closes the pipe or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)
    requests, answers = Connection(reads, writable=False), Connection(writes, readable=False)
    while True:
        try:
            request = requests.recv_bytes()
        except (EOFError, OSError):
            os._exit(0)
        answers.send_bytes(make_answer(_run, request))


def _run(request: bytes) -> Any:
    function, piece = pickle.loads(request)
    return function(piece)


def make_answer(call: Callable[..., Any], *arguments: Any) -> bytes:
    """What `call` returns or raises, in a form that another process can open."""
    try:
        answer = _Answer(value=call(*arguments))
    except UserError as error:
        answer = _Answer(user_error=(error.what, error.where, error.remedy))
    except OSError as error:
        answer = _Answer(os_error=(error.errno, error.strerror or str(error), error.filename))
    except Exception:
        answer = _Answer(trace=traceback.format_exc())
    return pickle.dumps(answer)


def open_answer(data: bytes) -> Any:
    """Return the value in an answer, or raise its error.

    Raises:
        UserError: raised by the call.
        OSError: raised by the call, such as a full disk.
        RuntimeError: the call raised something else; the message contains the worker's traceback.
    """
    answer: _Answer = pickle.loads(data)
    if answer.user_error is not None:
        what, where, remedy = answer.user_error
        raise UserError(what, where=where, remedy=remedy)
    if answer.os_error is not None:
        raise OSError(*answer.os_error)
    if answer.trace is not None:
        raise RuntimeError(f"a worker failed:\n{answer.trace}")
    return answer.value

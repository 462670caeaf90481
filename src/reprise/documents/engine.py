"""Where the work of a stage runs: in worker processes of this machine, or on a Ray cluster through Daft.

A piece of work is a part of a table or a group of input files. It reads and writes files by name, so a piece that
runs twice, because its worker was lost, writes the same bytes to the same file.
"""

import contextlib
import os
import pickle
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Literal, TypeVar

from reprise.documents.workers import Pool, make_answer, open_answer
from reprise.errors import UserError, missing_extra
from reprise.progress import track

Engine = Literal["native", "ray"]
P = TypeVar("P")
R = TypeVar("R")

IN_PROCESS_BYTES = 8 << 20
"""Less text than this is processed in this process: starting workers would take longer."""

_pool: Pool | None = None
"""The workers that `keep_workers` shares."""


def num_workers() -> int:
    """Worker processes on this machine: one per core that this process may use."""
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def keep_workers() -> Iterator[None]:
    """Let all calls of `run_pieces` in the block use the same worker processes."""
    global _pool
    with Pool(num_workers()) as _pool:
        try:
            yield
        finally:
            _pool = None


def run_pieces(
    function: Callable[[P], R],
    pieces: Sequence[P],
    *,
    engine: Engine,
    what: str,
    num_bytes: int,
    finished: Callable[[int], object] | None = None,
) -> list[R]:
    """Call `function` on each piece, on all cores or the cluster, and return the results in the order of the pieces.

    Args:
        function: called in a worker; the function, its argument and its result must be picklable.
        pieces: run in any order, several at the same time.
        engine: `native` or `ray`; the latter joins the cluster at RAY_ADDRESS, or starts one on this machine.
        what: text of the progress bar.
        num_bytes: size of the text in bytes; little text is processed without worker processes.
        finished: called in this process with the index of each piece that is done.

    Raises:
        UserError: raised by the function; or Ray is not installed.
        OSError: raised by the function, such as a full disk.
    """
    results: dict[int, R] = {}
    with (
        track(what, len(pieces), "parts") as advance,
        contextlib.closing(_run(function, pieces, engine, num_bytes)) as running,
    ):
        for index, result in running:
            results[index] = result
            if finished is not None:
                finished(index)
            advance()
    return [results[index] for index in range(len(pieces))]


def _run(
    function: Callable[[P], R], pieces: Sequence[P], engine: Engine, num_bytes: int
) -> Generator[tuple[int, R], None, None]:
    workers = min(len(pieces), num_workers())
    if engine == "ray":
        yield from _run_on_ray(function, pieces)
    elif workers <= 1 or num_bytes < IN_PROCESS_BYTES:
        for index, piece in enumerate(pieces):
            yield index, function(piece)
    elif _pool is not None:
        yield from _pool.map(function, pieces)
    else:
        with Pool(workers) as pool:
            yield from pool.map(function, pieces)


def _run_on_ray(function: Callable[[P], R], pieces: Sequence[P]) -> Iterator[tuple[int, R]]:
    """Daft sends the pieces to the cluster, one per task, and repeats those of a lost worker."""
    if not pieces:
        return
    try:
        import daft

        daft.set_runner_ray(os.environ.get("RAY_ADDRESS"), noop_if_initialized=True)
    except ImportError:
        raise missing_extra("ray", "ray", "documents.engine=ray") from None
    except (OSError, RuntimeError, ValueError) as error:  # no cluster, another version of Ray, an address that is none
        raise UserError(
            f"the Ray cluster cannot be used: {str(error).strip().splitlines()[0]}",
            where=f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS')}",
            remedy="start it with `ray start --head`, correct the address, or unset it to use this machine alone",
        ) from error

    @daft.cls
    class Caller:
        """Errors travel as values: Daft would wrap them into its own."""

        @daft.method.batch(return_dtype=daft.DataType.binary(), batch_size=1)
        def call(self, series: Any) -> list[bytes]:
            return [make_answer(_run_numbered, function, item) for item in series.to_pylist()]

    frame = daft.from_pydict({"piece": [pickle.dumps(item) for item in enumerate(pieces)]})
    frame = frame.into_partitions(len(pieces))
    caller: Any = Caller()
    for row in frame.select(caller.call(daft.col("piece")).alias("result")).iter_rows():
        yield open_answer(row["result"])


def _run_numbered(function: Callable[[P], R], item: bytes) -> tuple[int, R]:
    index, piece = pickle.loads(item)
    return index, function(piece)

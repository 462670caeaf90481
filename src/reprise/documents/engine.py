"""Daft runs the work: on this machine's cores, or on a Ray cluster.

A piece of work is a part of a table (or a group of input files). It reads and writes files by name, so a piece that is
run twice - Ray repeats those of a lost worker - writes the same bytes to the same place.
"""

import json
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import daft

from reprise.errors import UserError, missing_extra
from reprise.progress import track

Engine = Literal["native", "ray"]
Json = Any

IN_PROCESS_BYTES = 8 << 20
"""Less text than this is done in this process: starting workers would take longer."""


_chosen: list[Engine] = []


def start(engine: Engine) -> None:
    """Choose Daft's runner; `ray` joins the cluster at RAY_ADDRESS, or starts one on this machine.

    Raises:
        UserError: Ray is not installed, or this process has already run on the other engine.
    """
    if _chosen and _chosen[0] != engine:
        raise UserError(
            f"this process already runs documents on {_chosen[0]}, and Daft has one runner to a process",
            where=f"documents.engine={engine}",
            remedy="start a new process",
        )
    if _chosen:
        return
    try:
        if engine == "ray":
            daft.set_runner_ray(os.environ.get("RAY_ADDRESS"), noop_if_initialized=True)
        else:
            daft.set_runner_native()
    except ImportError:
        raise missing_extra("ray", "ray", "documents.engine=ray") from None
    _chosen.append(engine)


def run_pieces(
    function: Callable[[Json], Json], pieces: Sequence[Json], *, engine: Engine, what: str, num_bytes: int
) -> list[Json]:
    """Call `function` on each piece, on all cores or the cluster, and return the results in the order of the pieces.

    Args:
        function: takes and returns JSON values; must be picklable.
        pieces: what it is called on, one after another or at the same time.
        engine: see `start`.
        what: for the progress bar.
        num_bytes: size of the text, to judge whether worker processes pay.

    Raises:
        UserError: raised by the function.
        OSError: likewise, such as a full disk.
    """
    start(engine)
    if not pieces:
        return []
    workers = min(len(pieces), os.cpu_count() or 1)
    in_process = engine == "native" and (workers == 1 or num_bytes < IN_PROCESS_BYTES)
    frame = daft.from_pydict({"piece": [json.dumps(piece) for piece in pieces]})
    if engine == "ray":
        frame = frame.into_partitions(len(pieces))
        caller = daft.cls(_Caller)(function)
    elif in_process:
        caller = daft.cls(_Caller, use_process=False)(function)
    else:
        caller = daft.cls(_Caller, use_process=True, max_concurrency=workers)(function)
    results = []
    with track(what, len(pieces), "parts") as advance:
        for row in frame.select(caller.call(daft.col("piece")).alias("result")).iter_rows():
            result = json.loads(row["result"])
            if "user_error" in result:
                raise UserError(**result["user_error"])
            if "os_error" in result:
                raise OSError(*result["os_error"])
            results.append(result["value"])
            advance()
    return results


class _Caller:
    """What Daft runs. Errors of the user's and of the system travel as values: Daft would wrap them into its own."""

    def __init__(self, function: Callable[[Json], Json]) -> None:
        self._function = function

    @daft.method.batch(return_dtype=daft.DataType.string(), batch_size=1)
    def call(self, pieces: daft.Series) -> list[str]:
        return [self._call(json.loads(piece)) for piece in pieces.to_pylist()]

    def _call(self, piece: Json) -> str:
        try:
            return json.dumps({"value": self._function(piece)})
        except UserError as error:
            return json.dumps({"user_error": {"what": error.what, "where": error.where, "remedy": error.remedy}})
        except OSError as error:
            return json.dumps({"os_error": [error.errno, error.strerror or str(error), error.filename]}, default=str)

"""Pieces of a measurement: shared among the processes, and each cached as soon as it is done.

The division into pieces does not depend on how many processes there are, so the results do not either.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from reprise.evaluation.model import EvaluatedModel
from reprise.processes import Remote
from reprise.storage import read_checked, write_checked

Piece = tuple[Path, Any]
"""File that caches its result, and what is measured."""


def measure_pieces(
    evaluated: EvaluatedModel,
    pieces: Sequence[Piece],
    measure: Callable[[EvaluatedModel, Any], Any],
    own: Callable[[Any], Any] | None = None,
) -> list[Any]:
    """Results of the pieces, in order; cached ones are read.

    Args:
        evaluated: the model.
        pieces: cache file and work of each piece, similar in size.
        measure: returns the result of a piece, a JSON value; a module-level function or a partial of one.
        own: the same for this process, which shows progress; None: `measure`.
    """
    results = [read_checked(path) for path, _ in pieces]
    missing = [index for index, result in enumerate(results) if result is None]
    # Only this process sends requests to a server, or to an engine that uses all devices.
    remote = Remote(evaluated, partial(_keep, measure)) if evaluated.in_process else None
    work = own or partial(measure, evaluated)
    measured = evaluated.processes.spread(
        [pieces[index] for index in missing], lambda piece: _write(piece[0], work(piece[1])), remote
    )
    for index, result in zip(missing, measured, strict=True):
        results[index] = result
    return results


def _keep(measure: Callable[[EvaluatedModel, Any], Any], evaluated: EvaluatedModel, piece: Piece) -> Any:
    """Measure a piece in a worker process."""
    return _write(piece[0], measure(evaluated, piece[1]))


def _write(path: Path, result: Any) -> Any:
    write_checked(path, result)
    return result

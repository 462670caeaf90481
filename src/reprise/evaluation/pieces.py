"""Pieces of a measurement: divided over the processes, and each kept as soon as it is done.

How the work is cut depends on the work alone, so that the numbers are the same in one process and in many.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from reprise.evaluation.model import EvaluatedModel
from reprise.processes import Remote
from reprise.storage import read_checked, write_checked

Piece = tuple[Path, Any]
"""Where its result is kept, and what is measured."""


def measure_pieces(
    evaluated: EvaluatedModel,
    pieces: Sequence[Piece],
    measure: Callable[[EvaluatedModel, Any], Any],
    own: Callable[[Any], Any] | None = None,
) -> list[Any]:
    """Results of pieces, in order; those that were kept are read.

    Args:
        evaluated: the model.
        pieces: of similar size.
        measure: gives the result of a piece, a JSON value; a function of a module or a partial of one.
        own: how this process measures, where it shows how far it is; None: as `measure`.
    """
    results = [read_checked(path) for path, _ in pieces]
    missing = [index for index, result in enumerate(results) if result is None]
    # A server, or an engine that has all devices, is asked by this process.
    remote = Remote(evaluated, partial(_keep, measure)) if evaluated.in_process else None
    work = own or partial(measure, evaluated)
    measured = evaluated.processes.spread(
        [pieces[index] for index in missing], lambda piece: _write(piece[0], work(piece[1])), remote
    )
    for index, result in zip(missing, measured, strict=True):
        results[index] = result
    return results


def _keep(measure: Callable[[EvaluatedModel, Any], Any], evaluated: EvaluatedModel, piece: Piece) -> Any:
    """Measure a piece in a process that helps."""
    return _write(piece[0], measure(evaluated, piece[1]))


def _write(path: Path, result: Any) -> Any:
    write_checked(path, result)
    return result

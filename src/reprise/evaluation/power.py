"""Which verdicts the held-out documents and the questions can reach, before anyone trains.

A verdict needs an interval that is short enough. Its length depends on one unknown: how much the documents of one group
differ in their change, or how many answers of a benchmark change. An evaluation measures it; before the first one it is
assumed, and the plan says which.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit
from typing_extensions import TypedDict

from reprise.evaluation.intervals import estimate_rate
from reprise.evaluation.verdicts import FAMILY_ERROR
from reprise.recipe.groups import MIN_DOCUMENTS, Groups
from reprise.records import record

POWER = 0.8
"""Probability with which a true verdict should be reached."""

DOCUMENT_SPREAD = 0.04
"""Assumed standard deviation of the relative change of a document's bits per byte."""

MIN_SAMPLES, MAX_SAMPLES, SIMULATED_DOCUMENTS = 50, 400, 1_000_000
"""Samples that simulate the power of a group: MAX_SAMPLES, fewer if it has very many documents."""

CHANGED_ANSWERS = 0.1
"""Assumed share of the questions that are answered differently after training."""


@record
class Reach(TypedDict):
    """What a measure can show."""

    path: str
    """Entry of the mixture, language or source, as in the verdicts; or the name of a benchmark."""
    kind: Literal["bits_per_byte", "benchmark"]
    """What is measured."""
    items: int
    """Held-out documents, or questions."""
    spread: float
    """Standard deviation of the documents' relative changes; share of the answers that change."""
    spread_from: str | None
    """Folder of the run whose evaluation measured `spread`; null: it is assumed."""
    tolerance: float | None
    """Largest change for the worse that still counts as kept; null: none is set."""
    detectable: float | None
    """Smallest true change that is called gained (or, beyond the tolerance, lost) in 4 of 5 runs; relative for bits per
    byte, a difference of shares for benchmarks; null: no change would be."""
    can_be_kept: bool
    """Whether a measure that does not change is called kept in 4 of 5 runs."""
    items_for_kept: int | None
    """Documents or questions of equal size that `kept` requires; null without a tolerance."""


class Spread(NamedTuple):
    """How much the documents of a group differ in their change, or what share of the answers changes."""

    value: float
    run: str | None = None
    """Folder of the run that measured it; None: it is assumed."""


def plan_reach(
    sizes: Mapping[tuple[str, str], npt.NDArray[np.float64]],
    groups: Groups,
    questions: Mapping[str, tuple[int, float]],
    spreads: Mapping[str, Spread] | None = None,
) -> list[Reach]:
    """What each group of held-out documents and each benchmark can show, all judged as one family.

    Args:
        sizes: (language, source) -> float64[n], bytes of its held-out documents.
        groups: which of them get a verdict together.
        questions: benchmark, or one with a metric -> count of its questions, and its tolerance.
        spreads: path of a group, or benchmark -> the spread that an evaluation measured; missing ones are assumed.
    """
    judged = groups.over(sizes)
    error = FAMILY_ERROR / max(1, len(judged) + len(questions))  # the first step of Holm's rule
    known = spreads or {}
    reaches = []
    for group in judged:
        parts = [size for pair, size in sizes.items() if group.contains(*pair)]
        size = np.concatenate(parts) if parts else np.zeros(0)
        spread = known.get(group.path, Spread(DOCUMENT_SPREAD))
        reaches.append(_reach_of_documents(group.path, size, group.tolerance, spread, error))
    for name, (count, tolerance) in questions.items():
        spread = known.get(name, Spread(CHANGED_ANSWERS))
        reaches.append(_reach_of_questions(name, count, tolerance, spread, error))
    return reaches


def _reach_of_documents(
    path: str, size: npt.NDArray[np.float64], tolerance: float | None, spread: Spread, error: float
) -> Reach:
    reachable = _detectable_of_documents(size, spread.value, error)
    return {
        "path": path,
        "kind": "bits_per_byte",
        "items": len(size),
        "spread": spread.value,
        "spread_from": spread.run,
        "tolerance": tolerance,
        "detectable": reachable,
        "can_be_kept": tolerance is not None and reachable is not None and reachable <= tolerance,
        "items_for_kept": None if not tolerance else _documents_needed(spread.value, tolerance, error),
    }


def _detectable_of_documents(size: npt.NDArray[np.float64], spread: float, error: float) -> float | None:
    """The smallest change that the interval shows with probability POWER; None if no interval can be given.

    By simulation of the intervals that decide, with normal changes: where nothing changes, their upper end is below
    this in so many of the samples, and a change moves the interval as a whole.
    """
    if len(size) < MIN_DOCUMENTS or estimate_rate(size, size, size).problem is not None:
        return None
    rng = np.random.default_rng(0)
    ends = []
    for _ in range(min(MAX_SAMPLES, max(MIN_SAMPLES, SIMULATED_DOCUMENTS // len(size)))):
        changed = size * (1 + spread * rng.standard_normal(len(size)))
        interval = estimate_rate(size, np.maximum(changed, 0.0), size).interval(error)
        assert interval is not None
        ends.append(interval[1])
    return float(np.quantile(ends, POWER))


def _student(degrees: float, error: float) -> float:
    return float(stdtrit(degrees, 1 - error / 2))


def _documents_needed(spread: float, tolerance: float, error: float) -> int:
    """Documents of equal size for which a group that does not change is called kept with probability POWER.

    For equal sizes the interval is nearly Student's.
    """
    count = MIN_DOCUMENTS
    while (_student(count - 1, error) + ndtri(POWER)) * spread / np.sqrt(count) > tolerance:
        count += max(1, count // 50)
    return count


def _detectable_of_questions(count: int, changed: float, error: float) -> float:
    """The same for a difference of scores; the interval counts one more question that was won and one that was lost."""
    moved = changed * count
    return float(_student(count + 1, error) * np.sqrt(moved + 2) + ndtri(POWER) * np.sqrt(moved)) / count


def _questions_needed(changed: float, tolerance: float, error: float) -> int:
    """Questions for which a benchmark that does not change is called kept with probability POWER."""
    enough = MIN_DOCUMENTS
    while _detectable_of_questions(enough, changed, error) > tolerance:
        enough *= 2
    too_few = max(MIN_DOCUMENTS - 1, enough // 2)
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        fits = _detectable_of_questions(middle, changed, error) <= tolerance
        enough, too_few = (middle, too_few) if fits else (enough, middle)
    return enough


def _reach_of_questions(name: str, count: int, tolerance: float, spread: Spread, error: float) -> Reach:
    reachable = _detectable_of_questions(count, spread.value, error) if count >= MIN_DOCUMENTS else None
    return {
        "path": name,
        "kind": "benchmark",
        "items": count,
        "spread": spread.value,
        "spread_from": spread.run,
        "tolerance": tolerance,
        "detectable": reachable,
        "can_be_kept": reachable is not None and reachable <= tolerance,
        "items_for_kept": _questions_needed(spread.value, tolerance, error) if tolerance else None,
    }


def reach_sentences(reaches: Sequence[Reach]) -> list[str]:
    """One line for each measure, for the terminal."""
    return [_sentence(reach) for reach in reaches]


def _sentence(reach: Reach) -> str:
    is_bits = reach["kind"] == "bits_per_byte"
    what, unit = ("document", "%") if is_bits else ("question", "points")
    head = f"{reach['path']}: {reach['items']:,} {what}{'' if reach['items'] == 1 else 's'}"
    if reach["detectable"] is None:
        return f"{head}: no verdict is possible; hold out more"
    differ = "documents differ by" if is_bits else "answers changed:"
    source = f"measured in {reach['spread_from']}" if reach["spread_from"] else "assumed"
    head += f" ({differ} {100 * reach['spread']:.2g} %, {source})"
    line = f"{head}: a change of {100 * reach['detectable']:.1f} {unit} can be shown"
    if reach["tolerance"] is None:
        return f"{line}; `kept` needs a tolerance"
    if reach["can_be_kept"]:
        return f"{line}; `kept` within {100 * reach['tolerance']:g} {unit} can be shown"
    return (
        f"{line}; `kept` within {100 * reach['tolerance']:g} {unit} cannot: it takes about "
        f"{reach['items_for_kept']:,} {what}s"
    )

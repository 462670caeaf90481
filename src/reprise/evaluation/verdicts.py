"""What was gained, kept and lost: paired bootstrap intervals and verdicts.

Every measure has a value before and after. Its change is paired: the same documents (or questions) stand on both
sides, so the interval comes from resampling them together. A verdict is only given where the whole interval agrees.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Verdict = Literal["gained", "kept", "lost", "undecided"]

VERDICTS: tuple[Verdict, ...] = ("gained", "kept", "lost", "undecided")

MIN_ITEMS = 5
"""With fewer documents a bootstrap interval means nothing, so the verdict stays open."""

_RESAMPLED_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Change:
    """One measure before and after."""

    before: float
    after: float
    change: float
    """Relative (after / before - 1) for bits per byte; a difference of shares for scores."""
    ci: tuple[float, float] | None
    """95 % bootstrap interval of `change`; None with fewer than MIN_ITEMS items."""
    tolerance: float | None
    """Largest change for the worse that still counts as kept; None: none was promised."""
    verdict: Verdict

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"ci": None if self.ci is None else list(self.ci)}


def compare_rates(
    before: Floats, after: Floats, weights: Floats, *, tolerance: float | None, samples: int, seed: int
) -> Change:
    """Compare two rates such as bits per byte, lower is better.

    Args:
        before: float64[n], the numerator per document (bits).
        after: the same documents afterwards.
        weights: float64[n], the denominator per document (bytes).
        tolerance: largest relative rise that still counts as kept.
        samples: bootstrap resamples.
        seed: of the resampling.
    """
    total = weights.sum()
    ci = None
    if len(weights) >= MIN_ITEMS:
        sums = _resampled_sums(np.stack([before, after], axis=1), samples, seed)
        ci = _interval(sums[:, 1] / sums[:, 0] - 1)
    change = float(after.sum() / before.sum() - 1)
    verdict = judge(ci, tolerance, better="lower")
    return Change(float(before.sum() / total), float(after.sum() / total), change, ci, tolerance, verdict)


def compare_scores(before: Floats, after: Floats, *, tolerance: float | None, samples: int, seed: int) -> Change:
    """Compare mean scores such as accuracy over the same questions, higher is better; the change is a difference.

    Two questions are added for the interval alone, one that was won and one that was lost: where no answer of a small
    sample changed, resampling it would give an interval without width, and call a model kept that was hardly asked.
    """
    ci = None
    if len(before) >= MIN_ITEMS:
        differences = np.concatenate([after - before, [1.0, -1.0]])
        ci = _interval(_resampled_sums(differences[:, None], samples, seed)[:, 0] / len(differences))
    change = float((after - before).mean())
    verdict = judge(ci, tolerance, better="higher")
    return Change(float(before.mean()), float(after.mean()), change, ci, tolerance, verdict)


def judge(ci: tuple[float, float] | None, tolerance: float | None, *, better: Literal["lower", "higher"]) -> Verdict:
    """The verdict that the whole interval supports.

    gained: all of it is better than no change. kept: all of it is within the tolerance. lost: all of it is worse than
    the tolerance, or than no change where no tolerance was promised. Everything else is undecided.
    """
    if ci is None:
        return "undecided"
    low, high = ci if better == "lower" else (-ci[1], -ci[0])
    if high < 0:
        return "gained"
    if high <= (tolerance or 0.0):
        return "kept"
    if low > (tolerance or 0.0):
        return "lost"
    return "undecided"


def headline(verdicts: Sequence[dict[str, Any]]) -> str:
    """One line: `gained zh bits per byte (-12.3 %); kept en bits per byte (+0.4 %, tolerance 2 %); lost nothing`."""
    parts = []
    for verdict in VERDICTS:
        named = [_in_words(entry) for entry in verdicts if entry["verdict"] == verdict]
        if named:
            parts.append(f"{verdict} {', '.join(named)}")
        elif verdict == "lost":
            parts.append("lost nothing")
    return "; ".join(parts)


def has_loss(verdicts: Sequence[dict[str, Any]]) -> bool:
    """Whether anything is lost: the exit code of `--fail-on-loss`."""
    return any(entry["verdict"] == "lost" for entry in verdicts)


def _in_words(entry: dict[str, Any]) -> str:
    unit = "%" if entry["unit"] == "relative" else "points"
    numbers = f"{100 * entry['change']:+.1f} {unit}"
    if entry["tolerance"] is not None and entry["verdict"] != "gained":
        tolerance = f"{100 * entry['tolerance']:g}"
        numbers += f", tolerance {tolerance} {'point' if unit == 'points' and tolerance == '1' else unit}"
    return f"{entry['measure']} ({numbers})"


def _resampled_sums(values: Floats, samples: int, seed: int) -> Floats:
    """float64[samples, k]: sums over n draws with replacement of the rows of float64[n, k]."""
    random = np.random.default_rng(seed)
    count = len(values)
    rows = max(1, _RESAMPLED_AT_ONCE // count)
    parts = []
    for start in range(0, samples, rows):
        draws = random.integers(0, count, (min(rows, samples - start), count))
        parts.append(values[draws].sum(axis=1))
    return np.concatenate(parts)


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)

"""Confidence intervals: of a change of bits per byte or of a score, also on few documents, and of a single score.

Every measure is paired: the same documents, or questions, are measured before and after. The interval is Student's; for
bits per byte it is moved and lengthened where the changes of the documents are skewed. `benchmarks/verdicts.py`
measures the coverage of these intervals and of the usual alternatives; docs/evaluation.md has the table.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from reprise.recipe.groups import MIN_DOCUMENTS
from reprise.stable_random import resamples

Floats = npt.NDArray[np.float64]

MAX_SHARE = 0.85
"""If one document has a larger share of the text than this, the others cannot show how it varies: no interval is given
(its coverage would be 0.88 to 0.91)."""

SKEWNESS_FACTOR = 1.08
"""By how much a 95 % interval is too short if the changes are skewed, relative to the squared skewness of the
estimate: the second-order term of Edgeworth's expansion of Student's t, (q^4 + 2 q^2 - 3) / 18 with q = 1.96 (Hall, The
Bootstrap and Edgeworth Expansion, 1992, section 2.6)."""

SKEWNESS_DEGREES = 8.0
"""Degrees of freedom at which half of that correction is applied: the skewness of few documents is mostly chance."""

MAX_SHORTENED = 0.75
"""The side that skewness shortens is not shortened further beyond this fraction of Student's quantile at 5 %, so that
the widest intervals, which decide among many verdicts, do not depend on an estimate of skewness."""


@dataclass(frozen=True)
class Estimate:
    """The change of one measure, and its uncertainty."""

    before: float
    after: float
    change: float
    """Relative (after / before - 1) for bits per byte; a difference for scores."""
    items: int
    """Documents or questions."""
    better: Literal["lower", "higher"]
    middle: float
    """Middle of the interval if nothing is skewed: `change`, or for scores a value closer to 0."""
    standard_error: float
    degrees: float
    """Degrees of freedom of Student's t."""
    largest_share: float = 0.0
    """Share of the text that the largest document has, 0 to 1."""
    spread: float = 0.0
    """Standard deviation of the documents' relative changes; root mean square of the changes of questions."""
    skewness: float = 0.0
    """Skewness of `change` as far as the documents show it; the interval is Student's after Hall's transformation."""
    stretch: float = 1.0
    """Factor that lengthens the interval for skewness that only the largest documents show."""
    without_one: tuple[float, float] | None = None
    """The lowest and the highest change if one document is skipped; None for scores."""

    @property
    def problem(self) -> str | None:
        """Why no interval can be given; None if one can."""
        what = "document" if self.better == "lower" else "question"
        if self.items < MIN_DOCUMENTS:
            return f"{self.items} {what}{'' if self.items == 1 else 's'}, and {MIN_DOCUMENTS} are needed at least"
        if self.largest_share > MAX_SHARE:
            return f"one of {self.items} {what}s has {100 * self.largest_share:.0f} % of the text"
        return None

    def interval(self, error: float = 0.05) -> tuple[float, float] | None:
        """The interval of `change` that misses with probability `error`; None if there is a `problem`."""
        if self.problem is not None:
            return None
        quantile = self.stretch * float(stdtrit(self.degrees, 1 - error / 2))
        low, high = (self._untransform(sign * quantile) * self.standard_error for sign in (1, -1))
        return self.middle - low, self.middle - high

    def error_at(self, bound: float) -> float:
        """The smallest `error` whose interval ends at a bound: 1 if the bound is `center`."""
        distance = self.middle - bound
        if self.standard_error == 0.0:
            return 0.0 if distance != 0.0 else 1.0
        transformed = abs(self._transform(distance / self.standard_error)) / self.stretch
        return float(2 * stdtr(self.degrees, -transformed))

    @property
    def center(self) -> float:
        """The bound at which the interval has length 0: `middle`, except for skewness."""
        return self.middle - self._untransform(0.0) * self.standard_error if self.skewness else self.middle

    def _transform(self, distance: float) -> float:
        """Hall's cubic of a distance in standard errors, which removes the skewness; it increases monotonically.

        Hall, Annals of Statistics 20, 1992: t + s t^2 / 3 + s^2 t^3 / 27 + s / 6. On the side where it shortens the
        interval, it continues with slope 1 from `_turn`.
        """
        skewness, turn = self.skewness, self._turn
        inside = max(-turn, distance) if skewness < 0 else min(turn, distance)
        return inside + skewness / 3 * inside**2 + skewness**2 / 27 * inside**3 + skewness / 6 + distance - inside

    def _untransform(self, value: float) -> float:
        """Inverse of `_transform`."""
        skewness = self.skewness
        if abs(skewness) < 1e-9:
            return value
        turn = self._turn if skewness > 0 else -self._turn
        beyond = value - self._transform(turn)
        if beyond * skewness > 0:
            return turn + beyond
        return 3 / skewness * float(np.cbrt(1 + skewness * (value - skewness / 6)) - 1)

    @property
    def _turn(self) -> float:
        return MAX_SHORTENED * float(stdtrit(self.degrees, 0.975))


def estimate_rate(before: Floats, after: Floats, weights: Floats) -> Estimate:
    """The relative change of a rate such as bits per byte; lower is better.

    The change is computed from the sums, so a document is weighted by its bits before. Its variance is the HC2 sandwich
    of the ratio estimator, and its degrees of freedom follow Bell and McCaffrey (Survey Methodology 28, 2002), with a
    document's variance proportional to its bits. For documents of equal size both are Student's: the standard
    deviation over the square root of n, and n - 1. A few long documents among many short ones leave fewer degrees.

    If the changes are skewed, Student's interval is off centre and too short. The skewness of the documents' relative
    changes corrects the centre (Hall's transformation); the excess of the estimate's own skewness over that, which a
    few large documents cause, lengthens the interval on both sides.

    Args:
        before: float64[n], the numerator of each document (bits).
        after: float64[n], the same documents afterwards.
        weights: float64[n], the denominator of each document (bytes).
    """
    total, num_bytes = before.sum(), weights.sum()
    ratio = after.sum() / total
    share = before / total
    squares = float((share**2).sum())
    error, degrees, skewness, stretch = float("inf"), 1.0, 0.0, 1.0
    if len(before) > 1 and share.max() < 1.0:
        residuals = (after - ratio * before) / total
        error = float(np.sqrt((residuals**2 / (1 - share)).sum()))
        cross = float((share**2 / (1 - share)).sum()) ** 2 - float((share**4 / (1 - share) ** 2).sum())
        degrees = 1 / (squares + cross)
        some = before > 0
        skewness = _shown_skewness(after[some] / before[some]) * float((share**3).sum()) / squares**1.5
        own = float(((residuals / np.sqrt(1 - share)) ** 3).sum()) / error**3 if error else 0.0
        unexplained = max(0.0, own**2 - skewness**2)
        stretch = 1 + SKEWNESS_FACTOR * degrees / (degrees + SKEWNESS_DEGREES) * unexplained
    change = float(ratio - 1)
    rest = total - before
    others = ((after.sum() - after) / np.where(rest > 0, rest, 1.0) - 1)[rest > 0]
    return Estimate(
        float(total / num_bytes),
        float(after.sum() / num_bytes),
        change,
        len(before),
        "lower",
        change,
        error,
        degrees,
        float(share.max()),
        error / float(np.sqrt(squares)),
        skewness,
        stretch,
        (float(others.min()), float(others.max())) if len(others) else None,
    )


def _shown_skewness(changes: Floats) -> float:
    """Skewness of the changes, shrunk for chance: G^3 / (G^2 + e^2), with e the jackknife's standard error of G.

    G is the adjusted Fisher-Pearson coefficient. One outlier in symmetric changes makes G large and e larger.

    Args:
        changes: float64[n].
    """
    count = len(changes)
    if count < MIN_DOCUMENTS:
        return 0.0
    deviations = changes - changes.mean()
    moments = (np.mean(deviations**power, keepdims=True) for power in (2, 3))
    skewness = float(_adjusted_skewness(count, *moments)[0])
    if skewness == 0.0:
        return 0.0
    rest = count - 1
    mean = -deviations / rest
    second, third = (((deviations**power).sum() - deviations**power) / rest for power in (2, 3))
    without_one = _adjusted_skewness(rest, second - mean**2, third - 3 * mean * second + 2 * mean**3)
    squared_error = rest / count * float(((without_one - without_one.mean()) ** 2).sum())
    return skewness**3 / (skewness**2 + squared_error)


def _adjusted_skewness(count: int, second: Floats, third: Floats) -> Floats:
    """Adjusted Fisher-Pearson coefficients from central moments; 0 if the second moment is 0."""
    differs = second > 1e-12 * second.max()
    skewness = third / np.where(differs, second, 1.0) ** 1.5 * np.sqrt(count * (count - 1)) / (count - 2)
    return np.where(differs, skewness, 0.0)


def estimate_score(before: Floats, after: Floats) -> Estimate:
    """The change of a mean score such as accuracy over the same questions; higher is better.

    Bonett and Price (Journal of Educational and Behavioral Statistics 37, 2012): one question that was won and one that
    was lost are added for the interval. Without them, a small sample in which no answer changed would give an interval
    of width 0, and the verdict `kept` on a model that was hardly tested.

    Args:
        before: float64[n], score of each question, 0 to 1.
        after: float64[n], the same questions afterwards.
    """
    differences = np.concatenate([after - before, [1.0, -1.0]])
    count = len(differences)
    error = float(np.sqrt(differences.var() / count))
    change = float((after - before).mean())
    center = float(differences.mean())
    return Estimate(
        float(before.mean()),
        float(after.mean()),
        change,
        len(before),
        "higher",
        center,
        error,
        float(count - 1),
        spread=float(np.sqrt(((after - before) ** 2).mean())),
    )


def wilson(score: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), which stays within 0 and 1 even for small counts."""
    centre = (score + z * z / (2 * count)) / (1 + z * z / count)
    width = z / (1 + z * z / count) * math.sqrt(score * (1 - score) / count + z * z / (4 * count * count))
    return min(score, max(0.0, centre - width)), max(score, min(1.0, centre + width))


def bootstrap_interval(before: Floats, after: Floats, samples: int) -> tuple[float, float] | None:
    """The percentile bootstrap's 95 % interval of the relative change, over resampled documents; None for 0 samples.

    It is too narrow on few documents (benchmarks/verdicts.py), so it is only reported beside the deciding interval.

    Args:
        before: float64[n], bits of each document.
        after: float64[n], the same documents afterwards.
        samples: how many resamples to draw.
    """
    if samples < 1:
        return None
    draws = resamples("bootstrap", len(before), samples)
    changes = (draws @ after) / (draws @ before) - 1
    low, high = np.quantile(changes, [0.025, 0.975])
    return float(low), float(high)

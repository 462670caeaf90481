"""Estimates of a change, with intervals that hold their level on few documents.

Every measure is paired: the same documents, or questions, are measured before and after. The length of an interval is
Student's, and for bits per byte longer where the changes of the documents are skewed. `benchmarks/verdicts.py` measures
the coverage of these intervals and of the usual alternatives; docs/evaluation.md has the table.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from reprise.recipe.groups import MIN_DOCUMENTS
from reprise.stable_random import resamples

Floats = npt.NDArray[np.float64]

MAX_SHARE = 0.85
"""Where one document has more of the text than this, the others do not tell how it varies: no interval is given (its
coverage would be 0.88 to 0.91)."""


SKEWNESS_FACTOR = 1.08
"""By how much an interval of 95 % is too short where the changes are skewed, relative to the squared skewness of the
estimate: the second-order term of Edgeworth's expansion of Student's t, (q^4 + 2 q^2 - 3) / 18 with q = 1.96 (Hall, The
Bootstrap and Edgeworth Expansion, 1992, section 2.6)."""

SKEWNESS_DEGREES = 8.0
"""Degrees of freedom at which half of that is believed: the skewness of few documents is mostly chance."""


@dataclass(frozen=True)
class Estimate:
    """The change of one measure, and how sure it is."""

    before: float
    after: float
    change: float
    """Relative (after / before - 1) for bits per byte; a difference for scores."""
    items: int
    """Documents or questions."""
    better: Literal["lower", "higher"]
    center: float
    """Middle of the interval: `change`, or for scores a value closer to 0."""
    standard_error: float
    degrees: float
    """Degrees of freedom of Student's t."""
    largest_share: float = 0.0
    """Share of the largest document."""
    spread: float = 0.0
    """Standard deviation of the documents' relative changes; root mean square of the changes of questions."""
    stretch: float = 1.0
    """How much longer than Student's the interval is, for skewed changes."""

    @property
    def problem(self) -> str | None:
        """Why no interval can be given; None where one can."""
        what = "document" if self.better == "lower" else "question"
        if self.items < MIN_DOCUMENTS:
            return f"{self.items} {what}{'' if self.items == 1 else 's'}, and {MIN_DOCUMENTS} are needed at least"
        if self.largest_share > MAX_SHARE:
            return f"one of {self.items} {what}s has {100 * self.largest_share:.0f} % of the text"
        return None

    def interval(self, error: float = 0.05) -> tuple[float, float] | None:
        """The interval of `change` that misses with probability `error`; None where there is a `problem`."""
        if self.problem is not None:
            return None
        half = self.quantile(error) * self.standard_error
        return self.center - half, self.center + half

    def quantile(self, error: float) -> float:
        """Half the length of the interval, in standard errors."""
        return self.stretch * float(stdtrit(self.degrees, 1 - error / 2))

    def error_at(self, bound: float) -> float:
        """The smallest `error` whose interval ends at a bound: 1 where the bound is the middle."""
        distance = abs(bound - self.center)
        if self.standard_error == 0.0:
            return 0.0 if distance > 0.0 else 1.0
        return float(2 * stdtr(self.degrees, -distance / (self.stretch * self.standard_error)))


def estimate_rate(before: Floats, after: Floats, weights: Floats) -> Estimate:
    """The relative change of a rate such as bits per byte; lower is better.

    The change is that of the sums, so a document counts by its bits before. Its variance is the HC2 sandwich of the
    ratio estimator, and its degrees of freedom are those that Bell and McCaffrey (Survey Methodology 28, 2002) take,
    with a document's variance proportional to its bits. For documents of equal size both are Student's: the standard
    deviation over the square root of n, and n - 1. A few long documents among many short ones leave fewer degrees.
    Where the changes are skewed, Student's interval is too short; it is lengthened on both sides by their skewness.

    Args:
        before: float64[n], the numerator of each document (bits).
        after: float64[n], the same documents afterwards.
        weights: float64[n], the denominator of each document (bytes).
    """
    total, num_bytes = before.sum(), weights.sum()
    ratio = after.sum() / total
    share = before / total
    squares = float((share**2).sum())
    if len(before) < 2 or share.max() == 1.0:
        error, degrees, stretch = float("inf"), 1.0, 1.0
    else:
        residuals = (after - ratio * before) / total
        error = float(np.sqrt((residuals**2 / (1 - share)).sum()))
        cross = float((share**2 / (1 - share)).sum()) ** 2 - float((share**4 / (1 - share) ** 2).sum())
        degrees = 1 / (squares + cross)
        skewness = float(((residuals / np.sqrt(1 - share)) ** 3).sum()) / error**3 if error else 0.0
        stretch = 1 + SKEWNESS_FACTOR * degrees / (degrees + SKEWNESS_DEGREES) * skewness**2
    change = float(ratio - 1)
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
        stretch,
    )


def estimate_score(before: Floats, after: Floats) -> Estimate:
    """The change of a mean score such as accuracy over the same questions; higher is better.

    Bonett and Price (Journal of Educational and Behavioral Statistics 37, 2012): one question that was won and one that
    was lost are added for the interval. Where no answer of a small sample changed, the sample alone would give an
    interval without width, and call a model kept that was hardly asked.

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


def bootstrap_interval(before: Floats, after: Floats, samples: int) -> tuple[float, float] | None:
    """The percentile bootstrap's 95 % interval of the relative change, over resampled documents; None without samples.

    It is too narrow on few documents (benchmarks/verdicts.py), so it is told beside the interval that decides.

    Args:
        before: float64[n], bits of each document.
        after: float64[n], the same documents afterwards.
        samples: how many resamples.
    """
    if samples < 1:
        return None
    draws = resamples("bootstrap", len(before), samples)
    changes = (draws @ after) / (draws @ before) - 1
    low, high = np.quantile(changes, [0.025, 0.975])
    return float(low), float(high)

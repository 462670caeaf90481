"""Differences of two variants, paired by seed: mean, Student's interval, error and power."""

import math
from collections.abc import Sequence

import numpy as np


def student_quantile(degrees: int, probability: float = 0.975) -> float:
    """Quantile of Student's t distribution."""
    from scipy.stats import t as student

    return float(student.ppf(probability, degrees))


def mean_interval(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Mean and Student's 95 % interval; None for one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    half = student_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, (mean - half, mean + half)


def detectable_difference(values: Sequence[float]) -> float | None:
    """The smallest true difference that 4 of 5 studies with as many pairs and this variance detect; None for one pair.

    (t_0.975 + t_0.8) s / sqrt(n), for a power of about 0.8 of a paired t test.
    """
    if len(values) < 2:
        return None
    degrees = len(values) - 1
    quantiles = student_quantile(degrees) + student_quantile(degrees, 0.8)
    return quantiles * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def smallest_error(values: Sequence[float]) -> float:
    """Two-sided p-value of the mean against 0 (one-sample t test); 1 for a single value."""
    from scipy.stats import ttest_1samp

    if len(values) < 2 or not any(values):
        return 1.0
    if np.ptp(values) == 0.0:
        return 0.0
    return float(ttest_1samp(values, 0.0).pvalue)

"""Whose turn it is: rows dealt to buckets so that every prefix of a run is on ratio."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reprise.mixture.shares import apportion

UNITS = 1 << 40
"""A row, in the whole numbers in which credit is kept: sums of any length are exact."""


LEAST_CREDIT = 0.1
"""Rows that a language or source must be owed before one of its buckets is preferred."""
HORIZON_ROWS = 64, 256
"""Rows to come, at least and at most, over which a preference must leave every deadline possible; between, one for each
bucket."""


class Turns:
    """Deals rows so that buckets, and as far as they allow it the sources and languages above them, are on ratio.

    The credit of a bucket is its share of the rows so far, less the rows that it got; that of a source or a language is
    the sum of its buckets'. A credit of more than one row is a missed deadline. Of the buckets that would not get ahead
    of their share, Tijdeman's rule (Discrete Mathematics 32, 1980) takes the one with the earliest deadline, and so
    never misses one under fixed weights. But it knows nothing of languages: one of 40 buckets falls 7 rows behind. So
    the bucket is preferred whose line (itself, its source, its language) has the earliest deadline, if the buckets'
    deadlines in the rows to come can all be met after it: if the k-th of them is at least k rows away. (To give each
    row to the largest credit, the obvious rule, misses deadlines: 1.2 rows among 10 buckets.)

    When weights change, credits carry over. docs/order.md has what was measured, and why no rule can hold the bound
    through every change of the weights.
    """

    def __init__(self, paths: Sequence[tuple[Any, ...]]) -> None:
        """Start with no rows dealt.

        Args:
            paths: (language, source, topic) of each bucket.
        """
        self.credit = np.zeros(len(paths), dtype=np.int64)
        self.closed = True
        """Whether no bucket has a weight, so that there is no next row."""
        languages = _number([path[:1] for path in paths])
        sources = _number([path[:2] for path in paths])
        self._groups = np.stack([languages, sources + languages.max(initial=-1) + 1])
        """[2, buckets]: number of the language and of the source of each bucket, all groups numbered through."""

    def set_weights(self, weights: list[float]) -> None:
        """Put weights into force for the rows to come."""
        self.closed = not any(weights)
        if self.closed:
            return
        self._due = np.array(apportion(UNITS, weights), dtype=np.int64)
        self._open = np.flatnonzero(self._due)
        self._dues = self._due[self._open]
        self._rates = self._dues / UNITS
        count = len(self._open)
        self._least = UNITS // (2 * count - 2) if count > 1 else 0
        self._horizon = min(max(HORIZON_ROWS[0], count), HORIZON_ROWS[1])
        # Sums of whole numbers under 2 ** 53: exact as floats, on any machine.
        size = int(self._groups.max()) + 1
        self._group_credit = np.bincount(self._groups.ravel(), np.tile(self.credit, 2), size)
        self._group_adds = np.bincount(self._groups.ravel(), np.tile(self._due, 2), size)
        self._group_due = np.maximum(self._group_adds, 1.0)
        self._languages, self._sources = self._groups[:, self._open]

    def next(self) -> int:
        """The bucket of the next row."""
        self.credit += self._due
        self._group_credit += self._group_adds
        credit = self.credit[self._open]
        wait = (UNITS - credit) / self._dues  # rows until the deadline
        may = credit >= self._least
        if not may.any():  # after a change of weights that left no bucket its due
            may[np.argmax(credit)] = True
        chosen = self._preferred(credit, wait, may)
        soonest = wait[may].min()
        if np.floor(wait[chosen]) > np.floor(soonest) and not self._can_wait(credit, chosen):
            chosen = int(np.flatnonzero(may & (wait == soonest))[0])
        bucket = int(self._open[chosen])
        self.credit[bucket] -= UNITS
        self._group_credit[self._groups[:, bucket]] -= UNITS
        return bucket

    def _preferred(
        self, credit: npt.NDArray[np.int64], wait: npt.NDArray[np.float64], may: npt.NDArray[np.bool_]
    ) -> int:
        """Among the open buckets that may, the one whose line has the earliest deadline."""
        group_wait = (UNITS - self._group_credit) / self._group_due
        is_owed = self._group_credit > LEAST_CREDIT * UNITS
        suits = may & is_owed[self._languages] & is_owed[self._sources]
        if not suits.any():
            suits = may
        of_language, of_source = group_wait[self._languages], group_wait[self._sources]
        earliest = np.minimum(np.minimum(wait, of_language), of_source)
        earliest[~suits] = np.inf
        best = np.flatnonzero(earliest == earliest.min())
        if len(best) > 1:  # a whole language or source is late: which of its buckets?
            lines = np.sort(np.stack([wait[best], of_language[best], of_source[best]]), axis=0)
            best = best[np.lexsort((-credit[best], lines[1]))]
        return int(best[0])

    def _can_wait(self, credit: npt.NDArray[np.int64], taken: int) -> bool:
        """Whether all deadlines within the horizon can be met if one bucket gets this row."""
        owed = credit / UNITS
        owed[taken] -= 1.0
        rows = np.maximum(0, np.ceil(owed + self._rates * self._horizon).astype(np.int64) - 1)
        bucket = np.repeat(np.arange(len(owed)), rows)
        number = np.arange(1, len(bucket) + 1)
        place = number - np.repeat(np.cumsum(rows) - rows, rows)  # first, second, ... row of its bucket
        deadlines = np.sort(np.floor((place - owed[bucket]) / self._rates[bucket])) + 1
        return bool((deadlines >= number).all())

    def hand_over(self, bucket: int, heirs: list[int], weights: list[float]) -> None:
        """Give the credit of a bucket that ended to others."""
        credit = int(self.credit[bucket])
        parts = apportion(abs(credit), weights)
        sign = 1 if credit >= 0 else -1
        for heir, part in zip(heirs, parts, strict=True):
            self.credit[heir] += sign * part
        self.credit[bucket] = 0

    def balance(self) -> None:
        """Take away credit that belonged to buckets that are gone, so that all credit sums to 0."""
        surplus = int(self.credit.sum())
        if surplus and len(self.credit):
            self.credit -= np.array(apportion(abs(surplus), [1] * len(self.credit)), dtype=np.int64) * np.sign(surplus)


def deviation(credit: npt.NDArray[np.int64]) -> float:
    """Rows by which the bucket that is farthest from its share is off."""
    return float(np.abs(credit).max()) / UNITS


def _number(names: Sequence[tuple[Any, ...]]) -> npt.NDArray[np.int64]:
    """Number of each name, equal names alike, in the order of their first use."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], dtype=np.int64)

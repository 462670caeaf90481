"""Whose turn it is: rows dealt to buckets so that every prefix of a run is on ratio."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reprise.mixture.shares import apportion

UNITS = 1 << 40
"""A row, in the whole numbers in which credit is kept: sums of any length are exact."""


_AHEAD = UNITS // 20, UNITS // 10
"""Credit that a bucket, and that a source or language, must have before it may take a row."""
_ROOM = 0.25
"""Rows of room under which the buckets that are nearest to their deadlines go first, whatever their languages need."""


class Turns:
    """Deals rows so that languages, the sources within them and the topics within these are all on ratio at any time.

    The credit of a bucket is its share of the rows so far, less the rows that it got; that of a source or a language is
    the sum of its buckets'. A credit of 1 row is a deadline. The next row goes to the bucket with the earliest deadline
    in its line (itself, its source, its language), among those that are not ahead; but when the deadlines of the
    buckets alone leave hardly room to meet them all, to one of these. So no bucket is ever more than one row from its
    share, and languages and sources hardly ever: the bounds, and how they compare with the rule for buckets alone
    (Tijdeman, Discrete Mathematics 32, 1980, which lets a language of 40 buckets fall 7 rows behind), are measured in
    docs/order.md. When weights change, the credits carry over.
    """

    def __init__(self, paths: Sequence[tuple[Any, ...]]) -> None:
        """Start with no rows dealt.

        Args:
            paths: (language, source, topic) of each bucket.
        """
        self.credit = np.zeros(len(paths), dtype=np.int64)
        self.closed = True
        """Whether no bucket has a weight, so that there is no next row."""
        self._parents = [_number([path[:depth] for path in paths]) for depth in (1, 2)]
        """Number of the language, and of the source, of each bucket."""

    def set_weights(self, weights: list[float]) -> None:
        """Put weights into force for the rows to come."""
        self.closed = not any(weights)
        if self.closed:
            return
        self._due = np.array(apportion(UNITS, weights), dtype=np.int64)
        self._open = np.flatnonzero(self._due)
        self._dues = self._due[self._open].astype(np.float64)
        self._lines = [
            (parents, parents[self._open], np.bincount(parents, weights=self._due)[parents[self._open]])
            for parents in self._parents
        ]
        self._places = np.arange(len(self._open)) + _ROOM

    def next(self) -> int:
        """The bucket of the next row."""
        self.credit += self._due
        credit = self.credit[self._open].astype(np.float64)
        wait = (UNITS - credit) / self._dues  # rows until the deadline
        soonest = np.sort(wait)
        crowded = np.flatnonzero(soonest < self._places)
        may = credit > _AHEAD[0]
        if len(crowded):
            may &= wait <= soonest[crowded[0]]
        if not may.any():
            may = credit >= credit.max()
        line = [wait]
        suits = may.copy()
        for parents, of_open, dues in self._lines:
            # Sums of whole numbers under 2 ** 53: exact as floats, on any machine.
            sums = np.bincount(parents, weights=self.credit)[of_open]
            suits &= sums > _AHEAD[1]
            line.append((UNITS - sums) / dues)
        choice = np.flatnonzero(suits if suits.any() else may)
        deadlines = np.sort(np.stack([waits[choice] for waits in line]), axis=0)
        first = np.lexsort((-credit[choice], deadlines[1], deadlines[0]))[0]
        bucket = int(self._open[choice[first]])
        self.credit[bucket] -= UNITS
        return bucket

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

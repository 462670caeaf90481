"""Whose turn it is: rows dealt to buckets so that every prefix of a run is on ratio."""

import numpy as np
import numpy.typing as npt

from reprise.mixture.shares import apportion

UNITS = 1 << 40
"""A row, in the whole numbers in which credit is kept: sums of any length are exact."""


class Turns:
    """Deals rows by the chairman assignment rule (Tijdeman, Discrete Mathematics 32, 1980).

    The credit of a bucket is its share of the rows so far, less the rows that it got. Among the buckets that can take a
    row without running too far ahead, that one goes first which would be the first to fall too far behind. Under fixed
    weights no bucket is then ever more than 1 - 1 / (2n - 2) rows from its share, n being the number of buckets with a
    weight. (Giving each row to the largest credit, the obvious rule, breaks that: 1.2 rows among 10 buckets.) When
    weights change, the credits carry over. No rule that does not know the weights to come can hold the bound through
    every change: see docs/order.md.
    """

    def __init__(self, num_buckets: int) -> None:
        self.credit = np.zeros(num_buckets, dtype=np.int64)
        self.closed = True
        """Whether no bucket has a weight, so that there is no next row."""

    def set_weights(self, weights: list[float]) -> None:
        """Put weights into force for the rows to come."""
        self.closed = not any(weights)
        if self.closed:
            return
        self._due = np.array(apportion(UNITS, weights), dtype=np.int64)
        self._open = np.flatnonzero(self._due)
        count = len(self._open)
        self._bound = UNITS // (2 * count - 2) if count > 1 else 0
        self._dues = self._due[self._open]

    def next(self) -> int:
        """The bucket of the next row."""
        self.credit += self._due
        credit = self.credit[self._open]
        slack = -((credit - (UNITS - self._bound)) // self._dues)  # rows until it is too far behind, rounded up
        slack[credit < self._bound] = np.iinfo(np.int64).max
        first = np.flatnonzero(slack == slack.min())
        bucket = int(self._open[first[np.argmax(credit[first])]])
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

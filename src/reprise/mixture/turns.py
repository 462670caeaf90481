"""Deals rows to buckets so that every prefix of a run has the ratio of the shares."""

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Any

import numpy as np
import numpy.typing as npt

from reprise.mixture.apportion import apportion

UNITS = 1 << 40
"""Units of credit per row. Credit is an integer, so sums of any length are exact."""

LEAST_CREDIT = UNITS // 10
"""Credit, in units, that an entry or source must have before one of its buckets is preferred."""
HORIZON_ROWS = 16384
"""Rows ahead for which deadlines are counted; the deadline of a preferred bucket must be among them."""
PLANNED_ROWS = 256
"""Rows that are dealt at a time. It affects only the speed: each row depends only on the credits before it."""


class Turns:
    """Deals rows so that buckets and, as far as these allow, their sources and entries match the shares.

    The credit of a bucket is its share of the rows so far, less the rows that it got; the credit of a source or an
    entry is the sum over its buckets. Keeping every credit between minus one row and one row is Pfair scheduling on one
    processor (Baruah et al., Algorithmica 15, 1996): the next row of a bucket is a job that may begin once the bucket
    has positive credit and must be done by the row at which its credit would reach a whole row. Taking the job with the
    earliest deadline among those that may begin never misses one. But this ignores entries: an entry of 40 buckets
    can fall rows behind. So we prefer the bucket whose line (itself, its source, its entry) has the earliest deadline,
    provided that every deadline can still be met after it: that no range of rows from here to its own deadline is full
    of deadlines of others. docs/order.md has the proof, and why no rule can keep the bound through every change of
    shares.
    """

    def __init__(self, paths: Sequence[tuple[Any, ...]]) -> None:
        """Start with no rows dealt.

        Args:
            paths: (entry, source, topic) of each bucket.
        """
        self.closed = True
        """Whether no bucket has a share, so that there is no next row."""
        self._credit = np.zeros(len(paths), dtype=np.int64)
        self._due = np.zeros(len(paths), dtype=np.int64)
        self._entry_of, self._source_of = (
            _number([path[:1] for path in paths]),
            _number([path[:2] for path in paths]),
        )
        self._plan: list[int] = []
        self._dealt = 0
        """Rows of the plan that were handed out; `_credit` is what was before the plan."""

    @property
    def credit(self) -> npt.NDArray[np.int64]:
        """int64 [buckets]: credit of each bucket, in units."""
        got = np.bincount(self._plan[: self._dealt], minlength=len(self._credit)).astype(np.int64)
        return self._credit + self._dealt * self._due - UNITS * got

    @credit.setter
    def credit(self, credit: npt.NDArray[np.int64]) -> None:
        self._credit, self._plan, self._dealt = credit, [], 0

    def set_shares(self, shares: list[float]) -> None:
        """Use shares for the next rows."""
        self.credit = self.credit
        self.closed = not any(shares)
        if not self.closed:
            self._due = np.array(apportion(UNITS, shares), dtype=np.int64)

    def next(self) -> int:
        """The bucket of the next row."""
        if self._dealt == len(self._plan):
            self.credit = self.credit
            self._plan = self._deal(np.flatnonzero(self._due))
        self._dealt += 1
        return self._plan[self._dealt - 1]

    def _deal(self, open_: npt.NDArray[np.int64]) -> list[int]:
        """The next rows, dealt to the buckets that have a share; times are rows from here, the next row being 1."""
        owed, due = self._credit[open_], self._due[open_]
        slack = _slack(owed, due, PLANNED_ROWS + HORIZON_ROWS)
        jobs = _Jobs(owed, due, 0)
        of_source, of_entry = self._source_of[open_], self._entry_of[open_]
        sources, entries = (_Jobs(*_sums(of, owed, due), LEAST_CREDIT) for of in (of_source, of_entry))
        entry_of = dict(zip(of_source.tolist(), of_entry.tolist(), strict=True))
        source_of = of_source.tolist()
        coming = sorted((start, index) for index, start in enumerate(jobs.starts))
        ready: dict[int, list[tuple[int, int]]] = {source: [] for source in entry_of}
        starts, deadlines = sources.starts, sources.deadlines
        entry_starts, entry_deadlines = entries.starts, entries.deadlines
        dealt = []
        for now in range(1, PLANNED_ROWS + 1):
            while coming and coming[0][0] <= now:
                index = heappop(coming)[1]
                heappush(ready[source_of[index]], (jobs.deadlines[index], index))
            earliest = preferred = None
            best: list[int] = []
            for source, waiting in ready.items():
                if not waiting:
                    continue
                job = waiting[0]
                if earliest is None or job < earliest:
                    earliest = job
                entry = entry_of[source]
                if starts[source] > now or entry_starts[entry] > now or job[0] >= now + HORIZON_ROWS:
                    continue
                lines = job[0], deadlines[source], entry_deadlines[entry]
                if preferred is None or (min(lines) <= best[0] and sorted(lines) < best):
                    preferred, best = job, sorted(lines)
            if earliest is None:  # after a change of shares that left every bucket without credit
                coming.sort(key=lambda job: (-jobs.credit(job[1], now), job[1]))
                index = coming.pop(0)[1]
                coming.sort()
            else:
                if preferred is not None and preferred[0] > earliest[0]:
                    full = slack[max(earliest[0], now) : preferred[0]]
                    if not len(full) or full.min() < 1:  # empty: both deadlines are past, after a change of shares
                        preferred = earliest
                index = (preferred or earliest)[1]
                heappop(ready[source_of[index]])
            source = source_of[index]
            slack[now : max(now, jobs.deadlines[index])] -= 1
            jobs.take(index)
            sources.take(source)
            entries.take(entry_of[source])
            heappush(coming, (jobs.starts[index], index))
            dealt.append(int(open_[index]))
        return dealt

    def hand_over(self, bucket: int, heirs: list[int], shares: list[float]) -> None:
        """Divide the credit of a bucket that ended among `heirs` (indices) in the ratio of their shares."""
        owed = self.credit
        credit = int(owed[bucket])
        parts = apportion(abs(credit), shares)
        sign = 1 if credit >= 0 else -1
        for heir, part in zip(heirs, parts, strict=True):
            owed[heir] += sign * part
        owed[bucket] = 0
        self.credit = owed

    def balance(self) -> None:
        """Remove the credit of buckets that no longer exist, so that all credit sums to 0."""
        owed = self.credit
        surplus = int(owed.sum())
        if surplus and len(owed):
            self.credit = owed - np.array(apportion(abs(surplus), [1] * len(owed)), dtype=np.int64) * np.sign(surplus)


class _Jobs:
    """The next row of each bucket, source or entry: when it may come at the earliest, and by when it must."""

    def __init__(self, owed: npt.NDArray[np.int64], due: npt.NDArray[np.int64], least: int) -> None:
        """Start from each one's credit, the credit that each row adds, and the least credit for a row, in units."""
        self._due, self._least = np.maximum(due, 1).tolist(), least
        self._taken = (-owed).tolist()
        self.starts, self.deadlines = [0] * len(due), [0] * len(due)
        for index in range(len(due)):
            self._plan(index)

    def credit(self, index: int, now: int) -> int:
        """Credit of one, in units, at row `now`."""
        return int(now * self._due[index] - self._taken[index])

    def take(self, index: int) -> None:
        """Record that one got a row."""
        self._taken[index] += UNITS
        self._plan(index)

    def _plan(self, index: int) -> None:
        taken, due = self._taken[index], self._due[index]
        self.starts[index] = (taken + self._least) // due + 1
        self.deadlines[index] = -((-taken - UNITS) // due)


def _slack(owed: npt.NDArray[np.int64], due: npt.NDArray[np.int64], rows: int) -> npt.NDArray[np.int32]:
    """int32 [rows]: element k is how many of the next k rows no deadline needs."""
    jobs = np.maximum(0, (owed + due * (rows - 1)) // UNITS)
    bucket = np.repeat(np.arange(len(due)), jobs)
    nth = np.arange(1, len(bucket) + 1) - np.repeat(np.cumsum(jobs) - jobs, jobs)  # first, second, ... of its bucket
    deadlines = np.maximum(0, -((owed[bucket] - UNITS * nth) // due[bucket]))
    return (np.arange(rows) - np.cumsum(np.bincount(deadlines, minlength=rows))).astype(np.int32)


def _sums(
    of: npt.NDArray[np.int64], owed: npt.NDArray[np.int64], due: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sums over a group's buckets, by index of the group."""
    sums = np.zeros((int(of.max(initial=-1)) + 1, 2), dtype=np.int64)
    np.add.at(sums, of, np.stack([owed, due], axis=1))
    return sums[:, 0], sums[:, 1]


def _number(names: Sequence[tuple[Any, ...]]) -> npt.NDArray[np.int64]:
    """Index of each name, equal names sharing one, in the order of first use."""
    indices = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return np.array([indices[name] for name in names], dtype=np.int64)

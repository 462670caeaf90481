"""How much of each document consists of n-grams of words that occur more than once in it."""

import numpy as np
from numpy.typing import NDArray

from reprise.documents.words import NgramHashes, Words, mix


class Repetition:
    """Repetition in every document of a batch, for n-grams of several sizes.

    Sizes must be measured in ascending order. An n-gram that occurs once cannot begin a longer one that occurs twice,
    so each size examines only the positions that the previous one kept: the cost is that of the smallest size.
    """

    def __init__(self, words: Words) -> None:
        self._words = words
        self._document = words.document_of()
        self._ends = words.offsets[1:][self._document]
        self._char_ends = np.concatenate([[0], np.cumsum(words.num_chars)])
        offsets = words.offsets
        self._total = np.maximum(1, self._char_ends[offsets[1:]] - self._char_ends[offsets[:-1]])
        self._ngrams = NgramHashes(words)
        self._document_keys = mix(np.arange(len(offsets) - 1, dtype=np.uint64))
        self._repeated = np.arange(len(words.hashes))
        self._last: tuple[int, tuple[NDArray[np.float64], NDArray[np.float64]]] | None = None

    def measure(self, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Share of the characters in the most frequent n-gram, and in n-grams that occurred earlier in the document.

        Args:
            size: words per n-gram; not smaller than in the previous call.

        Returns:
            two arrays float64[documents].
        """
        if self._last is None or self._last[0] != size:
            self._last = size, self._measure(size)
        return self._last[1]

    def _measure(self, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        starts = self._repeated[self._repeated + size <= self._ends[self._repeated]]
        keys = self._ngrams.of(starts, size) ^ self._document_keys[self._document[starts]]
        chosen = _may_repeat(keys)
        starts, keys = starts[chosen], keys[chosen]
        order = np.argsort(keys)
        starts, keys = starts[order], keys[order]
        begins_group = np.ones(len(keys), bool)
        begins_group[1:] = keys[1:] != keys[:-1]
        group_starts = np.flatnonzero(begins_group)
        counts = np.diff(np.append(group_starts, len(keys)))
        repeated = counts > 1
        if not repeated.any():
            self._repeated = np.zeros(0, np.int64)
            return np.zeros(len(self._total)), np.zeros(len(self._total))
        chosen = np.repeat(repeated, counts)
        starts, counts = starts[chosen], counts[repeated]
        first = np.minimum.reduceat(starts, np.cumsum(counts) - counts)

        top = np.zeros(len(self._total))
        np.maximum.at(top, self._document[first], (self._char_ends[first + size] - self._char_ends[first]) * counts)
        is_again = starts != np.repeat(first, counts)
        self._repeated = np.sort(starts)

        again = np.sort(starts[is_again])
        begins = again.copy()
        begins[1:] = np.maximum(again[1:], again[:-1] + size)
        covered = self._char_ends[again + size] - self._char_ends[begins]
        inside = np.bincount(self._document[again], covered, minlength=len(self._total))
        return top / self._total, inside / self._total


def _may_repeat(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which keys may occur more than once: all that do, and a few others.

    Cheaper than a stable sort: a plain sort finds the repeated values, and a table of hashed bits their positions.
    """
    ordered = np.sort(keys)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    shift = np.uint64(64 - 18)
    table = np.zeros(1 << 18, bool)
    table[repeated >> shift] = True
    return np.asarray(table[keys >> shift])

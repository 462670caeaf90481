"""Compare a question with a span of text into which something was inserted.

Seeds (short n-grams that occur in both) locate the question in the text. Between two seeds that follow each other in
both, the letters are compared by longest common subsequence: inserted letters cost nothing, missing ones do.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reprise.documents.words import Words


@dataclass(frozen=True)
class Letters:
    """The letters and digits of a text without anything between them, and the offsets at which its words begin
    there."""

    text: str
    starts: list[int]
    """starts[i]: offset of word i in `text`; the last entry is the length of `text`."""

    @classmethod
    def build(cls, letters: str, words: Words, index: int) -> "Letters":
        """From text `index` in `words`; `letters` is its `words.join_letters`."""
        lengths = words.num_chars[words.offsets[index] : words.offsets[index + 1]]
        return cls(letters, np.concatenate([[0], np.cumsum(lengths)]).tolist())


def match_letters(
    question: Letters, text: Letters, seeds: Sequence[tuple[int, int]], size: int, min_seeded: float
) -> float:
    """Share of the question's letters that the text contains in the same order.

    Args:
        question: the question.
        text: the text to search in.
        seeds: pairs (word of the text, word of the question) from which on both have the same `size` words, sorted by
            text.
        size: words per seed.
        min_seeded: if seeds cover a smaller share of the question than this, nothing else is compared.
    """
    runs = _join_seeds(_longest_chain(seeds), size)
    seeded = sum(question.starts[last] - question.starts[first] for first, last, _, _ in runs)
    if seeded < min_seeded * len(question.text):
        return seeded / len(question.text)
    matched = 0
    question_end = text_end = None
    for question_first, question_last, text_first, text_last in runs:
        start, stop = question.starts[question_first], question.starts[question_last]
        text_start = text.starts[text_first]
        matched += stop - start
        if question_end is None or text_end is None:
            missing = question.text[:start]
            matched += _common(missing, text.text[max(0, text_start - _reach(missing)) : text_start])
        else:
            matched += _match_between(question.text[question_end:start], text.text[text_end:text_start])
        question_end, text_end = stop, text.starts[text_last]
    missing = question.text[question_end:]
    matched += _common(missing, text.text[text_end : (text_end or 0) + _reach(missing)])
    return matched / len(question.text)


def _reach(missing: str) -> int:
    """Letters of the text to search for this many letters that are missing at one end of the question."""
    return len(missing) * 3 // 2 + 4 if missing else 0


def _match_between(missing: str, between: str) -> int:
    """Count the letters of the question between two runs that are at the ends of the text between these runs."""
    reach = _reach(missing)
    if len(between) > 2 * reach:
        between = between[:reach] + between[len(between) - reach :]
    return _common(missing, between)


def _common(first: str, second: str) -> int:
    """Length of the longest common subsequence (bit-parallel: Hyyrö 2004, "Bit-parallel LCS-length computation")."""
    if not first or not second:
        return 0
    masks: dict[str, int] = {}
    for i, char in enumerate(first):
        masks[char] = masks.get(char, 0) | 1 << i
    everything = (1 << len(first)) - 1
    row = everything
    for char in second:
        hits = row & masks.get(char, 0)
        row = ((row + hits) | (row - hits)) & everything
    return len(first) - row.bit_count()


def _longest_chain(seeds: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest chain of seeds that follow each other in both (longest increasing subsequence by patience
    sorting)."""
    ends: list[int] = []
    last: list[int] = []
    previous: list[int] = []
    # Only one seed per word of the text: later words of the question come first, so none of them follows another.
    ordered = sorted(seeds, key=lambda seed: (seed[0], -seed[1]))
    for i, (_, position) in enumerate(ordered):
        k = bisect_left(ends, position)
        previous.append(last[k - 1] if k else -1)
        if k == len(ends):
            ends.append(position)
            last.append(i)
        else:
            ends[k], last[k] = position, i
    chain = []
    i = last[-1]
    while i >= 0:
        chain.append(ordered[i])
        i = previous[i]
    return chain[::-1]


def _join_seeds(chain: Sequence[tuple[int, int]], size: int) -> list[tuple[int, int, int, int]]:
    """Runs of words that occur in both: (first, end) in the question, (first, end) in the text, none overlapping."""
    runs: list[tuple[int, int, int, int]] = []
    for text_first, question_first in chain:
        text_end, question_end = text_first + size, question_first + size
        if runs:
            before = runs[-1]
            if text_first - question_first == before[2] - before[0] and question_first <= before[1]:
                runs[-1] = (before[0], question_end, before[2], text_end)
                continue
            overlap = max(0, before[1] - question_first, before[3] - text_first)
            question_first, text_first = question_first + overlap, text_first + overlap
            if question_first >= question_end:
                continue
        runs.append((question_first, question_end, text_first, text_end))
    return runs

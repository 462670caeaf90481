"""The rules of Gopher, C4 and FineWeb on a batch of documents; their thresholds are in `recipe/heuristics.py`."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reprise.documents.words import Words, hash_ngrams, mix, split_words
from reprise.recipe.heuristics import Heuristics

Broken = tuple[str, str]
"""(rule, what was measured)."""

_TERMINAL = tuple(".?!\"'”’。！？…；：」』》）)")
"""Ends of lines that are not cut off."""
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$|[\u3400-\u9fff])|[。！？]+")
_BULLETS = ("•", "-", "*", "·", "●", "▪", "◦", "■")
_ELLIPSES = ("...", "…")
_WORD = re.compile(r"[^\W_]")
"""A line without any, such as a fence of code or a rule, may come again."""
_PARAGRAPH = re.compile(r"\n\s*\n")


def find_broken(texts: Sequence[str], rules: Heuristics, *, has_stop_words: bool) -> list[Broken | None]:
    """The first rule that each text breaks, None where it breaks none.

    Args:
        texts: of one language; the arrays of the whole batch are held at once.
        rules: thresholds.
        has_stop_words: whether the list of stop words is of their language.
    """
    words = split_words(texts)
    repeated = _Repetition(words)
    wanted = _hash_words(rules.stop_words) if has_stop_words else None
    counts = np.diff(words.offsets)
    num_stop_words = None if wanted is None else _count_stop_words(words, wanted)
    shape = [
        _break_shape(text, Measures(*measured), rules)
        for text, measured in zip(
            texts,
            zip(
                counts.tolist(),
                _sum_by_document(words, words.num_chars).tolist(),
                _sum_by_document(words, words.has_letter).tolist(),
                [None] * len(texts) if num_stop_words is None else num_stop_words.tolist(),
                strict=True,
            ),
            strict=True,
        )
    ]
    repetition = _break_repetition(repeated, rules, len(texts))
    return [one or other for one, other in zip(shape, repetition, strict=True)]


@dataclass(frozen=True)
class Measures:
    """Numbers of one text."""

    words: int
    word_chars: int
    alphabetic_words: int
    stop_words: int | None
    """Different ones; None where the list is of another language."""


def _break_shape(text: str, measured: Measures, rules: Heuristics) -> Broken | None:
    for name, value, low, high in _shape(text, measured, rules):
        if (low is not None and value < low) or (high is not None and value > high):
            return name, f"{value:.3g}, limit {low if low is not None else high:g}"
    lowered = text.lower()
    for placeholder in rules.placeholders:
        if placeholder in lowered:
            return "placeholders", placeholder
    return ("curly_brackets", "{") if not rules.curly_brackets and "{" in text else None


Measurement = tuple[str, float, float | None, float | None]
"""(rule, value, lower limit, upper limit)."""


def _shape(text: str, measured: Measures, rules: Heuristics) -> Iterator[Measurement]:
    """All rules but repetition by n-grams, the cheap ones first."""
    words = max(1, measured.words)
    yield "min_words", measured.words, rules.min_words, None
    yield "max_words", measured.words, None, rules.max_words
    yield "min_mean_word_length", measured.word_chars / words, rules.min_mean_word_length, None
    yield "max_mean_word_length", measured.word_chars / words, None, rules.max_mean_word_length
    yield "min_alphabetic_words", measured.alphabetic_words / words, rules.min_alphabetic_words, None
    if measured.stop_words is not None:
        yield "min_stop_words", measured.stop_words, rules.min_stop_words, None
    ellipses = text.count("...") + text.replace("……", "…").count("…")
    yield "max_symbols_per_word", max(text.count("#"), ellipses) / words, None, rules.max_symbols_per_word
    lines = [line.strip() for line in text.split("\n")]
    lines = [line for line in lines if line]
    num_lines = max(1, len(lines))
    yield "max_bullet_lines", sum(line.startswith(_BULLETS) for line in lines) / num_lines, None, rules.max_bullet_lines
    ellipsis_lines = sum(line.endswith(_ELLIPSES) for line in lines) / num_lines
    yield "max_ellipsis_lines", ellipsis_lines, None, rules.max_ellipsis_lines
    terminated = sum(line.endswith(_TERMINAL) for line in lines) / num_lines
    yield "min_terminated_lines", terminated, rules.min_terminated_lines, None
    short = sum(len(line) <= rules.short_line_chars for line in lines) / num_lines
    yield "max_short_lines", short, None, rules.max_short_lines
    yield "max_lines_per_word", (len(lines) - 1) / words, None, rules.max_lines_per_word
    yield "min_sentences", len(_SENTENCE_END.findall(text)), rules.min_sentences, None
    share, chars = _duplicates([line for line in lines if _WORD.search(line)], len(text))
    yield "max_duplicate_lines", share, None, rules.max_duplicate_lines
    yield "max_duplicate_line_chars", chars, None, rules.max_duplicate_line_chars
    share, chars = _duplicates([part.strip() for part in _PARAGRAPH.split(text)], len(text))
    yield "max_duplicate_paragraphs", share, None, rules.max_duplicate_paragraphs
    yield "max_duplicate_paragraph_chars", chars, None, rules.max_duplicate_paragraph_chars


def _duplicates(pieces: Sequence[str], num_chars: int) -> tuple[float, float]:
    """Share of the pieces, and of the characters, that stood before."""
    once = set(pieces)
    if len(once) == len(pieces):
        return 0.0, 0.0
    chars = sum(map(len, pieces)) - sum(map(len, once))
    return (len(pieces) - len(once)) / len(pieces), chars / max(1, num_chars)


def _sum_by_document(words: Words, values: NDArray[np.generic]) -> NDArray[np.int64]:
    sums = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return np.asarray(sums[words.offsets[1:]] - sums[words.offsets[:-1]])


def _hash_words(words: Sequence[str]) -> NDArray[np.uint64]:
    return np.unique(split_words(words).hashes)


def _count_stop_words(words: Words, wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Different stop words in each document: int64[documents]."""
    places = np.flatnonzero(np.isin(words.hashes, wanted))
    document = words.document_of()[places]
    pairs = np.unique(words.hashes[places] ^ mix(document.astype(np.uint64)), return_index=True)[1]
    return np.bincount(document[pairs], minlength=len(words.offsets) - 1)


def _break_repetition(repeated: "_Repetition", rules: Heuristics, num_texts: int) -> list[Broken | None]:
    broken: list[Broken | None] = [None] * num_texts
    limits = [(size, "max_top_ngram_chars", limit) for size, limit in rules.max_top_ngram_chars.items()]
    limits += [(size, "max_duplicate_ngram_chars", limit) for size, limit in rules.max_duplicate_ngram_chars.items()]
    for size, name, limit in sorted(limits):
        top, duplicate = repeated.measure(size)
        for number in np.flatnonzero((top if name == "max_top_ngram_chars" else duplicate) > limit).tolist():
            value = (top if name == "max_top_ngram_chars" else duplicate)[number]
            broken[number] = broken[number] or (name, f"{value:.3g} with {size}-grams, limit {limit:g}")
    return broken


class _Repetition:
    """How much of each document is in n-grams that occur more than once in it.

    Sizes are asked for in ascending order: where an n-gram stands only once, so do all longer ones that begin there;
    the other places alone are looked at again.
    """

    def __init__(self, words: Words) -> None:
        self._words = words
        self._document = words.document_of()
        self._char_ends = np.concatenate([[0], np.cumsum(words.num_chars)])
        self._total = np.maximum(1, _sum_by_document(words, words.num_chars))
        self._several = np.ones(len(words.hashes), bool)
        self._last: tuple[int, tuple[NDArray[np.float64], NDArray[np.float64]]] | None = None

    def measure(self, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Per document: share of the characters in its most frequent n-gram, and in n-grams that stood before."""
        if self._last is None or self._last[0] != size:
            self._last = size, self._measure(size)
        return self._last[1]

    def _measure(self, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        hashes, starts = hash_ngrams(self._words, size)
        chosen = self._several[starts]
        starts = starts[chosen]
        document = self._document[starts]
        keys = hashes[chosen] ^ mix(document.astype(np.uint64))
        order = np.argsort(keys, kind="stable")
        is_again = np.zeros(len(keys), bool)
        is_again[1:] = keys[order][1:] == keys[order][:-1]
        group = np.cumsum(~is_again) - 1
        counts = np.bincount(group)[group] if len(keys) else np.zeros(0, np.int64)
        self._several = np.zeros_like(self._several)
        self._several[starts[order[counts > 1]]] = True

        chars = self._char_ends[starts + size] - self._char_ends[starts]
        taken = np.zeros(len(self._total))
        np.maximum.at(taken, document[order], np.where(counts > 1, counts * chars[order], 0))
        edges = np.zeros(len(self._words.hashes) + 1, np.int64)
        np.add.at(edges, starts[order[is_again]], 1)
        np.add.at(edges, starts[order[is_again]] + size, -1)
        covered = np.cumsum(edges[:-1]) > 0
        inside = _sum_by_document(self._words, np.where(covered, self._words.num_chars, 0))
        return taken / self._total, inside / self._total

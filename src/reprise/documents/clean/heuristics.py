"""The rules of Gopher, C4 and FineWeb for a batch of documents; their thresholds are in `recipe/heuristics.py`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from reprise.documents.clean.repetition import Repetition
from reprise.documents.clean.shape import Shape, measure_shape
from reprise.documents.words import Words, mix, split_words
from reprise.recipe.heuristics import Heuristics

Broken = tuple[str, str]
"""(name of the rule, measured value and limit)."""


@dataclass(frozen=True)
class Rule:
    """What one rule measured in a batch of documents, and its limits."""

    name: str
    """Name of the setting."""
    values: NDArray[np.float64]
    """Measured value of each document, float64[documents]."""
    low: float | None = None
    high: float | None = None
    size: int | None = None
    """Words per n-gram, if the rule is about n-grams."""
    strings: Sequence[str] | None = None
    """For a rule that forbids strings: the one that each document contains."""
    exempt: NDArray[np.bool_] | None = None
    """Documents to which the rule does not apply: bool[documents]."""

    @property
    def broken(self) -> NDArray[np.bool_]:
        """Which documents break it: bool[documents]."""
        is_broken = np.zeros(len(self.values), bool)
        if self.low is not None:
            is_broken |= self.values < self.low
        if self.high is not None:
            is_broken |= self.values > self.high
        return is_broken if self.exempt is None else is_broken & ~self.exempt

    def explain(self, document: int) -> str:
        """The value of a document that breaks the rule, and the limit."""
        if self.strings is not None:
            return self.strings[document]
        limit = self.low if self.low is not None and self.values[document] < self.low else self.high
        ngrams = "" if self.size is None else f" with {self.size}-grams"
        return f"{self.values[document]:.3g}{ngrams}, limit {limit:g}"


def find_broken(texts: Sequence[str], rules: Heuristics) -> list[Broken | None]:
    """The first rule that each text breaks, or None.

    Args:
        texts: documents of one language; the arrays of the whole batch are in memory at once.
        rules: the thresholds of their language.
    """
    broken: list[Broken | None] = [None] * len(texts)
    for rule in measure_rules(texts, rules):
        for document in np.flatnonzero(rule.broken).tolist():
            broken[document] = broken[document] or (rule.name, rule.explain(document))
    return broken


def measure_rules(texts: Sequence[str], rules: Heuristics) -> Iterator[Rule]:
    """Yield every rule that is on, in the order in which they are checked; a rule about n-grams once for each size."""
    if not texts:
        return
    words = split_words(texts)
    shape = measure_shape(texts, short_line_chars=rules.short_line_chars or 0, sentence_marks=rules.sentence_marks)
    repetition = [*_of_duplicates(shape, rules), *_of_ngrams(words, rules)]
    exempt = _exempt_from_repetition(words, repetition, rules)
    repetition = [replace(rule, exempt=exempt) for rule in repetition]
    for rule in (
        *_of_words(texts, words, rules),
        *_of_shape(words, shape, rules),
        *_of_strings(texts, rules),
        *repetition,
    ):
        if rule.low is not None or rule.high is not None:
            yield rule


def _of_words(texts: Sequence[str], words: Words, rules: Heuristics) -> Iterator[Rule]:
    count = np.diff(words.offsets)
    per_word = 1 / np.maximum(1, count)
    mean_length = _sum_by_document(words, words.num_chars) * per_word
    yield Rule("min_words", count.astype(float), low=rules.min_words)
    yield Rule("max_words", count.astype(float), high=rules.max_words)
    yield Rule("min_mean_word_length", mean_length, low=rules.min_mean_word_length)
    yield Rule("max_mean_word_length", mean_length, high=rules.max_mean_word_length)
    alphabetic = _sum_by_document(words, words.has_letter) * per_word
    yield Rule("min_alphabetic_words", alphabetic, low=rules.min_alphabetic_words)
    if rules.min_stop_words is not None and rules.stop_words:
        if rules.stop_words_within_words:
            num_stop_words = np.array([sum(word in text for word in rules.stop_words) for text in texts], np.int64)
        else:
            num_stop_words = _count_stop_words(words, rules.stop_words)
        yield Rule("min_stop_words", num_stop_words.astype(float), low=rules.min_stop_words)


def _of_shape(words: Words, shape: Shape, rules: Heuristics) -> Iterator[Rule]:
    num_words = np.diff(words.offsets)
    per_word = 1 / np.maximum(1, num_words)
    per_line = 1 / np.maximum(1, shape.lines)
    symbols = np.maximum(shape.hashes, shape.ellipses) * per_word
    yield Rule("max_symbols_per_word", symbols, high=rules.max_symbols_per_word)
    yield Rule("max_bullet_lines", shape.bullet_lines * per_line, high=rules.max_bullet_lines)
    yield Rule("max_ellipsis_lines", shape.ellipsis_lines * per_line, high=rules.max_ellipsis_lines)
    yield Rule("min_terminated_lines", shape.terminated_lines * per_line, low=rules.min_terminated_lines)
    if rules.short_line_chars is not None:
        yield Rule("max_short_lines", shape.short_lines * per_line, high=rules.max_short_lines)
    yield Rule("max_lines_per_word", np.maximum(0, shape.lines - 1) * per_word, high=rules.max_lines_per_word)
    yield Rule("min_sentences", shape.sentences.astype(float), low=rules.min_sentences)
    yield Rule("max_commas_per_word", shape.commas * per_word, high=rules.max_commas_per_word)
    has_sentences = shape.sentences > 0
    length = np.where(has_sentences, num_words / np.maximum(1, shape.sentences), np.inf)
    yield Rule("min_words_per_sentence", length, low=rules.min_words_per_sentence)


def _of_strings(texts: Sequence[str], rules: Heuristics) -> Iterator[Rule]:
    if rules.placeholders:
        lowered = [text.lower() for text in texts]
        hits = [next((word for word in rules.placeholders if word in text), "") for text in lowered]
        yield Rule("placeholders", np.array([bool(hit) for hit in hits], float), high=0.0, strings=hits)
    if not rules.curly_brackets:
        hits = ["{" if "{" in text else "" for text in texts]
        yield Rule("curly_brackets", np.array([bool(hit) for hit in hits], float), high=0.0, strings=hits)


def _of_duplicates(shape: Shape, rules: Heuristics) -> Iterator[Rule]:
    yield Rule("max_duplicate_lines", shape.duplicate_lines, high=rules.max_duplicate_lines)
    yield Rule("max_duplicate_line_chars", shape.duplicate_line_chars, high=rules.max_duplicate_line_chars)
    yield Rule("max_duplicate_paragraphs", shape.duplicate_paragraphs, high=rules.max_duplicate_paragraphs)
    chars = shape.duplicate_paragraph_chars
    yield Rule("max_duplicate_paragraph_chars", chars, high=rules.max_duplicate_paragraph_chars)


def _of_ngrams(words: Words, rules: Heuristics) -> Iterator[Rule]:
    repetition = Repetition(words)
    limits = [(size, "max_top_ngram_chars", limit) for size, limit in rules.max_top_ngram_chars.items()]
    limits += [(size, "max_duplicate_ngram_chars", limit) for size, limit in rules.max_duplicate_ngram_chars.items()]
    for size, name, limit in sorted(limits):
        top, duplicate = repetition.measure(size)
        yield Rule(name, top if name == "max_top_ngram_chars" else duplicate, high=limit, size=size)


def _exempt_from_repetition(words: Words, repetition: Sequence[Rule], rules: Heuristics) -> NDArray[np.bool_] | None:
    """Documents that say enough outside of repeats: bool[documents]; None if there is no such exemption."""
    if rules.repetition_exempt_from is None or not rules.min_words:
        return None
    repeated = np.max([rule.values for rule in repetition if rule.name.endswith("_chars")], axis=0)
    unrepeated = np.diff(words.offsets) * (1 - repeated)
    most = 1.0 if rules.repetition_exempt_to is None else rules.repetition_exempt_to
    exempt = (unrepeated >= rules.repetition_exempt_from * rules.min_words) & (repeated <= most)
    return np.asarray(exempt)


def _sum_by_document(words: Words, values: NDArray[np.generic]) -> NDArray[np.int64]:
    sums = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return np.asarray(sums[words.offsets[1:]] - sums[words.offsets[:-1]])


def _count_stop_words(words: Words, stop_words: Sequence[str]) -> NDArray[np.int64]:
    """Number of different stop words in each document: int64[documents]."""
    hits = np.flatnonzero(np.isin(words.hashes, np.unique(split_words(stop_words).hashes)))
    document = words.document_of()[hits]
    pairs = np.unique(words.hashes[hits] ^ mix(document.astype(np.uint64)), return_index=True)[1]
    return np.bincount(document[pairs], minlength=len(words.offsets) - 1)

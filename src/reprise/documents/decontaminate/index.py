"""Build the index of benchmark questions that `search.py` looks up in texts.

Questions are matched as normalised words over the whole text (as characters, if they contain any of a script without
spaces), so that line ends, white space, punctuation, case, full-width forms and markup make no difference. A text
contains a question if it contains

    for an n-gram or more  `min_overlap` of its n-grams, or its letters in order with an insertion
    for a shorter one      the whole question
    if generic or tiny     ("Which of the following is true?") the whole question, followed by its options

Questions that are too vague to be searched for (tiny, without options) are listed in `Index.vague`.

A question has two forms: the original and, if it differs, the one that `reveal` returns, since texts are searched in
both forms too.
"""

import functools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from reprise.benchmark_files import Question
from reprise.documents.decontaminate.fold import fold_lookalikes
from reprise.documents.decontaminate.reveal import reveal, strip_markup
from reprise.documents.words import Hashes, Words, hash_ngrams, join_letters, split_words
from reprise.recipe.documents import Decontaminate


class Unit(Enum):
    """The units that a text is split into."""

    WORDS = "words"
    CHARS = "characters"
    """For questions that contain a character of a script without spaces."""
    LETTERS = "letters"
    """For questions in words, in texts that lost the spaces between words or have spaces inside them."""


TELLING = {Unit.WORDS: 6, Unit.CHARS: 6}
"""Length from which a question that is not generic is searched for without its options. Shorter ones are common
phrases: see the figures in docs/documents.md."""
TELLING_SENTENCE = {Unit.WORDS: 4, Unit.CHARS: 5}
"""The same if it ends with a question mark: shorter, but not a common phrase."""
TELLING_WITH_OPTIONS = 12
"""Length that a generic or tiny question needs together with its options."""
GENERIC_USES = 5
"""An n-gram that occurs in this many questions does not identify any of them."""
SEED_SIZE = {Unit.WORDS: 4, Unit.CHARS: 5}
"""Length of the n-grams that locate a question with insertions."""
MIN_GAPPED = {Unit.WORDS: 7, Unit.CHARS: 10}
"""Shortest question that is searched for with insertions."""
LETTER_NGRAM = 24
_LETTER_STRIDE = 8
"""Every eighth n-gram of letters is indexed, so that they take about as much memory as n-grams of words."""
_GENERIC_SIZE = {Unit.WORDS: 3, Unit.CHARS: 4}
_ANCHORS = (4, 2, 1)
"""Short questions are looked up by this many of their first words."""
_BITS = (16, 26)
"""Leading bits of a hash that index the filter of a table with few and with many keys: 8 KiB to 8 MiB."""
_BITS_PER_KEY = 64
"""Bits of the filter per key: few enough are set that hardly any hash is looked up in vain."""
_INSIDE_WORDS = re.compile(r"(?<=\w)['\u2019\u2010\u2011-](?=\w)")
"""If punctuation is stripped, `don't`, which is two words here, becomes `dont`."""


@dataclass
class Grams:
    """Hashes of n-grams -> the forms that contain them, and where."""

    keys: Hashes
    """Sorted and unique."""
    offsets: NDArray[np.int64]
    """keys[i] occurs in forms[offsets[i]:offsets[i + 1]], at these words of them: positions[offsets[i]:offsets[i +
    1]]."""
    forms: NDArray[np.int32]
    positions: NDArray[np.int32]
    bits: NDArray[np.uint8]
    """Filter: the bit of a hash's leading bits is set if a key has the same ones, which rejects nearly all n-grams of a
    corpus. Few keys have a small filter, which fits into the processor's cache."""

    @property
    def shift(self) -> np.uint64:
        """By how many bits a hash is shifted to the right to get its leading bits."""
        return np.uint64(64 - (8 * len(self.bits) - 1).bit_length())

    @classmethod
    def build(cls, hashes: Hashes, forms: NDArray[np.int64], positions: NDArray[np.int64]) -> "Grams":
        """From triples (hash, form, position) in any order."""
        order = np.argsort(hashes, kind="stable")
        keys, offsets = np.unique(hashes[order], return_index=True)
        leading_bits = min(max((_BITS_PER_KEY * len(keys)).bit_length(), _BITS[0]), _BITS[1])
        bits = np.zeros(1 << (leading_bits - 3), np.uint8)
        leading = keys >> np.uint64(64 - leading_bits)
        np.bitwise_or.at(bits, leading >> np.uint64(3), np.uint8(1) << (leading & np.uint64(7)).astype(np.uint8))
        ends = np.append(offsets, len(hashes))
        return cls(keys, ends, forms[order].astype(np.int32), positions[order].astype(np.int32), bits)

    def look_up(self, hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs (index into `hashes`, index into `forms`) of equal hashes, as two arrays."""
        leading = (hashes >> self.shift).astype(np.uint32)  # small types: this runs on every word of the corpus
        in_byte = leading.astype(np.uint8) & np.uint8(7)
        candidates = np.flatnonzero(self.bits[leading >> np.uint32(3)] >> in_byte & np.uint8(1))
        # Sorted, so that the search passes over the keys once.
        candidates = candidates[np.argsort(hashes[candidates])]
        keys = np.searchsorted(self.keys, hashes[candidates])
        same = keys < len(self.keys)
        same[same] = self.keys[keys[same]] == hashes[candidates[same]]
        candidates, first = candidates[same], self.offsets[keys[same]]
        counts = self.offsets[keys[same] + 1] - first
        before = np.cumsum(counts) - counts
        entries = np.repeat(first - before, counts) + np.arange(int(counts.sum()))
        return np.repeat(candidates, counts), entries

    def hashes_at(self, entries: NDArray[np.int64]) -> Hashes:
        """Hashes of the n-grams at these indices into `forms`."""
        return np.asarray(self.keys[np.searchsorted(self.offsets, entries, "right") - 1])


@dataclass
class Seeds:
    """Short n-grams of the long forms, without those that many questions contain."""

    size: int
    by_char: bool
    grams: Grams


@dataclass
class Lookup:
    """The questions in one unit, such as words."""

    size: int
    """Words per n-gram."""
    grams: Grams
    """N-grams of the forms that are at least that long."""
    seeds: Seeds | None = None
    """Seeds of the same forms."""
    anchors: dict[int, Grams] = field(default_factory=dict)
    """Length -> the first words of the shorter forms."""


@dataclass
class Index:
    """The index of all questions."""

    ids: list[str]
    """ids[i]: benchmark and id of question i, for messages."""
    questions: list[int] = field(default_factory=list)
    """questions[i]: index of the question of form i."""
    texts: list[str] = field(default_factory=list)
    """texts[i]: text of form i."""
    lengths: list[int] = field(default_factory=list)
    """lengths[i]: words (or characters) in form i."""
    lookups: dict[Unit, Lookup] = field(default_factory=dict)
    num_grams: dict[int, int] = field(default_factory=dict)
    """Long form -> count of its different n-grams."""
    all_grams: set[int] = field(default_factory=set)
    """Forms that match only if a text contains all their n-grams."""
    whole: dict[int, Hashes] = field(default_factory=dict)
    """Shorter form -> hashes of its words."""
    options: dict[int, list[Hashes]] = field(default_factory=dict)
    """Form of a generic or tiny question -> hashes of the words of each option."""
    vague: list[int] = field(default_factory=list)
    """Questions that are not searched for."""

    @functools.cached_property
    def length_array(self) -> NDArray[np.int64]:
        """`lengths` as an array. Read only after all forms are added."""
        return np.array(self.lengths, np.int64)

    @functools.cached_property
    def endings(self) -> tuple[NDArray[np.int64], Hashes]:
        """Length in words and last word of the shorter forms; 0 for the others. Read only after all forms are added."""
        lengths, last = np.zeros(len(self.texts), np.int64), np.zeros(len(self.texts), np.uint64)
        for form, words in self.whole.items():
            lengths[form], last[form] = len(words), words[-1]
        return lengths, last


def build_index(questions: Sequence[Question], settings: Decontaminate) -> Index:
    """Build the index, and decide how each question is searched for.

    Raises:
        UserError: the libraries of the extra `documents` are not installed.
    """
    index = Index(ids=[f"{question.benchmark} {question.id}" for question in questions])
    plain = [strip_markup(question.text) for question in questions]
    words = split_words(plain)
    singles = np.bincount(words.document_of()[words.is_single], minlength=len(questions))
    for unit, size in ((Unit.WORDS, settings.ngram_words), (Unit.CHARS, settings.ngram_chars)):
        numbers = np.flatnonzero((singles > 0) == (unit is Unit.CHARS)).tolist()
        if numbers:
            _add_unit(index, questions, plain, numbers, unit, size)
    return index


def _add_unit(
    index: Index, questions: Sequence[Question], plain: Sequence[str], chosen: Sequence[int], unit: Unit, size: int
) -> None:
    """Add the questions `chosen`, all in the same unit, to the index."""
    by_char = unit is Unit.CHARS
    base = split_words([plain[question] for question in chosen], by_char=by_char)
    generic = dict(zip(chosen, _find_generic([questions[question] for question in chosen], base, unit), strict=True))
    first = len(index.questions)
    is_short = np.diff(base.offsets) < (0 if by_char else size)
    for i, question in enumerate(chosen):
        for text in _forms(plain[question], bool(is_short[i])):
            index.questions.append(question)
            index.texts.append(text)
    words = split_words(index.texts[first:], by_char=by_char)
    lengths = np.diff(words.offsets)
    index.lengths += lengths.tolist()
    anchors: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for i in np.flatnonzero(lengths < size).tolist():
        form, whole = first + i, words.hashes[words.offsets[i] : words.offsets[i + 1]]
        if _add_short(index, questions[index.questions[form]], form, whole, unit, generic[index.questions[form]]):
            length = next(length for length in _ANCHORS if length <= len(whole))
            anchors[length].append((_hash_run(whole[:length]), form))
    hashes, starts, forms = _grams_of(words, size, first)
    grams = Grams.build(hashes, forms, starts)
    _count_grams(index, hashes, forms)
    lookup = Lookup(size, grams, None, {length: _build_anchors(pairs) for length, pairs in anchors.items()})
    if SEED_SIZE[unit] < size:
        lookup.seeds = _build_seeds(index, words, unit, first)
    index.lookups[unit] = lookup
    if unit is Unit.WORDS:
        _add_letters(index, first, {question for question in chosen if not generic[question]})


def _forms(plain: str, is_short: bool) -> Iterator[str]:
    """The question as it is; revealed; and, if it is short, without apostrophes and hyphens inside words."""
    yield plain
    if is_short and _INSIDE_WORDS.search(plain):
        yield _INSIDE_WORDS.sub("", plain)
    seen = {plain, join_letters(plain)}
    for text in dict.fromkeys([reveal(plain), reveal(plain, strewn_letters=True), fold_lookalikes(plain)]):
        if text not in seen and join_letters(text) not in seen:
            seen.add(join_letters(text))
            yield text


def _add_short(index: Index, question: Question, form: int, whole: Hashes, unit: Unit, is_generic: bool) -> bool:
    """Add a form that is shorter than an n-gram; returns False if it is too vague."""
    enough = TELLING_SENTENCE if question.text.rstrip().endswith(("?", "？")) else TELLING
    if is_generic or len(whole) < enough[unit]:
        options = [option for option in _split_each(question.choices, unit) if len(option)]
        if len(options) < 2 or not len(whole) or len(whole) + sum(map(len, options)) < TELLING_WITH_OPTIONS:
            owner = index.questions[form]
            is_first = form == 0 or index.questions[form - 1] != owner
            if is_first:
                index.vague.append(owner)
            return False
        index.options[form] = options
    index.whole[form] = whole
    return True


def _grams_of(words: Words, size: int, first: int) -> tuple[Hashes, NDArray[np.int64], NDArray[np.int64]]:
    """Hash of each n-gram, its position in its form, and the form."""
    hashes, starts = hash_ngrams(words, size)
    texts = words.document_of()[starts]
    return hashes, starts - words.offsets[texts], texts + first


def _count_grams(index: Index, hashes: Hashes, forms: NDArray[np.int64]) -> None:
    _, owners = distinct_pairs(hashes, forms)
    numbers, counts = np.unique(owners, return_counts=True)
    index.num_grams.update(zip(numbers.tolist(), counts.tolist(), strict=True))


def distinct_pairs(hashes: Hashes, owners: NDArray[np.int64]) -> tuple[Hashes, NDArray[np.int64]]:
    """Unique pairs, sorted by owner, then hash."""
    order = np.lexsort((hashes, owners))
    hashes, owners = hashes[order], owners[order]
    first = np.ones(len(order), bool)
    first[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    return hashes[first], owners[first]


def _build_seeds(index: Index, words: Words, unit: Unit, first: int) -> Seeds:
    """The seeds of the forms that are specific without options, except those that `GENERIC_USES` questions contain."""
    hashes, positions, forms = _grams_of(words, SEED_SIZE[unit], first)
    is_specific = np.array(index.lengths, np.int64) >= MIN_GAPPED[unit]
    is_specific[list(index.options)] = False
    keep = is_specific[forms] & (_count_uses(index, hashes, forms) < GENERIC_USES)
    grams = Grams.build(hashes[keep], forms[keep], positions[keep])
    return Seeds(SEED_SIZE[unit], unit is Unit.CHARS, grams)


def _count_uses(index: Index, hashes: Hashes, forms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of questions that contain each n-gram."""
    owners = np.array(index.questions, np.int64)[forms]
    keys, uses = np.unique(distinct_pairs(hashes, owners)[0], return_counts=True)
    return np.asarray(uses[np.searchsorted(keys, hashes)])


def _add_letters(index: Index, first: int, specific: set[int]) -> None:
    """Add each specific question again, as a sequence of letters."""
    old = [
        form
        for form in range(first, len(index.questions))
        if index.questions[form] in specific and (form == first or index.questions[form - 1] != index.questions[form])
    ]
    words = split_words([index.texts[form] for form in old], by_char=True)
    start = len(index.questions)
    for i, form in enumerate(old):
        index.questions.append(index.questions[form])
        index.texts.append(index.texts[form])
        index.lengths.append(int(words.offsets[i + 1] - words.offsets[i]))
        if form in index.whole:  # shorter than an n-gram
            index.all_grams.add(start + i)
    hashes, positions, forms = _grams_of(words, LETTER_NGRAM, start)
    keep = positions % _LETTER_STRIDE == 0
    hashes, positions, forms = hashes[keep], positions[keep], forms[keep]
    keep = _count_uses(index, hashes, forms) < GENERIC_USES
    hashes, positions, forms = hashes[keep], positions[keep], forms[keep]
    _count_grams(index, hashes, forms)
    index.lookups[Unit.LETTERS] = Lookup(LETTER_NGRAM, Grams.build(hashes, forms, positions))


def _build_anchors(pairs: Sequence[tuple[int, int]]) -> Grams:
    keys = np.array([key for key, _ in pairs], np.uint64)
    return Grams.build(keys, np.array([form for _, form in pairs], np.int64), np.zeros(len(pairs), np.int64))


def _find_generic(questions: Sequence[Question], words: Words, unit: Unit) -> list[bool]:
    """Whether each question says nothing without its options: another question has the same text with other options, or
    each of its short n-grams is in several questions.
    """
    options_of: dict[bytes, set[frozenset[str]]] = defaultdict(set)
    texts = [words.hashes[a:b].tobytes() for a, b in zip(words.offsets[:-1], words.offsets[1:], strict=True)]
    is_first = np.zeros(len(questions), bool)
    for i, (question, text) in enumerate(zip(questions, texts, strict=True)):
        options = frozenset(question.choices)
        is_first[i] = options not in options_of[text]
        options_of[text].add(options)
    hashes, starts = hash_ngrams(words, _GENERIC_SIZE[unit])
    owners = words.document_of()[starts]
    once, _ = distinct_pairs(hashes[is_first[owners]], owners[is_first[owners]])
    keys, uses = np.unique(once, return_counts=True)
    rarest = np.full(len(questions), np.iinfo(np.int64).max)
    if len(keys):
        np.minimum.at(rarest, owners, uses[np.searchsorted(keys, hashes)])
    several = np.array([len(options_of[text]) > 1 for text in texts], bool)
    generic: list[bool] = (several | (rarest >= GENERIC_USES)).tolist()
    return generic


def _split_each(texts: Sequence[str], unit: Unit) -> list[Hashes]:
    words = split_words([strip_markup(text) for text in texts], by_char=unit is not Unit.WORDS)
    return [words.hashes[a:b] for a, b in zip(words.offsets[:-1], words.offsets[1:], strict=True)]


def _hash_run(hashes: Hashes) -> int:
    none = np.zeros(0, bool)
    run = Words(hashes, none, none, np.zeros(0, np.int64), np.array([0, len(hashes)]))
    return int(hash_ngrams(run, len(hashes))[0][0])

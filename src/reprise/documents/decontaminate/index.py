"""Find the questions of benchmarks in texts.

A question is looked for in normalised words over the whole text (by characters, if it has any of a script without
spaces), so that line ends, white space, punctuation, case, full-width forms and markup hide nothing. How depends on its
length:

    an n-gram or longer   a text that holds `min_overlap` of its n-grams holds it
    shorter               it must be there as a whole
    generic or tiny       ("Which of the following is true?") its options must stand behind it as well

What is still too vague to be looked for (tiny, and without options) is listed in `Index.vague`.
"""

import html
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from reprise.documents.questions import Question
from reprise.documents.words import Hashes, Words, hash_ngrams, split_words
from reprise.recipe.documents import Decontaminate

TELLING = {False: 5, True: 6}
"""By characters or not -> length from which a question that is not generic is looked for without its options. Shorter
ones are everybody's phrases: see the figures in docs/documents.md."""
TELLING_SENTENCE = {False: 4, True: 5}
"""The same where it ends in a question mark: shorter, but nobody's phrase."""
TELLING_WITH_OPTIONS = 12
"""Length that a generic or tiny question needs together with its options."""
GENERIC_USES = 5
"""An n-gram in so many questions says nothing about any of them."""
_GENERIC_SIZE = {False: 3, True: 4}
_ANCHORS = (6, 4, 2, 1)
"""Short questions are looked up by so many of their first words."""
_WINDOW = 40
"""Words between a question and its options that do not count: letters, numbers, instructions."""
_BITMAP_BITS = 22
_TAG = re.compile(
    r"</?(?:a|b|br|code|div|em|font|h[1-6]|i|li|ol|p|pre|span|strong|su[bp]|t[dhr]|table|u|ul)\b[^<>]{0,200}>"
)
_INSIDE_WORDS = re.compile(r"(?<=\w)['\u2019\u2010\u2011-](?=\w)")
"""Who strips punctuation makes `dont` of `don't`, which is two words here."""


@dataclass
class Grams:
    """Hashes of n-grams -> the questions that hold them."""

    keys: Hashes
    """Sorted; a hash that several questions hold is there several times."""
    questions: NDArray[np.int64]
    """Of each key."""
    bitmap: NDArray[np.bool_]
    """Whether a key has these leading bits: nearly all n-grams of a corpus are turned away here."""

    @classmethod
    def build(cls, hashes: Hashes, questions: NDArray[np.int64]) -> "Grams":
        """From pairs (hash, question), in any order, each kept once."""
        order = np.lexsort((questions, hashes))
        keys, owners = hashes[order], questions[order]
        first = np.ones(len(keys), bool)
        first[1:] = (keys[1:] != keys[:-1]) | (owners[1:] != owners[:-1])
        bitmap = np.zeros(1 << _BITMAP_BITS, bool)
        bitmap[keys >> np.uint64(64 - _BITMAP_BITS)] = True
        return cls(keys[first], owners[first], bitmap)

    def find(self, hashes: Hashes) -> Iterator[tuple[int, int]]:
        """(place in `hashes`, question) of each hit."""
        places = np.flatnonzero(self.bitmap[hashes >> np.uint64(64 - _BITMAP_BITS)])
        first = np.searchsorted(self.keys, hashes[places], "left")
        last = np.searchsorted(self.keys, hashes[places], "right")
        for place, start, stop in zip(places.tolist(), first.tolist(), last.tolist(), strict=True):
            for question in self.questions[start:stop].tolist():
                yield place, question


@dataclass
class Lookup:
    """The questions of one kind: those by words, or those by characters."""

    size: int
    """Of an n-gram."""
    grams: Grams
    """Of the questions that are that long."""
    anchors: dict[int, Grams] = field(default_factory=dict)
    """Length -> the beginnings of the shorter questions."""


@dataclass
class Index:
    """Questions, ready to be looked up by number."""

    ids: list[str]
    """Benchmark and id of each question, for a person."""
    lookups: dict[bool, Lookup] = field(default_factory=dict)
    """By characters or not."""
    num_grams: dict[int, int] = field(default_factory=dict)
    """Long question -> its different n-grams."""
    whole: dict[int, list[Hashes]] = field(default_factory=dict)
    """Shorter question -> its words; where it has apostrophes or hyphens, also those without them."""
    options: dict[int, list[Hashes]] = field(default_factory=dict)
    """Generic or tiny question -> the words of its options."""
    vague: list[int] = field(default_factory=list)
    """Questions that are not looked for."""


def unmask(text: str) -> str:
    """Without HTML tags and entities, which stand between words or in their place."""
    text = html.unescape(text) if "&" in text else text
    return _TAG.sub(" ", text) if "<" in text else text


def build_index(questions: Sequence[Question], settings: Decontaminate) -> Index:
    """Decide how each question is looked for."""
    index = Index(ids=[f"{question.benchmark} {question.id}" for question in questions])
    words = split_words([unmask(question.text) for question in questions])
    singles = np.bincount(words.document_of()[words.is_single], minlength=len(questions))
    by_chars = singles > 0
    for by_char, size in ((False, settings.ngram_words), (True, settings.ngram_chars)):
        numbers = np.flatnonzero(by_chars == by_char)
        if len(numbers):
            index.lookups[by_char] = _build_lookup(index, questions, numbers, by_char, size)
    return index


def _build_lookup(
    index: Index, questions: Sequence[Question], numbers: NDArray[np.int64], by_char: bool, size: int
) -> Lookup:
    words = split_words([unmask(questions[number].text) for number in numbers], by_char=by_char)
    hashes, starts = hash_ngrams(words, size)
    grams = Grams.build(hashes, numbers[words.document_of()[starts]])
    index.num_grams.update(
        zip(*(part.tolist() for part in np.unique(grams.questions, return_counts=True)), strict=True)
    )
    is_generic = _find_generic([questions[number] for number in numbers], words, _GENERIC_SIZE[by_char])
    anchors: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for place, number in enumerate(numbers.tolist()):
        if number in index.num_grams:
            continue
        text = questions[number].text
        whole = words.hashes[words.offsets[place] : words.offsets[place + 1]]
        enough = TELLING_SENTENCE if text.rstrip().endswith(("?", "？")) else TELLING
        if is_generic[place] or len(whole) < enough[by_char]:
            options = [option for option in _split_each(questions[number].choices, by_char) if len(option)]
            if len(options) < 2 or not len(whole) or len(whole) + sum(map(len, options)) < TELLING_WITH_OPTIONS:
                index.vague.append(number)
                continue
            index.options[number] = options
        index.whole[number] = [whole]
        if not by_char and _INSIDE_WORDS.search(text):
            index.whole[number] += _split_each([_INSIDE_WORDS.sub("", text)], by_char)
        for form in index.whole[number]:
            length = next(length for length in _ANCHORS if length <= len(form))
            anchors[length].append((_hash_run(form[:length]), number))
    return Lookup(size, grams, {length: _build_anchors(pairs) for length, pairs in anchors.items()})


def _build_anchors(pairs: Sequence[tuple[int, int]]) -> Grams:
    return Grams.build(
        np.array([key for key, _ in pairs], np.uint64), np.array([number for _, number in pairs], np.int64)
    )


def _find_generic(questions: Sequence[Question], words: Words, size: int) -> NDArray[np.bool_]:
    """Whether a question says nothing without its options: another one asks the same with other options, or each of
    its short n-grams is in several questions.
    """
    options_of: dict[bytes, set[frozenset[str]]] = defaultdict(set)
    texts = [words.hashes[a:b].tobytes() for a, b in zip(words.offsets[:-1], words.offsets[1:], strict=True)]
    is_first = np.zeros(len(questions), bool)
    for place, (question, text) in enumerate(zip(questions, texts, strict=True)):
        options = frozenset(question.choices)
        is_first[place] = options not in options_of[text]
        options_of[text].add(options)
    hashes, starts = hash_ngrams(words, size)
    owners = words.document_of()[starts]
    once = Grams.build(hashes[is_first[owners]], owners[is_first[owners]])
    keys, uses = np.unique(once.keys, return_counts=True)
    rarest = np.full(len(questions), np.iinfo(np.int64).max)
    if len(keys):
        np.minimum.at(rarest, owners, uses[np.searchsorted(keys, hashes)])
    several = np.array([len(options_of[text]) > 1 for text in texts], bool)
    return np.asarray(several | (rarest >= GENERIC_USES))


def _split_each(texts: Sequence[str], by_char: bool) -> list[Hashes]:
    words = split_words([unmask(text) for text in texts], by_char=by_char)
    return [words.hashes[a:b] for a, b in zip(words.offsets[:-1], words.offsets[1:], strict=True)]


def _hash_run(hashes: Hashes) -> int:
    none = np.zeros(0, bool)
    run = Words(hashes, none, none, np.zeros(0, np.int64), np.array([0, len(hashes)]))
    return int(hash_ngrams(run, len(hashes))[0][0])


def find_questions(index: Index, texts: Sequence[str], min_overlap: float) -> list[dict[int, float]]:
    """For each text, the questions that it holds -> the share that is there (1 where it was looked for as a whole)."""
    found: list[dict[int, float]] = [{} for _ in texts]
    plain = [unmask(text) for text in texts]
    words = split_words(plain)
    if False in index.lookups:
        _look_up(index, index.lookups[False], words, range(len(texts)), min_overlap, found)
    if True in index.lookups:
        chosen = np.unique(words.document_of()[words.is_single]).tolist()
        chars = split_words([plain[number] for number in chosen], by_char=True)
        _look_up(index, index.lookups[True], chars, chosen, min_overlap, found)
    return found


def _look_up(
    index: Index,
    lookup: Lookup,
    words: Words,
    numbers: Sequence[int],
    min_overlap: float,
    found: list[dict[int, float]],
) -> None:
    """Add to `found` what stands in the words; `numbers` are the places of their texts in `found`."""
    document = words.document_of()
    held: dict[tuple[int, int], set[int]] = defaultdict(set)
    hashes, starts = hash_ngrams(words, lookup.size)
    for place, question in lookup.grams.find(hashes):
        held[int(document[starts[place]]), question].add(int(hashes[place]))
    for (text, question), grams in held.items():
        share = len(grams) / index.num_grams[question]
        if share >= min_overlap:
            found[numbers[text]][question] = share
    for length, anchors in lookup.anchors.items():
        hashes, starts = hash_ngrams(words, length)
        for place, question in anchors.find(hashes):
            start = int(starts[place])
            text = int(document[start])
            if question not in found[numbers[text]] and _stands_at(index, question, words, start, text):
                found[numbers[text]][question] = 1.0


def _stands_at(index: Index, question: int, words: Words, start: int, text: int) -> bool:
    """Whether the question begins there and, where it needs them, its options stand behind it, in any order."""
    options = index.options.get(question, [])
    rest = words.hashes[start : words.offsets[text + 1]]
    for whole in index.whole[question]:
        if np.array_equal(rest[: len(whole)], whole):
            window = rest[len(whole) :][: 2 * sum(map(len, options)) + _WINDOW]
            return all(_contains(window, option) for option in options)
    return False


def _contains(words: Hashes, wanted: Hashes) -> bool:
    if len(words) < len(wanted):
        return False
    starts = np.flatnonzero(words[: len(words) - len(wanted) + 1] == wanted[0])
    return any(np.array_equal(words[start : start + len(wanted)], wanted) for start in starts)

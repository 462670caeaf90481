"""Find the questions of an index in texts."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reprise.documents.decontaminate.gaps import Letters, match_letters
from reprise.documents.decontaminate.index import Grams, Index, Lookup, Seeds, Unit, distinct_pairs
from reprise.documents.decontaminate.reveal import changed_parts, reveal, strip_markup
from reprise.documents.words import Hashes, Words, hash_runs, join_letters, split_words

MIN_LETTERS = 0.95
"""Share of a question's letters that a text must contain, in order, if something was inserted into the question."""
MIN_SEEDED = 0.5
"""Share of a question that seeds must cover before its other letters are compared."""
_OPTIONS_WINDOW = 40
"""Words between a question and its options that are ignored: letters, numbers, instructions."""
_INSERTION = 20
"""Words that may be inserted into a question, besides half its length: a page header and footer."""
_STREWN = (3, 16)
"""(letters, words): this many single letters, each between two words, within this many words are strewn letters."""
_SPACED_RUN = 8
"""This many single letters in a row are taken for words with spaces inside them."""
_LONG_WORD = 30
"""A word of at least this many letters is taken for several words without spaces."""

Found = list[dict[int, float]]
"""Element i: the questions that text i contains -> the share of them that it contains."""


@dataclass(frozen=True)
class _View:
    """The texts in one form, or parts of them: `owners[i]` is the index of the text that view i belongs to."""

    texts: list[str]
    owners: NDArray[np.int64]
    words: Words


def find_questions(index: Index, texts: Sequence[str], min_overlap: float) -> Found:
    """For each text, the questions that it contains -> the share of them (1 for those that are matched as a whole)."""
    matches: Found = [{} for _ in texts]
    plain = [strip_markup(text) for text in texts]
    words = split_words(plain)
    strewn = _find_strewn(words)
    revealed = [reveal(text, strewn_letters=i in strewn) for i, text in enumerate(texts)]
    changed = np.array([i for i in range(len(texts)) if revealed[i] != plain[i]], np.int64)
    views = [_View(plain, np.arange(len(texts)), words)]
    if len(changed):
        parts = [(i, part) for i in changed.tolist() for part in changed_parts(plain[i], revealed[i])]
        owners = np.array([i for i, _ in parts], np.int64)
        views.append(_make_view([part for _, part in parts], owners, by_char=False))
    if Unit.WORDS in index.lookups:
        _look_up(index, index.lookups[Unit.WORDS], views, min_overlap, matches)
    if Unit.CHARS in index.lookups:
        _look_up(index, index.lookups[Unit.CHARS], [_by_chars(view) for view in views], min_overlap, matches)
    if Unit.LETTERS in index.lookups:
        unspaced = [_make_view([revealed[i] for i in some], some, by_char=True) for some in _find_unspaced(views)]
        _look_up(index, index.lookups[Unit.LETTERS], unspaced, min_overlap, matches)
    return matches


def _make_view(texts: list[str], owners: NDArray[np.int64], *, by_char: bool) -> _View:
    return _View(texts, owners, split_words(texts, by_char=by_char))


def _by_chars(view: _View) -> _View:
    """The view by characters, only of texts that contain characters of scripts without spaces."""
    some = np.unique(view.words.document_of()[view.words.is_single])
    return _make_view([view.texts[i] for i in some], view.owners[some], by_char=True)


def _find_strewn(words: Words) -> set[int]:
    """Texts with many single letters between words; in formulas single letters are between letters and digits."""
    count, within = _STREWN
    is_word = words.has_letter & (words.is_single | (words.num_chars > 1))
    is_letter = (words.num_chars == 1) & words.has_letter & ~words.is_single & ~np.isin(words.hashes, _common_letters())
    letters = np.flatnonzero(is_letter[1:-1] & is_word[:-2] & is_word[2:]) + 1
    if len(letters) < count:
        return set()
    texts = words.document_of()[letters]
    last, first = slice(count - 1, None), slice(None, 1 - count)
    dense = (letters[last] - letters[first] < within) & (texts[last] == texts[first])
    return set(texts[first][dense].tolist())


@functools.cache
def _common_letters() -> Hashes:
    """Single letters that English has between words: one-letter words, and what follows an apostrophe."""
    return split_words(["a i o d m s t"]).hashes


def _find_unspaced(views: Sequence[_View]) -> Iterator[NDArray[np.int64]]:
    """Texts whose words are cut or run together; yields at most one array of indices."""
    chosen: set[int] = set()
    for view in views:
        words = view.words
        texts = words.document_of()
        is_long = (words.num_chars >= _LONG_WORD) & words.has_letter
        chosen.update(view.owners[np.unique(texts[is_long])].tolist())
        is_letter = (words.num_chars == 1) & words.has_letter & ~words.is_single
        before = np.concatenate([[0], np.cumsum(is_letter)])
        runs = np.flatnonzero(before[_SPACED_RUN:] - before[:-_SPACED_RUN] == _SPACED_RUN)
        chosen.update(view.owners[np.unique(texts[runs])].tolist())
    if chosen:
        yield np.array(sorted(chosen), np.int64)


def _look_up(index: Index, lookup: Lookup, views: Sequence[_View], min_overlap: float, matches: Found) -> None:
    """Add the questions that the views contain to `matches`."""
    _look_up_grams(index, lookup, views, min_overlap, matches)
    for view in views:
        for length, anchors in lookup.anchors.items():
            _look_up_anchors(index, anchors, length, view, matches)
        if lookup.seeds is not None:
            _look_up_gapped(index, lookup.seeds, view, matches)


def _look_up_grams(index: Index, lookup: Lookup, views: Sequence[_View], min_overlap: float, matches: Found) -> None:
    """Match n-grams; each counts in whichever form of the text contains it."""
    parts: list[tuple[Hashes, NDArray[np.int64]]] = []
    for view in views:
        indices, keys = _find_runs(view.words, lookup.grams, lookup.size)
        owners = view.owners[view.words.document_of()[indices]]
        parts.append((lookup.grams.hashes_at(keys), owners * len(index.questions) + lookup.grams.forms[keys]))
    if not parts:
        return
    _, pairs = distinct_pairs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    pairs, counts = np.unique(pairs, return_counts=True)
    texts, forms = np.divmod(pairs, len(index.questions))
    for text, form, count in zip(texts.tolist(), forms.tolist(), counts.tolist(), strict=True):
        share = count / index.num_grams[form]
        if share >= (1.0 if form in index.all_grams else min_overlap):
            _add(matches, text, index.questions[form], share)


def _find_runs(words: Words, grams: Grams, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (word at which a run in the index starts, index into its `forms`), as two arrays."""
    indices, keys = grams.look_up(hash_runs(words, size))
    inside = words.in_one_document(indices, size)
    return indices[inside], keys[inside]


def _add(matches: Found, text: int, question: int, share: float) -> None:
    matches[text][question] = max(share, matches[text].get(question, 0.0))


def _look_up_anchors(index: Index, anchors: Grams, length: int, view: _View, matches: Found) -> None:
    words = view.words
    document = words.document_of()
    indices, keys = _find_runs(words, anchors, length)
    forms = anchors.forms[keys]
    lengths, last_words = index.endings
    ends = indices + lengths[forms]
    # Nearly all candidates have another last word, or would reach beyond their text.
    same = ends <= words.offsets[document[indices] + 1]
    same[same] = words.hashes[ends[same] - 1] == last_words[forms[same]]
    for start, form in zip(indices[same].tolist(), forms[same].tolist(), strict=True):
        text = int(document[start])
        question = index.questions[form]
        owner = int(view.owners[text])
        if question not in matches[owner] and _stands_at(index, form, words, start, text):
            matches[owner][question] = 1.0


def _stands_at(index: Index, form: int, words: Words, start: int, text: int) -> bool:
    """Whether the question begins at `start` and, if it needs them, its options follow it, in any order."""
    options = index.options.get(form, [])
    rest = words.hashes[start : words.offsets[text + 1]]
    whole = index.whole[form]
    if not np.array_equal(rest[: len(whole)], whole):
        return False
    window = rest[len(whole) :][: 2 * sum(map(len, options)) + _OPTIONS_WINDOW]
    return all(_contains(window, option) for option in options)


def _contains(words: Hashes, run: Hashes) -> bool:
    if len(words) < len(run):
        return False
    starts = np.flatnonzero(words[: len(words) - len(run) + 1] == run[0])
    return any(np.array_equal(words[start : start + len(run)], run) for start in starts)


def _look_up_gapped(index: Index, seeds: Seeds, view: _View, matches: Found) -> None:
    """Match questions with insertions: close seeds say which question and where, its letters decide."""
    size, by_char = seeds.size, seeds.by_char
    indices, keys = _find_runs(view.words, seeds.grams, size)
    if not len(indices):
        return
    forms, positions = (part[keys].astype(np.int64) for part in (seeds.grams.forms, seeds.grams.positions))
    texts = view.words.document_of()[indices]
    group = texts * len(index.questions) + forms
    order = np.lexsort((positions, indices, group))
    group, indices, forms, positions, texts = (part[order] for part in (group, indices, forms, positions, texts))
    lengths = index.length_array[forms]
    reach = indices + lengths * 3 // 2 + _INSERTION
    need = np.maximum(2, -(-lengths * MIN_SEEDED // size).astype(np.int64))
    last = np.arange(len(group)) + need - 1
    inside = last < len(group)
    last = np.minimum(last, len(group) - 1)
    dense = np.flatnonzero(inside & (group[last] == group) & (indices[last] <= reach))
    letters: dict[int, Letters] = {}
    for first in _best_starts(dense, group, indices, reach):
        form, text = int(forms[first]), int(texts[first])
        question, owner = index.questions[form], int(view.owners[text])
        if question in matches[owner]:
            continue
        end = first + int(np.searchsorted(indices[first:], reach[first], "right"))
        end = first + int(np.searchsorted(group[first:end], group[first], "right"))
        if text not in letters:
            letters[text] = Letters.build(view.words.letters_of(text), view.words, text)
        offset = int(view.words.offsets[text])
        pairs = [
            (word - offset, position)
            for word, position in zip(indices[first:end].tolist(), positions[first:end].tolist(), strict=True)
        ]
        share = match_letters(_cached_letters(index.texts[form], by_char), letters[text], pairs, size, MIN_SEEDED)
        if share >= MIN_LETTERS:
            _add(matches, owner, question, share)


def _best_starts(
    dense: NDArray[np.int64], group: NDArray[np.int64], indices: NDArray[np.int64], reach: NDArray[np.int64]
) -> list[int]:
    """For each group, the first seed of the span that contains the most of them."""
    # Groups are sorted, and so are the word indices inside each: one key orders both.
    width = int(max(indices.max(initial=0), reach.max(initial=0))) + 1
    ends = np.searchsorted(group * width + indices, group[dense] * width + reach[dense], "right")
    order = np.lexsort((dense, dense - ends, group[dense]))
    ordered = dense[order]
    is_first = np.ones(len(ordered), bool)
    is_first[1:] = group[ordered][1:] != group[ordered][:-1]
    best: list[int] = ordered[is_first].tolist()
    return best


@functools.lru_cache(maxsize=4096)
def _cached_letters(text: str, by_char: bool) -> Letters:
    return Letters.build(join_letters(text), split_words([text], by_char=by_char), 0)

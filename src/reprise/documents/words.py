"""Split texts into normalised words and n-grams, as arrays over a whole batch of documents.

A word is a run of letters and digits; in scripts without spaces each character is a word of its own. Case, white space,
punctuation, full-width forms and invisible characters make no difference.
"""

import functools
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_SEPARATOR, _LETTER, _DIGIT, _SINGLE, _INVISIBLE = range(5)
_SINGLES = (
    (0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF),
)  # fmt: skip
"""Thai, Lao, Tibetan; Burmese; Khmer; iteration marks; kana; ideographs and their extensions."""
_UNSEEN = (
    (0x0000, 0x0008), (0x000E, 0x001B), (0x007F, 0x0084), (0x0086, 0x009F), (0x034F, 0x034F), (0x17B4, 0x17B5),
    (0x180B, 0x180F), (0xFE00, 0xFE0F), (0xE0000, 0xE0FFF),
)  # fmt: skip
"""Characters that are invisible although Unicode does not call them format characters: control characters except white
space, the grapheme joiner, Khmer's inherent vowels, variation selectors, tags."""
_BLANKS = (0x115F, 0x1160, 0x3164, 0xFFA0)
"""Fillers of Hangul: letters according to Unicode, but blank."""

_CHAR_FACTOR, _WORD_FACTOR = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F

Hashes = NDArray[np.uint64]


def normalise(text: str) -> str:
    """Resolve compatibility forms (full width, ligatures) and fold case."""
    return unicodedata.normalize("NFKC", text).casefold()


def encode(texts: Sequence[str]) -> NDArray[np.uint32]:
    """The code points of all texts, with a line end after each text: uint32[characters + texts]."""
    return np.frombuffer("\n".join([*texts, ""]).encode("utf-32-le"), np.uint32)


def _normal_codes(texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """`encode` of the normalised texts, and the length of each in code points: int64[texts].

    Most texts are normalised by a table, one code point at a time: in text whose commas are all full-width, NFKC in
    Python costs as much as all rules together.
    """
    codes, lengths = encode(texts), np.array([len(text) for text in texts], np.int64)
    table = _normal_forms()
    normal = table[codes]
    if not (bad := normal == _NEEDS_NEIGHBOURS).any():
        return normal, lengths
    ends = np.cumsum(lengths + 1)
    is_bad = np.add.reduceat(bad, ends - lengths - 1) > 0
    texts = [normalise(text) if slow else text for text, slow in zip(texts, is_bad.tolist(), strict=True)]
    codes, lengths = encode(texts), np.array([len(text) for text in texts], np.int64)
    return np.where(np.repeat(is_bad, lengths + 1), codes, table[codes]), lengths


_NEEDS_NEIGHBOURS = 0xFFFFFFFF


@functools.cache
def _normal_forms() -> NDArray[np.uint32]:
    """The normalised form of each code point for which it is one code point in any context.

    _NEEDS_NEIGHBOURS for those that become several code points, that are reordered (a combining class), or that may be
    composed with the one before: a text that contains one of these is normalised by `normalise`.
    """
    chars = [chr(code) for code in range(0x30000) if chr(code) != "\n"]
    composed = {chr(0x1161 + n) for n in range(21)} | {chr(0x11A8 + n) for n in range(27)}
    composed |= {parts[1] for char in chars if len(parts := _canonical_parts(char)) == 2}
    compatible = unicodedata.normalize("NFKC", "\n".join(chars)).split("\n")
    folded = normalise("\n".join(chars)).split("\n")
    forms = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    for char, before, normal in zip(chars, compatible, folded, strict=True):
        simple = len(normal) == 1 and not unicodedata.combining(char) and not unicodedata.combining(normal)
        simple = simple and composed.isdisjoint(char + before + normal)
        forms[ord(char)] = ord(normal) if simple else _NEEDS_NEIGHBOURS
    return forms


def _canonical_parts(char: str) -> str:
    parts = unicodedata.decomposition(char).split()
    return "" if not parts or parts[0].startswith("<") else "".join(chr(int(part, 16)) for part in parts)


@functools.cache
def _kinds() -> NDArray[np.uint8]:
    """Kind of each code point (space, letter, digit, ...)."""
    kinds = np.zeros(sys.maxunicode + 1, np.uint8)
    for code in range(0x20000):
        char = chr(code)
        category = unicodedata.category(char)
        if category[0] in "LM":
            kinds[code] = _LETTER
        elif category[0] == "N":
            kinds[code] = _DIGIT
        elif category == "Cf":
            kinds[code] = _INVISIBLE
    for first, last in _UNSEEN:
        kinds[first : last + 1] = _INVISIBLE
    kinds[list(_BLANKS)] = _SEPARATOR
    for first, last in _SINGLES:
        block = kinds[first : last + 1]
        block[(block == _LETTER) | (block == _DIGIT) | (first >= 0x20000)] = _SINGLE
    return kinds


@dataclass(frozen=True)
class Words:
    """The words of some documents, one after another."""

    hashes: Hashes
    """Hash of each word: uint64[words]."""
    is_single: NDArray[np.bool_]
    """Whether it is a character of a script without spaces: bool[words]."""
    has_letter: NDArray[np.bool_]
    """Whether it contains more than digits: bool[words]."""
    num_chars: NDArray[np.int64]
    """Its length in code points: int64[words]."""
    offsets: NDArray[np.int64]
    """Index of each document's first word: int64[documents + 1]."""
    letters: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    """Code points of all words, without anything between them: uint32[sum of num_chars]; empty if not requested."""
    run_hashes: dict[int, Hashes] = field(default_factory=dict)
    """Cache of `hash_runs` by size, because several tables use runs of the same size."""

    def letters_of(self, document: int) -> str:
        """`join_letters` of a document."""
        first = int(self.num_chars[: self.offsets[document]].sum())
        count = int(self.num_chars[self.offsets[document] : self.offsets[document + 1]].sum())
        letters: bytes = self.letters[first : first + count].tobytes()
        return letters.decode("utf-32-le")

    def document_of(self) -> NDArray[np.int64]:
        """Document of each word: int64[words]."""
        return self._document_of

    @functools.cached_property
    def _document_of(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @functools.cached_property
    def prefix(self) -> Hashes:
        """Prefix sums of the mixed hashes, from which the hash of a run of any size is computed: uint64[words + 1]."""
        return _prefix(self.hashes, _WORD_FACTOR)

    def in_one_document(self, starts: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
        """Whether the `size` words from each start are in one document: bool[starts]."""
        document = self._document_of
        return np.asarray(document[starts] == document[starts + size - 1])


def split_words(texts: Sequence[str], *, by_char: bool = False) -> Words:
    """The words of each text; with `by_char`, every letter and digit is a word of its own."""
    codes, lengths = _normal_codes(texts)
    kinds = _kinds()[codes]
    ends_of_texts = np.cumsum(lengths + 1) - 1
    if (invisible := kinds == _INVISIBLE).any():
        ends_of_texts = ends_of_texts - np.cumsum(invisible)[ends_of_texts]
        codes, kinds = codes[~invisible], kinds[~invisible]
    run, single = (kinds == _LETTER) | (kinds == _DIGIT), kinds == _SINGLE
    if by_char:
        run, single = np.zeros_like(run), run | single
    before, after = np.zeros_like(run), np.zeros_like(run)
    before[1:], after[:-1] = run[:-1], run[1:]
    starts = np.flatnonzero(single | (run & ~before))
    ends = np.flatnonzero(single | (run & ~after)) + 1
    letters = np.concatenate([[0], np.cumsum((kinds == _LETTER) | (kinds == _SINGLE))])
    prefix = _prefix(codes.astype(np.uint64) + np.uint64(1), _CHAR_FACTOR)
    hashes = mix((prefix[ends] - prefix[starts]) * _powers(len(codes), _inverse(_CHAR_FACTOR))[starts])
    return Words(
        hashes=hashes,
        is_single=single[starts],
        has_letter=letters[ends] > letters[starts],
        num_chars=ends - starts,
        offsets=np.concatenate([[0], np.searchsorted(starts, ends_of_texts)]).astype(np.int64),
        letters=codes[run | single],
    )


def join_letters(text: str) -> str:
    """The letters and digits of a text, normalised, without anything between them.

    Word i of `split_words` is its next `num_chars[i]` characters.
    """
    codes, _ = _normal_codes([text])
    kinds = _kinds()[codes]
    letters: bytes = codes[(kinds == _LETTER) | (kinds == _DIGIT) | (kinds == _SINGLE)].tobytes()
    return letters.decode("utf-32-le")


class NgramHashes:
    """Hashes of runs of words, of any size, at some positions; `hash_ngrams` mixes the same ones for all positions.

    They are polynomials modulo 2^64 over mixed word hashes, so that a run of any length costs one subtraction.
    """

    def __init__(self, words: Words) -> None:
        self._prefix = words.prefix
        self._inverse = _powers(len(words.hashes), _inverse(_WORD_FACTOR))

    def of(self, starts: NDArray[np.int64], size: int | NDArray[np.int64]) -> Hashes:
        """Hash of the `size` words (one size, or one per start) from each start: uint64[starts]."""
        return np.asarray((self._prefix[starts + size] - self._prefix[starts]) * self._inverse[starts])


def hash_ngrams(words: Words, size: int) -> tuple[Hashes, NDArray[np.int64]]:
    """Hash of each run of `size` words inside one document, and the index of its first word, in order."""
    hashes = hash_runs(words, size)
    inside = words.in_one_document(np.arange(len(hashes)), size)
    return hashes[inside], np.flatnonzero(inside)


def hash_runs(words: Words, size: int) -> Hashes:
    """As `hash_ngrams`, with the runs that continue into the next document: uint64[words - size + 1]."""
    count = len(words.hashes)
    if count < size:
        return np.zeros(0, np.uint64)
    if size not in words.run_hashes:
        prefix, powers = words.prefix, _powers(count, _inverse(_WORD_FACTOR))
        words.run_hashes[size] = mix((prefix[size:] - prefix[:-size]) * powers[: count - size + 1])
    return words.run_hashes[size]


def _prefix(values: Hashes, factor: int) -> Hashes:
    """prefix[i] = sum of values[j] * factor^j over j < i, modulo 2^64."""
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * _powers(len(values), factor), out=sums[1:])
    return sums


def _powers(count: int, factor: int) -> Hashes:
    """factor^0, factor^1, ..., modulo 2^64."""
    powers = _known_powers.get(factor)
    if powers is None or len(powers) < count:
        powers = np.full(1 << max(16, count.bit_length()), factor, np.uint64)
        powers[0] = 1
        powers = _known_powers[factor] = np.cumprod(powers)
    return powers[:count]


_known_powers: dict[int, Hashes] = {}
"""Factor -> the longest array of powers that was computed so far."""


@functools.cache
def _inverse(factor: int) -> int:
    return pow(factor, -1, 1 << 64)


def mix(values: Hashes) -> Hashes:
    """Mix the bits of each hash, so that each input bit changes every output bit (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))

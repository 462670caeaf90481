"""Count lines, paragraphs, sentences and symbols in a batch of documents, on arrays of code points."""

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reprise.documents.clean.sentence_marks import SENTENCE_TERMINAL
from reprise.documents.words import NgramHashes, Words, encode, mix

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_CLOSING = "\"'”’»›」』》）)]…"
"""Characters that may occur between the end of a sentence and the following space."""
_LINE_END_MARKS = "\"'”’»›」』》）)…：；"
_BULLETS = "•-*·●▪◦■"
COMMAS = ",՝،߸፣᠂᠈⸲⸴⹁⹉⹌、꓾꘍꛵၊︐︑﹐﹑，､;；؛·•|"
"""What separates the items of an enumeration: the commas of all scripts (Armenian, Arabic, N'Ko, Ethiopic, Mongolian,
Chinese, Lisu, Vai, Bamum, Burmese, ...), semicolons, dots and bars."""
_SPACE, _SENTENCE, _FULL_STOP, _CLOSE, _LINE_END, _BULLET, _WORD, _IDEOGRAPH, _COMMA, _DIGIT = (
    1 << bit for bit in range(10)
)


@dataclass(frozen=True)
class Shape:
    """Counts and shares, one value per document."""

    chars: Ints
    lines: Ints
    """Lines that contain more than white space."""
    bullet_lines: Ints
    ellipsis_lines: Ints
    terminated_lines: Ints
    """Lines that end with the end of a sentence, a quotation or a list."""
    short_lines: Ints
    sentences: Ints
    commas: Ints
    """Separators of enumerations, except between two digits."""
    hashes: Ints
    """Hash signs."""
    ellipses: Ints
    duplicate_lines: Floats
    """Share of the lines with a word that occurred before in the document."""
    duplicate_line_chars: Floats
    """Share of the characters in such lines."""
    duplicate_paragraphs: Floats
    duplicate_paragraph_chars: Floats


def measure_shape(texts: Sequence[str], *, short_line_chars: int, sentence_marks: str = "") -> Shape:
    """Count lines, paragraphs, sentences and symbols.

    A line is the text between line ends, without surrounding white space. A sentence ends with a mark of Unicode's
    Sentence_Terminal; an ASCII full stop, exclamation or question mark counts only before white space, an ideograph or
    the end of the text, possibly with closing quotation marks and brackets in between.

    Args:
        texts: the documents.
        short_line_chars: length in characters of the longest line that counts as short.
        sentence_marks: additional marks that end a sentence.
    """
    codes = encode(texts)
    kinds = _kinds(sentence_marks)[codes]
    lengths = np.array([len(text) for text in texts], np.int64)
    edges = np.concatenate([[0], np.cumsum(lengths + 1)])
    lines = _find_lines(codes, kinds, edges)
    paragraphs = _join_paragraphs(lines)
    count = functools.partial(_count, num_documents=len(texts))
    per_document = functools.partial(_count_at, edges=edges)
    last, first = codes[lines.last], kinds[lines.first]
    dots = (last == ord(".")) & (lines.last - lines.first >= 2)
    dots[dots] = (codes[lines.last[dots] - 1] == ord(".")) & (codes[lines.last[dots] - 2] == ord("."))
    text_hashes = _hash_codes(codes)
    has_word = np.concatenate([[0], np.cumsum((kinds & _WORD) > 0)])
    worded = lines.select(has_word[lines.last + 1] > has_word[lines.first])
    line_share, line_chars = _duplicates(worded, text_hashes, lengths)
    paragraph_share, paragraph_chars = _duplicates(paragraphs, text_hashes, lengths)
    return Shape(
        chars=lengths,
        lines=count(lines.document),
        bullet_lines=count(lines.document[(first & _BULLET) > 0]),
        ellipsis_lines=count(lines.document[dots | (last == ord("…"))]),
        terminated_lines=count(lines.document[(kinds[lines.last] & (_SENTENCE | _FULL_STOP | _LINE_END)) > 0]),
        short_lines=count(lines.document[lines.last - lines.first < short_line_chars]),
        sentences=per_document(_sentence_ends(kinds)),
        commas=per_document(_commas(kinds)),
        hashes=per_document(np.flatnonzero(codes == ord("#"))),
        ellipses=per_document(*_runs(codes, ord("."), 3)) + per_document(*_runs(codes, ord("…"), 2, 1)),
        duplicate_lines=line_share,
        duplicate_line_chars=line_chars,
        duplicate_paragraphs=paragraph_share,
        duplicate_paragraph_chars=paragraph_chars,
    )


@dataclass(frozen=True)
class _Pieces:
    """Lines or paragraphs: the first and last character of each that is not white space, and its document."""

    first: Ints
    last: Ints
    document: Ints
    index: Ints
    """Index of the line in the batch, including empty lines."""

    def select(self, chosen: NDArray[np.bool_]) -> "_Pieces":
        return _Pieces(self.first[chosen], self.last[chosen], self.document[chosen], self.index[chosen])


@functools.lru_cache(maxsize=32)
def _kinds(sentence_marks: str) -> NDArray[np.uint16]:
    """Flags of each code point, uint16[code points]."""
    kinds = np.zeros(sys.maxunicode + 1, np.uint16)
    for code in range(0x20000):
        char = chr(code)
        if char.isspace():
            kinds[code] |= _SPACE
        elif char.isalnum():
            kinds[code] |= _WORD
    kinds[0x20000:0x323B0] |= _WORD
    for first, last in ((0x3041, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)):
        kinds[first : last + 1] |= _IDEOGRAPH
    for flag, chars in (
        (_SENTENCE, SENTENCE_TERMINAL + sentence_marks),
        (_CLOSE, _CLOSING),
        (_LINE_END, _LINE_END_MARKS),
        (_BULLET, _BULLETS),
        (_COMMA, COMMAS),
        (_DIGIT, "0123456789"),
    ):
        kinds[[ord(char) for char in chars]] |= flag
    for char in set(".!?") - set(sentence_marks):
        kinds[ord(char)] = (kinds[ord(char)] & ~np.uint16(_SENTENCE)) | _FULL_STOP
    return kinds


def _find_lines(codes: NDArray[np.uint32], kinds: NDArray[np.uint16], edges: Ints) -> _Pieces:
    ends = np.flatnonzero(codes == ord("\n"))
    starts = np.concatenate([[0], ends[:-1] + 1])
    solid = np.flatnonzero((kinds & _SPACE) == 0)
    if not len(solid):
        empty = np.zeros(0, np.int64)
        return _Pieces(empty, empty, empty, empty)
    first, behind = np.searchsorted(solid, starts), np.searchsorted(solid, ends)
    full = np.flatnonzero(first < behind)
    document = np.searchsorted(edges, starts[full], side="right") - 1
    return _Pieces(solid[first[full]], solid[behind[full] - 1], document, full)


def _join_paragraphs(lines: _Pieces) -> _Pieces:
    """Join runs of lines of one document without an empty line between them."""
    if not len(lines.first):
        return lines
    begins = np.ones(len(lines.first), bool)
    begins[1:] = (np.diff(lines.index) > 1) | (np.diff(lines.document) > 0)
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(begins)) - 1
    return _Pieces(lines.first[starts], lines.last[ends], lines.document[starts], lines.index[starts])


def _sentence_ends(kinds: NDArray[np.uint16]) -> Ints:
    """Positions of the marks that end a sentence; for a run of marks, the position of the last."""
    is_mark = (kinds & (_SENTENCE | _FULL_STOP)) > 0
    marks = np.flatnonzero(is_mark)  # the last code is a line end, never a mark
    marks = marks[~is_mark[marks + 1]]
    sure = (kinds[marks] & _SENTENCE) > 0
    behind = marks + 1
    closing = (kinds[behind] & _CLOSE) > 0
    while closing.any():
        behind = np.where(closing, behind + 1, behind)
        closing = (kinds[behind] & _CLOSE) > 0
    return np.asarray(marks[sure | ((kinds[behind] & (_SPACE | _IDEOGRAPH)) > 0)])


def _commas(kinds: NDArray[np.uint16]) -> Ints:
    """Positions of the separators of enumerations that do not belong to a number."""
    marks = np.flatnonzero((kinds & _COMMA) > 0)  # the last code is a line end, so that each has one behind it
    in_number = (kinds[np.maximum(marks - 1, 0)] & kinds[marks + 1] & _DIGIT) > 0
    return np.asarray(marks[~in_number])


def _runs(codes: NDArray[np.uint32], code: int, size: int, more: int = 0) -> tuple[Ints, Ints]:
    """Positions where runs of a character begin, and (length + more) // size of each run."""
    positions = np.flatnonzero(codes == code)
    begins = np.ones(len(positions), bool)
    begins[1:] = np.diff(positions) > 1
    starts = np.flatnonzero(begins)
    lengths = np.diff(np.append(starts, len(positions)))
    return positions[starts], (lengths + more) // size


def _count(document: Ints, *, num_documents: int) -> Ints:
    return np.bincount(document, minlength=num_documents)


def _count_at(positions: Ints, weights: Ints | None = None, *, edges: Ints) -> Ints:
    document = np.searchsorted(edges, positions, side="right") - 1
    return np.bincount(document, weights, minlength=len(edges) - 1).astype(np.int64)


def _hash_codes(codes: NDArray[np.uint32]) -> NgramHashes:
    """Hashes from which those of runs of characters are computed."""
    count = len(codes)
    none = np.zeros(0, np.bool_)
    return NgramHashes(Words(mix(codes.astype(np.uint64)), none, none, np.ones(0, np.int64), np.array([0, count])))


def _duplicates(pieces: _Pieces, text_hashes: NgramHashes, lengths: Ints) -> tuple[Floats, Floats]:
    """Share of the pieces that occurred before in their document, and share of the document's characters in them."""
    size = pieces.last - pieces.first + 1
    keys = text_hashes.of(pieces.first, size) ^ mix(
        (pieces.document.astype(np.uint64) << np.uint64(32)) + size.astype(np.uint64)
    )
    again = np.ones(len(keys), bool)
    again[np.unique(keys, return_index=True)[1]] = False
    num_documents = len(lengths)
    total = np.maximum(1, np.bincount(pieces.document, minlength=num_documents))
    repeated = pieces.document[again]
    share = np.bincount(repeated, minlength=num_documents) / total
    chars = np.bincount(repeated, size[again], minlength=num_documents)
    return share, chars / np.maximum(1, lengths)

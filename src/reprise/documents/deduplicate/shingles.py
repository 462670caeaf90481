"""Normalise texts for exact copies, and split them into words or characters for shingles. In batches, on arrays.

The result for one text is defined by two lines of Python (a test compares them):

    normal = unicodedata.normalize("NFKC", text).casefold()
    words = re.sub(r"[\\W_]+", " ", normal).strip()

The arrays do the same for characters that normalise to one character, independent of context, which is nearly all text.
"""

import functools
import itertools
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reprise.documents.words import normalise

_ALONE = 0x30000
"""Code points from here on are handled one by one: they are rare, and a larger table would take long to build."""
_SLOW = 0xFFFFFFFF
_SPACE = 32


def normalise_texts(texts: Sequence[str]) -> list[str]:
    """`words.normalise` of each text."""
    normal = [text.lower() if text.isascii() else "" for text in texts]
    others = [index for index, text in enumerate(texts) if not text.isascii()]
    if not others:
        return normal
    codes = _codes("\n".join([*(texts[index] for index in others), ""]))
    forms = _single_forms()[np.minimum(codes, _ALONE)]
    is_slow = forms == _SLOW
    forms[is_slow] = _SPACE
    joined = forms.tobytes().decode("utf-32-le")
    start = 0
    slow_before = np.concatenate([[0], np.cumsum(is_slow)])
    for index in others:
        end = start + len(texts[index])
        slow = slow_before[end] > slow_before[start]
        normal[index] = normalise(texts[index]) if slow else joined[start:end]
        start = end + 1
    return normal


def split_shingle_words(normal: Sequence[str], *, by_char: bool) -> list[str]:
    """Words, or the characters of the words, of each normalised text, with single spaces between them."""
    codes = _codes("\n".join([*normal, ""]))
    in_words = _in_words()[np.minimum(codes, _ALONE)]
    for position in np.flatnonzero(codes >= _ALONE).tolist():
        in_words[position] = chr(codes[position]).isalnum()
    lengths = np.fromiter(map(len, normal), np.int64, len(normal))
    ends = np.cumsum(lengths + 1) - 1
    if by_char:
        chosen = codes[in_words]
        spaced = np.full(2 * len(chosen), _SPACE, np.uint32)
        spaced[::2] = chosen
        text = spaced.tobytes().decode("utf-32-le")
        offsets = 2 * np.concatenate([[0], np.cumsum(in_words)[ends]])
        return [text[start : max(start, end - 1)] for start, end in itertools.pairwise(offsets.tolist())]
    words = np.where(in_words, codes, np.uint32(_SPACE))
    text = words.tobytes().decode("utf-32-le")
    return [
        " ".join(text[end - length : end].split()) for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)
    ]


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


@functools.cache
def _in_words() -> NDArray[np.bool_]:
    """Whether a code point is matched by `\\w` and is not an underscore; the last entry is unused."""
    return np.array([chr(code).isalnum() for code in range(_ALONE + 1)])


@functools.cache
def _single_forms() -> NDArray[np.uint32]:
    """Code point -> the one code point that it normalises to in any context; _SLOW if there is none.

    A character depends on its neighbours if it is combining (a class above 0) or can be the second of a composition.
    """
    seconds = {chr(code) for code in [*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)]}
    for code in range(_ALONE):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            seconds.add(chr(int(parts[1], 16)))
    forms = np.full(_ALONE + 1, _SLOW, np.uint32)
    for code in range(_ALONE):
        char = chr(code)
        normal = unicodedata.normalize("NFKC", char)
        folded = normal.casefold()
        depends = any(unicodedata.combining(each) or each in seconds for each in (char, *normal))
        if len(normal) == len(folded) == 1 and not depends:
            forms[code] = ord(folded)
    return forms

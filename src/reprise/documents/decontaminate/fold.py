"""Fold disguised characters: look-alikes of letters, letters in a style, Traditional Chinese, accents."""

import functools
import re
import sys
import unicodedata

import numpy as np
from numpy.typing import NDArray

from reprise.documents.words import encode
from reprise.errors import missing_extra

HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_CYRILLIC = range(0x400, 0x530)


def fold_chars(text: str) -> str:
    """Fold a text that shows signs of a disguise; other text is returned unchanged."""
    if text.isascii():
        return text
    chars = _telling_chars(text)
    for fold in (_drop_accents, _fold_lookalikes, _fold_kana, _fold_traditional, _drop_marks):
        text = fold(text, chars)
    return text


@functools.cache
def _lookalikes() -> dict[int, str]:
    """Letter -> the Latin letter or digit that it looks like, from Unicode's table of confusables (UTS 39)."""
    try:
        from confusable_homoglyphs.confusables import confusables_data
    except ImportError as error:
        raise missing_extra("confusable-homoglyphs", "documents", "decontamination") from error
    folds = {}
    for char, targets in confusables_data.items():
        latin = [target["c"] for target in targets if len(target["c"]) == 1 and target["c"].isascii()]
        is_letter = len(char) == 1 and not char.isascii() and unicodedata.category(char)[0] in "LN"
        if is_letter and latin and latin[0].isalnum() and not re.match(f"[{HAN}\u3000-\u30ff]", char):
            folds[ord(char)] = latin[0]
    return _styled() | folds


@functools.cache
def _styled() -> dict[int, str]:
    """Latin letters in a style that only their Unicode names give: small capitals, letters in circles, squares,
    flags."""
    styled = {}
    for block in (range(0x250, 0x2B0), range(0x1D00, 0x1D80), range(0xA720, 0xA800), range(0x1F100, 0x1F200)):
        for code in block:
            if match := _STYLED_NAME.search(unicodedata.name(chr(code), "")):
                styled[code] = match[1].lower()
    return styled


_STYLED_NAME = re.compile(
    r"^(?:LATIN LETTER SMALL CAPITAL|NEGATIVE (?:CIRCLED|SQUARED) LATIN CAPITAL LETTER|"
    r"REGIONAL INDICATOR SYMBOL LETTER) ([A-Z])$"
)
_MIN_STYLED = 5
"""A text with this many different letters in a style is written in that style; phonetic writing uses one or two. In
Chinese text one is enough, since a question there may contain no other Latin letter."""


@functools.cache
def _is_telling() -> NDArray[np.bool_]:
    """Whether each code point can be a sign of a disguise: bool[code points]."""
    telling = np.zeros(sys.maxunicode + 1, np.bool_)
    telling[list(_lookalikes())] = True
    telling[[ord(char) for char in _traditional()[1] | _MARKS | _ACCENTED | _KANA.keys()]] = True
    telling[_CYRILLIC.start : _CYRILLIC.stop] = True
    return telling


def _telling_chars(text: str) -> frozenset[str]:
    """The characters of a text on which the folds below depend; a set of all its characters costs much more."""
    codes = encode([text])
    return frozenset(map(chr, np.unique(codes[_is_telling()[codes]]).tolist()))


def fold_lookalikes(text: str) -> str:
    """Replace all letters of other scripts that look like a Latin letter by that letter, in any context."""
    return text if text.isascii() else text.translate(_lookalikes())


def _fold_lookalikes(text: str, chars: frozenset[str]) -> str:
    """The same, but only if such letters are inside Latin words, or are the only Cyrillic letters of the text."""
    folds = _lookalikes()
    present = "".join(map(chr, folds.keys() & map(ord, chars)))
    if not present:
        return text
    cyrillic = {char for char in chars if ord(char) in _CYRILLIC}
    num_styled = len(_styled().keys() & map(ord, chars))
    is_styled = num_styled >= _MIN_STYLED or (num_styled > 0 and re.search(f"[{HAN}]", text))
    if (
        is_styled
        or (cyrillic and cyrillic <= set(present))
        or re.search(f"[a-zA-Z][{present}]|[{present}][a-zA-Z]", text)
    ):
        return text.translate(folds)
    return text


_KANA = dict(zip("ニハカトロタエー", "二八力卜口夕工一", strict=True))
"""Kana that look like an ideograph, according to the same table."""
_KANA_IN_HAN = re.compile(f"[{HAN}][{''.join(_KANA)}]|[{''.join(_KANA)}][{HAN}]")
_HIRAGANA = re.compile("[\u3041-\u3096]")


def _fold_kana(text: str, chars: frozenset[str]) -> str:
    """Replace kana by the ideographs that they look like, in text that is not Japanese."""
    if chars.isdisjoint(_KANA) or _HIRAGANA.search(text) or not _KANA_IN_HAN.search(text):
        return text
    return text.translate({ord(kana): char for kana, char in _KANA.items()})


@functools.cache
def _traditional() -> tuple[dict[int, str], frozenset[str]]:
    """Traditional -> Simplified character, by OpenCC; and the Traditional characters that no Simplified text uses.

    Characters are converted one by one, because a character must become the same one in a question and in a document,
    in any context.
    """
    try:
        from opencc import OpenCC
    except ImportError as error:
        raise missing_extra("opencc", "documents", "decontamination") from error
    chars = [chr(code) for first, last in ((0x3400, 0x4DBF), (0x4E00, 0x9FFF)) for code in range(first, last + 1)]
    simple = "\n".join(chars)
    for standard in ("tw2s", "hk2s", "t2s"):
        simple = OpenCC(standard).convert(simple)
    pairs = [(char, fold) for char, fold in zip(chars, simple.split("\n"), strict=True) if fold != char]
    signs = [char for char, _ in pairs if not char.encode("gb2312", "ignore")]
    return {ord(char): fold for char, fold in pairs}, frozenset(signs)


def _fold_traditional(text: str, chars: frozenset[str]) -> str:
    folds, signs = _traditional()
    return text.translate(folds) if not signs.isdisjoint(chars) else text


_MARK_BLOCKS = ((0x300, 0x370), (0x483, 0x48A), (0x1AB0, 0x1B00), (0x1DC0, 0x1E00), (0x20D0, 0x2100), (0xFE20, 0xFE30))
_MARKS = frozenset(chr(code) for first, end in _MARK_BLOCKS for code in range(first, end))
_ACCENTED = frozenset(map(chr, [*range(0xC0, 0x250), *range(0x1E00, 0x1F00)]))


def _drop_marks(text: str, chars: frozenset[str]) -> str:
    """Drop accents and strokes on letters that have no composed form (`h\u0336`)."""
    if chars.isdisjoint(_MARKS):
        return text
    return "".join(char for char in unicodedata.normalize("NFC", text) if char not in _MARKS)


_MARK = "[\u0300-\u036f]"
_ACCENTS = re.compile(
    f"(?:[\u00c0-\u024f\u1e00-\u1eff]{_MARK}*|[a-zA-Z]{_MARK}+){{5,}}|(?:[\u0400-\u052f]{_MARK}+){{3,}}|[{HAN}]{_MARK}"
)
"""No language is written with this many accented letters in a row, or with an accent on an ideograph."""
_FIVE_ACCENTED = re.compile("[\u00c0-\u024f\u1e00-\u1eff]{5}")
"""All that `_ACCENTS` can match in a text without combining marks; several times as fast."""
_ANY_MARK = re.compile(_MARK)
_ACCENT = re.compile(f"(?<=[a-zA-Z]){_MARK}+|(?<=[\u0400-\u052f])(?<!\u0438)(?<!\u0435){_MARK}+")


def _drop_accents(text: str, chars: frozenset[str]) -> str:
    """Drop all accents in a text in which every letter has one; й and ё are letters of their own."""
    if chars.isdisjoint(_MARKS) and chars.isdisjoint(_ACCENTED):
        return text
    composed = unicodedata.normalize("NFC", text)
    signs = _ACCENTS if _ANY_MARK.search(composed) else _FIVE_ACCENTED
    if not signs.search(composed):
        return text
    return unicodedata.normalize("NFC", _ACCENT.sub("", unicodedata.normalize("NFD", composed)))

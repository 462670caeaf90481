"""Undo what hides words: markup, escapes of JSON, URLs and mail, cut words, look-alike letters, and others.

`strip_markup` runs on every text. `reveal` does the rest; it changes only texts that show signs of a disguise, because
each step can also damage plain text (LaTeX's `\\nabla` holds the escape of a line end). So a text is searched as it
stands and, if they differ, as `reveal` returns it.
"""

import functools
import html
import itertools
import quopri
import re
import sys
import unicodedata
from urllib.parse import unquote_to_bytes

import numpy as np
from numpy.typing import NDArray

from reprise.documents.words import encode
from reprise.errors import missing_extra

_TAG = re.compile(
    r"</?(?:a|b|br|code|div|em|font|h[1-6]|i|li|ol|p|pre|r[bpt]|ruby|span|strong|su[bp]|t[dhr]|table|u|ul)\b[^<>]{0,200}>"
)
_READING = re.compile(r"<r([tp])>[^<>]{0,40}</r\1>")
_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_CYRILLIC = range(0x400, 0x530)
_DECODING_ROUNDS = 3
"""Text is decoded again while that changes it: JSON in a URL is two layers."""


def strip_markup(text: str) -> str:
    """Replace HTML entities by their characters and HTML tags by spaces; drop the readings of ruby annotations."""
    text = html.unescape(text) if "&" in text else text
    if "<rt>" in text:
        text = _READING.sub("", text)
    return _TAG.sub(" ", text) if "<" in text else text


def reveal(text: str, *, strewn_letters: bool = False) -> str:
    """Decode, join and fold the text where it shows signs of a disguise; a text without such signs comes back equal.

    Args:
        text: any text.
        strewn_letters: also drop single letters between words (`what x is y the`).
    """
    revealed = strip_markup(text)
    for _ in range(_DECODING_ROUNDS):
        before = revealed
        for decode in _DECODERS if any(sign in revealed for sign in "\\%=+") else ():
            revealed = decode(revealed)
        if revealed != before or revealed != text:
            revealed = strip_markup(revealed)
        if revealed == before:
            break
    if not revealed.isascii():
        chars = _telling_chars(revealed)
        for fold in (_fold_lookalikes, _fold_traditional, _drop_marks):
            revealed = fold(revealed, chars)
    revealed = _join_lines(_drop_insertions(revealed))
    return _STREWN_LETTER.sub("", revealed) if strewn_letters else revealed


def changed_parts(plain: str, revealed: str) -> list[str]:
    """The lines of a revealed text that differ from the plain one, each with _CONTEXT characters on either side.

    The rest was searched in the plain text, so nothing new can be in it. Lines are compared in order: a line that is
    not the next one of the plain text is searched for in the following ones, and was changed if it is none of them.
    """
    if len(revealed) <= 2 * _CONTEXT:
        return [revealed]
    before, i, offset = plain.split("\n"), 0, 0
    parts: list[tuple[int, int]] = []
    for line in revealed.split("\n"):
        if i >= len(before) or line != before[i]:
            ahead = before[i + 1 : i + _RESYNC]
            i += 1 + ahead.index(line) if line in ahead else 0
            begin, end = max(0, offset - _CONTEXT), offset + len(line) + _CONTEXT
            if parts and begin <= parts[-1][1]:
                parts[-1] = (parts[-1][0], end)
            else:
                parts.append((begin, end))
        i += 1
        offset += len(line) + 1
    return [revealed[begin:end] for begin, end in parts] or [revealed]


_CONTEXT = 2000
"""A question with its options, and what may be inserted into it, on either side of a change."""
_RESYNC = 40
"""Lines among which to search for the next one that is the same in both texts."""

_CODE_POINT = re.compile(r"(?:U\+|%u|\\x\{|\\(?=[0-9a-fA-F]{4}))([0-9a-fA-F]{4,6})(?:\}|\b\s?)")


def _decode_code_points(text: str) -> str:
    """Characters beyond ASCII as `U+6C34`, `%u6C34` (JavaScript), `\\x{6C34}` (Perl) and `\\6C34 ` (CSS)."""
    if not any(sign in text for sign in ("U+", "%u", "\\")):
        return text
    return _CODE_POINT.sub(_decode_code_point, text)


def _decode_code_point(match: re.Match[str]) -> str:
    code = int(match[1], 16)
    # Radicals such as U+2F54, which stand for letters in text from PDFs, are symbols to Unicode.
    is_written = 0x80 <= code <= 0x10FFFF and unicodedata.category(chr(code))[0] != "C"
    return chr(code) if is_written else match[0]


_UTF8_BYTES = re.compile(r"(?:\\x[89a-fA-F][0-9a-fA-F]){2,}|(?:\\[23][0-7]{2}){2,}")


def _decode_bytes(text: str) -> str:
    """UTF-8 as bytes, in hexadecimal (`\\xe6\\xb0\\xb4`, Python) or octal (`\\346\\260\\264`, C)."""
    return _UTF8_BYTES.sub(_decode_utf8, text) if "\\" in text else text


def _decode_utf8(match: re.Match[str]) -> str:
    codes = match[0].split("\\")[1:]
    values = [int(code[1:], 16) if code[0] == "x" else int(code, 8) for code in codes]
    try:
        return bytes(values).decode("utf-8")
    except UnicodeDecodeError:
        return match[0]


_UNICODE_ESCAPE = re.compile(r"\\+(?:u\{([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2}))")
_LINE_ESCAPE = re.compile(r"\\+(?:[nr]|t(?!ext[a-z]{0,6}\{))")
"""Not the beginning of `\\text{...}` of LaTeX."""
_JSON_SIGN = re.compile(r"\\+(?:u\{?[0-9a-fA-F]{2}|U000|x[0-9a-fA-F]{2}|[nrt](?![a-z])|\")")


def _decode_backslashes(text: str) -> str:
    """Escapes of JSON, Python and JavaScript."""
    if "\\" not in text or not _JSON_SIGN.search(text):
        return text
    text = _UNICODE_ESCAPE.sub(_decode_unicode_escape, text)
    text = _LINE_ESCAPE.sub("\n", text).replace('\\"', '"').replace("\\/", "/")
    # A character beyond U+FFFF is two escapes.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _decode_unicode_escape(match: re.Match[str]) -> str:
    code = int(next(group for group in match.groups() if group), 16)
    return chr(code) if code <= 0x10FFFF else match[0]


_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_PERCENT_SIGN = re.compile(r"%(?:20\w|25[0-9A-Fa-f]{2}|2[278C9]|3[ABF]|0A|[0-9A-Fa-f]{2}%[0-9A-Fa-f]{2})")


def _decode_percent(text: str) -> str:
    if "%" not in text or not _PERCENT_SIGN.search(text):
        return text
    return _PERCENT.sub(lambda match: unquote_to_bytes(match[0]).decode("utf-8", "replace"), text)


_QUOTED_PRINTABLE = re.compile(r"(?:=[0-9A-F]{2})+")
_QUOTED_PRINTABLE_SIGN = re.compile(r"=[0-9A-F]{2}=[0-9A-F]{2}|=\r?\n")


def _decode_quoted_printable(text: str) -> str:
    if "=" not in text or not _QUOTED_PRINTABLE_SIGN.search(text):
        return text
    text = re.sub(r"=\r?\n", "", text)
    return _QUOTED_PRINTABLE.sub(
        lambda match: quopri.decodestring(match[0].encode("ascii")).decode("utf-8", "replace"), text
    )


_DECODERS = (_decode_code_points, _decode_bytes, _decode_backslashes, _decode_percent, _decode_quoted_printable)


@functools.cache
def _lookalikes() -> dict[int, str]:
    """Letters that look like a Latin letter or a digit, by Unicode's table of confusables (UTS 39)."""
    try:
        from confusable_homoglyphs.confusables import confusables_data
    except ImportError as error:
        raise missing_extra("confusable-homoglyphs", "documents", "decontamination") from error
    folds = {}
    for char, targets in confusables_data.items():
        latin = [target["c"] for target in targets if len(target["c"]) == 1 and target["c"].isascii()]
        is_letter = len(char) == 1 and not char.isascii() and unicodedata.category(char)[0] in "LN"
        if is_letter and latin and latin[0].isalnum() and not re.match(f"[{_HAN}\u3000-\u30ff]", char):
            folds[ord(char)] = latin[0]
    return _styled() | folds


@functools.cache
def _styled() -> dict[int, str]:
    """Latin letters in a style that Unicode knows by name alone: small capitals, letters in circles, squares, flags."""
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
"""So many different letters in a style are a text in that style; phonetic writing uses one or two. In Chinese text one
is enough, since a question there may hold no other Latin letter."""


@functools.cache
def _is_telling() -> NDArray[np.bool_]:
    """Whether each code point can be the sign of a disguise: bool[code points]."""
    telling = np.zeros(sys.maxunicode + 1, np.bool_)
    telling[list(_lookalikes())] = True
    telling[[ord(char) for char in _traditional()[1] | _MARKS]] = True
    telling[_CYRILLIC.start : _CYRILLIC.stop] = True
    return telling


def _telling_chars(text: str) -> frozenset[str]:
    """Those characters of a text by which the folds below decide; a set of all its characters costs much more."""
    codes = encode([text])
    return frozenset(map(chr, np.unique(codes[_is_telling()[codes]]).tolist()))


def fold_lookalikes(text: str) -> str:
    """Make all letters of other scripts that look like a Latin one that Latin one, whatever stands beside them."""
    return text if text.isascii() else text.translate(_lookalikes())


def _fold_lookalikes(text: str, chars: frozenset[str]) -> str:
    """The same where such letters stand inside Latin words, or are the only ones of the Cyrillic script."""
    folds = _lookalikes()
    present = "".join(map(chr, folds.keys() & map(ord, chars)))
    if not present:
        return text
    cyrillic = {char for char in chars if ord(char) in _CYRILLIC}
    num_styled = len(_styled().keys() & map(ord, chars))
    is_styled = num_styled >= _MIN_STYLED or (num_styled > 0 and re.search(f"[{_HAN}]", text))
    if (
        is_styled
        or (cyrillic and cyrillic <= set(present))
        or re.search(f"[a-zA-Z][{present}]|[{present}][a-zA-Z]", text)
    ):
        return text.translate(folds)
    return text


@functools.cache
def _traditional() -> tuple[dict[int, str], frozenset[str]]:
    """The Simplified character of each Traditional one, by OpenCC; and those that no Simplified text uses.

    Characters are converted one by one, since the same character must become the same one in a question and in a
    document, whatever stands beside it.
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


_MARKS = frozenset(map(chr, range(0x300, 0x370)))


def _drop_marks(text: str, chars: frozenset[str]) -> str:
    """Drop accents and strokes that stand on letters that have no such form (`h\u0336`)."""
    if chars.isdisjoint(_MARKS):
        return text
    return "".join(char for char in unicodedata.normalize("NFC", text) if char not in _MARKS)


_LONE_NUMBER = re.compile(
    r"\n[^\S\n]*+(?:[-\u2013\u2014|*#\[(~·.•_][^\S\n]*+)*+"
    r"(?:(?:[Pp](?:age|AGE)?\.?|[Ss]eite|[Pp]ágina|[Сс]тр\.|第)[^\S\n]*+)?"
    r"[0-9\uff10-\uff19]{1,4}+(?:[^\S\n]*+(?:/|of|von|de|из|,)[^\S\n]*+[0-9]{1,4}+)?"
    r"(?:[^\S\n]*+[-\u2013\u2014|*#\])~·.•_页頁])*+[^\S\n]*+(?=\n)"
)
_TIME = re.compile(
    r"\n[^\S\n]*+[\[(]?\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d{1,3})?[\])]?"
    r"(?:[^\S\n]*-->[^\S\n]*\d{1,2}:\d{2}[\d:.,]*[^\n]*)?[^\S\n]*\n?"
)
"""At the beginning of a line: of a subtitle, with the number before it, or of a line of a transcript."""
_HEADER = re.compile(r"\n(?<=[^\s.!?:;|>。！？：；]\n)[^\n]{2,60}?\s[0-9]{1,4}[^\S\n]*\n\s*(?=[^\W\d_A-Z])")
"""A short line that ends with a number, in the middle of a sentence: the header of a page."""
_LATEX_STYLE = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|sc|up|normal)?|emph|math(?:rm|bf|it|sf|tt)|underline|[mh]box)\s*\{"
)
_BRACKETED_READING = re.compile(f"(?<=[{_HAN}])[(\uff08][a-zü\u00e0-\u024f\u3040-\u309f\u3105-\u312f]{{1,8}}[)\uff09]")
"""Pinyin or kana in brackets behind a character."""
_MIN_READINGS = 4
"""So many are a text with readings; one may be an abbreviation."""
_NOTE_NUMBER = re.compile(r"\[\d{1,3}\]")
_LINK_TARGET = re.compile(r"\]\([^()\s]{1,300}\)")
_STREWN_LETTER = re.compile(
    f"(?<=[{_HAN}])\\s?[a-zA-Z]\\s?(?=[{_HAN}])|(?<!\\S)(?![AIaiOo])[^\\W\\d_{_HAN}](?!\\S)\\s*"
)


def _drop_insertions(text: str) -> str:
    """Page numbers on a line of their own, headers, times of subtitles, numbers of notes, targets of links, readings,
    styles."""
    text = _HEADER.sub("\n", _LONE_NUMBER.sub("", text))
    if ":" in text:
        text = _TIME.sub("\n", text)
    if "\\" in text:
        text = _LATEX_STYLE.sub("{", text)
    is_han = not text.isascii()
    if is_han and len(list(itertools.islice(_BRACKETED_READING.finditer(text), _MIN_READINGS))) == _MIN_READINGS:
        text = _BRACKETED_READING.sub("", text)
    if "[" in text:
        text = _LINK_TARGET.sub("]", _NOTE_NUMBER.sub("", text))
    return text


_CUT_WORD = re.compile(r"(?<=[^\W\d_])[-\u2010\u00ad\u00ac][^\S\n]*\n\s*(?=[^\W\d_])")
_CUT_WORD_SIGNS = [re.compile(hyphen + r"[^\S\n]*\n") for hyphen in ("-", "\u2010", "\u00ad", "\u00ac")]


def _join_lines(text: str) -> str:
    """Join words that were hyphenated at the end of a line."""
    signs = _CUT_WORD_SIGNS[:1] if text.isascii() else _CUT_WORD_SIGNS
    return _CUT_WORD.sub("", text) if any(sign.search(text) for sign in signs) else text

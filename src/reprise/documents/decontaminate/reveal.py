"""Undo disguises of text: markup, escapes of JSON, URLs and mail, cut words, look-alike letters, and others.

`strip_markup` runs on every text. `reveal` does the rest; it changes only texts that show signs of a disguise, because
each step can also damage plain text (LaTeX's `\\nabla` contains the escape of a line end). So a text is searched as
it is and, if they differ, as `reveal` returns it.
"""

import html
import itertools
import re

from reprise.documents.decontaminate.decode import decode_once
from reprise.documents.decontaminate.fold import HAN, fold_chars

_TAG = re.compile(
    r"(?i)</?(?:a|abbr|article|b|big|blockquote|br|center|cite|code|del|div|d[dlt]|em|font|footer|h[1-6]|header|hr|i"
    r"|img|ins|kbd|label|li|main|mark|nav|ol|p|pre|q|r[bpt]|ruby|s|section|small|span|strike|strong|su[bp]|table|tbody"
    r"|t[dhr]|tfoot|thead|tt|u|ul|var|wbr)\b[^<>]{0,200}>|<!--.{0,300}?-->"
)
_READING = re.compile(r"<r([tp])>[^<>]{0,40}</r\1>")
_TAG_REST = r"(?:/?(?:a|b|em|font|i|ins|mark|s|small|span|strong|tt|u|wbr)\b[^<>]{0,200}>|!--.{0,300}?-->)"
_TAG_IN_WORD = re.compile(rf"(?i)<(?<=[^\W\d_]<){_TAG_REST}(?:<{_TAG_REST})*(?=[^\W\d_])")
_TAG_IN_WORD_SIGN = re.compile(r"<(?<=[^\W\d_]<)[/!a-zA-Z]")
"""Here and below, a pattern that begins with one character or a set of them is searched for several times as fast."""
_DECODING_ROUNDS = 3
"""Decoding is repeated while it changes the text: JSON in a URL is two layers."""


def strip_markup(text: str) -> str:
    """Replace HTML entities by their characters and HTML tags by spaces; drop the readings of ruby annotations."""
    text = html.unescape(text) if "&" in text else text
    if "<rt>" in text:
        text = _READING.sub("", text)
    return _TAG.sub(" ", text) if "<" in text else text


def _strip_all_markup(text: str) -> str:
    """Like `strip_markup`, but tags inside words leave no space: `so<b>di</b>um`."""
    text = html.unescape(text) if "&" in text else text
    return strip_markup(_TAG_IN_WORD.sub("", text) if _TAG_IN_WORD_SIGN.search(text) else text)


def reveal(text: str, *, strewn_letters: bool = False) -> str:
    """Decode, join and fold a text that shows signs of a disguise; a text without such signs is returned unchanged.

    Args:
        text: any text.
        strewn_letters: also drop single letters between words (`what x is y the`).
    """
    revealed = _strip_all_markup(text)
    for _ in range(_DECODING_ROUNDS):
        before = revealed
        revealed = _strip_all_markup(decode_once(revealed))
        if revealed == before:
            break
    revealed = _join_lines(_drop_insertions(fold_chars(revealed)))
    return _STREWN_LETTER[revealed.isascii()].sub("", revealed) if strewn_letters else revealed


def changed_parts(plain: str, revealed: str) -> list[str]:
    """The lines of a revealed text that differ from the plain one, each with _CONTEXT characters on either side.

    The rest was searched in the plain text, so it contains nothing new. Lines are compared in order: a line that is not
    the next one of the plain text is searched for in the following ones, and was changed if it is not among them.
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
"""Characters on either side of a change: enough for a question with its options and what may be inserted into it."""
_RESYNC = 40
"""How many lines are searched for the next one that is the same in both texts."""

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
"""A time at the beginning of a line: of a subtitle, with the number before it, or of a line of a transcript."""
_HEADER = re.compile(
    r"\n(?<=[^\s.!?:;|>。！？：；]\n)\s*(?=[^\n0-9]{0,61}+[0-9])"
    r"(?:[^\n]{2,60}?[^\S\n][0-9]{1,4}|[0-9]{1,4}[^\S\n]+[^\n]{2,60})[^\S\n]*\n"
    r"\s*(?=[^\W\d_A-Z])"
)
"""A short line with a number at its end or beginning, in the middle of a sentence: a page header. The first lookahead
passes over lines without a digit, which are most of them."""
_LINE_NUMBER = re.compile(r"\n[^\S\n]*+[\[(]?(\d{1,5})(?:[\])]?[.:|)]?[^\S\n]+|[\])]?[.:|)]\|?(?!\d))(?=\S)")
_SENTENCE_ENDS = frozenset(".!?;。！？；")
_LATEX_STYLE = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|sc|up|normal|color\{\w{1,20}\})?|emph|math(?:rm|bf|it|sf|tt)|underline|[mh]box)\s*\{"
)
_OLD_LATEX_STYLE = re.compile(r"\{\\(?:bf|em|it|rm|sc|sf|sl|tt)(?![a-zA-Z])\s*")
_LATEX_HYPHEN = re.compile(r"\\-(?<=[^\W\d_]..)\s*(?=[^\W\d_])")
_EMPHASIS = re.compile(r"(\*(?:\*\*?)?|~~|`)([^\W\d_]{2,30})\1")
_EMPHASIS_SIGN = re.compile(r"[*~`][^\W\d_]{2,30}[*~`]")
_FORUM_STYLE = re.compile(r"\[/?(?:b|i|u|s|color(?:=#?\w{1,20})?|size(?:=\w{1,9})?)\]")
_TERMINAL_STYLE = re.compile(r"\[[0-9;]{1,8}m")
_BRACKETED_READING = re.compile(f"[(\uff08](?<=[{HAN}].)[a-zü\u00e0-\u024f\u3040-\u309f\u3105-\u312f]{{1,8}}[)\uff09]")
"""Pinyin or kana in brackets after a character."""
_MIN_READINGS = 4
"""A text with this many has readings throughout; a single one may be an abbreviation."""
_NOTE_NUMBER = re.compile(r"\[(?:\d{1,3}(?:\s?[,\u2013-]\s?\d{1,3})*|note \d{1,3}|citation needed)\]")
_RAISED_NUMBER = re.compile(
    "[\u00b9\u00b2\u00b3\u2070\u2074-\u2079](?<=[^\\W\\d_]{3}.)[\u00b9\u00b2\u00b3\u2070\u2074-\u2079]*"
)
"""The number of a note after a word; after one or two letters it may be a power (`m²`)."""
_LINK_TARGET = re.compile(r"\]\([^()\s]{1,300}\)")
_LETTER_IN_HAN = f"(?<=[{HAN}])\\s?[a-zA-Z]\\s?(?=[{HAN}])"
_LETTER_ALONE = f"[^\\W\\d_AIaiOo{HAN}](?<!\\S.)(?!\\S)\\s*"
_STREWN_LETTER = {True: re.compile(_LETTER_ALONE), False: re.compile(f"{_LETTER_IN_HAN}|{_LETTER_ALONE}")}
"""Whether a text is ASCII -> single letters between words, or in Chinese text between characters."""


def _drop_insertions(text: str) -> str:
    """Drop page numbers on a line of their own, page headers, line numbers, times of subtitles, note numbers, link
    targets, readings and styles."""
    text = _HEADER.sub("\n", _drop_line_numbers(_LONE_NUMBER.sub("", text)))
    if ":" in text:
        text = _TIME.sub("\n", text)
    if "\\" in text:
        text = _LATEX_HYPHEN.sub("", _LATEX_STYLE.sub("{", text))
    if "{\\" in text:
        text = _OLD_LATEX_STYLE.sub("{", text)
    if any(mark in text for mark in "*~`") and _EMPHASIS_SIGN.search(text):
        text = _EMPHASIS.sub(_join_emphasis, text)
    if not text.isascii():
        if len(list(itertools.islice(_BRACKETED_READING.finditer(text), _MIN_READINGS))) == _MIN_READINGS:
            text = _BRACKETED_READING.sub("", text)
        text = _RAISED_NUMBER.sub("", text)
    if "[" in text:
        text = _TERMINAL_STYLE.sub("", _LINK_TARGET.sub("]", _NOTE_NUMBER.sub("", text)))
    if "[/" in text:
        text = _FORUM_STYLE.sub("", text)
    return text


def _join_emphasis(match: re.Match[str]) -> str:
    """Remove emphasis marks inside a word (`so**di**um`); marks around whole words are kept."""
    text, (start, end) = match.string, match.span()
    is_inside = text[start - 1 : start].isalpha() or text[end : end + 1].isalpha()
    return match[2] if is_inside else match[0]


def _drop_line_numbers(text: str) -> str:
    """Drop numbers at the beginnings of lines that count up by one, as in listings.

    In a list such numbers follow the end of a sentence: a run in which most of them do is kept.
    """
    lines = "\n" + text
    runs: list[list[re.Match[str]]] = []
    expected = -1
    for match in _LINE_NUMBER.finditer(lines):
        if int(match[1]) == expected:
            runs[-1].append(match)
        else:
            runs.append([match])
        expected = int(match[1]) + 1
    parts: list[str] = []
    end = 1
    for _, *others in runs:
        inside = [lines[max(0, match.start() - 80) : match.start()].rstrip()[-1:] for match in others]
        if 2 * sum(char not in _SENTENCE_ENDS for char in inside) > len(others):
            for match in others:
                parts.append(lines[end : match.start() + 1])
                end = match.end()
    return "".join([*parts, lines[end:]]) if parts else text


_CUT_WORD = re.compile(r"[-\u2010\u00ad\u00ac](?<=[^\W\d_].)[^\S\n]*\n[\s>#*/|]*(?=[^\W\d_])")
_CUT_WORD_SIGNS = [re.compile(hyphen + r"[^\S\n]*\n") for hyphen in ("-", "\u2010", "\u00ad", "\u00ac")]


def _join_lines(text: str) -> str:
    """Join words that were hyphenated at the end of a line, also if lines begin with a quotation mark."""
    signs = _CUT_WORD_SIGNS[:1] if text.isascii() else _CUT_WORD_SIGNS
    return _CUT_WORD.sub("", text) if any(sign.search(text) for sign in signs) else text

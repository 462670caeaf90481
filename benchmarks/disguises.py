"""Ways in which a benchmark question hides in a document, for the tests and for benchmarks/decontamination.py."""

import html
import json
import random
import re
import textwrap
import unicodedata
from collections.abc import Callable
from functools import cache
from urllib.parse import quote, quote_plus

HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")


def full_width(text: str) -> str:
    return "".join(
        chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else "\u3000" if char == " " else char for char in text
    )


def rewrap(text: str) -> str:
    if not HAN.search(text):
        return textwrap.fill(text, 24, break_long_words=False)
    return "\n".join(text[start : start + 5] for start in range(0, len(text), 5))


def _cut(text: str) -> tuple[str, str]:
    """Two halves, between words."""
    middle = len(text) // 2
    if not HAN.search(text):
        middle = text.find(" ", middle) if " " in text[middle:] else middle
    return text[:middle], text[middle:]


def page_number(text: str) -> str:
    first, second = _cut(text)
    return f"{first}\n\n37\n\n{second.lstrip()}"


def dressed_page_number(text: str) -> str:
    first, second = _cut(text)
    return f"{first}\n- {'第 12 页' if HAN.search(text) else 'Page 12 of 340'} -\n{second.lstrip()}"


def page_header(text: str) -> str:
    first, second = _cut(text)
    header = "第三章 习题与解答" if HAN.search(text) else "Chapter 3: Exercises and answers"
    return f"{first}\n{header} 112\n\n{second.lstrip()}"


def footnote(text: str) -> str:
    first, second = _cut(text)
    return f"{first}[3]{second}"


def hyphenate(text: str) -> str:
    """Lines of about 40 characters; words are cut wherever a line ends."""
    if HAN.search(text):
        return rewrap(text)
    lines = []
    rest = text
    while len(rest) > 40:
        cut = 40
        if rest[cut - 1].isalpha() and rest[cut].isalpha():
            lines.append(rest[:cut] + "-")
        else:
            lines.append(rest[:cut])
        rest = rest[cut:]
    return "\n".join([*lines, rest])


def insert_in_words(text: str) -> str:
    """A letter inside every tenth word, or after every tenth character."""
    rng = random.Random(len(text))
    if HAN.search(text):
        return "".join(char + (rng.choice("xqz") if i % 10 == 9 else "") for i, char in enumerate(text))
    words = text.split(" ")
    for i in range(rng.randrange(5), len(words), 10):
        middle = len(words[i]) // 2
        words[i] = words[i][:middle] + rng.choice("xqz") + words[i][middle:]
    return " ".join(words)


def strew(text: str) -> str:
    """A single letter after every third word, or third character."""
    if HAN.search(text):
        return re.sub("([\u4e00-\u9fff]{3})", r"\1x", text)
    return re.sub(r"((?:\S+ ){3})", r"\1x ", text)


LOOKALIKES = dict(zip("aceopxyiAEOPCTHBMK", "асеорхуіАЕОРСТНВМК", strict=True))


def lookalikes(text: str) -> str:
    """Cyrillic letters for Latin ones, or the other way round where the text is Cyrillic."""
    if re.search("[\u0430-\u044f]", text):
        back = {cyrillic: latin for latin, cyrillic in LOOKALIKES.items()}
        return "".join(back.get(char, char) for char in text)
    return "".join(LOOKALIKES.get(char, char) for char in text)


@cache
def _converter(name: str) -> object:
    from opencc import OpenCC

    return OpenCC(name)


def traditional(standard: str) -> Callable[[str], str]:
    return lambda text: _converter(standard).convert(text)  # type: ignore[attr-defined]


def quoted_printable(text: str) -> str:
    import quopri

    return quopri.encodestring(text.encode()).decode()


def subtitles(text: str) -> str:
    """One line after another with its number and its time."""
    lines = enumerate(rewrap(text).split("\n"), 1)
    return "\n\n".join(f"{i}\n00:00:{i % 60:02},000 --> 00:00:{i % 60:02},900\n{line}" for i, line in lines)


def running_heads(text: str) -> str:
    """The foot of one page and the head of the next, with the number first."""
    first, second = _cut(text)
    foot, head = ("——————", "113 第三章 习题与解答") if HAN.search(text) else ("* * *", "113 Exercises and answers")
    return f"{first}\n\n{foot}\n\f{head}\n\n{second.lstrip()}"


def listing(mark: str) -> Callable[[str], str]:
    """Lines with their numbers, as in listings of code."""

    def number(text: str) -> str:
        lines = rewrap(text).split("\n")
        return "\n".join(mark.format(i, line) for i, line in enumerate(lines, 98))

    return number


def space_in_words(text: str) -> str:
    """A space inside every tenth word."""
    words = text.split(" ")
    for i in range(4, len(words), 10):
        middle = len(words[i]) // 2
        words[i] = f"{words[i][:middle]} {words[i][middle:]}"
    return " ".join(words)


def in_each_word(begin: str, end: str) -> Callable[[str], str]:
    """Marks around the first half of each word of four letters or more; around each second character of Chinese."""

    def mark(text: str) -> str:
        if HAN.search(text):
            return re.sub(f"({HAN.pattern})({HAN.pattern})", rf"{begin}\1{end}\2", text)
        return re.sub(r"([^\W\d_]{2,})([^\W\d_]{2})(?![^\W\d_])", rf"{begin}\1{end}\2", text)

    return mark


def quoted_and_cut(text: str) -> str:
    return "\n".join(f"> > {line}" for line in hyphenate(text).split("\n"))


def mojibake(text: str) -> str:
    """UTF-8 that was read as Windows-1252, where that has a character, else as Latin-1."""
    return "".join(bytes([byte]).decode("cp1252", "replace").replace("\ufffd", chr(byte)) for byte in text.encode())


GREEK = dict(zip("oOvpxyiaAEBHIKMNPTXZ", "οΟνρхγіαΑΕΒΗΙΚΜΝΡΤΧΖ", strict=True))
KANA = dict(zip("二八力口夕工一", "ニハカロタエー", strict=True))
MATHEMATICAL = {chr(97 + i): chr(0x1D41A + i) for i in range(26)} | {chr(65 + i): chr(0x1D400 + i) for i in range(26)}

SMALL_CAPITALS = dict(zip("abcdefghijklmnopqrtuvwyz", "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘꞯʀᴛᴜᴠᴡʏᴢ", strict=True))

DISGUISES: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "lines wrapped": rewrap,
    "white space": lambda text: re.sub(r"(?<=\S)\s+(?=\S)", " \u00a0\t ", text).replace("。", "。\u3000 \n"),
    "full width": full_width,
    "case": lambda text: "".join(char.upper() if i % 2 else char.lower() for i, char in enumerate(text)),
    "no punctuation": lambda text: "".join(" " if unicodedata.category(char)[0] == "P" else char for char in text),
    "zero-width characters": lambda text: "\u200b".join(text[start : start + 3] for start in range(0, len(text), 3)),
    "soft hyphens": lambda text: re.sub(r"(\w\w)(?=\w)", "\\1\u00ad", text),
    "HTML markup": lambda text: (
        "<p><b>" + re.sub(r"(\S+ \S+) ", r"**\1** &nbsp;", text).replace("，", "，<br/>") + "</b></p>"
    ),
    "in a sentence": lambda text: f"一个学生在课堂上问老师：{text} A student asked this yesterday: {text} Nobody knew.",
    "HTML entities": lambda text: "".join(f"&#{ord(char)};" for char in text),
    "HTML entities twice": lambda text: html.escape("".join(f"&#{ord(char)};" for char in text)),
    "JSON escapes": lambda text: json.dumps({"text": f"{text}\n"}),
    "JSON in a URL": lambda text: quote(json.dumps({"text": text})),
    "URL-encoded": quote,
    "URL-encoded twice": lambda text: quote(quote(text)),
    "U+ notation": lambda text: "".join(char if char.isascii() else f"U+{ord(char):04X} " for char in text),
    "CSS escapes": lambda text: "".join(char if char.isascii() else f"\\{ord(char):x} " for char in text),
    "Python bytes": lambda text: repr(text.encode()),
    "LaTeX styles": lambda text: " ".join(f"\\text{{{word}}}" for word in text.split()),
    "ruby": lambda text: HAN.sub(r"<ruby>\g<0><rt>pīn</rt></ruby>", text),
    "readings in brackets": lambda text: HAN.sub(r"\g<0>(pīn)", text),
    "subtitles": subtitles,
    "URL-encoded form": quote_plus,
    "quoted-printable": quoted_printable,
    "Markdown quote": lambda text: "\n".join(f"> *{line}*" for line in rewrap(text).split("\n")),
    "table row": lambda text: "| 4 | " + text.replace("\n", " ") + " |",
    "line numbers": lambda text: "\n".join(f"{i:>3}  {line}" for i, line in enumerate(textwrap.wrap(text, 70), 12)),
    "page number inside": page_number,
    "dressed page number inside": dressed_page_number,
    "page header inside": page_header,
    "footnote mark inside": footnote,
    "words cut at line ends": hyphenate,
    "letter in each tenth word": insert_in_words,
    "letters strewn": strew,
    "spaced letters": lambda text: " ".join(text),
    "no spaces": lambda text: text.replace(" ", ""),
    "look-alike letters": lookalikes,
    "small capitals": lambda text: "".join(SMALL_CAPITALS.get(char, char) for char in text.lower()),
    "strokes over letters": lambda text: re.sub(r"(\w)", "\\1\u0336", text),
    "accents on every letter": lambda text: re.sub(r"([^\W\d_])", "\\1\u0301", text),
    "circles around letters": lambda text: re.sub(r"([^\W\d_])", "\\1\u20dd", text),
    "variation selectors": lambda text: re.sub(r"([^\W\d_])", "\\1\ufe0f", text),
    "tag characters": lambda text: re.sub(r"(\w\w)(?=\w)", "\\1\U000e0041", text),
    "control characters": lambda text: re.sub(r"(\w\w)(?=\w)", "\\1\x08", text),
    "Hangul fillers for spaces": lambda text: text.replace(" ", "\u3164"),
    "emoji between words": lambda text: re.sub(r"(?:(?<=[\u4e00-\u9fff])|\s)", " \u2764\ufe0f ", text),
    "Greek letters": lambda text: "".join(GREEK.get(char, char) for char in text),
    "mathematical letters": lambda text: "".join(MATHEMATICAL.get(char, char) for char in text),
    "kana for ideographs": lambda text: "".join(KANA.get(char, char) for char in text),
    "emphasis inside words": in_each_word("**", "**"),
    "tags inside words": in_each_word("<b>", "</b>"),
    "BBCode": in_each_word("[b]", "[/b]"),
    "comment inside words": in_each_word("<!-- x -->", "<!-- y -->"),
    "terminal colours": lambda text: " ".join(f"\x1b[1;31m{word}\x1b[0m" for word in text.split(" ")),
    "a cell for each word": lambda text: "| " + " | ".join(text.split(" ") if " " in text else text) + " |",
    "a line for each word, numbered": lambda text: "\n".join(
        f"{i}\t{word}" for i, word in enumerate(re.findall("[\u4e00-\u9fff]|[^\\s\u4e00-\u9fff]+", text), 1)
    ),
    "listing, number and bar": listing("{:>5} | {}"),
    "listing, number and colon": listing("{}:{}"),
    "code comments": lambda text: "\n".join(f"    # {line}" for line in rewrap(text).split("\n")),
    "cut words in a mail": quoted_and_cut,
    "soft hyphens of LaTeX": lambda text: re.sub(r"([^\W\d_]{3})(?=[^\W\d_]{2})", r"\1\-", text),
    "old LaTeX styles": lambda text: " ".join(f"{{\\bf {word}}}" for word in text.split(" ")),
    "raised note number": lambda text: re.sub(
        r"(?<=[^\W\d_]{3})(?= )|(?<=[\u4e00-\u9fff]{3})", "\u00b2", text, count=1
    ),
    "JSON twice": lambda text: json.dumps(json.dumps({"text": text})),
    "wrong encoding": mojibake,
    "head and foot of a page inside": running_heads,
    "space in each tenth word": space_in_words,
    "Traditional": traditional("s2t"),
    "Traditional (Taiwan)": traditional("s2tw"),
    "Traditional (Hong Kong)": traditional("s2hk"),
}


HAN_ONLY = ("Traditional", "ruby", "readings in", "kana for")
SPACES_ONLY = (
    "words cut",
    "no spaces",
    "cut words",
    "space in",
    "Hangul fillers",
    "code comments",
    "mathematical",
    "Greek",
)


def apart(name: str, language: str) -> bool:
    """Whether the disguise changes nothing of the language, so that its recall would say nothing."""
    return (
        (name.startswith(HAN_ONLY) and language != "zh")
        or (name.startswith(SPACES_ONLY) and language == "zh")
        or (name.startswith(("mathematical", "Greek")) and language == "ru")
        or (name == "wrong encoding" and language == "en")
    )

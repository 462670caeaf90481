"""Mask personal data: email addresses, IP addresses, phone numbers, Chinese ID numbers.

Digits count as a phone number only if their format leaves little doubt: an international prefix, a Chinese mobile or
landline prefix, North American separators. Dates, ISBNs, versions and formulas are unchanged."""

import functools
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence

_MAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![\w-])", re.ASCII)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)", re.ASCII)
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:]|\.\d)", re.ASCII)
_CHINESE_ID = re.compile(r"(?<![0-9A-Za-z])\d{17}[0-9Xx](?![0-9A-Za-z])")
_PHONES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<![\w+])\+(?=(?:[ \-.()]*\d){10,15}(?!\d))[1-9]\d{0,2}[ \-.]?(?:\(0?\d{1,4}\)[ \-.]?)?\d{1,4}"
        r"(?:[ \-.]?\d{2,4}){2,4}(?![\w-])",
        r"(?<![0-9A-Za-z.])(?:86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?![0-9A-Za-z]|\.\d)",
        r"(?<![0-9A-Za-z.\-])0\d{2,3}[-—－]\d{7,8}(?![0-9A-Za-z\-])",
        r"(?<![0-9A-Za-z.\-])(?:400|800)-\d{3,4}-\d{3,4}(?![0-9A-Za-z\-])",
        r"(?<![\w.\-])(?:\(\d{3}\) ?|\d{3}[-.])\d{3}[-.]\d{4}(?![\w\-])",
    )
)
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECKS = "10X98765432"


_compile = functools.lru_cache(maxsize=256)(re.compile)


def mask_personal_data(text: str, patterns: Mapping[str, Sequence[str]] | None = None) -> tuple[str, dict[str, int]]:
    """Mask a text; returns the new text and the count of masks of each kind.

    Args:
        text: text of the document.
        patterns: kind -> regular expressions for the language of the text; they are applied first.
    """
    counts: dict[str, int] = {}
    for kind, expressions in (patterns or {}).items():
        for expression in expressions:
            text = _mask(text, _compile(expression), kind, counts)
    if "@" in text:
        text = _mask(text, _MAIL, "mail", counts)
    if not any(char.isdigit() for char in text):
        return text, counts
    text = _mask(text, _CHINESE_ID, "id", counts, _is_chinese_id)
    text = _mask(text, _IPV4, "ip", counts, _is_ip)
    text = _mask(text, _IPV6, "ip", counts, _is_ip)
    for pattern in _PHONES:
        text = _mask(text, pattern, "phone", counts)
    return text, counts


def _mask(
    text: str, pattern: re.Pattern[str], kind: str, counts: dict[str, int], accept: Callable[[str], bool] | None = None
) -> str:
    def replace(match: re.Match[str]) -> str:
        if accept and not accept(match.group()):
            return match.group()
        counts[kind] = counts.get(kind, 0) + 1
        return f"[{kind}]"

    return pattern.sub(replace, text)


def _is_ip(text: str) -> bool:
    """Whether an address may identify a person: private and loopback addresses do not, four single digits are a version
    or a section number, and `a::b` is code."""
    groups = [group for group in re.split("[.:]", text) if group]
    if all(len(group) < 2 for group in groups) or len(groups) < 3:
        return False
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def _is_chinese_id(text: str) -> bool:
    """Whether the check digit (GB 11643-1999) is correct and the digits contain a date of birth."""
    total = sum(int(digit) * weight for digit, weight in zip(text[:17], _ID_WEIGHTS, strict=True))
    month, day = int(text[10:12]), int(text[12:14])
    return _ID_CHECKS[total % 11] == text[17].upper() and 1 <= month <= 12 and 1 <= day <= 31

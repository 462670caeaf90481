"""Decode escapes: JSON, URLs, mail, bytes and code points written as text, text decoded with the wrong encoding."""

import quopri
import re
import unicodedata
from urllib.parse import unquote_to_bytes


def decode_once(text: str) -> str:
    """Decode one layer of escapes; a text without signs of any is returned unchanged."""
    for decode in _DECODERS if any(sign in text for sign in "\\%=+") else ():
        text = decode(text)
    return text if text.isascii() or not _MOJIBAKE_SIGN.search(text) else _MOJIBAKE.sub(_decode_again, text)


_CODE_POINT = re.compile(
    r"(?:U\+|%u|\\x\{|\\(?=[0-9a-fA-F]{4}))([0-9a-fA-F]{4,6})(?:\}|\b\s?)|\\([3-5][0-9a-fA-F]{2})\s"
)
"""The second pattern is CSS for Greek, Cyrillic, Hebrew and others."""
_BACKSLASHED_CODE = re.compile(r"\\(?:x\{|[0-9a-fA-F]{3})")


def _decode_code_points(text: str) -> str:
    """Decode non-ASCII characters written as `U+6C34`, `%u6C34` (JavaScript), `\\x{6C34}` (Perl) and `\\6C34 `
    (CSS)."""
    if not ("U+" in text or "%u" in text or ("\\" in text and _BACKSLASHED_CODE.search(text))):
        return text
    return _CODE_POINT.sub(_decode_code_point, text)


def _decode_code_point(match: re.Match[str]) -> str:
    code = int(match[1] or match[2], 16)
    # Radicals such as U+2F54, which represent letters in text from PDFs, are symbols in Unicode.
    is_written = 0x80 <= code <= 0x10FFFF and unicodedata.category(chr(code))[0] != "C"
    return chr(code) if is_written else match[0]


_UTF8_BYTES = re.compile(r"(?:\\x[89a-fA-F][0-9a-fA-F]){2,}|(?:\\[23][0-7]{2}){2,}")


def _decode_bytes(text: str) -> str:
    """Decode UTF-8 bytes written in hexadecimal (`\\xe6\\xb0\\xb4`, Python) or octal (`\\346\\260\\264`, C)."""
    return _UTF8_BYTES.sub(_decode_utf8, text) if any(sign in text for sign in ("\\x", "\\2", "\\3")) else text


def _decode_utf8(match: re.Match[str]) -> str:
    codes = match[0].split("\\")[1:]
    values = [int(code[1:], 16) if code[0] == "x" else int(code, 8) for code in codes]
    try:
        return bytes(values).decode("utf-8")
    except UnicodeDecodeError:
        return match[0]


_UNICODE_ESCAPE = re.compile(r"\\+(?:u\{([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2}))")
_LINE_ESCAPE = re.compile(r"\\+(?:[nr]|t(?!ext[a-z]{0,6}\{))")
"""Does not match the beginning of LaTeX's `\\text{...}`."""
_JSON_SIGN = re.compile(r"\\\\*+(?:u\{?[0-9a-fA-F]{2}|U000|x[0-9a-fA-F]{2}|[nrt](?![a-z])|\")")


def _decode_backslashes(text: str) -> str:
    """Decode escapes of JSON, Python and JavaScript."""
    if "\\" not in text or not _JSON_SIGN.search(text):
        return text
    text = _UNICODE_ESCAPE.sub(_decode_unicode_escape, text)
    text = _LINE_ESCAPE.sub("\n", text).replace('\\"', '"').replace("\\/", "/")
    # A character beyond U+FFFF is written as two escapes.
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


def _wrong_bytes() -> dict[str, int]:
    """Character -> the byte that Windows-1252 decodes to it (Latin-1 for bytes that Windows-1252 does not define)."""
    chars = [bytes([byte]).decode("cp1252", "replace") for byte in range(0x80, 0x100)]
    named = {char: byte for byte, char in enumerate(chars, 0x80) if char != "\ufffd"}
    return {chr(byte): byte for byte in range(0x80, 0x100)} | named


_WRONG_BYTES = _wrong_bytes()
_CONTINUATION = re.escape("".join(char for char, byte in _WRONG_BYTES.items() if byte < 0xC0))
_MOJIBAKE_SIGN = re.compile(f"[\u00c2-\u00f4][{_CONTINUATION}]")
_MOJIBAKE = re.compile(f"(?:[\u00c2-\u00f4][{_CONTINUATION}]{{1,3}}){{2,}}")
"""UTF-8 that was decoded as Windows-1252 or Latin-1 (`ä½\xa0å¥½`)."""


def _decode_again(match: re.Match[str]) -> str:
    try:
        return bytes(_WRONG_BYTES[char] for char in match[0]).decode("utf-8")
    except UnicodeDecodeError:
        return match[0]

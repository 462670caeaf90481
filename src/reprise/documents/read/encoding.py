"""Recognise text in other encodings than UTF-8, and convert it to UTF-8 as it is read."""

import codecs
import io
import unicodedata
from collections.abc import Iterator
from typing import BinaryIO, cast

from reprise.documents.read.streams import BlockReader, peek

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose byte order mark is a prefix of this one
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_LOOKED_AT = 4096
_BLOCK = 1 << 20
_UNDECODABLE = "\udcff"
"""Replaces bytes that cannot be decoded; it is invalid in UTF-8, so the document that contains it is rejected."""

codecs.register_error("reprise.mark", lambda error: (_UNDECODABLE, getattr(error, "end", 0)))


def guess_encoding(sample: bytes) -> str:
    """Guess the encoding of a text from its byte order mark, or the positions of its zero bytes; otherwise `utf-8`.

    Text in UTF-16 or UTF-32 without a byte order mark has a zero byte in every line end and space; UTF-8 text has none.
    Single-byte encodings, and GB 18030, Shift JIS and the like, cannot be recognised from bytes alone.
    """
    for mark, encoding in _BOMS:
        if sample.startswith(mark):
            return encoding
    if b"\0" in sample:
        for encoding, width in (("utf-32-le", 4), ("utf-32-be", 4), ("utf-16-le", 2), ("utf-16-be", 2)):
            if _reads_as_text(sample[: len(sample) // width * width], encoding):
                return encoding
    return "utf-8"


def _reads_as_text(sample: bytes, encoding: str) -> bool:
    try:
        text = codecs.getincrementaldecoder(encoding)("strict").decode(sample)
    except UnicodeDecodeError:
        return False
    strange = sum(unicodedata.category(char) in ("Cc", "Cn", "Co", "Cs") and char not in "\t\r\n\f" for char in text)
    return bool(text) and strange == 0


def to_utf8(stream: BinaryIO, encoding: str) -> BinaryIO:
    """Convert a stream to UTF-8 without a byte order mark.

    Args:
        stream: bytes of the text as they are stored.
        encoding: name of a Python codec, or `auto`.
    """
    if encoding == "auto":
        sample, stream = peek(stream, _LOOKED_AT)
        encoding = guess_encoding(sample)
        if encoding == "utf-8":
            return stream
    name = codecs.lookup(encoding).name
    if name == "utf-8":
        sample, stream = peek(stream, len(codecs.BOM_UTF8))
        if sample == codecs.BOM_UTF8:
            stream.read(len(sample))
        return stream
    if name == "utf-8-sig":
        stream.read(len(codecs.BOM_UTF8))
        return stream
    if name in ("utf-16", "utf-32"):
        sample, stream = peek(stream, _LOOKED_AT)
        if not sample.startswith(tuple(mark for mark, marked in _BOMS if marked == name)):
            encoding = f"{name}-le"
    return cast(BinaryIO, io.BufferedReader(BlockReader(_recode(stream, encoding)), _BLOCK))


def _recode(stream: BinaryIO, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)("reprise.mark")
    while block := stream.read(_BLOCK):
        yield decoder.decode(block).encode("utf-8", "surrogatepass")
    yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")

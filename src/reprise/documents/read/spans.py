"""Split long JSON Lines files, so that all cores read one file: uncompressed ones by bytes, zstd ones by frames.

A span is a range of the stored bytes. A line belongs to the span that contains the byte before it, so each span begins
by skipping the end of a line; the first line of a file belongs to its first span. The ranges are adjacent, so every
line is read once.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

import zstandard

from reprise.documents.read.encoding import guess_encoding
from reprise.documents.read.files import SourceFile
from reprise.documents.read.formats import DAMAGED, format_of
from reprise.documents.read.remote import is_remote
from reprise.documents.read.streams import MAX_WINDOW, BlockReader, damaged, open_raw
from reprise.recipe.documents import Input
from reprise.storage import printable

_BLOCK = 1 << 20
_FRAME, _SKIPPABLE = 0xFD2FB528, 0x184D2A50


@dataclass(frozen=True)
class Span:
    """A part of a file."""

    start: int
    end: int
    """First byte and end of the range, as stored."""
    first_line: int = 1
    """Line of the file at which its documents begin."""


def split_file(file: SourceFile, entry: Input, span_bytes: int) -> list[Span]:
    """The spans of a file, without line numbers; empty if the file is read whole."""
    if file.format != "jsonl" or is_remote(file.path) or file.size < 2 * span_bytes:
        return []
    compression = format_of(file.path).compression
    if compression not in (None, "zstd"):
        return []
    with open_raw(file.path) as raw:
        if compression == "zstd":
            starts = list(_frame_starts(raw, file.size))
            raw.seek(0)
            head = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj().decompress(raw.read(1 << 14))
        else:
            head = raw.read(4096)
            starts = list(range(0, file.size, span_bytes))
    if entry.encoding not in ("auto", "utf-8") or not guess_encoding(head[:4096]).startswith("utf-8"):
        return []
    chosen = [0]
    for start in starts:
        if start - chosen[-1] >= span_bytes:
            chosen.append(start)
    if len(chosen) == 1:
        return []
    return [Span(start, end) for start, end in zip(chosen, [*chosen[1:], file.size], strict=True)]


class SpanStream:
    """The text of a span, and of what follows it in the file."""

    def __init__(self, raw: BinaryIO, span: Span, compression: str | None) -> None:
        self.size: float = math.inf
        """Bytes of text in the span; known after they have been read."""
        raw.seek(span.start)
        blocks = self._plain(raw, span) if compression is None else self._frames(raw, span)
        self.stream = cast(BinaryIO, io.BufferedReader(BlockReader(blocks), _BLOCK))

    def _plain(self, raw: BinaryIO, span: Span) -> Iterator[bytes]:
        self.size = span.end - span.start
        while block := raw.read(_BLOCK):
            yield block

    def _frames(self, raw: BinaryIO, span: Span) -> Iterator[bytes]:
        position, size, decoder = span.start, 0, None
        while True:
            # Do not read beyond the end of the span: the text decompressed up to there gives its size.
            left = span.end - position if position < span.end else _BLOCK
            if position == span.end:
                self.size = size
            block = raw.read(min(16 << 10, left))
            if not block:
                break
            position += len(block)
            while block:
                decoder = decoder or zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
                text = decoder.decompress(block)
                size += len(text)
                yield text
                block = decoder.unused_data if decoder.eof else b""
                decoder = None if decoder.eof else decoder
        if decoder is not None:
            raise EOFError("the zstd frame ends early")


def count_line_ends(path: str, span: Span) -> int:
    """Count the line ends in the text of a span."""
    position = count = 0
    try:
        with open_raw(path) as raw:
            opened = SpanStream(raw, span, format_of(path).compression)
            while position < opened.size and (block := opened.stream.read(_BLOCK)):
                inside = block[: int(opened.size) - position] if position + len(block) > opened.size else block
                position += len(block)
                count += inside.count(b"\n")
    except DAMAGED as error:
        raise damaged(printable(path), count + 1, error) from error
    return count


def number_lines(spans: list[Span], line_ends: list[int]) -> list[Span]:
    """The spans, with the line at which the documents of each begin."""
    numbered, before = [], 0
    for index, (span, count) in enumerate(zip(spans, line_ends, strict=True)):
        numbered.append(Span(span.start, span.end, before + 2 if index else 1))
        before += count
    return numbered


def _frame_starts(raw: BinaryIO, size: int) -> Iterator[int]:
    """Offset of each frame in a zstd file (RFC 8878), from the headers of its blocks; nothing is decompressed."""
    position = 0
    while position < size:
        yield position
        raw.seek(position)
        head = raw.read(18)
        magic = int.from_bytes(head[:4], "little")
        if magic & 0xFFFFFFF0 == _SKIPPABLE:
            position += 8 + int.from_bytes(head[4:8], "little")
            continue
        if magic != _FRAME or len(head) < 6:
            return
        descriptor = head[4]
        is_single = descriptor >> 5 & 1
        content_size = (1 if is_single else 0, 2, 4, 8)[descriptor >> 6]
        position += 5 + (0 if is_single else 1) + (0, 1, 2, 4)[descriptor & 3] + content_size
        is_last = False
        while not is_last:
            raw.seek(position)
            header = raw.read(3)
            if len(header) < 3:
                return
            value = int.from_bytes(header, "little")
            is_last, is_run = bool(value & 1), (value >> 1 & 3) == 1
            position += 3 + (1 if is_run else value >> 3)
        position += 4 * (descriptor >> 2 & 1)

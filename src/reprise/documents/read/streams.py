"""Open local or remote files, and decompress them."""

import bz2
import gzip
import io
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from reprise.documents.read.formats import DAMAGED, Compression
from reprise.documents.read.remote import is_remote, open_url
from reprise.errors import UserError
from reprise.storage import printable

_BLOCK = 16 << 10
MAX_WINDOW = 1 << 31
"""Limit of `zstd --long=31`, the largest possible; only files written with it take so much memory."""


def open_raw(path: str) -> BinaryIO:
    """Open a file or URL to read its stored bytes.

    Raises:
        UserError: the file cannot be opened.
    """
    try:
        return open_url(path) if is_remote(path) else Path(path).open("rb")
    except Exception as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
        raise UserError(f"cannot be opened: {reason}", where=printable(path)) from error


def damaged(name: str, line: int, error: Exception) -> UserError:
    """The error for a file that cannot be read to the end."""
    what = "is damaged or cut off" if isinstance(error, DAMAGED) else "cannot be read"
    return UserError(
        f"the file {what}: {first_line(error)}",
        where=f"{name}:{line}",
        remedy="get the file again, or move it out of the folder that documents.inputs names",
    )


def first_line(error: BaseException) -> str:
    """The first line of an exception's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def decompress(stream: BinaryIO, compression: Compression | None) -> BinaryIO:
    """A decompressed stream. Reading may raise one of `formats.DAMAGED`, or OSError."""
    if compression == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    if compression == "zstd":
        return cast(BinaryIO, io.BufferedReader(BlockReader(_zstd_blocks(stream)), 1 << 20))
    if compression == "xz":
        return cast(BinaryIO, lzma.LZMAFile(stream))
    if compression == "bzip2":
        return cast(BinaryIO, bz2.BZ2File(stream))
    return stream


def peek(stream: BinaryIO, size: int) -> tuple[bytes, BinaryIO]:
    """The first bytes, and a stream that still contains them."""
    head = b""
    while len(head) < size and (block := stream.read(size - len(head))):
        head += block

    def blocks() -> Iterator[bytes]:
        yield head
        while block := stream.read(1 << 20):
            yield block

    return head, cast(BinaryIO, io.BufferedReader(BlockReader(blocks()), 1 << 20))


def _zstd_blocks(raw: BinaryIO) -> Iterator[bytes]:
    """Decompressed blocks of all frames. The library's own reader treats a truncated frame as the end of the file."""
    decoder = None
    while block := raw.read(_BLOCK):
        while block:
            decoder = decoder or zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
            yield decoder.decompress(block)
            block = decoder.unused_data if decoder.eof else b""
            decoder = None if decoder.eof else decoder
    if decoder is not None:
        raise EOFError("the zstd frame ends early")


class BlockReader(io.RawIOBase):
    """A file object over an iterator of blocks."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._held = memoryview(b"")

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill the buffer from one block; returns 0 at the end."""
        target = memoryview(cast(bytearray, buffer))
        while not self._held:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._held = memoryview(block)
        count = min(len(target), len(self._held))
        target[:count] = self._held[:count]
        self._held = self._held[count:]
        return count

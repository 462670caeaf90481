"""Files that contain other files: tar, zip and WARC."""

import stat
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from reprise.errors import missing_extra

DAMAGED = (tarfile.TarError, zipfile.BadZipFile)
"""Exceptions raised by reading a damaged archive."""

_TAR_BLOCK = 512


@dataclass(frozen=True)
class Member:
    """A file in an archive."""

    name: str
    size: int
    stream: BinaryIO | None
    """None if the member is encrypted, or not a file."""
    kind: str = ""
    """What the member is if it is not a file, such as `link`."""


def read_tar(stream: BinaryIO) -> Iterator[Member]:
    """The files in a tar archive, in its order; each must be read before the next one is requested."""
    readable = _Readable(stream)
    with tarfile.open(fileobj=cast(BinaryIO, readable), mode="r|") as archive:
        for info in archive:
            if info.isfile() and (member := archive.extractfile(info)) is not None:
                yield Member(info.name, info.size, cast(BinaryIO, member))
            elif not info.isdir():
                kind = "link" if info.islnk() or info.issym() else "neither a file nor a folder"
                yield Member(info.name, 0, None, kind)
    if readable.failure is not None:
        raise readable.failure
    if any(readable.last):  # tarfile takes a truncated header for the end of the archive
        raise EOFError("the tar archive ends without its mark")


def read_zip(stream: BinaryIO) -> Iterator[Member]:
    """The files in a zip archive, in its order."""
    try:
        opened_archive = zipfile.ZipFile(stream)
    except NotImplementedError as error:  # a version that does not exist yet
        raise zipfile.BadZipFile(str(error)) from error
    with opened_archive as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                yield Member(info.filename, info.file_size, None, "link")
                continue
            if info.flag_bits & 1:
                yield Member(info.filename, info.file_size, None)
                continue
            try:
                opened = archive.open(info)
            except NotImplementedError as error:
                raise zipfile.BadZipFile(f"{info.filename}: {error}") from error
            with opened as member:
                yield Member(info.filename, info.file_size, cast(BinaryIO, member))


@dataclass(frozen=True)
class Response:
    """A response of a web server in a WARC file."""

    index: int
    """Index among all records of the file, from 1."""
    content_type: str
    status: int
    content: bytes | None
    """Body of the response; None if it is too long."""


def read_warc(stream: BinaryIO, max_bytes: int) -> Iterator[Response]:
    """Yield the responses in a WARC file.

    Raises:
        UserError: FastWARC is not installed.
    """
    try:
        from fastwarc.warc import ArchiveIterator, WarcRecordType
    except ImportError:
        raise missing_extra("fastwarc", "files", "reading WARC") from None
    readable = _Readable(stream)
    for index, record in enumerate(ArchiveIterator(cast(Any, readable), parse_http=False), 1):
        if record.record_type != WarcRecordType.response or not record.is_http:
            continue
        record.parse_http()
        content = record.reader.read(max_bytes + 1)
        headers = record.http_headers
        content_type = (record.http_content_type or "").lower()
        status = int(headers.status_code or 0) if headers is not None else 0
        yield Response(index, content_type, status, content if len(content) <= max_bytes else None)
    if readable.failure is not None:
        raise readable.failure


class _Readable:
    """A stream for libraries that ignore its errors."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._position = 0
        self.failure: Exception | None = None
        """The exception of a read, which FastWARC takes for the end of the file."""
        self.last = b""
        """Last bytes that were read."""

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes."""
        try:
            block = self._stream.read(size)
        except Exception as error:
            self.failure = error
            return b""
        self._position += len(block)
        self.last = block[-_TAR_BLOCK:] or self.last
        return block

    def tell(self) -> int:
        """Bytes read so far."""
        return self._position

    def seek(self, *_: Any) -> None:
        """Never called by the libraries that use this stream."""
        raise OSError("not seekable")

    def close(self) -> None:
        """The caller closes the stream."""

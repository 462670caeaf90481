"""Files that hold files: tar, zip and WARC."""

import stat
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from reprise.errors import missing_extra

DAMAGED = (tarfile.TarError, zipfile.BadZipFile)
"""What reading a broken archive raises."""

_TAR_BLOCK = 512


@dataclass(frozen=True)
class Member:
    """A file in an archive."""

    name: str
    size: int
    stream: BinaryIO | None
    """None if it is encrypted, or no file."""
    kind: str = ""
    """What it is if it is no file, such as `link`."""


def read_tar(stream: BinaryIO) -> Iterator[Member]:
    """The files of a tar archive, in its order; each must be read before the next is asked for."""
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
    if any(readable.last):  # tarfile takes a header that is cut off for the end
        raise EOFError("the tar archive ends without its mark")


def read_zip(stream: BinaryIO) -> Iterator[Member]:
    """The files of a zip archive, in its order."""
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
    """Place among all records of the file, counted from 1."""
    content_type: str
    status: int
    content: bytes | None
    """None if it is too long."""


def read_warc(stream: BinaryIO, max_bytes: int) -> Iterator[Response]:
    """The responses of a WARC file.

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
    """A stream for libraries that pass over its errors."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._position = 0
        self.failure: Exception | None = None
        """FastWARC takes an exception for the end of the file."""
        self.last = b""
        """End of what was read last."""

    def read(self, size: int = -1) -> bytes:
        """At most so many bytes."""
        try:
            block = self._stream.read(size)
        except Exception as error:
            self.failure = error
            return b""
        self._position += len(block)
        self.last = block[-_TAR_BLOCK:] or self.last
        return block

    def tell(self) -> int:
        """Bytes that were read."""
        return self._position

    def seek(self, *_: Any) -> None:
        """Not done by what we call."""
        raise OSError("not seekable")

    def close(self) -> None:
        """The caller closes the stream."""

"""Find the files of an input and open them, compressed or not, here or in an object store. Imports without Daft."""

import glob
import gzip
import importlib.util
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from reprise.documents.read.remote import is_remote, list_files, open_url
from reprise.errors import UserError
from reprise.recipe.documents import Input

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".markdown": "text",
}
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)
"""What reading a broken archive raises."""

_BLOCK = 16 << 10


@dataclass(frozen=True)
class SourceFile:
    """One file of an input."""

    path: str
    """Local path or URL."""
    format: str
    """`jsonl`, `parquet` or `text`."""
    size: int
    """Bytes as stored."""


def find_files(entry: Input, where: str) -> list[SourceFile]:
    """The files of an input, ordered by path.

    A folder stands for the files in it, at any depth, whose names tell a format; hidden ones are left out.

    Args:
        entry: the input of the recipe.
        where: name of the setting, such as `documents.inputs[0].path`.

    Raises:
        UserError: nothing is there, or the format cannot be told.
    """
    paths, is_folder = _find_remote(entry.path, where) if is_remote(entry.path) else _find_local(entry.path, where)
    files = []
    for path, size in sorted(paths):
        found = _format_of(path)
        if is_folder and (found is None or (entry.format not in ("auto", found))):
            continue
        if entry.format == "auto" and found is None:
            raise UserError(
                f"the format of {path} cannot be told from its name",
                where=f"{where}={entry.path}",
                remedy=f"set {where.removesuffix('path')}format to jsonl, parquet or text",
            )
        files.append(SourceFile(path, found or entry.format if entry.format == "auto" else entry.format, size))
    if not files:
        kind = "readable file" if entry.format == "auto" else f"file of the format {entry.format}"
        raise UserError(
            f"this folder holds no {kind}" if is_folder else "no file matches",
            where=f"{where}={entry.path}",
            remedy="known names end in .jsonl, .parquet, .txt or .md, the text ones also with .gz or .zst",
        )
    return files


def _format_of(path: str) -> str | None:
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in _COMPRESSIONS:
        suffixes.pop()
        return _FORMATS.get(suffixes[-1]) if suffixes and suffixes[-1] != ".parquet" else None
    return _FORMATS.get(suffixes[-1]) if suffixes else None


def _find_local(path: str, where: str) -> tuple[list[tuple[str, int]], bool]:
    """Paths with sizes, and whether `path` is a folder."""
    if path.startswith("package:"):
        path = _inside_package(path.removeprefix("package:"), where)
    root = Path(path).expanduser()
    if root.is_dir():
        inside = (found for found in root.rglob("*") if found.is_file() and not _is_hidden(found.relative_to(root)))
        return [(str(found), found.stat().st_size) for found in inside], True
    if root.is_file():
        return [(str(root), root.stat().st_size)], False
    if root.exists():
        raise UserError("neither a file nor a folder", where=f"{where}={path}")
    if not glob.has_magic(path):
        raise UserError("this file does not exist", where=f"{where}={path}", remedy="correct the path")
    matches = [Path(match) for match in glob.glob(str(root), recursive=True)]  # noqa: PTH207 (absolute patterns)
    return [(str(match), match.stat().st_size) for match in matches if match.is_file()], False


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _inside_package(path: str, where: str) -> str:
    name, _, rest = path.partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the package {name!r} is not installed", where=f"{where}=package:{path}", remedy=f"pip install {name}"
        )
    return str(Path(next(iter(spec.submodule_search_locations))) / rest)


def _find_remote(url: str, where: str) -> tuple[list[tuple[str, int]], bool]:
    is_folder = not glob.has_magic(url) and _format_of(url) is None
    try:
        return list_files(url, is_folder=is_folder), is_folder
    except FileNotFoundError:
        return [], is_folder
    except Exception as error:
        raise UserError(
            f"cannot be listed: {_first_line(error)}",
            where=f"{where}={url}",
            remedy="check the address, the network and the credentials in the environment",
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def open_file(path: str) -> BinaryIO:
    """Open a file or URL for reading bytes, decompressed by its suffix.

    Raises:
        UserError: it cannot be opened. Reading may raise one of DAMAGED.
    """
    try:
        raw = open_url(path) if is_remote(path) else Path(path).open("rb")  # noqa: SIM115
    except Exception as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or _first_line(error)
        raise UserError(f"cannot be opened: {reason}", where=path) from error
    compression = _COMPRESSIONS.get(Path(path).suffix.lower())
    if compression == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if compression == "zstd":
        return cast(BinaryIO, io.BufferedReader(_Blocks(_zstd_blocks(raw)), 1 << 20))
    return raw


def _zstd_blocks(raw: BinaryIO) -> Iterator[bytes]:
    """Decompressed blocks of all frames. The library's own reader takes a truncated frame for the end of the file."""
    decoder = None
    with raw:
        while block := raw.read(_BLOCK):
            while block:
                decoder = decoder or zstandard.ZstdDecompressor().decompressobj()
                yield decoder.decompress(block)
                block = decoder.unused_data if decoder.eof else b""
                decoder = None if decoder.eof else decoder
    if decoder is not None:
        raise EOFError("the zstd frame ends early")


class _Blocks(io.RawIOBase):
    """A file over an iterator of blocks."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._held = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
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

"""Format and compression of a file, from its name."""

import gzip
import lzma
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import zstandard

Format = Literal[
    "jsonl", "json", "csv", "tsv", "parquet", "arrow", "text", "html", "warc", "pdf", "docx", "epub", "tar", "zip"
]
Compression = Literal["gzip", "zstd", "xz", "bzip2"]

_COMPRESSIONS: dict[str, Compression] = {
    ".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".xz": "xz", ".bz2": "bzip2",
}  # fmt: skip
_FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet",
    ".arrow": "arrow", ".txt": "text", ".text": "text", ".md": "text", ".markdown": "text", ".html": "html",
    ".htm": "html", ".xhtml": "html", ".warc": "warc", ".pdf": "pdf", ".docx": "docx", ".epub": "epub", ".tar": "tar",
    ".zip": "zip",
}  # fmt: skip
_BOTH: dict[str, tuple[Format, Compression]] = {
    ".tgz": ("tar", "gzip"), ".tbz2": ("tar", "bzip2"), ".txz": ("tar", "xz"), ".tzst": ("tar", "zstd"),
}  # fmt: skip

SEEKING: frozenset[Format] = frozenset({"parquet", "arrow", "zip"})
"""Formats that are read out of order, so compression around them is not removed."""
ARCHIVES: frozenset[Format] = frozenset({"tar", "zip"})
PAGES: frozenset[Format] = frozenset({"html", "warc", "pdf", "docx", "epub"})
"""Formats that are converted to text by a parser in a process of its own."""

DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError)
"""Exceptions raised by reading a damaged file; bz2 raises OSError."""

KNOWN = "known names end in .jsonl, .json, .csv, .tsv, .parquet, .arrow, .txt, .md, .html, .warc, .pdf, .docx, .epub, \
.tar or .zip, most of them also with .gz, .zst, .xz or .bz2"


@dataclass(frozen=True)
class NameFormat:
    """Format and compression that a file name indicates."""

    format: Format | None
    compression: Compression | None = None


def format_of(path: str) -> NameFormat:
    """Format and compression by the extension of a name; the format is None if the extension is unknown."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(path).suffixes]
    if not suffixes:
        return NameFormat(None)
    if suffixes[-1] in _BOTH:
        return NameFormat(*_BOTH[suffixes[-1]])
    if (compression := _COMPRESSIONS.get(suffixes[-1])) is None:
        return NameFormat(_FORMATS.get(suffixes[-1]))
    inner = _FORMATS.get(suffixes[-2]) if len(suffixes) > 1 else None
    return NameFormat(None if inner in SEEKING else inner, compression)


def extension_of(path: str) -> str:
    """Extension of a file including its compression, such as `.jsonl.lz4`, by which skipped files are counted."""
    suffixes = PurePosixPath(path).suffixes
    if not suffixes:
        return "no extension"
    return "".join(suffixes[-2:] if suffixes[-1].lower() in _COMPRESSIONS else suffixes[-1:]).lower()


NO_TEXT_FILES = (
    b"%PDF-1.", b"%PDF-2.", b"PK\x03\x04", b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"\x1f\x8b\x08",
    b"\x28\xb5\x2f\xfd", b"PAR1", b"ARROW1", b"Rar!\x1a", b"7z\xbc\xaf", b"\x7fELF", b"SQLite format 3\0", b"WARC/1.",
    b"\xd0\xcf\x11\xe0",
)  # fmt: skip
"""First bytes of files that contain no text themselves, whatever their name."""

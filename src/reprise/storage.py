"""Atomic writes and checked reads of files, and checksums of files and of JSON values."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import xxhash
from pydantic import Field
from typing_extensions import TypedDict

from reprise.records import record

_BLOCK_BYTES = 1 << 20


@record
class FileChecksum(TypedDict):
    """Size and hash of a file's content."""

    size: Annotated[int, Field(description="Bytes.")]
    xxh128: Annotated[str, Field(description="XXH3-128 of its bytes.")]


@record
class InputRecord(FileChecksum):
    """A file of the user."""

    path: str
    """Its path; bytes that are not UTF-8 are written as `\\xd6`."""
    mtime_ns: int
    """Modification time; the file is hashed again only when this or the size differs."""


def digest(value: object) -> str:
    """Hash of a JSON value; equal values give equal hashes, regardless of key order."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def file_checksum(path: Path) -> FileChecksum:
    """Size and hash of a file's content, read in blocks of 1 MiB.

    Raises:
        OSError: the file cannot be read.
    """
    hasher = xxhash.xxh3_128()
    size = 0
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK_BYTES):
            hasher.update(block)
            size += len(block)
    return {"size": size, "xxh128": hasher.hexdigest()}


def printable(path: str) -> str:
    """Format a path for output and storage: bytes that are not UTF-8 are written as `\\xd6`."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def from_printable(path: str) -> Path:
    """The path that `printable` formatted."""
    if Path(path).exists():
        return Path(path)
    raw = re.sub(rb"\\x([89a-f][0-9a-f])", lambda match: bytes.fromhex(match[1].decode()), path.encode())
    return Path(os.fsdecode(raw))


def record_input(path: Path, known: InputRecord | None = None) -> InputRecord:
    """Path, size, modification time and checksum of a file.

    Args:
        path: the file.
        known: an earlier record; its checksum is reused if path, size and time match.
    """
    stat = path.stat()
    if known and (known["path"], known["size"], known["mtime_ns"]) == (
        printable(str(path)),
        stat.st_size,
        stat.st_mtime_ns,
    ):
        content = known["xxh128"]
    else:
        content = file_checksum(path)["xxh128"]
    return {"path": printable(str(path)), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "xxh128": content}


def cache_folder() -> Path:
    """Folder of data shared by runs, such as converted models: `REPRISE_CACHE`, else `reprise` in the user's cache.

    Raises:
        PermissionError: it does not exist and cannot be created.
    """
    shared = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(shared if Path(shared).is_absolute() else os.path.expanduser("~/.cache"))  # noqa: PTH111
    folder = Path(os.environ.get("REPRISE_CACHE") or home / "reprise")
    try:
        if not folder.is_absolute() and "REPRISE_CACHE" not in os.environ:  # expanduser found no home
            raise FileNotFoundError(errno.ENOENT, "this user has no home folder")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"the cache cannot be made ({error.strerror}); set REPRISE_CACHE to a folder that can be written"
        raise PermissionError(errno.EACCES, what, str(folder)) from None
    return folder


def find_damage(folder: Path, records: Mapping[str, FileChecksum], *, content: bool) -> list[str]:
    """Find files that are missing or differ from their records; one sentence each.

    Args:
        folder: names in `records` are relative to it.
        records: name -> size and checksum.
        content: read every file and compare checksums; if False, sizes only.
    """
    damage = []
    for name, expected in records.items():
        path = Path(os.path.normpath(folder / name))  # a file beside the folder is `../report.html`
        try:
            size = path.stat().st_size
            if size != expected["size"]:
                damage.append(f"{path} has {size} bytes, not {expected['size']}")
            elif content and file_checksum(path)["xxh128"] != expected["xxh128"]:
                damage.append(f"{path} is damaged: its content is not what was written")
        except FileNotFoundError:
            damage.append(f"{path} is missing")
        except OSError as error:
            damage.append(f"{path} cannot be read: {error.strerror}")
    return damage


def write_text(path: Path, text: str) -> None:
    """Write a file so that readers see the old or the new version, never half of it, even after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # a full disk
        raise


def is_being_written(temporary: Path) -> bool:
    """Whether the process that writes a temporary file of `write_text` still runs; its id is in the name."""
    process = temporary.name.split(".")[-2]
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # the process belongs to another user
        return True
    return int(process) != os.getpid()


def link_file(source: Path | str, target: Path | str) -> None:
    """Hard-link a file that is never written in place; copy it if the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file as `write_text` does."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def write_checked(path: Path, value: object) -> None:
    """Write a JSON value together with its checksum, for `read_checked`; creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"checksum": digest(value), "value": value})


def read_checked(path: Path) -> Any:
    """Read a value written by `write_checked`; None if it is missing or damaged and must be computed again."""
    try:
        entry = json.loads(path.read_bytes())
        value = entry["value"]
        return value if digest(value) == entry["checksum"] else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def sync(path: Path) -> None:
    """Block until a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

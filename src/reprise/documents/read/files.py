"""Find the files of an input, locally or in an object store, and report skipped files. Imports without Daft."""

import glob
import importlib.util
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from typing_extensions import TypedDict

from reprise.documents.read.formats import ARCHIVES, KNOWN, Format, extension_of, format_of
from reprise.documents.read.remote import is_remote, list_files
from reprise.documents.read.streams import first_line
from reprise.errors import UserError
from reprise.recipe.documents import Input
from reprise.records import record
from reprise.storage import printable

_DATASET_FILES = frozenset({"dataset_info.json", "state.json", "dataset_dict.json"})
"""Files that `save_to_disk` of Hugging Face datasets writes next to the data."""


@dataclass(frozen=True)
class SourceFile:
    """One file of an input."""

    path: str
    """Local path or URL."""
    format: Format
    size: int
    """Size in bytes as stored."""


@dataclass(frozen=True)
class SkippedFile:
    """A file that is not read."""

    path: str
    reason: str
    """Why it is skipped, such as `unknown extension`."""
    size: int
    kind: str = ""
    """Its type if the extension does not show it, such as `image/png`; else empty."""


@record
class SkippedKind(TypedDict):
    """Skipped files of one extension and reason, for the manifest."""

    extension: str
    """Extension, such as `.png`; empty if the names have none."""
    reason: str
    """Why they were skipped."""
    files: int
    """Number of files."""
    bytes: int
    """Total size of these files."""
    first: str
    """Path of the first of these files."""


@dataclass
class Listing:
    """The files of an input."""

    files: list[SourceFile] = field(default_factory=list)
    """The files to read, in the order of their paths."""
    skipped: list[SkippedFile] = field(default_factory=list)


def find_files(entry: Input, where: str) -> list[SourceFile]:
    """The files of an input that are read, ordered by path (see `list_input`)."""
    return list_input(entry, where).files


def list_input(entry: Input, where: str) -> Listing:
    """List the files of an input, and those that are skipped.

    A folder represents the files in it, at any depth, whose names have a known format; links are followed. If the
    recipe sets a format, it represents the files whose names have that format or none.

    Args:
        entry: the input in the recipe.
        where: name of the setting, such as `documents.inputs.0.path`.

    Raises:
        UserError: there is no file to read, or the format is unknown.
    """
    listing = Listing()
    if is_remote(entry.path):
        is_folder, paths = _find_remote(entry.path, where)
    else:
        is_folder, paths = _find_local(entry.path, where, listing.skipped)
    datasets = _DatasetFolders()
    for path, size in sorted(paths):
        if is_folder and (reason := datasets.reason_to_skip(path)):
            listing.skipped.append(SkippedFile(path, reason, size))
            continue
        name_format = format_of(path).format
        if entry.format == "auto":
            chosen = name_format
        elif is_folder and name_format not in (None, entry.format) and not _is_read_as(name_format, entry.format):
            listing.skipped.append(SkippedFile(path, f"not {entry.format}, the format of this input", size))
            continue
        else:
            chosen = name_format if name_format in ARCHIVES else entry.format
        if chosen is not None:
            listing.files.append(SourceFile(path, chosen, size))
        elif is_folder:
            listing.skipped.append(SkippedFile(path, "unknown extension", size))
        else:
            raise UserError(
                f"the format of {printable(path)} cannot be derived from its name",
                where=f"{where}={entry.path}",
                remedy=f"set {where.removesuffix('path')}format, such as jsonl, parquet or text; {KNOWN}",
            )
    if not listing.files:
        raise _nothing_to_read(entry, where, is_folder, listing)
    return listing


def _is_read_as(name_format: Format | None, format: str) -> bool:
    """Whether a file named for one format can be read as another one: JSON Lines files are often named .json."""
    return name_format in ARCHIVES or {name_format, format} == {"json", "jsonl"}


def _nothing_to_read(entry: Input, where: str, is_folder: bool, listing: Listing) -> UserError:
    kind = "readable file" if entry.format == "auto" else f"file of the format {entry.format}"
    what = f"this folder holds no {kind}" if is_folder else "no file matches"
    if listing.skipped:
        what += f"; skipped are {describe_skipped(summarise_skipped(listing.skipped))}"
    return UserError(what, where=f"{where}={printable(entry.path)}", remedy=KNOWN if is_folder else "correct the path")


def summarise_skipped(skipped: Iterable[SkippedFile]) -> list[SkippedKind]:
    """Skipped files by extension and reason, most bytes first."""
    kinds: dict[tuple[str, str], SkippedKind] = {}
    for file in skipped:
        extension = file.kind or extension_of(file.path.rsplit("/", 1)[-1])
        kind = kinds.setdefault(
            (extension, file.reason),
            SkippedKind(extension=extension, reason=file.reason, files=0, bytes=0, first=printable(file.path)),
        )
        kind["files"] += 1
        kind["bytes"] += file.size
    return sorted(kinds.values(), key=lambda kind: (-kind["bytes"], kind["extension"], kind["reason"]))


def describe_skipped(kinds: Sequence[SkippedKind]) -> str:
    """`2 .png (unknown extension, 1,204 bytes, first pictures/a.png), ...`, for a message."""
    return ", ".join(
        f"{kind['files']:,} {kind['extension']} ({kind['reason']}, {kind['bytes']:,} bytes, first {kind['first']})"
        for kind in kinds
    )


class _DatasetFolders:
    """Which files in a folder written by `save_to_disk` of Hugging Face datasets are data."""

    def __init__(self) -> None:
        self._data_files: dict[Path, frozenset[str] | None] = {}

    def reason_to_skip(self, path: str) -> str | None:
        """Why a file is not data; None for a file that is read."""
        if is_remote(path):
            return None
        folder, name = Path(path).parent, Path(path).name
        if name == "dataset_dict.json":
            return "describes a saved data set"
        data_files = self._of(folder)
        if data_files is None or name in data_files:
            return None
        if name in _DATASET_FILES:
            return "describes a saved data set"
        return "no data file of the saved data set" if name.endswith(".arrow") else None

    def _of(self, folder: Path) -> frozenset[str] | None:
        """Names of the data files; None if the folder is not a saved data set.

        Raises:
            UserError: the saved data set is a selection of rows, which is not supported.
        """
        if folder not in self._data_files:
            self._data_files[folder] = None
            try:
                state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
                names = frozenset(str(file["filename"]) for file in state["_data_files"])
            except (OSError, ValueError, TypeError, KeyError):
                return None
            if state.get("_indices_files"):
                raise UserError(
                    "the saved data set is a selection of the rows of its files",
                    where=str(folder),
                    remedy="save it again after `dataset.flatten_indices()`",
                )
            self._data_files[folder] = names
        return self._data_files[folder]


def _find_local(path: str, where: str, skipped: list[SkippedFile]) -> tuple[bool, list[tuple[str, int]]]:
    """Whether `path` is a folder, and paths with sizes; files that cannot be read are added to `skipped`."""
    if path.startswith("package:"):
        path = _inside_package(path.removeprefix("package:"), where)
    root = Path(path).expanduser()
    if root.is_dir():
        return True, list(_walk(root, skipped))
    if root.is_file():
        return False, [(str(root), root.stat().st_size)]
    if root.exists():
        raise UserError("neither a file nor a folder", where=f"{where}={path}")
    if not glob.has_magic(path):
        what = "this link leads nowhere" if root.is_symlink() else "this file does not exist"
        raise UserError(what, where=f"{where}={printable(path)}", remedy="correct the path")
    matches = [Path(match) for match in glob.glob(_literal_start(root), recursive=True)]  # noqa: PTH207 (absolute)
    paths = {str(match): match.stat().st_size for match in matches if match.is_file()}
    if "**" not in path:
        for folder in matches:
            if folder.is_dir():
                paths |= dict(_walk(folder, skipped))
    skipped += [SkippedFile(str(match), "broken link", 0) for match in matches if not match.exists()]
    return False, list(paths.items())


def _literal_start(pattern: Path) -> str:
    """The pattern, with its existing leading folders escaped, so that their names are matched literally."""
    start = Path(pattern.anchor)
    rest = list(pattern.parts[1:] if pattern.anchor else pattern.parts)
    while len(rest) > 1 and (start / rest[0]).is_dir():
        start /= rest.pop(0)
    prefix = "" if start == Path() else glob.escape(str(start))
    return str(Path(prefix, *rest))


def _walk(root: Path, skipped: list[SkippedFile]) -> Iterator[tuple[str, int]]:
    """Yield files below a folder with their sizes; links are followed, and each folder is visited once."""
    entered = {_identity(root)}
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            skipped.append(SkippedFile(str(folder), error.strerror or str(error), 0))
            continue
        for entry in entries:
            try:
                stat = entry.stat()
            except OSError as error:
                broken = "broken link" if entry.is_symlink() else error.strerror or str(error)
                skipped.append(SkippedFile(entry.path, broken, 0))
                continue
            if entry.name.startswith("."):
                skipped.append(SkippedFile(entry.path, "hidden", stat.st_size if entry.is_file() else 0))
            elif entry.is_dir():
                identity = (stat.st_dev, stat.st_ino)
                if identity in entered:
                    skipped.append(SkippedFile(entry.path, "link to a folder that is read already", 0))
                else:
                    entered.add(identity)
                    waiting.append(Path(entry.path))
            elif entry.is_file():
                yield entry.path, stat.st_size
            else:
                skipped.append(SkippedFile(entry.path, "neither a file nor a folder", 0))


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


def _inside_package(path: str, where: str) -> str:
    name, _, rest = path.partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the package {name!r} is not installed", where=f"{where}=package:{path}", remedy=f"pip install {name}"
        )
    return str(Path(next(iter(spec.submodule_search_locations))) / rest)


def _find_remote(url: str, where: str) -> tuple[bool, list[tuple[str, int]]]:
    is_folder = not glob.has_magic(url) and format_of(url).format is None
    try:
        return is_folder, list_files(url, is_folder=is_folder)
    except FileNotFoundError:
        return is_folder, []
    except Exception as error:
        raise UserError(
            f"cannot be listed: {first_line(error)}",
            where=f"{where}={url}",
            remedy="check the address, the network and the credentials in the environment",
        ) from error

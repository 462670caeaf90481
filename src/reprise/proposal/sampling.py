"""Sample files of text: languages, sources, sizes and the text field, from the first records of some files."""

import contextlib
import glob
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow.parquet as pq

from reprise.documents.language import detect_languages
from reprise.documents.read.files import Listing, SourceFile, describe_skipped, list_input, summarise_skipped
from reprise.documents.read.formats import SEEKING, format_of
from reprise.documents.read.parsing import PageParser
from reprise.documents.read.records import Reading, Record, failures, read_stream
from reprise.documents.read.streams import damaged, decompress, open_raw
from reprise.errors import UserError
from reprise.recipe.documents import Input
from reprise.recipe.loading import check
from reprise.storage import printable

TEXT_FIELDS = (
    "text",
    "content",
    "body",
    "article",
    "document",
    "raw_content",
    "markdown",
    "passage",
    "abstract",
    "story",
)
"""Names of fields that may contain the text, tried in this order."""
SOURCES = {
    "web": r"web|crawl|\bcc\b|html|warc|common",
    "encyclopedia": r"wiki|encyclop",
    "book": r"book|novel|gutenberg|literature",
    "qa_forum": r"\bqa\b|qa_|forum|stack|reddit|faq",
    "paper": r"paper|arxiv|pubmed|thesis|journal|acad",
    "math": r"math",
    "code": r"code|github|\bsrc\b",
    "law": r"law|legal|court|statut",
    "medicine": r"medic|clinic|health|pubmed",
    "news": r"news|press",
}
"""Source -> pattern of the names of its files or folders."""
MAX_GROUPS = 12
SAMPLED_FILES = 8
"""Maximum files that are sampled for each file extension in a group."""
SAMPLED_RECORDS = 400
"""Minimum records that are read from a sampled file."""
SAMPLED_BYTES = 16 << 20
"""Minimum stored bytes that are read from a sampled file; readers look ahead by a megabyte, so fewer are inaccurate."""
DETECTED_RECORDS = 40
"""Maximum sampled records of a file whose language is detected if the file does not name it."""
CHAT = "chat"
"""Source of conversations, if the files do not name one."""
ONE_LANGUAGE = 0.95
"""Share of the bytes above which a group counts as being in one language."""


@dataclass
class Group:
    """Files that become one input of the recipe, and what was measured on them."""

    path: str
    source: str
    files: list[SourceFile]
    keep: bool = False
    """Whether this is text that the model must not lose."""
    text_field: str = "text"
    names_language: bool = False
    names_source: bool = False
    holds_chat: bool = False
    """Whether most of its documents are conversations."""
    language_bytes: Counter[str] = field(default_factory=Counter)
    """Language -> estimated UTF-8 bytes of text in all files."""
    source_bytes: Counter[str] = field(default_factory=Counter)
    documents: float = 0.0
    """Estimated documents."""
    samples: list[str] = field(default_factory=list)
    file_languages: set[str] = field(default_factory=set)
    """Main language of each sampled file."""

    @property
    def language(self) -> str | None:
        """The language of at least ONE_LANGUAGE of the bytes, and of each sampled file; else None."""
        if not self.language_bytes or len(self.file_languages) > 1:
            return None
        language, count = self.language_bytes.most_common(1)[0]
        return language if count >= ONE_LANGUAGE * self.language_bytes.total() else None

    def rename_source(self, source: str) -> None:
        """Give all its documents one source."""
        self.source, self.names_source = source, False
        self.source_bytes = Counter({source: self.source_bytes.total()})


def find_groups(path: str, *, keep: bool, notes: list[str]) -> list[Group]:
    """Find the inputs in a file or folder: one for each subfolder, and one for each file extension beside them.

    Raises:
        UserError: there is nothing to read.
    """
    setting = "--keep" if keep else "--data"
    listing = list_input(check(Input, {"path": path}, setting), setting)
    if listing.skipped:
        notes.append(f"{path}: not read are {describe_skipped(summarise_skipped(listing.skipped))}")
    root = Path(path).expanduser()
    if not root.is_dir():
        return [Group(path, guess_source(path), listing.files, keep)]
    groups = [*_folders(root, listing, keep), *_loose_files(root, listing, keep)]
    if len(groups) > MAX_GROUPS:
        groups = [Group(path, guess_source(path), listing.files, keep)]
    return groups


def _folders(root: Path, listing: Listing, keep: bool) -> Iterator[Group]:
    inside: dict[str, list[SourceFile]] = {}
    for file in listing.files:
        parts = Path(file.path).relative_to(root).parts
        if len(parts) > 1:
            inside.setdefault(parts[0], []).append(file)
    for folder, files in sorted(inside.items()):
        yield Group(str(root / folder), guess_source(folder), files, keep)


def _loose_files(root: Path, listing: Listing, keep: bool) -> Iterator[Group]:
    loose = [file for file in listing.files if Path(file.path).parent == root]
    of_folder = guess_source(root.resolve().name)
    sources = {file.path: guess_source(Path(file.path).name, of_folder) for file in loose}
    if len(loose) == len(listing.files) and len(set(sources.values())) == 1:
        yield from [Group(str(root), sources[loose[0].path], loose, keep)] if loose else []
        return
    for ending, files in _by_ending(loose).items():
        kinds = {sources[file.path] for file in files}
        if len(files) > 1 and len(kinds) == 1:
            yield Group(str(Path(glob.escape(str(root)), f"*{ending}")), kinds.pop(), files, keep)
        else:
            yield from (Group(file.path, sources[file.path], [file], keep) for file in files)


def _by_ending(files: Sequence[SourceFile]) -> dict[str, list[SourceFile]]:
    """File extension, such as `.jsonl.gz` -> files."""
    endings: dict[str, list[SourceFile]] = {}
    for file in files:
        path = Path(file.path)
        known = format_of(file.path).compression
        ending = "".join(path.suffixes[-2:]) if known else path.suffix
        endings.setdefault(ending, []).append(file)
    return endings


def guess_source(name: str, otherwise: str = "web") -> str:
    """Guess the kind of text in a file or folder from its name; `otherwise` if the name gives no hint."""
    lowered = name.lower()
    for source, pattern in SOURCES.items():
        if re.search(pattern, lowered):
            return source
    return otherwise


def sample(group: Group, notes: list[str]) -> None:
    """Measure languages, sources, sizes and the text field on some files of a group.

    Args:
        group: the measurements are written to its fields.
        notes: a line for each sampled file that cannot be read is added.

    Raises:
        UserError: no sampled record contains text.
    """
    with PageParser() as parser:  # one process for all files, as starting one takes a second
        kinds = list(_by_ending(group.files).values())
        entry = _entry_that_reads(group, [_spaced(files)[0] for files in kinds], parser)
        named_language = conversations = total = 0
        for files in kinds:
            chosen = _spaced(files)
            factor = sum(file.size for file in files) / max(1, sum(file.size for file in chosen))
            for file in chosen:
                try:
                    records, share = _first_records(file, entry, parser)
                except UserError as error:
                    notes.append(f"cannot be read: {error}")
                    continue
                if records and share:
                    _add(group, records, factor / share)
                    named_language += sum(record.fields["lang"] is not None for record in records)
                    conversations += sum(record.fields["messages"] is not None for record in records)
                    total += len(records)
    group.names_language = named_language == total
    group.holds_chat = 2 * conversations > total
    if group.holds_chat and not group.names_source:
        group.rename_source(CHAT)
    if 0 < conversations < total:
        notes.append(
            f"{group.path}: {conversations / total:.0%} of it are conversations: give them an input of their own, so "
            "that their share can be set"
        )


def _spaced(files: Sequence[SourceFile]) -> Sequence[SourceFile]:
    """At most SAMPLED_FILES files, evenly spaced."""
    return files[:: max(1, len(files) // SAMPLED_FILES)][:SAMPLED_FILES]


def _add(group: Group, records: Sequence[Record], scale: float) -> None:
    """Add the first records of a file to the measurements; each represents `scale` records."""
    texts = [str(record.fields["text"]) for record in records]
    group.documents += len(records) * scale
    group.samples += texts[:: max(1, len(texts) // 20)][:20]
    sizes: Counter[str] = Counter()
    for record, text, language in zip(records, texts, _languages(records, texts), strict=True):
        size = int(len(text.encode(errors="replace")) * scale)
        sizes[language] += size
        group.source_bytes[record.fields["source"] or group.source] += size
    group.language_bytes.update(sizes)
    group.file_languages.add(sizes.most_common(1)[0][0])


def _entry_that_reads(group: Group, files: Sequence[SourceFile], parser: PageParser) -> Input:
    """Make an input with the text field that reads the files, and the guessed source if the files do not name one.

    Args:
        group: the group, with its path and guessed source.
        files: one file of each extension; the input that reads most of them is returned.
        parser: parser of pages.

    Raises:
        UserError: no text field can be read.
    """
    best: tuple[int, Input | None] = 0, None
    for name in TEXT_FIELDS:
        fields: dict[str, str | None] = {} if name == "text" else {"text": name}
        for constants in ({}, {"source": group.source}):
            entry = Input(path=group.path, fields=fields, constants=constants)
            count = sum(_can_read(file, entry, parser) for file in files)
            best = (count, entry) if count > best[0] else best
        if best[0] == len(files):
            break
    if best[1] is not None:
        group.text_field, group.names_source = best[1].fields.get("text") or "text", not best[1].constants
        return best[1]
    raise UserError(
        "no document can be read here",
        where=group.path,
        remedy=f"name the text's field in a recipe (documents.inputs.0.fields); tried: {', '.join(TEXT_FIELDS)}",
    )


def _can_read(file: SourceFile, entry: Input, parser: PageParser) -> bool:
    """Whether an input finds text at the beginning of a file."""
    try:
        return bool(_first_records(file, entry, parser, 20, 0)[0])
    except UserError:
        return False


def _first_records(
    file: SourceFile,
    entry: Input,
    parser: PageParser,
    limit: int = SAMPLED_RECORDS,
    limit_bytes: int = SAMPLED_BYTES,
) -> tuple[list[Record], float]:
    """Read the first records of a file: at least `limit` records and `limit_bytes` stored bytes.

    Returns:
        The records, and the share of the file that they are.

    Raises:
        UserError: the file cannot be read, or lacks the column of the text.
    """
    records: list[Record] = []
    finished = True
    try:
        with contextlib.closing(open_raw(file.path)) as raw:
            counted = _Counted(raw)
            stream = raw if file.format in SEEKING else cast(BinaryIO, io.BufferedReader(counted, 1 << 16))
            compression = None if file.format in SEEKING else format_of(file.path).compression
            items = read_stream(decompress(stream, compression), file.path, file.format, Reading(entry, parser))
            for index, item in enumerate(items):
                if index >= limit and counted.num_bytes >= (0 if file.format in SEEKING else limit_bytes):
                    finished = False
                    break
                if isinstance(item, Record):
                    records.append(item)
    except UserError:
        raise
    except failures(file) as error:
        raise damaged(printable(file.path), len(records) + 1, error) from error
    if finished:
        return records, 1.0
    if file.format == "parquet":
        return records, limit / max(1, pq.ParquetFile(file.path).metadata.num_rows)
    if file.format in SEEKING:
        return records, 1.0
    return records, min(1.0, counted.num_bytes / max(1, file.size))


class _Counted(io.RawIOBase):
    """A file object that counts the bytes read from it."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw, self.num_bytes = raw, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        data = self._raw.read(len(buffer))
        buffer[: len(data)] = data
        self.num_bytes += len(data)
        return len(data)


def _languages(records: Sequence[Record], texts: Sequence[str]) -> list[str]:
    """Language of each record: as named in the file, else as detected on the nearest sampled record."""
    named = [record.fields["lang"] for record in records]
    if all(language is not None for language in named):
        return [str(language) for language in named]
    step = max(1, len(texts) // DETECTED_RECORDS)
    detected = detect_languages(list(texts[::step]))
    return [language or detected[min(row // step, len(detected) - 1)] for row, language in enumerate(named)]

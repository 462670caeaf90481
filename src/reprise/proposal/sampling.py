"""Look at files of text: languages, sources, sizes and the field of the text, from the first records of some files."""

import contextlib
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
from reprise.documents.read.records import Reading, Record, read_stream
from reprise.documents.read.streams import decompress, open_raw
from reprise.errors import UserError
from reprise.recipe.documents import Input
from reprise.recipe.loading import check

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
"""Names under which files hold the text, tried in this order."""
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
"""Source -> what its files or folders are called."""
MAX_GROUPS = 12
SAMPLED_FILES = 8
"""Files of a group that are sampled."""
SAMPLED_RECORDS = 400
"""Records of a sampled file that are read, at least."""
SAMPLED_BYTES = 16 << 20
"""Stored bytes of a sampled file that are read, at least: readers look ahead by a megabyte, so less would not tell."""
DETECTED_RECORDS = 40
"""Of these, records whose language is detected where the file does not say it."""
ONE_LANGUAGE = 0.95
"""From this share of the bytes on a group counts as being in one language."""


@dataclass
class Group:
    """Files that make one input of the recipe."""

    path: str
    source: str
    files: list[SourceFile]
    keep: bool = False
    """Text of what the model must not lose."""
    text_field: str = "text"
    names_language: bool = False
    names_source: bool = False
    language_bytes: Counter[str] = field(default_factory=Counter)
    """Language -> UTF-8 bytes of text, carried over to all files."""
    source_bytes: Counter[str] = field(default_factory=Counter)
    documents: float = 0.0
    """Estimated documents."""
    samples: list[str] = field(default_factory=list)

    @property
    def language(self) -> str | None:
        """The language of (nearly) all of its text, else None."""
        if not self.language_bytes:
            return None
        language, count = self.language_bytes.most_common(1)[0]
        return language if count >= ONE_LANGUAGE * self.language_bytes.total() else None


def find_groups(path: str, *, keep: bool, notes: list[str]) -> list[Group]:
    """The inputs of a file or folder: one for each folder directly in it, and one for each kind of file beside them.

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
    for file in loose:
        yield Group(file.path, sources[file.path], [file], keep)


def guess_source(name: str, otherwise: str = "web") -> str:
    """What kind of text a file or folder holds, by its name; `otherwise` where the name says nothing."""
    lowered = name.lower()
    for source, pattern in SOURCES.items():
        if re.search(pattern, lowered):
            return source
    return otherwise


def sample(group: Group) -> None:
    """Measure languages, sources, sizes and the field of the text on some files of a group.

    Raises:
        UserError: no record of the sampled files has a text.
    """
    step = max(1, len(group.files) // SAMPLED_FILES)
    chosen = group.files[::step][:SAMPLED_FILES]
    with PageParser() as parser:  # one process for all files: it starts in a second
        _sample_files(group, chosen, parser)


def _sample_files(group: Group, chosen: Sequence[SourceFile], parser: PageParser) -> None:
    entry = _entry_that_reads(group, chosen, parser)
    factor = sum(file.size for file in group.files) / max(1, sum(file.size for file in chosen))
    named_language = total = 0
    for file in chosen:
        records, share = _first_records(file, entry, parser)
        if not records or not share:
            continue
        scale = factor / share
        texts = [str(record.fields["text"]) for record in records]
        languages = _languages(records, texts)
        named_language += sum(record.fields["lang"] is not None for record in records)
        total += len(records)
        group.documents += len(records) * scale
        group.samples += texts[:: max(1, len(texts) // 20)][:20]
        for record, text, language in zip(records, texts, languages, strict=True):
            size = len(text.encode(errors="replace")) * scale
            group.language_bytes[language] += int(size)
            group.source_bytes[record.fields["source"] or group.source] += int(size)
    group.names_language = named_language == total


def _entry_that_reads(group: Group, files: Sequence[SourceFile], parser: PageParser) -> Input:
    """An input with the field of the text, and with the guessed source where the first file does not say it."""
    for name in TEXT_FIELDS:
        fields: dict[str, str | None] = {} if name == "text" else {"text": name}
        for constants in ({}, {"source": group.source}):
            entry = Input(path=group.path, fields=fields, constants=constants)
            with contextlib.suppress(UserError):
                if _first_records(files[0], entry, parser, 20, 0)[0]:
                    group.text_field, group.names_source = name, not constants
                    return entry
    raise UserError(
        "no document can be read here",
        where=group.path,
        remedy=f"name the text's field in a recipe (documents.inputs.0.fields); tried: {', '.join(TEXT_FIELDS)}",
    )


def _first_records(
    file: SourceFile,
    entry: Input,
    parser: PageParser,
    limit: int = SAMPLED_RECORDS,
    limit_bytes: int = SAMPLED_BYTES,
) -> tuple[list[Record], float]:
    """The first records of a file, `limit` or more until `limit_bytes` were read, and the share of it that they are."""
    records: list[Record] = []
    finished = True
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
    if finished:
        return records, 1.0
    if file.format == "parquet":
        return records, limit / max(1, pq.ParquetFile(file.path).metadata.num_rows)
    if file.format in SEEKING:
        return records, 1.0
    return records, min(1.0, counted.num_bytes / max(1, file.size))


class _Counted(io.RawIOBase):
    """A file that counts the bytes that were read."""

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
    """The language of each record: as its file says, else as detected on a sample and repeated."""
    named = [record.fields["lang"] for record in records]
    if all(language is not None for language in named):
        return [str(language) for language in named]
    step = max(1, len(texts) // DETECTED_RECORDS)
    detected = detect_languages(list(texts[::step]))
    return [language or detected[min(row // step, len(detected) - 1)] for row, language in enumerate(named)]

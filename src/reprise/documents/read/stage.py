"""Stage `read`: files -> the document table with ids, languages and splits; unreadable documents -> `rejects.jsonl`."""

import functools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xxhash
from typing_extensions import TypedDict

from reprise.documents.engine import Engine, run_pieces
from reprise.documents.language import Identifier, detect_languages
from reprise.documents.read.files import (
    SkippedFile,
    SkippedKind,
    SourceFile,
    describe_skipped,
    list_input,
    summarise_skipped,
)
from reprise.documents.read.parsing import PageParser
from reprise.documents.read.records import Item, Record, Reject, read_records, read_span
from reprise.documents.read.spans import Span, count_line_ends, number_lines, split_file
from reprise.documents.table import DOCUMENTS, PART_BYTES, TableWriter, hash_text
from reprise.errors import UserError
from reprise.progress import console
from reprise.recipe.documents import Input
from reprise.records import record
from reprise.storage import printable
from reprise.workspace import Work

REJECTS = "rejects.jsonl"

SPAN_BYTES = 2 * PART_BYTES
"""Longer JSON Lines files are split into spans of this many bytes, as stored."""
_BATCH_ROWS, _BATCH_CHARS = 1000, 4 << 20
_PIECE_FILES = 1000


@record
class BucketCount(TypedDict):
    """Documents of one language, source and split."""

    language: str
    """Language."""
    source: str
    """Source."""
    split: str
    """`train` or `valid`."""
    documents: int
    """Documents."""


@record
class ReadCounts(TypedDict):
    """Counts of the stage `read`, for its manifest."""

    documents_in: int
    """Records in the inputs."""
    documents_out: int
    """Documents that were written."""
    rejects: int
    """Records that could not be read."""
    not_in_sample: int
    """Records that the `sample` of their input leaves out."""
    reject_reasons: dict[str, int]
    """Reason -> rejects, most frequent first."""
    text_bytes: int
    """UTF-8 bytes of the documents."""
    languages_detected: int
    """Documents whose language was detected, because neither the file nor the recipe names it."""
    conversations: int
    """Documents that are conversations."""
    licences: dict[str, dict[str, int]]
    """Source -> licence that documents carry -> documents, for the model card."""
    fields_left_out: dict[str, int]
    """Field -> documents whose value was not text: the id is then the hash of the text; `label` chooses the topic."""
    buckets: list[BucketCount]
    """Documents of each language, source and split."""
    files: int
    """Files in the inputs."""
    file_bytes: int
    """Total size of these files."""
    skipped: list[SkippedKind]
    """Files in the inputs that were not read."""


@dataclass(frozen=True)
class FilePart:
    """A file, or a part of a long file."""

    file: SourceFile
    span: Span | None = None

    def num_bytes(self) -> int:
        """Size in bytes as stored."""
        return self.file.size if self.span is None else self.span.end - self.span.start


@dataclass(frozen=True)
class ReadPiece:
    """What one worker reads at a time: files of one input with a total size of about PART_BYTES."""

    index: int
    input_index: int
    entry: Input
    parts: list[FilePart]


@dataclass
class PieceCounts:
    """Counts of one piece."""

    documents: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    """Reason -> documents."""
    buckets: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(language, source, split) -> documents."""
    text_bytes: int = 0
    languages_detected: int = 0
    conversations: int = 0
    licences: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(source, licence) -> documents."""
    not_in_sample: int = 0
    fields_left_out: Counter[str] = field(default_factory=Counter)
    skipped: list[SkippedFile] = field(default_factory=list)

    def add(self, other: "PieceCounts") -> None:
        """Add the counts of another piece."""
        self.documents += other.documents
        self.rejects.update(other.rejects)
        self.buckets.update(other.buckets)
        self.text_bytes += other.text_bytes
        self.languages_detected += other.languages_detected
        self.conversations += other.conversations
        self.licences.update(other.licences)
        self.not_in_sample += other.not_in_sample
        self.fields_left_out.update(other.fields_left_out)
        self.skipped += other.skipped


def run(work: Work, *, inputs: list[Input], engine: Engine, valid_share: float, max_reject_share: float) -> None:
    """Write `documents/` and `rejects.jsonl`.

    Raises:
        UserError: a file is missing or damaged, an input contains no document, or too many documents cannot be read.
    """
    if not inputs:
        raise UserError("there is no input", where="documents.inputs=[]", remedy="name at least one file or folder")
    listings = [list_input(entry, _setting(index)) for index, entry in enumerate(inputs)]
    pieces = list(
        _pieces(
            inputs,
            [_split_long_files(listing.files, entry, engine) for listing, entry in zip(listings, inputs, strict=True)],
        )
    )
    num_bytes = sum(part.num_bytes() for piece in pieces for part in piece.parts)
    read = functools.partial(_read_piece, str(work.output.resolve()), valid_share)
    results = run_pieces(read, pieces, engine=engine, what="read", num_bytes=num_bytes)

    total = PieceCounts(skipped=[skipped for listing in listings for skipped in listing.skipped])
    per_input: Counter[int] = Counter()
    for piece, counts in zip(pieces, results, strict=True):
        per_input[piece.input_index] += counts.documents + counts.not_in_sample + counts.rejects.total()
        total.add(counts)
    skipped = summarise_skipped(total.skipped)
    if skipped:
        console.print(f"read: skipped {describe_skipped(skipped)}", markup=False, highlight=False, soft_wrap=True)
    if total.conversations:
        console.print(
            f"read: {total.conversations:,} of {total.documents:,} documents are conversations", highlight=False
        )
    for index, entry in enumerate(inputs):
        if not per_input[index]:
            raise UserError(
                "the input holds no document",
                where=f"{_setting(index)}={printable(entry.path)}",
                remedy="take it out, or check its format",
            )
    rejects = _join_rejects(work.output)
    work.counts.update(
        ReadCounts(
            documents_in=total.documents + total.not_in_sample + rejects,
            documents_out=total.documents,
            rejects=rejects,
            not_in_sample=total.not_in_sample,
            reject_reasons=dict(total.rejects.most_common()),
            text_bytes=total.text_bytes,
            languages_detected=total.languages_detected,
            conversations=total.conversations,
            licences=_by_source(total.licences),
            fields_left_out=dict(total.fields_left_out),
            buckets=[
                BucketCount(language=lang, source=source, split=split, documents=count)
                for (lang, source, split), count in sorted(total.buckets.items())
            ],
            files=sum(len(listing.files) for listing in listings),
            file_bytes=sum(file.size for listing in listings for file in listing.files),
            skipped=skipped,
        )
    )
    if rejects > max_reject_share * (total.documents + rejects):
        raise _too_many(work.output / REJECTS, rejects, total.documents, max_reject_share, total.rejects)


def _setting(index: int) -> str:
    return f"documents.inputs.{index}.path"


def _split_long_files(files: Sequence[SourceFile], entry: Input, engine: Engine) -> list[FilePart]:
    """Each file as one part, or if it is long as several parts with known line numbers."""
    spans = {file: split_file(file, entry, SPAN_BYTES) for file in files}
    pieces = [(file.path, span) for file, parts in spans.items() for span in parts]
    if not pieces:
        return [FilePart(file) for file in files]
    num_bytes = sum(span.end - span.start for _, span in pieces)
    counted = run_pieces(_count_line_ends, pieces, engine=engine, what="count lines", num_bytes=num_bytes)
    line_ends = dict(zip(pieces, counted, strict=True))
    parts: list[FilePart] = []
    for file, of_file in spans.items():
        numbered = number_lines(of_file, [line_ends[file.path, span] for span in of_file])
        parts += [FilePart(file, span) for span in numbered] if numbered else [FilePart(file)]
    return parts


def _count_line_ends(piece: tuple[str, Span]) -> int:
    return count_line_ends(*piece)


def _pieces(inputs: Sequence[Input], parts_of_inputs: Sequence[Sequence[FilePart]]) -> Iterator[ReadPiece]:
    """Group files of one input into pieces of about PART_BYTES, so that many small files make one piece."""
    index = 0
    for input_index, (entry, parts) in enumerate(zip(inputs, parts_of_inputs, strict=True)):
        group: list[FilePart] = []
        group_bytes = 0
        for part in [*parts, None]:
            if group and (part is None or len(group) >= _PIECE_FILES or group_bytes >= PART_BYTES):
                yield ReadPiece(index, input_index, entry, group)
                index, group, group_bytes = index + 1, [], 0
            if part is not None:
                group.append(part)
                group_bytes += part.num_bytes()


def _read_piece(output: str, valid_share: float, piece: ReadPiece) -> PieceCounts:
    """Read the files of one piece into parts that are named after it. Runs in a worker."""
    entry = piece.entry
    counts = PieceCounts()
    rejects = Path(output, f"{REJECTS}.{piece.index:06d}")
    with (
        TableWriter(Path(output, DOCUMENTS), prefix=f"part-{piece.index:06d}") as writer,
        rejects.open("w", encoding="utf-8") as rejected,
        PageParser() as parser,
    ):
        for records, bad in _batches(_read_parts(piece, counts.skipped, parser)):
            for reject in bad:
                counts.rejects[reject.reason] += 1
                rejected.write(json.dumps(asdict(reject), ensure_ascii=False) + "\n")
            rows = [_as_row(record) for record in records if _sampled(str(record.fields["text"]), entry.sample)]
            counts.not_in_sample += len(records) - len(rows)
            counts.fields_left_out.update(name for record in records for name in record.left_out)
            counts.conversations += sum(row["messages"] is not None for row in rows)
            licences = [(row["source"], row.pop("licence")) for row in rows]
            counts.licences.update((source, licence) for source, licence in licences if licence is not None)
            counts.languages_detected += _fill(rows, valid_share, piece.entry.language_identifier)
            counts.buckets.update((row["lang"], row["source"], row["split"]) for row in rows)
            counts.text_bytes += sum(len(row["text"].encode()) for row in rows)
            if rows:
                writer.write(rows)
    counts.documents = writer.num_rows
    return counts


def _read_parts(piece: ReadPiece, skipped: list[SkippedFile], parser: PageParser) -> Iterator[Item]:
    for part in piece.parts:
        if part.span is None:
            yield from read_records(part.file, piece.entry, skipped.append, parser)
        else:
            yield from read_span(part.file, piece.entry, part.span)


Row = dict[str, Any]


def _batches(items: Iterator[Item]) -> Iterator[tuple[list[Record], list[Reject]]]:
    """Yield records and rejects in batches with a bounded amount of text."""
    records: list[Record] = []
    bad: list[Reject] = []
    num_chars = 0
    for item in items:
        if isinstance(item, Reject):
            bad.append(item)
        else:
            records.append(item)
            num_chars += len(str(item.fields["text"]))
        if len(records) + len(bad) >= _BATCH_ROWS or num_chars >= _BATCH_CHARS:
            yield records, bad
            records, bad, num_chars = [], [], 0
    yield records, bad


def _as_row(record: Record) -> Row:
    row: Row = dict(record.fields)
    row["origin"] = row["origin"] or f"{record.file}:{record.line}"
    row["id"] = row["id"] or hash_text(row["text"])
    return row


def _sampled(text: str, share: float) -> bool:
    """Whether a document is in the sample: by a hash of its text that differs from the one that decides the split."""
    return share >= 1.0 or xxhash.xxh3_64_intdigest(text.encode(), seed=1) < share * 2.0**64


def _fill(rows: list[Row], valid_share: float, identifier: Identifier) -> int:
    """Set the split if the file gives none, and the language; returns how many languages were detected.

    The split depends only on the text, so copies of a text in several files have the same split.
    """
    unknown = [row for row in rows if row["lang"] is None]
    if unknown:
        for row, language in zip(unknown, detect_languages([row["text"] for row in unknown], identifier), strict=True):
            row["lang"] = language
    for row in rows:
        if row["split"] is None:
            row["split"] = (
                "valid" if xxhash.xxh3_64_intdigest(row["text"].encode()) < valid_share * 2.0**64 else "train"
            )
    return len(unknown)


def _by_source(licences: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Source -> licence -> documents, most frequent first."""
    table: dict[str, dict[str, int]] = {}
    for (source, licence), count in sorted(licences.items(), key=lambda item: (item[0][0], -item[1], item[0][1])):
        table.setdefault(source, {})[licence] = count
    return table


def _join_rejects(output: Path) -> int:
    """Concatenate the pieces' rejects into one file, in order; returns how many there are."""
    count = 0
    pieces = sorted(output.glob(f"{REJECTS}.*"))
    with (output / REJECTS).open("w", encoding="utf-8") as joined:
        for piece in pieces:
            with piece.open(encoding="utf-8") as lines:
                for line in lines:
                    joined.write(line)
                    count += 1
    for piece in pieces:
        piece.unlink()
    return count


_BROKEN = "an optional system message, then user and assistant in turn, is a conversation (docs/documents.md)"
_REMEDIES = {
    "no_conversation": "name the field that holds the conversation: `fields: {messages: NAME}`",
    "tool_message": "conversations with tools cannot be read; take them out",
    **dict.fromkeys(
        (
            "messages_are_not_a_list",
            "message_is_not_an_object",
            "message_is_not_text",
            "unknown_role",
            "no_messages",
            "system_message_is_not_the_first",
            "roles_do_not_alternate",
            "empty_message",
            "no_answer",
        ),
        _BROKEN,
    ),
    "no_text": "name the field that holds the text: `fields: {text: NAME}`",
    "text_is_not_a_string": "name the field that holds the text: `fields: {text: NAME}`",
    "unknown_language_code": "write a code of ISO 639 or BCP 47, or set it for the input: `constants: {lang: tr}`",
    "no_source": "name the source of the input: `constants: {source: web}`",
    "not_utf8": "set `encoding`, such as gb18030 or cp1252, or convert the file to UTF-8",
    "wrong_encoding": "set another `encoding`",
    "lone_surrogate": "set `lone_surrogates: repair`, which writes U+FFFD instead of the lone surrogate",
    "wrong_number_of_columns": "correct the rows: each needs as many columns as the first line names",
    "not_json": "one JSON object to a line is expected; set `format` if the file holds something else",
    "not_an_object": "one JSON object to a line is expected",
}


def _too_many(path: Path, rejects: int, documents: int, limit: float, reasons: Counter[str]) -> UserError:
    with path.open(encoding="utf-8") as lines:
        first = json.loads(next(lines))
    listing = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    remedy = _REMEDIES.get(reasons.most_common(1)[0][0], "correct the files")
    return UserError(
        f"{rejects} of {rejects + documents} documents cannot be read ({listing}); the first is this one",
        where=f"{first['file']}:{first['line']}",
        remedy=f"{remedy}; all are listed in {path}; documents.max_reject_share={limit:g} is the limit",
    )

"""Stage `read`: the user's files -> the document table; what cannot be read goes to `rejects.jsonl` with its reason."""

import functools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import xxhash

from reprise.documents.engine import Engine, run_pieces
from reprise.documents.language import detect_languages
from reprise.documents.read.files import SourceFile, find_files
from reprise.documents.read.records import Record, Reject, read_records
from reprise.documents.table import DOCUMENTS, PART_BYTES, TableWriter, hash_text
from reprise.errors import UserError
from reprise.recipe.documents import Input
from reprise.workspace import Work

REJECTS = "rejects.jsonl"

_BATCH_ROWS, _BATCH_CHARS = 1000, 4 << 20
_PIECE_FILES = 1000


def input_files(inputs: Sequence[Input]) -> list[SourceFile]:
    """All files that the stage reads, in order.

    Raises:
        UserError: an input has none, or its format cannot be told.
    """
    return [file for number, entry in enumerate(inputs) for file in find_files(entry, _setting(number))]


def run(work: Work, *, inputs: list[Input], engine: Engine, valid_share: float, max_reject_share: float) -> None:
    """Write `documents/` and `rejects.jsonl`.

    Raises:
        UserError: a file is missing or damaged, an input holds no document, or too many documents cannot be read.
    """
    if not inputs:
        raise UserError("there is no input", where="documents.inputs=[]", remedy="name at least one file or folder")
    pieces = list(_pieces(inputs))
    num_bytes = sum(file["size"] for piece in pieces for file in piece["files"])
    read = functools.partial(_read_piece, str(work.output.resolve()), valid_share)
    results = run_pieces(read, pieces, engine=engine, what="read", num_bytes=num_bytes)

    per_input: Counter[int] = Counter()
    buckets: Counter[tuple[str, str, str]] = Counter()
    reasons: Counter[str] = Counter()
    for piece, result in zip(pieces, results, strict=True):
        per_input[piece["input"]] += result["documents"] + result["left_out"] + sum(result["rejects"].values())
        reasons.update(result["rejects"])
        buckets.update({(lang, source, split): count for lang, source, split, count in result["buckets"]})
    for number, entry in enumerate(inputs):
        if not per_input[number]:
            raise UserError(
                "the input holds no document",
                where=f"{_setting(number)}={entry.path}",
                remedy="take it out, or check its format",
            )
    rejects = _join_rejects(work.output)
    num_documents = sum(result["documents"] for result in results)
    left_out = sum(result["left_out"] for result in results)
    work.counts.update(
        documents_in=num_documents + left_out + rejects,
        documents_out=num_documents,
        rejects=rejects,
        not_in_sample=left_out,
        reject_reasons=dict(reasons.most_common()),
        text_bytes=sum(result["text_bytes"] for result in results),
        languages_detected=sum(result["detected"] for result in results),
        buckets=[
            {"language": lang, "source": source, "split": split, "documents": count}
            for (lang, source, split), count in sorted(buckets.items())
        ],
    )
    if rejects > max_reject_share * (num_documents + rejects):
        raise _too_many(work.output / REJECTS, rejects, num_documents, max_reject_share, reasons)


def _setting(number: int) -> str:
    return f"documents.inputs.{number}.path"


def _pieces(inputs: Sequence[Input]) -> Iterator[dict[str, Any]]:
    """Groups of files of one input, of about PART_BYTES: many small files make one piece."""
    number = 0
    for index, entry in enumerate(inputs):
        group: list[SourceFile] = []
        for file in [*find_files(entry, _setting(index)), None]:
            full = len(group) >= _PIECE_FILES or sum(held.size for held in group) >= PART_BYTES
            if group and (file is None or full):
                yield {
                    "number": number,
                    "input": index,
                    "entry": entry.model_dump(),
                    "files": [asdict(f) for f in group],
                }
                number, group = number + 1, []
            if file is not None:
                group.append(file)


def _read_piece(output: str, valid_share: float, piece: dict[str, Any]) -> dict[str, Any]:
    """Runs in a worker: the files of one piece into parts that are named after it."""
    name = f"part-{piece['number']:05d}"
    entry = Input(**piece["entry"])
    buckets: Counter[tuple[str, str, str]] = Counter()
    reasons: Counter[str] = Counter()
    text_bytes = detected = left_out = 0
    rejects = Path(output, f"{REJECTS}.{piece['number']:05d}")
    with TableWriter(Path(output, DOCUMENTS), prefix=name) as writer, rejects.open("w", encoding="utf-8") as rejected:
        for rows, bad in _batches([SourceFile(**file) for file in piece["files"]], entry):
            for reject in bad:
                reasons[reject.reason] += 1
                rejected.write(json.dumps(asdict(reject), ensure_ascii=False) + "\n")
            num_read = len(rows)
            rows = [row for row in rows if _sampled(row["text"], entry.sample)]
            left_out += num_read - len(rows)
            detected += _fill(rows, valid_share)
            buckets.update((row["lang"], row["source"], row["split"]) for row in rows)
            text_bytes += sum(len(row["text"].encode()) for row in rows)
            if rows:
                writer.write(rows)
    return {
        "documents": writer.num_rows,
        "rejects": dict(reasons),
        "buckets": [[*bucket, count] for bucket, count in buckets.items()],
        "text_bytes": text_bytes,
        "detected": detected,
        "left_out": left_out,
    }


Row = dict[str, Any]


def _batches(files: Sequence[SourceFile], entry: Input) -> Iterator[tuple[list[Row], list[Reject]]]:
    """Rows and rejects, a bounded number of characters at a time."""
    rows: list[Row] = []
    bad: list[Reject] = []
    num_chars = 0
    for file in files:
        for item in read_records(file, entry):
            if isinstance(item, Reject):
                bad.append(item)
            else:
                rows.append(_as_row(file, item))
                num_chars += len(rows[-1]["text"])
            if len(rows) + len(bad) >= _BATCH_ROWS or num_chars >= _BATCH_CHARS:
                yield rows, bad
                rows, bad, num_chars = [], [], 0
    yield rows, bad


def _as_row(file: SourceFile, record: Record) -> Row:
    row: Row = dict(record.fields)
    row["origin"] = row["origin"] or f"{file.path}:{record.line}"
    row["id"] = row["id"] or hash_text(row["text"])
    return row


def _sampled(text: str, share: float) -> bool:
    """Whether a document is in the sample: by a hash of its text, other than the one that decides the split."""
    return share >= 1.0 or xxhash.xxh3_64_intdigest(text.encode(), seed=1) < share * 2.0**64


def _fill(rows: list[Row], valid_share: float) -> int:
    """Set the split where the files give none, and the language; returns how many languages were detected.

    The split is a function of the text alone: copies of a text in several files cannot straddle it.
    """
    unknown = [row for row in rows if row["lang"] is None]
    if unknown:
        for row, language in zip(unknown, detect_languages([row["text"] for row in unknown]), strict=True):
            row["lang"] = language
    for row in rows:
        if row["split"] is None:
            row["split"] = (
                "valid" if xxhash.xxh3_64_intdigest(row["text"].encode()) < valid_share * 2.0**64 else "train"
            )
    return len(unknown)


def _join_rejects(output: Path) -> int:
    """Put the pieces' rejects into one file, in order; returns how many there are."""
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


_REMEDIES = {
    "no_text": "name the field that holds the text: `fields: {text: NAME}`",
    "text_is_not_a_string": "name the field that holds the text: `fields: {text: NAME}`",
    "unknown_language_code": "write a code of ISO 639 or BCP 47, or set it for the input: `constants: {lang: tr}`",
    "no_source": "name the source of the input: `constants: {source: web}`",
    "not_utf8": "convert the file to UTF-8",
    "not_json": "one JSON object to a line is expected; set `format` if the file holds something else",
    "not_an_object": "one JSON object to a line is expected",
}


def _too_many(path: Path, rejects: int, documents: int, limit: float, reasons: Counter[str]) -> UserError:
    with path.open(encoding="utf-8") as lines:
        first = json.loads(next(lines))
    listing = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    remedy = _REMEDIES.get(reasons.most_common(1)[0][0], "mend the files")
    return UserError(
        f"{rejects} of {rejects + documents} documents cannot be read ({listing}); the first is this one",
        where=f"{first['file']}:{first['line']}",
        remedy=f"{remedy}; all are listed in {path}; documents.max_reject_share={limit:g} is the limit",
    )

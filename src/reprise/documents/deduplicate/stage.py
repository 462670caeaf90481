"""Stage `deduplicate`: drop exact copies, then near copies, then repeated lines, within the recipe's memory limit."""

import functools
import itertools
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from reprise.documents.deduplicate.exact import DECISIONS, SCHEMA, find_exact_copies, hash_normal
from reprise.documents.deduplicate.lines import (
    LINE,
    REASON,
    find_repeated,
    hash_lines,
    removed_on,
    without_lines,
)
from reprise.documents.deduplicate.near import (
    FIRST_TRAIN,
    PartGroup,
    SignatureFiles,
    choose_near_copies,
    compare_pairs,
    describe_drops,
    pair_up,
)
from reprise.documents.deduplicate.records import (
    BAND,
    EDGE,
    Range,
    as_ranges,
    count_bytes,
    load_range,
    load_table_range,
    save_sorted,
    save_table,
    split_hashes,
)
from reprise.documents.deduplicate.repeats import choose_repeats, save_repeats, without_repeats
from reprise.documents.deduplicate.shingles import normalise_texts
from reprise.documents.deduplicate.signatures import NO_WORDS, choose_bands, hash_bands, sign_normal
from reprise.documents.engine import Engine, keep_workers, num_workers, run_pieces
from reprise.documents.part_step import Drop, Outcome, Removal, RowsOrigin, StepCounts, Tally, pass_through, run_step
from reprise.documents.table import DOCUMENTS, list_parts
from reprise.recipe.documents import Deduplicate, RepeatedLines
from reprise.records import record
from reprise.workspace import Work

_BATCH_ROWS = 1000
_HELD_OUT, _TRAIN = 0, 1
_REPEATED = "repeated.npy"
_LINES_REMOVED, _DOCUMENTS_SHORTENED = ("lines removed",), ("documents shortened",)


@record
class DeduplicateCounts(StepCounts):
    """Counts of the stage `deduplicate`, for its manifest."""

    bands: int
    """Bands per signature."""
    band_rows: int
    """Hashes per band."""
    candidate_pairs: int
    """Pairs of documents whose signatures were compared."""
    repeated: int
    """Copies that are kept because of `documents.deduplicate.repeats`."""
    lines_removed: int | None
    """Lines that were removed from documents that are kept; null if `documents.deduplicate.lines` is not set."""
    documents_shortened: int | None
    """Documents that they were removed from."""


@dataclass(frozen=True)
class SignPiece:
    """A part of the table whose documents get signatures."""

    index: int
    path: str
    first_key: int
    """Key of its first document: the row in the whole table."""


def run(work: Work, *, deduplicate: Deduplicate, engine: Engine) -> None:
    """Write `documents/` and `dropped/` of the stage."""
    if not deduplicate.enabled:
        passed: DeduplicateCounts = {
            **pass_through(work, "clean"),
            "lines_removed": None,
            "documents_shortened": None,
            "bands": 0,
            "band_rows": 0,
            "candidate_pairs": 0,
            "repeated": 0,
        }
        work.counts.update(passed)
        return
    scratch = work.output.resolve() / "scratch"
    parts = list_parts(work.inputs["clean"].resolve() / DOCUMENTS)
    lengths = [pq.read_metadata(part).num_rows for part in parts]
    first_keys = tuple(itertools.accumulate(lengths, initial=0))
    bands, band_rows = choose_bands(deduplicate)
    with keep_workers():
        num_pairs = _decide(scratch, parts, first_keys, deduplicate, engine)
        repeated = choose_repeats(scratch / "decisions", deduplicate.repeats) if deduplicate.repeats else None
        if repeated is not None:
            save_repeats(scratch / _REPEATED, repeated)
        if deduplicate.lines is not None:
            _decide_lines(scratch, parts, first_keys, deduplicate, engine)
        step = functools.partial(
            _drop_copies,
            str(scratch),
            dict(zip([part.name for part in parts], first_keys, strict=False)),
            deduplicate.lines,
        )
        counted, tally = run_step(work, "clean", step, engine=engine, what="deduplicate")
    shutil.rmtree(scratch, ignore_errors=True)
    by_line = deduplicate.lines is not None
    counts: DeduplicateCounts = {
        **counted,
        "lines_removed": tally[_LINES_REMOVED] if by_line else None,
        "documents_shortened": tally[_DOCUMENTS_SHORTENED] if by_line else None,
        "bands": bands,
        "band_rows": band_rows,
        "candidate_pairs": num_pairs,
        "repeated": 0 if repeated is None else len(repeated),
    }
    work.counts.update(counts)


def _decide(
    scratch: Path, parts: Sequence[Path], first_keys: tuple[int, ...], settings: Deduplicate, engine: Engine
) -> int:
    """Write the decisions on all documents to drop into `scratch/decisions`; returns the count of candidate pairs."""
    folder = {
        name: str(scratch / name) for name in ("exact", "bands", "signatures", "pairs", "edges", "near", "decisions")
    }
    for path in folder.values():
        Path(path).mkdir(parents=True)
    text_bytes = 2 * sum(part.stat().st_size for part in parts)
    workers = num_workers()
    memory_bytes = int(settings.memory_gb * 1e9)
    each = functools.partial(run_pieces, engine=engine, num_bytes=text_bytes)

    pieces = [
        SignPiece(index, str(part), key) for index, (part, key) in enumerate(zip(parts, first_keys, strict=False))
    ]
    each(functools.partial(_sign_part, settings, str(scratch)), pieces, what="sign")
    ranges = split_hashes(count_bytes(scratch / "exact", ".arrow"), memory_bytes, workers)
    each(functools.partial(find_exact_copies, folder["exact"], folder["decisions"]), ranges, what="exact copies")
    copies = _write_copies(scratch, first_keys[-1])
    ranges = split_hashes(count_bytes(scratch / "bands", ".npy"), memory_bytes, workers)
    each(functools.partial(pair_up, folder["bands"], str(copies), folder["pairs"]), ranges, what="pair up")
    shutil.rmtree(folder["bands"])
    pair_bytes = count_bytes(scratch / "pairs", ".npy")
    ranges = _split_keys(first_keys[-1], max(workers, -(-3 * pair_bytes * workers // memory_bytes)))
    signatures = SignatureFiles(folder["signatures"], first_keys, settings.permutations)
    compare = functools.partial(compare_pairs, folder["pairs"], folder["edges"], signatures, settings.threshold)
    num_pairs = sum(each(compare, ranges, what="compare"))
    block_edges = max(1000, memory_bytes // (8 * EDGE.itemsize))
    choose = functools.partial(choose_near_copies, folder["edges"], folder["near"], block_edges)
    each(choose, [first_keys[-1]], what="choose")
    groups = _group_parts(parts, first_keys, 4 * workers)
    each(functools.partial(describe_drops, folder["near"], folder["decisions"]), groups, what="describe")
    return num_pairs


def _split_keys(num_documents: int, count: int) -> list[Range]:
    return as_ranges(sorted({index * num_documents // count for index in range(count)}))


def _group_parts(parts: Sequence[Path], first_keys: Sequence[int], count: int) -> list[PartGroup]:
    size = max(1, -(-len(parts) // count))
    return [
        PartGroup(
            start // size, [str(part) for part in parts[start : start + size]], first_keys[start : start + size + 1]
        )
        for start in range(0, len(parts), size)
    ]


def _sign_part(settings: Deduplicate, scratch: str, piece: SignPiece) -> None:
    """Write what later steps need from a part: hashes for exact copies, bands and signatures. Runs in a worker."""
    num_bands, band_rows = choose_bands(settings)
    columns = ["id", "text", "lang", "source", "split", "origin"]
    tables, bands, signatures = (
        [SCHEMA.empty_table()],
        [np.zeros(0, BAND)],
        [np.zeros((0, settings.permutations), np.uint32)],
    )
    key = piece.first_key
    with pq.ParquetFile(piece.path) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            texts = batch["text"].to_pylist()
            normal = normalise_texts(texts)
            signed = sign_normal(normal, batch["lang"].to_pylist(), settings)
            table, priorities = _exact_records(batch, texts, normal, key)
            with_words = ~(signed == NO_WORDS).all(axis=1)
            records = np.zeros((int(with_words.sum()), num_bands), BAND)
            records["hash"] = hash_bands(signed[with_words], num_bands, band_rows)
            records["priority"] = priorities[with_words, np.newaxis]
            records["key"] = key + np.flatnonzero(with_words)[:, np.newaxis]
            tables.append(table)
            bands.append(records.ravel())
            signatures.append(signed)
            key += batch.num_rows
    name = f"{piece.index:06d}"
    save_table(Path(scratch, "exact", f"{name}.arrow"), pa.concat_tables(tables).sort_by("exact"))
    save_sorted(Path(scratch, "bands", f"{name}.npy"), np.concatenate(bands), "hash")
    np.save(Path(scratch, "signatures", f"{name}.npy"), np.concatenate(signatures))


def _exact_records(
    batch: pa.RecordBatch, texts: list[str], normal: list[str], first_key: int
) -> tuple[pa.Table, np.ndarray]:
    """Rows of exact.SCHEMA, and priorities: one bit that is set for training documents, then 63 bits of the text's
    hash."""
    exact = hash_normal(normal)
    text_hashes = [_hash(text) for text in texts]
    priorities = _priorities(text_hashes, batch["split"])
    table = pa.table(
        [
            exact[:, 0],
            exact[:, 1],
            (priorities >> np.uint64(63)).astype(np.uint8),
            pa.array(text_hashes, pa.binary(16)),
            batch["origin"],
            batch["source"],
            batch["id"],
            np.arange(first_key, first_key + batch.num_rows),
        ],
        schema=SCHEMA,
    )
    return table, priorities


def _hash(text: str) -> bytes:
    return xxhash.xxh3_128_digest(text.encode())


def _priorities(text_hashes: Sequence[bytes], splits: pa.Array) -> NDArray[np.uint64]:
    ranks = np.where(np.array(splits.to_pylist()) == "valid", _HELD_OUT, _TRAIN).astype(np.uint64)
    heads = np.array([int.from_bytes(digest[:8], "big") for digest in text_hashes], np.uint64)
    return (ranks << np.uint64(63)) | (heads >> np.uint64(1))


def _decide_lines(
    scratch: Path, parts: Sequence[Path], first_keys: tuple[int, ...], settings: Deduplicate, engine: Engine
) -> None:
    """Write the lines to remove into `scratch/removed`."""
    (scratch / "lines").mkdir()
    (scratch / "removed").mkdir()
    assert settings.lines is not None
    each = functools.partial(run_pieces, engine=engine, num_bytes=2 * sum(part.stat().st_size for part in parts))
    pieces = [
        SignPiece(index, str(part), key) for index, (part, key) in enumerate(zip(parts, first_keys, strict=False))
    ]
    each(functools.partial(_hash_lines_of_part, settings.lines, str(scratch)), pieces, what="hash lines")
    memory_bytes = int(settings.memory_gb * 1e9)
    ranges = split_hashes(count_bytes(scratch / "lines", ".npy"), memory_bytes, num_workers())
    find = functools.partial(_find_repeated_lines, str(scratch), settings.lines.max_documents)
    each(find, ranges, what="repeated lines")


def _hash_lines_of_part(lines: RepeatedLines, scratch: str, piece: SignPiece) -> None:
    """Runs in a worker."""
    records = [np.zeros(0, LINE)]
    key = piece.first_key
    with pq.ParquetFile(piece.path) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=["text", "source", "split", "messages"]):
            drops = _decisions_on(str(Path(scratch, "decisions")), key, key + batch.num_rows)
            priorities = _priorities([_hash(text) for text in batch["text"].to_pylist()], batch["split"])
            records.append(hash_lines(batch, priorities, key, set(drops["key"].to_pylist()), lines))
            key += batch.num_rows
    save_sorted(Path(scratch, "lines", f"{piece.index:06d}.npy"), np.concatenate(records), "hash")


def _find_repeated_lines(scratch: str, max_documents: int, chosen: Range) -> None:
    """Runs in a worker."""
    removed = find_repeated(load_range(Path(scratch, "lines"), "hash", chosen, LINE), max_documents, FIRST_TRAIN)
    save_sorted(Path(scratch, "removed", f"{chosen.index:06d}.npy"), removed, "key", "index")


def _write_copies(scratch: Path, num_documents: int) -> Path:
    """Write whether each document is an exact copy that is dropped: bool[documents]."""
    is_copy = np.zeros(num_documents, bool)
    for path in sorted((scratch / "decisions").glob("exact-*.arrow")):
        with pa.memory_map(str(path)) as source:
            is_copy[pa.ipc.open_file(source).read_all()["key"].to_numpy()] = True
    path = scratch / "copies.npy"
    np.save(path, is_copy)
    return path


def _drop_copies(
    scratch: str, first_keys: dict[str, int], lines: RepeatedLines | None, rows: pa.Table, origin: RowsOrigin
) -> Outcome:
    """Drop the copies among some rows, and remove repeated lines from the others. Runs in a worker."""
    first = first_keys[origin.part] + origin.first_row
    decisions = _decisions_on(str(Path(scratch, "decisions")), first, first + rows.num_rows)
    repeated = Path(scratch, _REPEATED)
    if repeated.exists():
        decisions = without_repeats(decisions, repeated)
    drops: list[Drop] = [(drop["key"] - first, drop["reason"], drop["detail"]) for drop in decisions.to_pylist()]
    if lines is None:
        return Outcome(drops=drops)
    texts = rows["text"].to_pylist()
    removals: list[Removal] = []
    tally: Tally = Counter()
    for key, indices in sorted(removed_on(Path(scratch, "removed"), first, first + rows.num_rows).items()):
        row = key - first
        text, removed = without_lines(texts[row], indices)
        detail = f"{len(indices)} of {texts[row].count(chr(10)) + 1} lines are in other documents"
        if len(text) < max(1, lines.min_chars_left):
            drops.append((row, REASON, detail))
            continue
        texts[row] = text
        removals.append((row, "removed_lines", detail, removed))
        tally[_LINES_REMOVED] += len(indices)
        tally[_DOCUMENTS_SHORTENED] += 1
    return Outcome(columns={"text": texts} if removals else {}, drops=drops, removals=removals, tally=tally)


def _decisions_on(decisions: str, first: int, end: int) -> pa.Table:
    return load_table_range(Path(decisions), "key", Range(0, first, end), DECISIONS).sort_by("key")

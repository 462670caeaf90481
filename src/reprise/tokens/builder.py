"""Writes documents and their token ids to the files of a token store: sorted runs, merged bucket by bucket."""

import functools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from reprise.documents.engine import Engine, run_pieces
from reprise.model.chat import Answers, ChatTemplate, encode_documents
from reprise.model.tokenizer import Ids, Tokenizer
from reprise.storage import digest, file_checksum, write_json
from reprise.tokens.gather import gather_slices
from reprise.tokens.runs import Columns, Run, RunWriter, SplitBucket, make_columns, offsets_of, sort_documents
from reprise.tokens.store import STORE, VERSION, BucketDescription, BucketKey, StoreDescription, TokenStore

HELD_BYTES = 64 << 20
"""Bytes of tokens that are collected in memory before they are written as a run, and that are merged at once."""
RUNS = "runs"
"""Folder of the runs inside the store's folder, until the store is complete."""

TEXT_COLUMNS = pa.schema(
    [("id", pa.string()), ("text", pa.string()), ("lang", pa.string()), ("source", pa.string()),
     ("topic", pa.string()), ("split", pa.string()), ("ppl", pa.float64()), ("grade", pa.float32()),
     ("messages", pa.string())]
)  # fmt: skip
"""Columns of the document table that the store reads."""


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest type that can represent every id of the vocabulary."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def add_batch(
    writer: RunWriter,
    batch: pa.Table,
    ids: Sequence[Ids],
    tokenizer: Tokenizer,
    split_sources: frozenset[str],
    answers: Sequence[Answers | None],
) -> None:
    """Add documents with their ids to a writer.

    Args:
        writer: the writer that they are added to.
        batch: documents with the columns of `TEXT_COLUMNS`.
        ids: token ids, one array per text.
        tokenizer: supplies the ids of BOS and EOS.
        split_sources: sources whose buckets are split by topic.
        answers: for each conversation, the positions of its answers in the ids; None for other documents.
    """
    columns = (batch[name].to_pylist() for name in ("split", "lang", "source", "topic"))
    buckets = [
        writer.position(SplitBucket(split, BucketKey(language, source, topic if source in split_sources else None)))
        for split, language, source, topic in zip(*columns, strict=True)
    ]
    dtype = token_dtype(tokenizer.vocab_size)
    writer.add(make_columns(batch, ids, tokenizer, dtype, np.array(buckets, dtype=np.int32), answers))


class StoreBuilder:
    """Collects documents in this process; `finish` merges them into the store."""

    def __init__(
        self,
        root: Path,
        tokenizer: Tokenizer,
        split_sources: Sequence[str],
        template: ChatTemplate | None = None,
    ) -> None:
        self._root, self._tokenizer, self._split_sources = root, tokenizer, frozenset(split_sources)
        self._template = None if template is None else lambda: template
        root.mkdir(parents=True, exist_ok=True)
        self._writer = RunWriter(root / RUNS, "run", HELD_BYTES)

    def add(self, documents: Sequence[Mapping[str, Any]], ids: Sequence[Ids] | None = None) -> None:
        """Add documents (id, text, lang, source, topic, split, ppl, and grade and messages if there are any).

        Args:
            documents: rows of the document table.
            ids: token ids per text; None: the texts are encoded here.
        """
        optional = ("grade", "messages")
        names = [name for name in TEXT_COLUMNS.names if name not in optional]
        rows = [
            {name: document[name] for name in names} | {name: document.get(name) for name in optional}
            for document in documents
        ]
        answers: list[Answers | None] = [None] * len(rows)
        if ids is None:
            texts, messages = [row["text"] for row in rows], [row["messages"] for row in rows]
            ids, answers = encode_documents(texts, messages, self._tokenizer, self._template)
        batch = pa.Table.from_pylist(rows, schema=TEXT_COLUMNS)
        add_batch(self._writer, batch, ids, self._tokenizer, self._split_sources, answers)

    def finish(self) -> TokenStore:
        """Write the files of all buckets and the description."""
        self._writer.flush()
        return merge_runs(self._root, self._tokenizer, self._writer.highest_id, HELD_BYTES)


def merge_runs(
    root: Path, tokenizer: Tokenizer, highest_id: int, held_bytes: int, *, engine: Engine = "native"
) -> TokenStore:
    """Merge the runs in a store's folder into the store, several buckets in parallel, and delete the runs.

    Args:
        root: folder of the store.
        tokenizer: tokenizer to record in the description.
        highest_id: largest id that occurs.
        held_bytes: bytes of tokens that each worker has in memory at once.
        engine: where the workers run.
    """
    runs = sorted(path for path in (root / RUNS).glob("*") if path.suffix != ".partial")
    buckets = sorted({bucket for run in map(Run, runs) for bucket in run.buckets}, key=lambda bucket: bucket.rank)
    counters = {"train": 0, "valid": 0}
    pieces: list[BucketPiece] = []
    for bucket in buckets:
        pieces.append(BucketPiece(bucket, f"{bucket.split}/{counters[bucket.split]:04d}"))
        counters[bucket.split] += 1
    size = sum((run / "tokens.npy").stat().st_size for run in runs)
    entries = run_pieces(
        functools.partial(_merge_bucket, root, [run.name for run in runs], held_bytes),
        pieces,
        engine=engine,
        what="write the token store",
        num_bytes=size,
    )
    shutil.rmtree(root / RUNS, ignore_errors=True)
    description: StoreDescription = {
        "version": VERSION,
        "fingerprint": "",
        "dtype": token_dtype(tokenizer.vocab_size).name,
        "vocab_size": tokenizer.vocab_size,
        "highest_id": max(highest_id, tokenizer.eos_id, -1 if tokenizer.bos_id is None else tokenizer.bos_id),
        "tokenizer": tokenizer.library,
        "eos_id": tokenizer.eos_id,
        "bos_id": tokenizer.bos_id,
        "buckets": entries,
    }
    # Which library made the ids does not matter: they are the same.
    description["fingerprint"] = digest({name: value for name, value in description.items() if name != "tokenizer"})
    write_json(root / STORE, description)
    return TokenStore.open(root)


class BucketPiece(NamedTuple):
    """A bucket of the store whose files are written by one worker."""

    bucket: SplitBucket
    folder: str
    """Its folder, relative to the folder of the store."""


def _merge_bucket(root: Path, names: Sequence[str], held_bytes: int, piece: BucketPiece) -> BucketDescription:
    """Write the files of one bucket, range of ids by range of ids."""
    bucket, folder = piece
    runs = [run for run in map(Run, (root / RUNS / name for name in names)) if bucket in run.buckets]
    spans = [run.buckets[bucket] for run in runs]
    documents = sum(stop - start for start, stop in spans)
    tokens = sum(int(run.offsets[stop] - run.offsets[start]) for run, (start, stop) in zip(runs, spans, strict=True))
    id_bytes = sum(
        int(run.id_offsets[stop] - run.id_offsets[start]) for run, (start, stop) in zip(runs, spans, strict=True)
    )
    target = root / folder
    shutil.rmtree(target, ignore_errors=True)  # left by a killed worker
    target.mkdir(parents=True)
    dtype = runs[0].read(0, 0).tokens.dtype
    answers = sum(
        int(run.answer_offsets[stop] - run.answer_offsets[start])
        for run, (start, stop) in zip(runs, spans, strict=True)
    )
    counts = {"tokens": (tokens, dtype), "ppl": (documents, np.float32), "grade": (documents, np.float32),
              "num_bytes": (documents, np.int64),
              "offsets": (documents + 1, np.int64), "id_bytes": (id_bytes, np.uint8),
              "id_offsets": (documents + 1, np.int64)}  # fmt: skip
    if answers:
        counts |= {"answers": (answers, np.int32), "answer_offsets": (documents + 1, np.int64)}
    files = {name: _ArrayFile(target / f"{name}.npy", dtype, count) for name, (count, dtype) in counts.items()}
    for name in ("offsets", "id_offsets", *(["answer_offsets"] if answers else [])):
        files[name].write(np.zeros(1, dtype=np.int64))
    tokens_done = bytes_done = answers_done = conversations = answer_tokens = 0
    for columns in _in_ranges(runs, spans, max(1, tokens * dtype.itemsize // max(1, held_bytes))):
        order = sort_documents(columns.id_bytes, offsets_of(columns.id_lengths), columns.hashes)
        lengths, id_lengths = columns.lengths[order], columns.id_lengths[order]
        files["tokens"].write(gather_slices(columns.tokens, offsets_of(columns.lengths)[:-1][order], lengths))
        files["id_bytes"].write(gather_slices(columns.id_bytes, offsets_of(columns.id_lengths)[:-1][order], id_lengths))
        files["offsets"].write(tokens_done + np.cumsum(lengths))
        files["id_offsets"].write(bytes_done + np.cumsum(id_lengths))
        files["ppl"].write(columns.ppl[order])
        files["grade"].write(columns.grade[order])
        files["num_bytes"].write(columns.num_bytes[order])
        if answers:
            answer_lengths = columns.answer_lengths[order]
            sorted_answers = gather_slices(
                columns.answers, offsets_of(columns.answer_lengths)[:-1][order], answer_lengths
            )
            files["answers"].write(sorted_answers)
            files["answer_offsets"].write(answers_done + np.cumsum(answer_lengths))
            answers_done += int(answer_lengths.sum())
            conversations += int((answer_lengths > 0).sum())
            answer_tokens += int((sorted_answers[2::3] - sorted_answers[::3]).sum())
        tokens_done, bytes_done = tokens_done + int(lengths.sum()), bytes_done + int(id_lengths.sum())
    for file in files.values():
        file.close()
    description: BucketDescription = {
        "split": bucket.split,
        "language": bucket.key.language,
        "source": bucket.key.source,
        "topic": bucket.key.topic,
        "folder": folder,
        "documents": documents,
        "tokens": tokens,
        "files": {path.name: file_checksum(path) for path in sorted(target.iterdir())},
    }
    if answers:
        description |= {"conversations": conversations, "answer_tokens": answer_tokens}
    return description


def _in_ranges(runs: Sequence[Run], spans: Sequence[tuple[int, int]], num_ranges: int) -> Iterator[Columns]:
    """The documents of a bucket in about `num_ranges` ranges of ids, in order; equal ids are in one range."""
    sampled = sorted(
        run.doc_id(document)
        for run, (start, stop) in zip(runs, spans, strict=True)
        for document in range(start, stop, max(1, (stop - start) // (16 * num_ranges)))
    )
    bounds = dict.fromkeys(sampled[len(sampled) * part // num_ranges] for part in range(1, num_ranges))
    starts = [start for start, _ in spans]
    for bound in (*bounds, None):
        stops = [
            stop if bound is None else run.first_from(bound, start, stop)
            for run, start, (_, stop) in zip(runs, starts, spans, strict=True)
        ]
        parts = [run.read(start, stop) for run, start, stop in zip(runs, starts, stops, strict=True) if start < stop]
        starts = stops
        if parts:
            yield Columns(*(np.concatenate(column) for column in zip(*parts, strict=True)))


class _ArrayFile:
    """A one-dimensional `.npy` file that is written piece by piece."""

    def __init__(self, path: Path, dtype: Any, count: int) -> None:
        self._dtype = np.dtype(dtype)
        self._file = path.open("wb")
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def write(self, values: npt.NDArray[Any]) -> None:
        """Append values."""
        self._file.write(np.ascontiguousarray(values, dtype=self._dtype).data)

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

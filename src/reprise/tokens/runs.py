"""Sorted runs: documents that were encoded together, written in the order of the store and later merged into it.

A worker that encodes documents collects them in a `RunWriter` and writes a run whenever they fill its memory; `Run`
reads one without loading it. Columns are flat arrays: there is no Python object for each document of a corpus.
"""

import bisect
import json
import os
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from reprise.model.chat import Answers
from reprise.model.conversation import answer_bytes, load_messages
from reprise.model.tokenizer import Ids, Tokenizer
from reprise.storage import write_json
from reprise.tokens.gather import gather_slices
from reprise.tokens.store import BucketKey

_RUN = "run.json"


class SplitBucket(NamedTuple):
    """A bucket of one split."""

    split: str
    key: BucketKey

    @property
    def rank(self) -> tuple[str, list[str]]:
        """Buckets are in this order in the store."""
        return self.split, [part or "" for part in self.key]


class Columns(NamedTuple):
    """Documents with their token ids; each column has one entry per document unless it is flat."""

    buckets: npt.NDArray[np.int32]
    """Index of the document's bucket in a separate list."""
    tokens: npt.NDArray[Any]
    """Flat: token ids in the type of the store, with BOS and EOS."""
    lengths: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]
    """Hash of the tokens: orders documents with the same id, so that the order of arrival does not matter."""
    ppl: npt.NDArray[np.float32]
    grade: npt.NDArray[np.float32]
    num_bytes: npt.NDArray[np.int64]
    id_bytes: npt.NDArray[np.uint8]
    """Flat: UTF-8 bytes of the ids."""
    id_lengths: npt.NDArray[np.int64]
    answers: npt.NDArray[np.int32]
    """Flat: three entries per answer (see `Bucket.answers`)."""
    answer_lengths: npt.NDArray[np.int64]
    """Number of entries in `answers` for each document; 0 if it is not a conversation."""


def make_columns(
    batch: pa.Table,
    ids: Sequence[Ids],
    tokenizer: Tokenizer,
    dtype: np.dtype[Any],
    buckets: npt.NDArray[np.int32],
    answers: Sequence[Answers | None],
) -> Columns:
    """Columns of some documents.

    Args:
        batch: documents with the columns id, text, messages, ppl and grade.
        ids: token ids, one array per text.
        tokenizer: supplies the ids of BOS and EOS.
        dtype: type of the store's tokens.
        buckets: index of each document's bucket, int32[documents].
        answers: positions of each document's answers in its ids; None if it is not a conversation.
    """
    extra = 1 if tokenizer.bos_id is None else 2
    own = np.array([len(one) for one in ids], dtype=np.int64)
    lengths = own + extra
    ends = np.cumsum(lengths)
    tokens = np.empty(int(lengths.sum()), dtype=dtype)
    is_text = np.ones(len(tokens), dtype=bool)
    tokens[ends - 1] = tokenizer.eos_id
    is_text[ends - 1] = False
    if tokenizer.bos_id is not None:
        tokens[ends - lengths] = tokenizer.bos_id
        is_text[ends - lengths] = False
    if len(ids):
        tokens[is_text] = np.concatenate(ids)
    data, size = memoryview(tokens.tobytes()), dtype.itemsize
    bounds = (ends * size).tolist()
    hashes = [xxhash.xxh3_64_intdigest(data[a:b]) for a, b in zip([0, *bounds], bounds, strict=False)]
    names = pc.cast(_joined(batch, "id", pa.large_string()), pa.large_binary())
    num_bytes = _byte_lengths(_joined(batch, "text", pa.large_string()))
    is_conversation = [row for row, one in enumerate(answers) if one is not None]
    if is_conversation:
        messages = batch["messages"].to_pylist()
        num_bytes = num_bytes.copy()
        num_bytes[is_conversation] = [answer_bytes(load_messages(messages[row])) for row in is_conversation]
    # Positions count from BOS.
    flat = [one.ravel() + (extra - 1) for one in answers if one is not None]
    return Columns(
        buckets,
        tokens,
        lengths,
        np.array(hashes, dtype=np.uint64),
        _scores(batch, "ppl"),
        _scores(batch, "grade"),
        num_bytes,
        _flat_bytes(names),
        _byte_lengths(names),
        np.concatenate([np.empty(0, dtype=np.int32), *flat]).astype(np.int32),
        np.array([0 if one is None else one.size for one in answers], dtype=np.int64),
    )


def _joined(batch: pa.Table, name: str, type: pa.DataType) -> Any:
    return pc.cast(batch[name].combine_chunks(), type)


def _scores(batch: pa.Table, name: str) -> npt.NDArray[np.float32]:
    """float32 [documents]: the column `name`, NaN if there is no score."""
    values: npt.NDArray[np.float64] = (
        _joined(batch, name, pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
    )
    return values.astype(np.float32)


def _byte_lengths(values: Any) -> npt.NDArray[np.int64]:
    """UTF-8 bytes of each text."""
    lengths: npt.NDArray[np.int64] = pc.binary_length(values).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def _flat_bytes(values: Any) -> npt.NDArray[np.uint8]:
    return np.frombuffer(b"".join(values.to_pylist()), dtype=np.uint8)


class RunWriter:
    """Collects documents and writes a run of them whenever their tokens fill `held_bytes`."""

    def __init__(self, folder: Path, name: str, held_bytes: int) -> None:
        """Start without documents.

        Args:
            folder: where runs are written.
            name: prefix of each run's name, unique to this writer.
            held_bytes: bytes of tokens that are collected in memory before a run is written.
        """
        self._folder, self._name, self._held_bytes = folder, name, held_bytes
        self._parts: list[Columns] = []
        self._waiting = self._num_runs = 0
        self._positions: dict[SplitBucket, int] = {}
        self.num_documents = 0
        self.highest_id = -1

    def position(self, bucket: SplitBucket) -> int:
        """Index of a bucket in `Columns.buckets`."""
        return self._positions.setdefault(bucket, len(self._positions))

    def add(self, columns: Columns) -> None:
        """Add documents."""
        self._parts.append(columns)
        self.num_documents += len(columns.lengths)
        self.highest_id = max(self.highest_id, int(columns.tokens.max(initial=0)))
        self._waiting += columns.tokens.nbytes
        if self._waiting > self._held_bytes:
            self.flush()

    def flush(self) -> None:
        """Write the collected documents as one run."""
        if not self._parts:
            return
        columns = Columns(*(np.concatenate(parts) for parts in zip(*self._parts, strict=True)))
        self._parts, self._waiting = [], 0
        buckets = sorted(self._positions, key=lambda bucket: bucket.rank)
        rank = np.empty(len(buckets), dtype=np.int32)
        for position, bucket in enumerate(buckets):
            rank[self._positions[bucket]] = position
        write_run(
            self._folder / f"{self._name}-{self._num_runs:05d}",
            columns._replace(buckets=rank[columns.buckets]),
            buckets,
        )
        self._num_runs += 1


def write_run(folder: Path, columns: Columns, buckets: Sequence[SplitBucket]) -> None:
    """Write documents in the order of bucket, id and hash; an incomplete folder ends in `.partial`."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    partial.mkdir(parents=True)
    order = _order(columns)
    counts = np.bincount(columns.buckets, minlength=len(buckets))
    np.save(partial / "tokens.npy", _sorted_slices(columns.tokens, columns.lengths, order))
    np.save(partial / "offsets.npy", offsets_of(columns.lengths[order]))
    np.save(partial / "id_bytes.npy", _sorted_slices(columns.id_bytes, columns.id_lengths, order))
    np.save(partial / "id_offsets.npy", offsets_of(columns.id_lengths[order]))
    np.save(partial / "answers.npy", _sorted_slices(columns.answers, columns.answer_lengths, order))
    np.save(partial / "answer_offsets.npy", offsets_of(columns.answer_lengths[order]))
    for name in ("hashes", "ppl", "grade", "num_bytes"):
        np.save(partial / f"{name}.npy", getattr(columns, name)[order])
    described = [[bucket.split, *bucket.key, int(count)] for bucket, count in zip(buckets, counts, strict=True)]
    write_json(partial / _RUN, described)
    partial.rename(folder)


def sort_documents(
    id_bytes: npt.NDArray[np.uint8], id_offsets: npt.NDArray[np.int64], hashes: npt.NDArray[np.uint64], **first: Any
) -> npt.NDArray[np.int64]:
    """Indices that sort documents by `first`, then by the bytes of their ids, then by their hashes."""
    ids = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(hashes), [None, pa.py_buffer(id_offsets.astype(np.int64)), pa.py_buffer(id_bytes)]
    )
    table = pa.table({**first, "id": ids, "hash": hashes})
    keys = [(name, "ascending") for name in table.column_names]
    order: npt.NDArray[np.int64] = pc.sort_indices(table, sort_keys=keys).to_numpy().astype(np.int64)
    return order


def _order(columns: Columns) -> npt.NDArray[np.int64]:
    return sort_documents(columns.id_bytes, offsets_of(columns.id_lengths), columns.hashes, bucket=columns.buckets)


def _sorted_slices(
    flat: npt.NDArray[Any], lengths: npt.NDArray[np.int64], order: npt.NDArray[np.int64]
) -> npt.NDArray[Any]:
    starts = np.cumsum(lengths) - lengths
    return gather_slices(flat, starts[order], lengths[order])


def offsets_of(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """int64[n + 1]: start of each of n slices, and the end of the last."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])


class Run:
    """A run on disk, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        entries = json.loads((folder / _RUN).read_text(encoding="utf-8"))
        counts = [int(entry[4]) for entry in entries]
        starts = np.cumsum([0, *counts]).tolist()
        self.buckets = {
            SplitBucket(split, BucketKey(language, source, topic)): (start, start + count)
            for (split, language, source, topic, count), start in zip(entries, starts, strict=False)
            if count
        }
        """Bucket -> its first document, and the one behind its last."""

    def _map(self, name: str) -> npt.NDArray[Any]:
        path = self.folder / f"{name}.npy"
        mapped: npt.NDArray[Any] = np.load(path, mmap_mode="r").view(np.ndarray)
        return mapped

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Where each document begins in the tokens."""
        return self._map("offsets")

    @cached_property
    def id_offsets(self) -> npt.NDArray[np.int64]:
        """Where each id begins in their bytes."""
        return self._map("id_offsets")

    @cached_property
    def answer_offsets(self) -> npt.NDArray[np.int64]:
        """Where the entries of each document begin in the answers."""
        return self._map("answer_offsets")

    @cached_property
    def id_bytes(self) -> npt.NDArray[np.uint8]:
        """uint8 [bytes]: the concatenated UTF-8 bytes of all ids."""
        return self._map("id_bytes")

    def doc_id(self, document: int) -> bytes:
        """Id of a document."""
        return self.id_bytes[self.id_offsets[document] : self.id_offsets[document + 1]].tobytes()

    def first_from(self, value: bytes, start: int, stop: int) -> int:
        """The first document in [start, stop) whose id is not less than `value`; `stop` if there is none."""
        return start + bisect.bisect_left(range(start, stop), value, key=self.doc_id)

    @cached_property
    def _token_file(self) -> tuple[int, np.dtype[Any]]:
        """Bytes of the header of the tokens' file, and their type."""
        with (self.folder / "tokens.npy").open("rb") as file:
            np.lib.format.read_magic(file)
            _, _, dtype = np.lib.format.read_array_header_1_0(file)
            return file.tell(), dtype

    def _tokens(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Tokens of documents in [start, stop); the end of the file may have been cut off behind them."""
        header, dtype = self._token_file
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        return np.fromfile(self.folder / "tokens.npy", dtype, last - first, offset=header + first * dtype.itemsize)

    def cut_tokens(self, document: int) -> None:
        """Cut the tokens of this document and all behind it off the file, to free disk."""
        header, dtype = self._token_file
        end = header + int(self.offsets[document]) * dtype.itemsize
        path = self.folder / "tokens.npy"
        if end < path.stat().st_size:
            os.truncate(path, end)

    def read(self, start: int, stop: int) -> Columns:
        """Documents in [start, stop); their buckets are set to 0."""
        return Columns(
            np.zeros(stop - start, dtype=np.int32),
            self._tokens(start, stop),
            np.diff(self.offsets[start : stop + 1]),
            self._map("hashes")[start:stop],
            self._map("ppl")[start:stop],
            self._map("grade")[start:stop],
            self._map("num_bytes")[start:stop],
            self.id_bytes[self.id_offsets[start] : self.id_offsets[stop]],
            np.diff(self.id_offsets[start : stop + 1]),
            self._map("answers")[self.answer_offsets[start] : self.answer_offsets[stop]],
            np.diff(self.answer_offsets[start : stop + 1]),
        )

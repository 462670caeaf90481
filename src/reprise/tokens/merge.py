"""Merges sorted runs into the files of a token store: several ranges of ids in parallel, from the last to the first.

Every file of the store has its final size from the start, with holes that take no disk; each range is written where it
belongs. Runs have the order of the store, so the ranges that are finished are their ends, which are cut off: runs and
store together take little more disk than one of them.
"""

import functools
import itertools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reprise.documents.engine import Engine, keep_workers, run_pieces
from reprise.storage import FileChecksum, file_checksum
from reprise.tokens.gather import gather_slices
from reprise.tokens.runs import Columns, Run, SplitBucket, offsets_of, sort_documents
from reprise.tokens.store import BucketDescription

RANGE_BYTES = 16 << 20
"""Bytes of tokens in a range of a small corpus: all cores have some to merge."""
MOST_RANGES = 4096
"""Ranges of a large corpus, whose ranges are larger."""
SAMPLES_PER_RANGE = 16
"""Ids that are looked at for each range, to make ranges of about the same size."""
CUTS = 64
"""Times that the ends of the runs are cut off."""
HEADER_BYTES = 128
"""Bytes of the header of each `.npy` file of the store."""


class Sizes(NamedTuple):
    """Counts of some documents."""

    documents: int = 0
    tokens: int = 0
    id_bytes: int = 0
    answers: int = 0
    """Entries in the answers: three for each."""

    @classmethod
    def of(cls, runs: Sequence[Run], spans: Sequence[tuple[int, int]]) -> "Sizes":
        """Counts of a span of documents of each run."""
        sizes = (
            (
                stop - start,
                int(run.offsets[stop] - run.offsets[start]),
                int(run.id_offsets[stop] - run.id_offsets[start]),
                int(run.answer_offsets[stop] - run.answer_offsets[start]),
            )
            for run, (start, stop) in zip(runs, spans, strict=True)
        )
        return cls(*map(sum, zip(*sizes, strict=True))) if runs else cls()


class RangePiece(NamedTuple):
    """A range of ids of one bucket, which one worker merges."""

    bucket: SplitBucket
    folder: str
    """Folder of the bucket, relative to that of the store."""
    low: bytes | None
    """Its first id; None: it begins with the bucket."""
    high: bytes | None
    """First id of the next range; None: it ends with the bucket."""
    has_answers: bool
    """Whether any document of the bucket is a conversation."""


class Conversations(NamedTuple):
    """Counts of the conversations of a range."""

    documents: int
    answer_tokens: int


def merge_into(
    root: Path, folder: Path, dtype: np.dtype[Any], held_bytes: int, engine: Engine
) -> list[BucketDescription]:
    """Merge runs into the files of a store, and delete the runs.

    Args:
        root: folder of the store.
        folder: folder of the runs.
        dtype: type of the token ids.
        held_bytes: bytes of tokens that each worker has in memory at once.
        engine: where the workers run.

    Returns:
        Description of each bucket, in the order of the store.
    """
    runs = _open_runs(folder, folder.stat().st_mtime_ns) if folder.is_dir() else []
    buckets = sorted({bucket for run in runs for bucket in run.buckets}, key=lambda bucket: bucket.rank)
    folders = _folders(buckets)
    sizes = {bucket: Sizes.of(*_spans(runs, bucket)) for bucket in buckets}
    tokens = sum(size.tokens for size in sizes.values())
    range_tokens = max(1, min(held_bytes, max(RANGE_BYTES, tokens * dtype.itemsize // MOST_RANGES)) // dtype.itemsize)
    pieces: list[RangePiece] = []
    for bucket in buckets:
        _make_files(root / folders[bucket], sizes[bucket], dtype)
        bounds = [None, *_bounds(runs, bucket, sizes[bucket].tokens // range_tokens), None]
        pieces += [
            RangePiece(bucket, folders[bucket], low, high, sizes[bucket].answers > 0)
            for low, high in itertools.pairwise(bounds)
        ]
    pieces.reverse()
    cutter = _Cutter(runs, pieces)
    with keep_workers():
        results = run_pieces(
            functools.partial(_merge_range, root, folder),
            pieces,
            engine=engine,
            what="write the token store",
            num_bytes=tokens * dtype.itemsize,
            finished=cutter.finished,
        )
        conversations: dict[SplitBucket, list[Conversations]] = {}
        for piece, result in zip(pieces, results, strict=True):
            conversations.setdefault(piece.bucket, []).append(result)
        _open_runs.cache_clear()
        shutil.rmtree(folder, ignore_errors=True)
        checksums = run_pieces(
            functools.partial(_checksums, root),
            list(folders.values()),
            engine=engine,
            what="checksums of the token store",
            num_bytes=tokens * dtype.itemsize,
        )
    return [
        _describe(bucket, folders[bucket], sizes[bucket], files, conversations[bucket])
        for bucket, files in zip(buckets, checksums, strict=True)
    ]


@functools.lru_cache(maxsize=1)
def _open_runs(folder: Path, changed_ns: int) -> list[Run]:
    """The runs in a folder, which last changed at this time; a worker opens them once for all its ranges."""
    return list(map(Run, sorted(path for path in folder.glob("*") if path.suffix != ".partial")))


def _folders(buckets: Sequence[SplitBucket]) -> dict[SplitBucket, str]:
    """Bucket -> its folder, numbered within its split."""
    counts: dict[str, int] = {}
    folders = {}
    for bucket in buckets:
        folders[bucket] = f"{bucket.split}/{counts.get(bucket.split, 0):04d}"
        counts[bucket.split] = counts.get(bucket.split, 0) + 1
    return folders


def _spans(
    runs: Sequence[Run], bucket: SplitBucket, low: bytes | None = None, high: bytes | None = None
) -> tuple[list[Run], list[tuple[int, int]]]:
    """The runs with documents of a bucket, and which documents of each have ids in [low, high)."""
    own = [run for run in runs if bucket in run.buckets]
    spans = []
    for run in own:
        start, stop = run.buckets[bucket]
        first = start if low is None else run.first_from(low, start, stop)
        spans.append((first, stop if high is None else run.first_from(high, first, stop)))
    return own, spans


def _bounds(runs: Sequence[Run], bucket: SplitBucket, num_ranges: int) -> list[bytes]:
    """Ids that divide a bucket into about `num_ranges` ranges of as many documents; equal ids are in one range."""
    own, spans = _spans(runs, bucket)
    step = max(1, sum(stop - start for start, stop in spans) // (SAMPLES_PER_RANGE * max(1, num_ranges)))
    sampled = []
    before = 0
    for run, (start, stop) in zip(own, spans, strict=True):  # every step-th document of all runs in a line
        sampled += [run.doc_id(document) for document in range(start + -before % step, stop, step)]
        before += stop - start
    sampled.sort()
    return list(dict.fromkeys(sampled[len(sampled) * part // num_ranges] for part in range(1, num_ranges)))


def _arrays(size: Sizes, dtype: np.dtype[Any]) -> dict[str, tuple[int, npt.DTypeLike]]:
    """Name of each file of a bucket -> its length and type."""
    ends = size.documents + 1
    arrays: dict[str, tuple[int, npt.DTypeLike]] = {
        "tokens": (size.tokens, dtype),
        "ppl": (size.documents, np.float32),
        "grade": (size.documents, np.float32),
        "num_bytes": (size.documents, np.int64),
        "offsets": (ends, np.int64),
        "id_bytes": (size.id_bytes, np.uint8),
        "id_offsets": (ends, np.int64),
    }
    if size.answers:
        arrays |= {"answers": (size.answers, np.int32), "answer_offsets": (ends, np.int64)}
    return arrays


def _make_files(folder: Path, size: Sizes, dtype: np.dtype[Any]) -> None:
    """Make the files of a bucket: headers, and zeros that take no disk."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, (count, of) in _arrays(size, dtype).items():
        type_ = np.dtype(of)
        with (folder / f"{name}.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": type_.str, "fortran_order": False, "shape": (count,)})
            assert file.tell() == HEADER_BYTES
            file.truncate(HEADER_BYTES + count * type_.itemsize)


def _write(folder: Path, name: str, position: int, values: npt.NDArray[Any]) -> None:
    """Write values of a file of a bucket from a position on, counted in values."""
    with (folder / f"{name}.npy").open("r+b") as file:
        file.seek(HEADER_BYTES + position * values.itemsize)
        file.write(np.ascontiguousarray(values).data)


def _merge_range(root: Path, folder: Path, piece: RangePiece) -> Conversations:
    """Write the documents of a range to the files of its bucket."""
    runs, spans = _spans(_open_runs(folder, folder.stat().st_mtime_ns), piece.bucket, piece.low, piece.high)
    starts = [run.buckets[piece.bucket][0] for run in runs]
    before = Sizes.of(runs, [(start, first) for start, (first, _) in zip(starts, spans, strict=True)])
    parts = [run.read(first, stop) for run, (first, stop) in zip(runs, spans, strict=True) if first < stop]
    if not parts:
        return Conversations(0, 0)
    columns = Columns(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    del parts
    order = sort_documents(columns.id_bytes, offsets_of(columns.id_lengths), columns.hashes)
    write = functools.partial(_write, root / piece.folder)

    def write_slices(
        name: str, ends: str, position: int, flat: npt.NDArray[Any], lengths: npt.NDArray[np.int64]
    ) -> None:
        write(name, position, gather_slices(flat, offsets_of(lengths)[:-1][order], lengths[order]))
        write(ends, before.documents + 1, position + np.cumsum(lengths[order]))

    write_slices("tokens", "offsets", before.tokens, columns.tokens, columns.lengths)
    write_slices("id_bytes", "id_offsets", before.id_bytes, columns.id_bytes, columns.id_lengths)
    for name in ("ppl", "grade", "num_bytes"):
        write(name, before.documents, getattr(columns, name)[order])
    if not piece.has_answers:
        return Conversations(0, 0)
    write_slices("answers", "answer_offsets", before.answers, columns.answers, columns.answer_lengths)
    answer_tokens = int((columns.answers[2::3] - columns.answers[::3]).sum())
    return Conversations(int((columns.answer_lengths > 0).sum()), answer_tokens)


class _Cutter:
    """Cuts the ends off the runs whose documents are in the store."""

    def __init__(self, runs: Sequence[Run], pieces: Sequence[RangePiece]) -> None:
        """Args:
        runs: all runs.
        pieces: all ranges, from the last to the first.
        """
        self._runs, self._pieces = runs, pieces
        self._is_finished = [False] * len(pieces)
        self._num_finished = self._num_cut = 0

    def finished(self, index: int) -> None:
        """Note that a piece is in the store; now and then, cut."""
        self._is_finished[index] = True
        while self._num_finished < len(self._pieces) and self._is_finished[self._num_finished]:
            self._num_finished += 1
        if self._num_finished - self._num_cut >= max(1, len(self._pieces) // CUTS):
            self._cut(self._pieces[self._num_finished - 1])
            self._num_cut = self._num_finished

    def _cut(self, piece: RangePiece) -> None:
        """Cut off everything from the beginning of a piece on."""
        for run in self._runs:
            earlier = [stop for bucket, (_, stop) in run.buckets.items() if bucket.rank < piece.bucket.rank]
            first = max(earlier, default=0)
            if piece.low is not None and piece.bucket in run.buckets:
                first = run.first_from(piece.low, *run.buckets[piece.bucket])
            run.cut_tokens(first)


def _checksums(root: Path, folder: str) -> dict[str, FileChecksum]:
    """Name of each file of a bucket -> its size and checksum."""
    _open_runs.cache_clear()  # the runs are deleted, but what is mapped would stay on the disk
    return {path.name: file_checksum(path) for path in sorted((root / folder).iterdir())}


def _describe(
    bucket: SplitBucket,
    folder: str,
    size: Sizes,
    files: Mapping[str, FileChecksum],
    conversations: Sequence[Conversations],
) -> BucketDescription:
    """The entry of a bucket in the description of the store."""
    description: BucketDescription = {
        "split": bucket.split,
        "language": bucket.key.language,
        "source": bucket.key.source,
        "topic": bucket.key.topic,
        "folder": folder,
        "documents": size.documents,
        "tokens": size.tokens,
        "files": dict(files),
    }
    if size.answers:
        description |= {
            "conversations": sum(one.documents for one in conversations),
            "answer_tokens": sum(one.answer_tokens for one in conversations),
        }
    return description

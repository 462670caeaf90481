"""Documents to a token store: one folder of plain NumPy files per bucket (format: ARCHITECTURE.md, "Token store")."""

import json
import logging
import resource
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from reprise.documents.table import count_rows, read_table
from reprise.errors import UserError
from reprise.progress import track
from reprise.recipe.model import Model
from reprise.recipe.tokens import Tokens
from reprise.tokens.gather import gather_slices
from reprise.tokens.tokenizer import Encoder, Ids, open_encoder
from reprise.workspace import Work, digest, write_json

log = logging.getLogger(__name__)

VERSION = 1
STORE = "store.json"
BATCH_DOCUMENTS = 1024
"""Documents encoded at once: fewer leave the library's threads idle, more leave the caches (measured)."""
OTHER_FILES = 512
"""Open files that a process may need besides those of a store."""
HELD_BYTES = 64 << 20
"""Bytes of ids, of all buckets together, that wait in memory before they are written."""
COPY_TOKENS = 1 << 22
"""Tokens copied at once when a bucket is put into the order of its ids."""


class BucketKey(NamedTuple):
    """What the text of a bucket has in common."""

    language: str
    source: str
    topic: str | None
    """None where the source is not split by topic."""

    def __str__(self) -> str:
        return "/".join(part for part in self if part is not None)


class DocIds(Sequence[str]):
    """Ids of the documents of a bucket, decoded when asked for."""

    def __init__(self, flat: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> None:
        self._flat, self._offsets = flat, offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        return self._flat[self._offsets[i] : self._offsets[i + 1]].tobytes().decode()


class Bucket:
    """The documents of one language, source and topic, memory-mapped, in the order of their ids."""

    def __init__(self, key: BucketKey, folder: Path, num_documents: int, num_tokens: int, content: str) -> None:
        self.key, self.folder = key, folder
        self.num_documents, self.num_tokens = num_documents, num_tokens
        self.content = content
        """Hash of the checksums of its files: the same wherever the documents and their ids are the same."""

    def _map(self, name: str) -> npt.NDArray[Any]:
        # A plain view: slices of np.memmap cost a microsecond more each.
        mapped: npt.NDArray[Any] = np.load(self.folder / f"{name}.npy", mmap_mode="r").view(np.ndarray)
        return mapped

    @cached_property
    def tokens(self) -> npt.NDArray[Any]:
        """uint16 or uint32 [num_tokens]: the ids of all documents, one after the other, each ending with EOS."""
        return self._map("tokens")

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """int64 [num_documents + 1]: document i is `tokens[offsets[i]:offsets[i + 1]]`."""
        return self._map("offsets")

    @cached_property
    def ppl(self) -> npt.NDArray[np.float32]:
        """float32 [num_documents]: perplexity under the base model, NaN where it was not scored."""
        return self._map("ppl")

    @cached_property
    def num_bytes(self) -> npt.NDArray[np.int64]:
        """int64 [num_documents]: UTF-8 bytes of the text."""
        return self._map("num_bytes")

    @cached_property
    def doc_ids(self) -> DocIds:
        """Ids of the documents."""
        return DocIds(self._map("id_bytes"), self._map("id_offsets"))


class TokenStore:
    """A published store."""

    def __init__(self, root: Path, description: dict[str, Any]) -> None:
        self.root, self.description = root, description
        self.fingerprint: str = description["fingerprint"]
        """Hash of the content of the store."""
        self.vocab_size: int = description["vocab_size"]
        self.eos_id: int = description["eos_id"]
        self.bos_id: int | None = description["bos_id"]
        splits: dict[str, dict[BucketKey, Bucket]] = {"train": {}, "valid": {}}
        for entry in description["buckets"]:
            key = BucketKey(entry["language"], entry["source"], entry["topic"])
            splits[entry["split"]][key] = Bucket(
                key, root / entry["folder"], entry["documents"], entry["tokens"], digest(entry["files"])
            )
        self.train: Mapping[BucketKey, Bucket] = splits["train"]
        self.valid: Mapping[BucketKey, Bucket] = splits["valid"]

    @classmethod
    def open(cls, path: Path | str) -> "TokenStore":
        """Open a store and check that every file has its size.

        Raises:
            UserError: there is no store, it is of another version, or a file is missing or has another size.
        """
        root = Path(path)
        try:
            description = json.loads((root / STORE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError("there is no token store", where=str(root), remedy="run `reprise tokenize`") from None
        except ValueError:
            raise UserError("not a store description", where=str(root / STORE), remedy=_REBUILD) from None
        if description.get("version") != VERSION:
            raise UserError(
                f"the store has version {description.get('version')}, this reprise reads {VERSION}",
                where=str(root / STORE),
                remedy=_REBUILD,
            )
        for path, expected in _files(root, description):
            actual = path.stat().st_size if path.exists() else None
            if actual != expected["size"]:
                what = (
                    "is missing"
                    if actual is None
                    else f"has {actual} bytes, not {expected['size']}: it was cut or changed"
                )
                raise UserError(f"a file of the token store {what}", where=str(path), remedy=_REBUILD)
        _allow_open_files(sum(1 for _ in _files(root, description)))
        return cls(root, description)

    def verify(self) -> None:
        """Compare the checksum of every file; reads the whole store.

        Raises:
            UserError: a file holds other bytes than were published.
        """
        files = list(_files(self.root, self.description))
        with track("verify the token store", sum(expected["size"] for _, expected in files), "bytes") as advance:
            for path, expected in files:
                if _checksum(path)["xxh128"] != expected["xxh128"]:
                    raise UserError("a file of the token store was changed", where=str(path), remedy=_REBUILD)
                advance(expected["size"])


_REBUILD = "delete the folder and run `reprise tokenize` again"


def run(work: Work, *, model: Model, tokens: Tokens, split_sources: list[str]) -> None:
    """Stage `tokenize`: documents of `score` and, where there is one, of `synthesize`, to the store.

    Args:
        work: `inputs` has `score` and maybe `synthesize`.
        model: whose tokenizer.
        tokens: which tokenizer library.
        split_sources: sources whose buckets are split by topic.

    Raises:
        UserError: see `open_encoder`; or a fast tokenizer was found to give other ids on the way.
    """
    folders = [work.inputs[name] / "documents" for name in ("score", "synthesize") if name in work.inputs]
    encoder = open_encoder(model, tokens)
    builder = StoreBuilder(work.output, encoder, split_sources)
    total = sum(map(count_rows, folders))
    columns = ["id", "text", "lang", "source", "topic", "split", "ppl"]
    batches = chain.from_iterable(read_table(folder, columns, batch_rows=BATCH_DOCUMENTS) for folder in folders)
    with track("tokenize", total, "documents") as advance:
        for documents, ids in _encode_ahead(encoder, batches):
            builder.add(documents, ids)
            advance(len(documents))
    store = builder.finish()
    buckets = [*store.train.values(), *store.valid.values()]
    work.counts |= {
        "documents": sum(bucket.num_documents for bucket in buckets),
        "tokens": sum(bucket.num_tokens for bucket in buckets),
        "tokenizer": encoder.name,
        "tokenizer_reason": encoder.reason,
        "buckets": [
            {**{k: entry[k] for k in ("split", "language", "source", "topic", "documents", "tokens")}}
            for entry in store.description["buckets"]
        ],
    }
    if work.counts["documents"] != total:
        raise AssertionError(f"{total} documents came in, {work.counts['documents']} are in the store")


def _encode_ahead(
    encoder: Encoder, batches: Iterable[pa.RecordBatch]
) -> Iterator[tuple[list[dict[str, Any]], list[Ids]]]:
    """Documents and their ids; while the caller has one batch the next is being encoded."""

    def encode(batch: pa.RecordBatch) -> tuple[list[dict[str, Any]], list[Ids]]:
        documents = batch.to_pylist()
        return documents, encoder.encode_batch([document["text"] for document in documents])

    with ThreadPoolExecutor(1) as worker:
        ahead: deque[Future[tuple[list[dict[str, Any]], list[Ids]]]] = deque()
        for batch in batches:
            ahead.append(worker.submit(encode, batch))
            if len(ahead) == 2:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


class StoreBuilder:
    """Collects the ids of each bucket as they arrive; `finish` puts them into the order of the documents' ids."""

    def __init__(self, root: Path, encoder: Encoder, split_sources: Sequence[str]) -> None:
        self._root, self._encoder, self._split_sources = root, encoder, frozenset(split_sources)
        root.mkdir(parents=True, exist_ok=True)
        self._dtype = np.dtype(np.uint16 if encoder.vocab_size <= 1 << 16 else np.uint32)
        self._spools: dict[tuple[str, BucketKey], _Spool] = {}
        self._prefix = np.array([] if encoder.bos_id is None else [encoder.bos_id], dtype=self._dtype).tobytes()
        self._suffix = np.array([encoder.eos_id], dtype=self._dtype).tobytes()

    def add(self, documents: Sequence[Mapping[str, Any]], ids: Sequence[Ids] | None = None) -> None:
        """Take documents (id, text, lang, source, topic, split, ppl).

        Args:
            documents: rows of the document table.
            ids: of their texts, by the encoder; None: they are encoded here.
        """
        if ids is None:
            ids = self._encoder.encode_batch([document["text"] for document in documents])
        for document, own in zip(documents, ids, strict=True):
            topic = document["topic"] if document["source"] in self._split_sources else None
            key = (document["split"], BucketKey(document["lang"], document["source"], topic))
            if key not in self._spools:
                self._spools[key] = _Spool(self._root / f"spool-{len(self._spools):04d}", self._dtype)
            self._spools[key].add(document, self._prefix + own.astype(self._dtype).tobytes() + self._suffix)
        if sum(len(spool.waiting) for spool in self._spools.values()) > HELD_BYTES:
            for spool in self._spools.values():
                spool.flush()

    def finish(self) -> TokenStore:
        """Write the files of all buckets and the description."""
        entries = []
        counters = {"train": 0, "valid": 0}
        by_name = sorted(self._spools.items(), key=lambda item: (item[0][0], [part or "" for part in item[0][1]]))
        for (split, key), spool in by_name:
            folder = f"{split}/{counters[split]:04d}"
            counters[split] += 1
            files = spool.write(self._root / folder)
            entries.append(
                {
                    "split": split,
                    **key._asdict(),
                    "folder": folder,
                    "documents": len(spool.lengths),
                    "tokens": sum(spool.lengths),
                    "files": files,
                }
            )
        description = {
            "version": VERSION,
            "fingerprint": "",
            "dtype": self._dtype.name,
            "vocab_size": self._encoder.vocab_size,
            "encoder": self._encoder.name,
            "eos_id": self._encoder.eos_id,
            "bos_id": self._encoder.bos_id,
            "buckets": entries,
        }
        # Which library made the ids does not matter: they are the same.
        description["fingerprint"] = digest({k: v for k, v in description.items() if k != "encoder"})
        write_json(self._root / STORE, description)
        return TokenStore.open(self._root)


class _Spool:
    """One bucket while it is being collected: ids in memory and, where these were too many, on disk."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self._path, self._dtype = path, dtype
        self.waiting = bytearray()
        self.lengths: list[int] = []
        self._keys: list[tuple[bytes, int]] = []
        self._ppl: list[float] = []
        self._num_bytes: list[int] = []

    def add(self, document: Mapping[str, Any], data: bytes) -> None:
        self.waiting += data
        self.lengths.append(len(data) // self._dtype.itemsize)
        # The hash decides between documents with one id, so that the order of arrival never does.
        self._keys.append((document["id"].encode(), xxhash.xxh3_64_intdigest(data)))
        self._ppl.append(np.nan if document["ppl"] is None else document["ppl"])
        self._num_bytes.append(len(document["text"].encode()))

    def flush(self) -> None:
        """Write what waits; the file is not kept open, since a store may have more buckets than a system open files."""
        with self._path.open("ab") as file:
            file.write(self.waiting)
        self.waiting = bytearray()

    def write(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Write the bucket's files; returns file -> size and checksum. The spool is gone afterwards."""
        folder.mkdir(parents=True)
        order = np.array(sorted(range(len(self._keys)), key=self._keys.__getitem__), dtype=np.int64)
        lengths = np.array(self.lengths, dtype=np.int64)
        starts = np.cumsum(lengths) - lengths
        if self._path.exists():
            self.flush()
            arrived = np.memmap(self._path, dtype=self._dtype, mode="r").view(np.ndarray)
            self._path.unlink()  # what is mapped stays
        else:
            arrived = np.frombuffer(self.waiting, dtype=self._dtype)
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (int(lengths.sum()),)}
        with (folder / "tokens.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for part in _parts(lengths[order], COPY_TOKENS):
                chosen = order[part]
                file.write(gather_slices(arrived, starts[chosen], lengths[chosen]).data)
        ids = [self._keys[i][0] for i in order]
        np.save(folder / "offsets.npy", _offsets(lengths[order]))
        np.save(folder / "ppl.npy", np.array(self._ppl, dtype=np.float32)[order])
        np.save(folder / "num_bytes.npy", np.array(self._num_bytes, dtype=np.int64)[order])
        np.save(folder / "id_bytes.npy", np.frombuffer(b"".join(ids), dtype=np.uint8))
        np.save(folder / "id_offsets.npy", _offsets(np.array([len(i) for i in ids], dtype=np.int64)))
        self.waiting = bytearray()
        return {path.name: _checksum(path) for path in sorted(folder.iterdir())}


def _parts(lengths: npt.NDArray[np.int64], size: int) -> Iterator[slice]:
    """Cut a list of documents into runs of about `size` tokens."""
    if not len(lengths):
        return
    part_of = (np.cumsum(lengths) - 1) // size
    bounds = [0, *(np.flatnonzero(np.diff(part_of)) + 1).tolist(), len(lengths)]
    yield from (slice(start, stop) for start, stop in pairwise(bounds))


def _offsets(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])


def _files(root: Path, description: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for entry in description["buckets"]:
        for name, expected in entry["files"].items():
            yield root / entry["folder"] / name, expected


def _allow_open_files(count: int) -> None:
    """Raise the process's own limit, as far as the system lets it: each file that is mapped counts as open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + OTHER_FILES if hard == resource.RLIM_INFINITY else min(count + OTHER_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _checksum(path: Path) -> dict[str, Any]:
    hasher = xxhash.xxh3_128()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            hasher.update(block)
    return {"size": path.stat().st_size, "xxh128": hasher.hexdigest()}

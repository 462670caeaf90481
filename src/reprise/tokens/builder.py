"""Documents and their ids to the files of a token store."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from reprise.model.tokenizer import Ids, Tokenizer
from reprise.storage import FileChecksum, digest, file_checksum, write_json
from reprise.tokens.gather import gather_slices
from reprise.tokens.store import STORE, VERSION, BucketDescription, BucketKey, StoreDescription, TokenStore

HELD_BYTES = 64 << 20
"""Bytes of ids, of all buckets together, that wait in memory before they are written."""
COPY_TOKENS = 1 << 22
"""Tokens copied at once when a bucket is put into the order of its ids."""


class StoreBuilder:
    """Collects the ids of each bucket as they arrive; `finish` puts them into the order of the documents' ids."""

    def __init__(self, root: Path, tokenizer: Tokenizer, split_sources: Sequence[str]) -> None:
        self._root, self._tokenizer, self._split_sources = root, tokenizer, frozenset(split_sources)
        root.mkdir(parents=True, exist_ok=True)
        self._dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
        self._highest_id = max(tokenizer.eos_id, -1 if tokenizer.bos_id is None else tokenizer.bos_id)
        self._spools: dict[tuple[str, BucketKey], _Spool] = {}
        self._prefix = np.array([] if tokenizer.bos_id is None else [tokenizer.bos_id], dtype=self._dtype).tobytes()
        self._suffix = np.array([tokenizer.eos_id], dtype=self._dtype).tobytes()

    def add(self, documents: Sequence[Mapping[str, Any]], ids: Sequence[Ids] | None = None) -> None:
        """Take documents (id, text, lang, source, topic, split, ppl).

        Args:
            documents: rows of the document table.
            ids: of their texts, by the tokenizer; None: they are encoded here.
        """
        if ids is None:
            ids = self._tokenizer.encode_batch([document["text"] for document in documents])
        for document, own in zip(documents, ids, strict=True):
            self._highest_id = max(self._highest_id, int(own.max()) if len(own) else -1)
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
        entries: list[BucketDescription] = []
        counters = {"train": 0, "valid": 0}
        by_name = sorted(self._spools.items(), key=lambda item: (item[0][0], [part or "" for part in item[0][1]]))
        for (split, key), spool in by_name:
            folder = f"{split}/{counters[split]:04d}"
            counters[split] += 1
            files = spool.write(self._root / folder)
            entries.append(
                {
                    "split": split,
                    "language": key.language,
                    "source": key.source,
                    "topic": key.topic,
                    "folder": folder,
                    "documents": len(spool.lengths),
                    "tokens": sum(spool.lengths),
                    "files": files,
                }
            )
        description: StoreDescription = {
            "version": VERSION,
            "fingerprint": "",
            "dtype": self._dtype.name,
            "vocab_size": self._tokenizer.vocab_size,
            "highest_id": self._highest_id,
            "tokenizer": self._tokenizer.library,
            "eos_id": self._tokenizer.eos_id,
            "bos_id": self._tokenizer.bos_id,
            "buckets": entries,
        }
        # Which library made the ids does not matter: they are the same.
        description["fingerprint"] = digest({k: v for k, v in description.items() if k != "tokenizer"})
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

    def write(self, folder: Path) -> dict[str, FileChecksum]:
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
        return {path.name: file_checksum(path) for path in sorted(folder.iterdir())}


def _parts(lengths: npt.NDArray[np.int64], size: int) -> Iterator[slice]:
    """Cut a list of documents into runs of about `size` tokens."""
    if not len(lengths):
        return
    part_of = (np.cumsum(lengths) - 1) // size
    bounds = [0, *(np.flatnonzero(np.diff(part_of)) + 1).tolist(), len(lengths)]
    yield from (slice(start, stop) for start, stop in pairwise(bounds))


def _offsets(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])

"""Reads a token store: one folder of plain NumPy files per bucket (format: ARCHITECTURE.md, "Token store")."""

import contextlib
import json
import resource
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, overload

import numpy as np
import numpy.typing as npt
from typing_extensions import TypedDict

from reprise.errors import UserError
from reprise.progress import track
from reprise.records import record
from reprise.storage import FileChecksum, digest, file_checksum

VERSION = 4
STORE = "store.json"
OTHER_FILES = 512
"""Open files that a process may need besides those of a store."""


@record
class BucketDescription(TypedDict):
    """One bucket in `store.json`."""

    split: str
    """`train` or `valid`."""
    language: str
    """Language."""
    source: str
    """Source."""
    topic: str | None
    """Topic; null if the source is not split by topic."""
    folder: str
    """Folder of its files, relative to the folder of the store."""
    documents: int
    """Documents."""
    tokens: int
    """Tokens, BOS and EOS included."""
    files: dict[str, FileChecksum]
    """Name inside the folder -> size and hash."""
    conversations: NotRequired[int]
    """Documents that are conversations; absent if there are none."""
    answer_tokens: NotRequired[int]
    """Tokens of their answers, with the tokens that end a turn; absent if there are no conversations."""


@record
class StoreDescription(TypedDict):
    """`store.json`, written last."""

    version: int
    """Version of this record."""
    fingerprint: str
    """Hash of all other fields except `tokenizer`."""
    dtype: str
    """Type of `tokens.npy`: `uint16` or `uint32`."""
    vocab_size: int
    """Number of tokens in the tokenizer's vocabulary."""
    highest_id: int
    """Largest id that occurs; -1 in an empty store. The model must have an embedding for it."""
    tokenizer: str
    """Name of the tokenizer library."""
    eos_id: int
    """Id that ends each document."""
    bos_id: int | None
    """Id that begins each document; null: none."""
    buckets: list[BucketDescription]
    """The buckets in their order."""


class BucketKey(NamedTuple):
    """Language, source and topic of a bucket."""

    language: str
    source: str
    topic: str | None
    """None if the source is not split by topic."""

    def __str__(self) -> str:
        return "/".join(part for part in self if part is not None)


class DocIds(Sequence[str]):
    """Ids of the documents of a bucket, decoded on access."""

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

    def __init__(self, root: Path, description: BucketDescription) -> None:
        self.key = BucketKey(description["language"], description["source"], description["topic"])
        self.folder = root / description["folder"]
        self.num_documents, self.num_tokens = description["documents"], description["tokens"]
        self.content = digest(description["files"])
        """Hash of the checksums of its files: the same wherever the documents and their ids are the same."""
        self.num_conversations = description.get("conversations", 0)
        self.answer_tokens = description.get("answer_tokens", 0)
        """Tokens of the answers of conversations, with those that end a turn."""

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
        """float32 [num_documents]: perplexity under the base model, NaN if it was not scored."""
        return self._map("ppl")

    @cached_property
    def grade(self) -> npt.NDArray[np.float32]:
        """float32 [num_documents]: quality from 0 (worst) to 5, NaN if it was not graded."""
        return self._map("grade")

    @cached_property
    def num_bytes(self) -> npt.NDArray[np.int64]:
        """int64 [num_documents]: UTF-8 bytes of the text; of a conversation, of its answers."""
        return self._map("num_bytes")

    def answers(self, document: int) -> npt.NDArray[np.int32]:
        """int32 [answers, 3]: for each answer of the document, its first token, the end of its text, and its end
        including the tokens that end the turn. Empty if the document is not a conversation: then all of it counts."""
        if not self.num_conversations:
            return np.empty((0, 3), dtype=np.int32)
        start, stop = self._answer_offsets[document : document + 2].tolist()
        answers: npt.NDArray[np.int32] = self._answers[start:stop].reshape(-1, 3)
        return answers

    @cached_property
    def _answers(self) -> npt.NDArray[np.int32]:
        return self._map("answers")

    @cached_property
    def _answer_offsets(self) -> npt.NDArray[np.int64]:
        return self._map("answer_offsets")

    @cached_property
    def doc_ids(self) -> DocIds:
        """Ids of the documents."""
        return DocIds(self._map("id_bytes"), self._map("id_offsets"))


class TokenStore:
    """A published store."""

    def __init__(self, root: Path, description: StoreDescription) -> None:
        self.root, self.description = root, description
        self.fingerprint: str = description["fingerprint"]
        """Hash of the content of the store."""
        self.vocab_size: int = description["vocab_size"]
        self.highest_id: int = description["highest_id"]
        self.eos_id: int = description["eos_id"]
        self.bos_id: int | None = description["bos_id"]
        splits: dict[str, dict[BucketKey, Bucket]] = {"train": {}, "valid": {}}
        for entry in description["buckets"]:
            bucket = Bucket(root, entry)
            splits[entry["split"]][bucket.key] = bucket
        self.train: Mapping[BucketKey, Bucket] = splits["train"]
        self.valid: Mapping[BucketKey, Bucket] = splits["valid"]

    @classmethod
    def open(cls, path: Path | str) -> "TokenStore":
        """Open a store and check the size of every file.

        Raises:
            UserError: there is no store, it is of another version, or a file is missing or has another size.
        """
        root = Path(path)
        try:
            description: StoreDescription = json.loads((root / STORE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError("there is no token store", where=str(root), remedy="run `reprise tokenize`") from None
        except ValueError:
            raise UserError(
                "the description of the store is not JSON", where=str(root / STORE), remedy=_REBUILD
            ) from None
        if description.get("version") != VERSION:
            raise UserError(
                f"the store has version {description.get('version')}, this Reprise reads {VERSION}",
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
            UserError: the content of a file has changed since it was published.
        """
        files = list(_files(self.root, self.description))
        with track("verify the token store", sum(expected["size"] for _, expected in files), "bytes") as advance:
            for path, expected in files:
                if file_checksum(path) != expected:
                    raise UserError("a file of the token store was changed", where=str(path), remedy=_REBUILD)
                advance(expected["size"])


_REBUILD = "delete the folder and run `reprise tokenize` again"


def _files(root: Path, description: StoreDescription) -> Iterator[tuple[Path, FileChecksum]]:
    for entry in description["buckets"]:
        for name, expected in entry["files"].items():
            yield root / entry["folder"] / name, expected


def _allow_open_files(count: int) -> None:
    """Raise the process's limit of open files, as far as the system allows: each mapped file counts as open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError):  # a system without /proc
        count += len(list(Path("/proc/self/fd").iterdir()))  # those of other stores, for example
    limit = count + OTHER_FILES if hard == resource.RLIM_INFINITY else min(count + OTHER_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))

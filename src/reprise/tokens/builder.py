"""Writes documents and their token ids to a token store: sorted runs, which `merge` puts into the files of buckets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from reprise.documents.engine import Engine
from reprise.model.chat import Answers, ChatTemplate, encode_documents
from reprise.model.tokenizer import Ids, Tokenizer
from reprise.storage import digest, write_json
from reprise.tokens.merge import merge_into
from reprise.tokens.runs import RunWriter, SplitBucket, make_columns
from reprise.tokens.store import STORE, VERSION, BucketKey, StoreDescription, TokenStore

HELD_BYTES = 64 << 20
"""Bytes of tokens that are collected in memory before they are written as a run; at most as many are merged at once."""
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
    """Merge the runs in a store's folder into the store, and delete the runs.

    Args:
        root: folder of the store.
        tokenizer: tokenizer to record in the description.
        highest_id: largest id that occurs.
        held_bytes: bytes of tokens that each worker has in memory at once.
        engine: where the workers run.
    """
    dtype = token_dtype(tokenizer.vocab_size)
    entries = merge_into(root, root / RUNS, dtype, held_bytes, engine)
    description: StoreDescription = {
        "version": VERSION,
        "fingerprint": "",
        "dtype": dtype.name,
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

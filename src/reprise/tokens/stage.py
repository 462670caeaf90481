"""Stage `tokenize`: writes scored and synthetic documents to the token store, on all cores or the cluster.

Workers encode parts of the table into sorted runs (`runs`), then each merges the runs of a bucket (`builder`). The
store does not depend on how many workers there are, and the piece of a killed worker is repeated. Conversations that
the model's chat template rejects go to `dropped/`.
"""

import functools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NotRequired

import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import TypedDict

from reprise.documents.engine import Engine, run_pieces
from reprise.documents.part_step import BucketFlow
from reprise.documents.table import DROPPED, DROPPED_SCHEMA, count_rows, list_parts, write_part
from reprise.model.chat import ChatTemplate, encode_documents
from reprise.model.tokenizer import Library, Tokenizer, open_tokenizer
from reprise.recipe.model import Model
from reprise.recipe.tokens import Tokens
from reprise.records import record
from reprise.tokens.builder import RUNS, TEXT_COLUMNS, add_batch, merge_runs
from reprise.tokens.runs import RunWriter
from reprise.tokens.store import TokenStore
from reprise.workspace import Work

CHAT_TEMPLATE = "chat_template"
"""Reason recorded for a conversation that is dropped because the model's chat template rejects it."""
BATCH_DOCUMENTS = 1024
"""Documents encoded at once: fewer leave the library's threads idle, more leave the caches (measured)."""
PIECE_BYTES = 64 << 20
"""Approximate bytes of text in a piece, after which a worker reports."""
START_BYTES = 128 << 20
"""Bytes of text that one process encodes in the time in which a worker process loads a tokenizer."""

_opened: dict[str, Tokenizer] = {}
"""Model and library -> the tokenizer of this process."""

_templates: dict[str, ChatTemplate] = {}
"""Model -> its chat template, once a conversation needed it."""


@record
class BucketTokens(TypedDict):
    """Documents and tokens of one bucket of the store."""

    split: str
    """`train` or `valid`."""
    language: str
    """Language."""
    source: str
    """Source."""
    topic: str | None
    """Topic; null if the source is not split."""
    documents: int
    """Documents."""
    tokens: int
    """Tokens, BOS and EOS included."""
    conversations: NotRequired[int]
    """Documents that are conversations; absent if there are none."""
    answer_tokens: NotRequired[int]
    """Tokens of their answers; absent if there are no conversations."""


@record
class TokenizeCounts(TypedDict):
    """Counts of the stage `tokenize`, for its manifest."""

    documents: int
    """Documents in the store."""
    dropped: int
    """Conversations that the model's chat template rejects, which `reprise rejects` shows."""
    drops: list[BucketFlow]
    """Languages, sources and splits with dropped conversations; empty if none was dropped."""
    conversations: int
    """Documents that are conversations."""
    answer_tokens: int
    """Tokens of their answers, with those that end a turn."""
    tokens: int
    """Tokens in the store."""
    tokenizer: str
    """Tokenizer library that computed the ids."""
    tokenizer_reason: str
    """Why this library was used."""
    buckets: list[BucketTokens]
    """Documents and tokens of each bucket."""


class EncodePiece(NamedTuple):
    """Parts of the table that are encoded together."""

    position: int
    parts: tuple[str, ...]


class Encoded(NamedTuple):
    """Result of encoding a piece."""

    documents: int
    highest_id: int
    dropped: Counter[tuple[str, str, str]]
    """(language, source, split) -> conversations that the chat template rejects."""


def run(work: Work, *, model: Model, tokens: Tokens, split_sources: list[str], engine: Engine = "native") -> None:
    """Write the documents of `score` and, if that stage exists, of `synthesize` to the store.

    Args:
        work: the stage's folders; `inputs` contains `score` and optionally `synthesize`.
        model: the model whose tokenizer is used.
        tokens: tokenizer library, and memory of a worker.
        split_sources: sources whose buckets are split by topic.
        engine: where the workers run.

    Raises:
        UserError: see `open_tokenizer`; or a fast tokenizer returned different ids for some text.
    """
    folders = [work.inputs[name] / "documents" for name in ("score", "synthesize") if name in work.inputs]
    tokenizer = _open(model.model_dump_json(), tokens.tokenizer, os.getpid())
    parts = [part for folder in folders for part in list_parts(folder)]
    held_bytes = tokens.memory_mb * 1_000_000 // 4  # sorting copies the collected tokens, and so does reading them back
    results = run_pieces(
        functools.partial(
            encode_piece,
            str(work.output),
            model.model_dump_json(),
            tokens.tokenizer,
            tuple(split_sources),
            held_bytes,
            os.getpid(),
        ),
        list(_pieces(parts)),
        engine=engine,
        what="tokenize",
        num_bytes=sum(part.stat().st_size for part in parts) - START_BYTES,
    )
    highest_id = max((result.highest_id for result in results), default=-1)
    dropped = sum((result.dropped for result in results), Counter())
    store = merge_runs(work.output, tokenizer, highest_id, held_bytes, engine=engine)
    _opened.clear()
    _templates.clear()
    buckets = [*store.train.values(), *store.valid.values()]
    counts: TokenizeCounts = {
        "documents": sum(bucket.num_documents for bucket in buckets),
        "dropped": dropped.total(),
        "drops": _drops(store, dropped),
        "conversations": sum(bucket.num_conversations for bucket in buckets),
        "answer_tokens": sum(bucket.answer_tokens for bucket in buckets),
        "tokens": sum(bucket.num_tokens for bucket in buckets),
        "tokenizer": tokenizer.library,
        "tokenizer_reason": tokenizer.reason,
        "buckets": [
            {
                "split": entry["split"],
                "language": entry["language"],
                "source": entry["source"],
                "topic": entry["topic"],
                "documents": entry["documents"],
                "tokens": entry["tokens"],
            }
            for entry in store.description["buckets"]
        ],
    }
    work.counts.update(counts)
    total = sum(map(count_rows, folders))
    if counts["documents"] + counts["dropped"] != total:
        raise AssertionError(
            f"{total} documents came in, {counts['documents']} are in the store, {counts['dropped']} were dropped"
        )


def _drops(store: TokenStore, dropped: Mapping[tuple[str, str, str], int]) -> list[BucketFlow]:
    """Each language, source and split with dropped conversations, with the count of all its documents."""
    stored: Counter[tuple[str, str, str]] = Counter()
    for entry in store.description["buckets"]:
        stored[entry["language"], entry["source"], entry["split"]] += entry["documents"]
    return [
        {
            "language": language,
            "source": source,
            "split": split,
            "documents_in": stored[language, source, split] + count,
            "dropped": {CHAT_TEMPLATE: count},
        }
        for (language, source, split), count in sorted(dropped.items())
    ]


def encode_piece(
    root: str,
    model: str,
    library: Library,
    split_sources: Sequence[str],
    held_bytes: int,
    parent: int,
    piece: EncodePiece,
) -> Encoded:
    """Encode parts of the table into sorted runs; a repeated call writes the same runs.

    Args:
        root: folder of the store.
        model: the model's settings, as JSON.
        library: tokenizer library.
        split_sources: sources whose buckets are split by topic.
        held_bytes: bytes of tokens that are collected in memory before a run is written.
        parent: id of the process that distributes the pieces.
        piece: parts of the table to encode.
    """
    tokenizer = _open(model, library, parent)
    writer = RunWriter(Path(root) / RUNS, f"{piece.position:06d}", held_bytes)
    dropped: list[pa.Table] = []
    for part in piece.parts:
        refused_in_part: dict[int, str] = {}
        with pq.ParquetFile(part) as file:
            first = 0
            for batch in file.iter_batches(batch_size=BATCH_DOCUMENTS, columns=TEXT_COLUMNS.names):
                texts, messages = batch.column("text").to_pylist(), batch.column("messages").to_pylist()
                refused: dict[int, str] = {}
                ids, answers = encode_documents(
                    texts, messages, tokenizer, functools.partial(_open_template, model), refused
                )
                table = pa.Table.from_batches([batch])
                if refused:
                    kept = [row for row in range(len(ids)) if row not in refused]
                    table, ids, answers = table.take(kept), [ids[row] for row in kept], [answers[row] for row in kept]
                add_batch(writer, table, ids, tokenizer, frozenset(split_sources), answers)
                refused_in_part |= {first + row: why for row, why in refused.items()}
                first += batch.num_rows
        if refused_in_part:
            dropped.append(_dropped_rows(part, refused_in_part))
    writer.flush()
    lost: Counter[tuple[str, str, str]] = Counter()
    if dropped:
        table = pa.concat_tables(dropped)
        lost.update(zip(*(table[name].to_pylist() for name in ("lang", "source", "split")), strict=True))
        path = Path(root) / DROPPED / f"part-{piece.position:06d}.parquet"
        write_part(path, table.select(DROPPED_SCHEMA.names), DROPPED_SCHEMA)
    return Encoded(writer.num_documents, writer.highest_id, lost)


def _dropped_rows(part: str, refused: Mapping[int, str]) -> pa.Table:
    """Rows of a part with the reason, for `dropped/`, and their split.

    Args:
        part: a part of the table.
        refused: row -> why the template rejects it.
    """
    rows = pq.read_table(part, columns=["id", "lang", "source", "origin", "text", "split"]).take(list(refused))
    reasons = pa.array([CHAT_TEMPLATE] * len(refused), pa.string())
    return rows.append_column("reason", reasons).append_column("detail", pa.array(refused.values(), pa.string()))


def _open(model: str, library: Library, parent: int) -> Tokenizer:
    """The tokenizer of this process; a worker's uses one core, as the other workers use the rest."""
    key = f"{library} {model}"
    if key not in _opened:
        if os.getpid() != parent:
            os.environ.setdefault("RAYON_NUM_THREADS", "1")  # threads of the tokenizer libraries
        _opened[key] = open_tokenizer(Model.model_validate_json(model), library)
    return _opened[key]


def _open_template(model: str) -> ChatTemplate:
    """The chat template of this process."""
    if model not in _templates:
        _templates[model] = ChatTemplate(Model.model_validate_json(model))
    return _templates[model]


def _pieces(parts: Sequence[Path]) -> Iterator[EncodePiece]:
    """Parts of the table, in order, in pieces of about `PIECE_BYTES`."""
    waiting: list[str] = []
    size = index = 0
    for part in parts:
        waiting.append(str(part))
        size += part.stat().st_size
        if size >= PIECE_BYTES:
            yield EncodePiece(index, tuple(waiting))
            waiting, size, index = [], 0, index + 1
    if waiting:
        yield EncodePiece(index, tuple(waiting))

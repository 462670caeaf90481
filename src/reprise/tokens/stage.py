"""Stage `tokenize`: scored and synthetic documents to the token store."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any

import pyarrow as pa

from reprise.documents.table import count_rows, read_table
from reprise.model.tokenizer import Ids, Tokenizer, open_tokenizer
from reprise.progress import track
from reprise.recipe.model import Model
from reprise.recipe.tokens import Tokens
from reprise.tokens.builder import StoreBuilder
from reprise.workspace import Work

BATCH_DOCUMENTS = 1024
"""Documents encoded at once: fewer leave the library's threads idle, more leave the caches (measured)."""


def run(work: Work, *, model: Model, tokens: Tokens, split_sources: list[str]) -> None:
    """Stage `tokenize`: documents of `score` and, where there is one, of `synthesize`, to the store.

    Args:
        work: `inputs` has `score` and maybe `synthesize`.
        model: whose tokenizer.
        tokens: which tokenizer library.
        split_sources: sources whose buckets are split by topic.

    Raises:
        UserError: see `open_tokenizer`; or a fast tokenizer was found to give other ids on the way.
    """
    folders = [work.inputs[name] / "documents" for name in ("score", "synthesize") if name in work.inputs]
    tokenizer = open_tokenizer(model, tokens.tokenizer)
    builder = StoreBuilder(work.output, tokenizer, split_sources)
    total = sum(map(count_rows, folders))
    columns = ["id", "text", "lang", "source", "topic", "split", "ppl"]
    batches = chain.from_iterable(read_table(folder, columns, batch_rows=BATCH_DOCUMENTS) for folder in folders)
    with track("tokenize", total, "documents") as advance:
        for documents, ids in _encode_ahead(tokenizer, batches):
            builder.add(documents, ids)
            advance(len(documents))
    store = builder.finish()
    buckets = [*store.train.values(), *store.valid.values()]
    work.counts |= {
        "documents": sum(bucket.num_documents for bucket in buckets),
        "tokens": sum(bucket.num_tokens for bucket in buckets),
        "tokenizer": tokenizer.library,
        "tokenizer_reason": tokenizer.reason,
        "buckets": [
            {name: value for name, value in entry.items() if name not in ("folder", "files")}
            for entry in store.description["buckets"]
        ],
    }
    if work.counts["documents"] != total:
        raise AssertionError(f"{total} documents came in, {work.counts['documents']} are in the store")


def _encode_ahead(
    tokenizer: Tokenizer, batches: Iterable[pa.RecordBatch]
) -> Iterator[tuple[list[dict[str, Any]], list[Ids]]]:
    """Documents and their ids; while the caller has one batch the next is being encoded."""

    def encode(batch: pa.RecordBatch) -> tuple[list[dict[str, Any]], list[Ids]]:
        documents = batch.to_pylist()
        return documents, tokenizer.encode_batch([document["text"] for document in documents])

    with ThreadPoolExecutor(1) as worker:
        ahead: deque[Future[tuple[list[dict[str, Any]], list[Ids]]]] = deque()
        for batch in batches:
            ahead.append(worker.submit(encode, batch))
            if len(ahead) == 2:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

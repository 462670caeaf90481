"""Stage `score`: the perplexity of documents under the model that is about to be trained.

    documents/part-000000.parquet   the table of `label`, one part per shard, with nll, num_tokens, ppl, bits_per_byte;
                                    the parts of `label` themselves if no text needs a perplexity

Shards are slices of the input table in its order, so a part that exists is a finished shard. Under `torchrun`
each process scores every n-th shard on its own device and the first one publishes; the bytes do not depend on the
number of processes, and a process that is killed loses the shard that it was scoring.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from typing_extensions import TypedDict

from reprise.documents.table import DOCUMENTS, count_rows, link_parts, read_table, write_part
from reprise.model.chat import ChatTemplate, encode_documents
from reprise.model.conversation import answer_bytes, load_messages
from reprise.model.devices import own_device
from reprise.model.likelihood import document_nll, fit_window, native_dtype
from reprise.model.loading import load_config, load_model
from reprise.model.tokenizer import open_tokenizer
from reprise.progress import Advance, track
from reprise.recipe.documents import Perplexity
from reprise.recipe.model import Model
from reprise.records import record
from reprise.workspace import Work


@record
class ScoredBucket(TypedDict):
    """Scored documents of one language and source."""

    documents: int
    """Documents."""
    too_short: int
    """Documents without a perplexity: fewer tokens than `documents.perplexity.min_tokens`."""
    tokens: int
    """Scored tokens."""
    nll: float
    """Their negative log-likelihood in nats."""


@record
class ScoreCounts(TypedDict):
    """Counts of the stage `score`, for its manifest."""

    documents_in: int
    """Documents that came in."""
    documents_out: int
    """Documents that were written: all of them."""
    scored: dict[str, ScoredBucket]
    """`LANGUAGE/SOURCE` of the text that needs a perplexity -> its documents."""


def run(work: Work, *, model: Model, perplexity: Perplexity, buckets: Sequence[Sequence[str]]) -> None:
    """Score the documents of the given buckets; all others get nulls.

    Args:
        work: the stage; it reads the output of `label`.
        model: the model that scores.
        perplexity: settings: windows, batches, shards.
        buckets: (language, source) pairs that have a curriculum.

    Raises:
        UserError: a token id is outside the model's vocabulary.
    """
    source, target = work.inputs["label"] / DOCUMENTS, work.output / DOCUMENTS
    selected = {(language, name) for language, name in buckets}
    rank, world = work.processes.rank, work.processes.world
    if not selected:
        if work.processes.is_first:
            link_parts(source, target)
        work.processes.wait()
        documents = count_rows(target)
        none_scored: ScoreCounts = {"documents_in": documents, "documents_out": documents, "scored": {}}
        work.counts.update(none_scored)
        return
    scorer: _Scorer | None = None
    with track("score", count_rows(source), "documents") as advance:
        for index, shard in enumerate(read_table(source, batch_rows=perplexity.shard_documents)):
            part = target / f"part-{index:06d}.parquet"
            if index % world == rank and not part.exists():
                rows = _selected_rows(shard, selected)
                if rows and scorer is None:
                    scorer = _Scorer(model, perplexity)
                columns = scorer.score(shard, rows, advance) if scorer and rows else {}
                write_part(part, _with_columns(shard, columns))
                advance(shard.num_rows - len(rows))
            else:
                advance(shard.num_rows)
    work.processes.wait()
    work.counts.update(_counts(target, selected))


class _Scorer:
    """The loaded model with its tokenizer."""

    def __init__(self, model: Model, perplexity: Perplexity) -> None:
        self._settings, self._perplexity = model, perplexity
        self._window = fit_window(load_config(model), perplexity.max_length, perplexity.stride)
        self._device = own_device()
        dtype = native_dtype(self._device) if perplexity.dtype == "auto" else getattr(torch, perplexity.dtype)
        self._model = load_model(model, dtype, self._device)
        self._tokenizer = open_tokenizer(model)
        self._prefix = [] if self._tokenizer.bos_id is None else [self._tokenizer.bos_id]

    def score(self, shard: pa.RecordBatch, rows: list[int], advance: Advance) -> dict[str, list[Any]]:
        """The score columns of a shard, null outside `rows`; `advance` is called with tokens per document."""
        texts = shard.column("text").take(pa.array(rows)).to_pylist()
        messages = shard.column("messages").take(pa.array(rows)).to_pylist()
        # A conversation that the chat template refuses gets no perplexity here; the stage `tokenize` drops it.
        refused: dict[int, str] = {}
        encoded, answers = encode_documents(texts, messages, self._tokenizer, lambda: self._template, refused)
        documents = [np.array([*self._prefix, *ids], dtype=np.int64) for ids in encoded]
        # In a conversation only the answers are scored, not the messages that ask for them.
        stretches = [None if one is None else one[:, :2] + len(self._prefix) for one in answers]
        sizes = [
            len(text.encode()) if one is None else answer_bytes(load_messages(one))
            for text, one in zip(texts, messages, strict=True)
        ]
        to_score, scored, shown = sum(max(0, len(ids) - 1) for ids in documents), 0.0, 0

        def scored_more(tokens: float) -> None:
            nonlocal scored, shown
            scored += tokens
            before, shown = shown, int(len(rows) * scored / to_score)
            advance(shown - before)

        nll, num_tokens = document_nll(
            self._model,
            documents,
            max_length=self._window[0],
            stride=self._window[1],
            batch_tokens=self._perplexity.batch_tokens,
            device=self._device,
            advance=scored_more,
            stretches=stretches,
        )
        advance(len(rows) - shown)
        columns: dict[str, list[Any]] = {
            name: [None] * shard.num_rows for name in ("nll", "num_tokens", "ppl", "bits_per_byte")
        }
        for row, size, total, count in zip(rows, sizes, nll.tolist(), num_tokens.tolist(), strict=True):
            columns["nll"][row], columns["num_tokens"][row] = total, count
            if size and count >= max(1, self._perplexity.min_tokens):
                columns["ppl"][row] = float(np.exp(min(total / count, 700.0)))  # exp(710) is infinite
                columns["bits_per_byte"][row] = total / np.log(2) / size
        return columns

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self._settings)


def _selected_rows(shard: pa.RecordBatch, selected: set[tuple[str, str]]) -> list[int]:
    pairs = zip(shard.column("lang").to_pylist(), shard.column("source").to_pylist(), strict=True)
    return [row for row, pair in enumerate(pairs) if pair in selected]


def _with_columns(shard: pa.RecordBatch, columns: dict[str, list[Any]]) -> pa.Table:
    table = pa.Table.from_batches([shard])
    for name, values in columns.items():
        index = table.column_names.index(name)
        table = table.set_column(index, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    return table


def _counts(folder: Path, selected: set[tuple[str, str]]) -> ScoreCounts:
    """Documents and scores per bucket, for the manifest and the report."""
    buckets: dict[str, ScoredBucket] = {}
    documents = 0
    for batch in read_table(folder, ["lang", "source", "nll", "num_tokens", "ppl"]):
        documents += batch.num_rows
        groups = pa.Table.from_batches([batch]).group_by(["lang", "source"], use_threads=False)
        sums = groups.aggregate([("nll", "sum"), ("num_tokens", "sum"), ("ppl", "count"), ([], "count_all")])
        for row in sums.to_pylist():
            if (row["lang"], row["source"]) in selected:
                bucket = buckets.setdefault(
                    f"{row['lang']}/{row['source']}", {"documents": 0, "too_short": 0, "tokens": 0, "nll": 0.0}
                )
                bucket["documents"] += row["count_all"]
                bucket["too_short"] += row["count_all"] - row["ppl_count"]
                bucket["tokens"] += row["num_tokens_sum"] or 0
                bucket["nll"] += row["nll_sum"] or 0.0
    return {"documents_in": documents, "documents_out": documents, "scored": buckets}

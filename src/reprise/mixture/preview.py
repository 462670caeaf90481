"""Preview of the training order: the rows of a stage in order, and how documents fit into them."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from reprise.mixture.buckets import OpenBucket, open_buckets
from reprise.mixture.sampler import Sampler
from reprise.mixture.state import SamplerState
from reprise.recipe import Recipe
from reprise.tokens.rows import Row
from reprise.tokens.store import TokenStore

SAMPLE_ROWS = 2048
"""Rows of each bucket that the packing statistics cover."""
WORD_TOKENS = 24
"""Tokens of a row that are shown as text."""


class PreviewRow(NamedTuple):
    """One row of the order."""

    step: int
    """Optimizer step that trains on it, from 1."""
    row: int
    """Index of the row, from 1, over all processes."""
    bucket: str
    """Path of the bucket, such as `zh/web/Others`."""
    epoch: int
    """Pass over the bucket, from 1."""
    documents: list[str]
    """Ids of the documents in it."""
    ppl: float | None
    """Mean perplexity of these documents, each counted once; None if none was scored."""
    words: str
    """Text of the row's first tokens."""


class Packing(NamedTuple):
    """How the documents of a bucket fit into rows, over its first epoch or its first rows."""

    bucket: str
    rows: int
    padding: float
    """Share of the positions that are padding, 0 to 1."""
    documents: int
    cut: int
    """Documents in more than one row."""
    cut_though_short: int
    """Documents among `cut` that would have fitted into one row."""


def preview(
    recipe: Recipe,
    store: TokenStore,
    decode: Callable[[list[int]], str],
    *,
    stage: int = 1,
    previous: SamplerState | None = None,
) -> Iterator[PreviewRow]:
    """The rows of a stage from its first on, under its initial shares.

    Args:
        recipe: the run.
        store: token store of its workspace.
        decode: ids to text.
        stage: counted from 1.
        previous: the sampler's state at the end of the previous stage; None: that stage is simulated under its initial
            shares.

    Raises:
        UserError: see `Sampler`.
    """
    if stage > 1 and previous is None:
        previous = _state_after(recipe, store, stage - 1)
    sampler = Sampler(store, recipe.stages[stage - 1], recipe.rows, recipe.seed, previous)
    opened = {one.bucket: one for one in sampler.opened}
    while not sampler.finished:
        epochs = {bucket: one.stream.epoch for bucket, one in opened.items()}
        batch = sampler.next_batch(1)
        (bucket,), (row,) = batch.buckets, batch.pieces
        ids, ppl = _documents(opened[bucket], row)
        row_index = sampler.rows_done
        yield PreviewRow(
            step=(row_index - 1) // recipe.training.batch_rows + 1,
            row=row_index,
            bucket=bucket.path,
            epoch=epochs[bucket] + 1,
            documents=ids,
            ppl=ppl,
            words=" ".join(decode(batch.ids[0, :WORD_TOKENS].tolist()).split()),
        )


def packing(recipe: Recipe, store: TokenStore, stage: int = 1) -> list[Packing]:
    """Padding and cuts of each bucket, over at most `SAMPLE_ROWS` rows of its first epoch."""
    packings = []
    seq_len = recipe.rows.seq_len
    for one in open_buckets(store, recipe.stages[stage - 1], recipe.rows, recipe.seed):
        rows = list(islice(_first_epoch(one), SAMPLE_ROWS))
        pieces = [piece for row in rows for piece in row]
        times = Counter(piece.document for piece in pieces)
        cut = [document for document, count in times.items() if count > 1]
        short = [document for document in cut if one.documents.lengths[document] <= seq_len]
        filled = sum(piece.length for piece in pieces)
        padding = 1 - filled / (len(rows) * seq_len)
        packings.append(Packing(one.bucket.path, len(rows), padding, len(times), len(cut), len(short)))
    return packings


def _state_after(recipe: Recipe, store: TokenStore, stage: int) -> SamplerState:
    """The sampler's state at the end of a stage in which no share changes."""
    previous = _state_after(recipe, store, stage - 1) if stage > 1 else None
    sampler = Sampler(store, recipe.stages[stage - 1], recipe.rows, recipe.seed, previous)
    batch = recipe.training.batch_rows
    sampler.skip(-(-sampler.total_rows // batch) * batch)
    return sampler.state()


def _documents(one: OpenBucket, row: Row) -> tuple[list[str], float | None]:
    """Ids of the documents of a row, and their mean perplexity."""
    documents = list(dict.fromkeys(piece.document for piece in row))
    located = [one.documents.locate(document) for document in documents]
    ids = [bucket.doc_ids[index] for bucket, index in located]
    ppl = one.documents.ppl[documents]
    return ids, None if np.isnan(ppl).all() else float(np.nanmean(ppl))


def _first_epoch(one: OpenBucket) -> Iterator[Row]:
    while one.stream.epoch == 0 and not one.stream.exhausted:
        yield one.stream.take()()

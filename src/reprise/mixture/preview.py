"""What would be trained on when: rows of a stage in their order, and a picture of the mixture over tokens."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reprise.mixture.buckets import LeafRows, open_leaves
from reprise.mixture.forecast import Segment, forecast
from reprise.mixture.sampler import Sampler
from reprise.model.loading import load_tokenizer
from reprise.recipe import Recipe
from reprise.tokens.rows import Row
from reprise.tokens.store import TokenStore
from reprise.workspace import Json

SAMPLE_ROWS = 2048
"""Rows of each bucket that the report on packing looks at."""
WORD_TOKENS = 24
"""Tokens of a row that are shown as text."""


class PreviewRow(NamedTuple):
    """One row of the order."""

    step: int
    """Optimizer step that trains on it, from 1."""
    row: int
    """From 1, over all processes."""
    bucket: str
    """Such as `zh/web/Others`."""
    epoch: int
    """Pass over the bucket, from 1."""
    documents: list[str]
    """Ids of the documents in it."""
    ppl: float | None
    """Mean perplexity of these documents, each counted once; None where none was scored."""
    words: str
    """How the row begins."""


class Packing(NamedTuple):
    """How the documents of a bucket fit into rows, over its first epoch or its first rows."""

    bucket: str
    rows: int
    padding: float
    """Share of the positions."""
    documents: int
    cut: int
    """Documents in more than one row."""
    cut_though_short: int
    """Of these, documents that would have fitted into one row."""


def preview(
    recipe: Recipe,
    store: TokenStore,
    decode: Callable[[list[int]], str],
    *,
    stage: int = 1,
    previous: Mapping[str, Json] | None = None,
) -> Iterator[PreviewRow]:
    """The rows of a stage from its first on, under its first weights.

    Args:
        recipe: the run.
        store: of its workspace.
        decode: ids to text.
        stage: counted from 1.
        previous: the sampler's state at the end of the stage before. Without it, that stage is dealt here under its
            first weights.

    Raises:
        UserError: see `Sampler`.
    """
    if stage > 1 and previous is None:
        previous = _state_after(recipe, store, stage - 1)
    sampler = Sampler(store, recipe.stages[stage - 1], recipe.rows, recipe.seed, previous)
    entries = {entry.leaf: entry for entry in sampler.entries}
    while not sampler.finished:
        epochs = {leaf: entry.stream.epoch for leaf, entry in entries.items()}
        batch = sampler.next_batch(1)
        (leaf,), (row,) = batch.leaves, batch.pieces
        ids, ppl = _documents(entries[leaf], row)
        number = sampler.rows_done
        yield PreviewRow(
            step=(number - 1) // recipe.training.batch_rows + 1,
            row=number,
            bucket=leaf.path,
            epoch=epochs[leaf] + 1,
            documents=ids,
            ppl=ppl,
            words=" ".join(decode(batch.ids[0, :WORD_TOKENS].tolist()).split()),
        )


def packing(recipe: Recipe, store: TokenStore, stage: int = 1) -> list[Packing]:
    """Padding and cuts of each bucket, over at most `SAMPLE_ROWS` rows of its first epoch."""
    found = []
    seq_len = recipe.rows.seq_len
    for entry in open_leaves(store, recipe.stages[stage - 1], recipe.rows, recipe.seed):
        rows = list(islice(_first_epoch(entry), SAMPLE_ROWS))
        pieces = [piece for row in rows for piece in row]
        times = Counter(piece.document for piece in pieces)
        cut = [document for document, count in times.items() if count > 1]
        short = [document for document in cut if entry.documents.lengths[document] <= seq_len]
        filled = sum(piece.length for piece in pieces)
        padding = 1 - filled / (len(rows) * seq_len)
        found.append(Packing(entry.leaf.path, len(rows), padding, len(times), len(cut), len(short)))
    return found


def draw_mixture(segments: list[Segment], title: str) -> Any:
    """A plotly figure: the planned share of each language and source over the tokens of the run, stacked.

    Args:
        segments: of `forecast`, stages in order.
        title: over the picture.
    """
    import plotly.graph_objects as go

    starts: dict[int, int] = {}
    for segment in segments:
        starts.setdefault(segment.stage, sum(s.stop - s.start for s in segments if s.stage < segment.stage))
    paths = list(dict.fromkeys(_source(path) for segment in segments for path in segment.shares))
    tokens = [starts[s.stage] + at for s in segments for at in (s.start, s.stop)]
    figure = go.Figure()
    for path in paths:
        shares = [
            100 * sum(share for leaf, share in s.shares.items() if _source(leaf) == path)
            for s in segments
            for _ in (0, 1)
        ]
        figure.add_scatter(
            x=tokens, y=shares, name=path, mode="lines", stackgroup="mixture", line={"width": 0.5},
            hovertemplate="%{y:.2f} %",
        )  # fmt: skip
    for stage, start in starts.items():
        figure.add_vline(x=start, line_dash="dot", annotation_text=f"stage {stage}")
    figure.update_layout(
        title=title,
        xaxis_title="tokens trained on",
        yaxis={"title": "share of the rows, %", "range": [0, 100], "ticksuffix": " %"},
        hovermode="x unified",
    )
    return figure


def show_order(
    recipe: Recipe,
    store: TokenStore,
    *,
    stage: int = 1,
    rows: int = 200,
    previous: Mapping[str, Json] | None = None,
    picture: Path | None = None,
) -> None:
    """Print the first rows of a stage, how its documents fit into rows, and what the forecast warns of.

    Args:
        recipe: the run.
        store: of its workspace.
        stage: counted from 1.
        rows: how many are printed.
        previous: see `preview`.
        picture: where to write the mixture over tokens, as HTML.
    """
    tokenizer = load_tokenizer(recipe.model)
    console = Console()
    order = Table("step", "row", "bucket", "epoch", "perplexity", "documents", "begins with", title=f"stage {stage}")
    for row in islice(
        preview(recipe, store, lambda ids: str(tokenizer.decode(ids)), stage=stage, previous=previous), rows
    ):
        ppl = "" if row.ppl is None else f"{row.ppl:.2f}"
        more = f" +{len(row.documents) - 2}" if len(row.documents) > 2 else ""
        documents = ", ".join(row.documents[:2]) + more
        cells = [str(row.step), str(row.row), row.bucket, str(row.epoch), ppl, documents, row.words[:60]]
        order.add_row(*map(escape, cells))
    fit = Table("bucket", "rows", "padding", "documents", "cut", "cut though short", title="rows of the first epoch")
    for entry in packing(recipe, store, stage):
        numbers = [entry.rows, f"{entry.padding:.2%}", entry.documents, entry.cut, entry.cut_though_short]
        fit.add_row(escape(entry.bucket), *map(str, numbers))
    console.print(order, fit)
    found = forecast(recipe, store)
    for warning in found.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)
    if picture is not None:
        write_picture(found.segments, f"{recipe.name}: planned mixture", picture)
        console.print(f"the mixture over tokens: {picture}", markup=False, highlight=False)


def write_picture(segments: list[Segment], title: str, path: Path) -> None:
    """`draw_mixture` as one HTML file that opens offline."""
    draw_mixture(segments, title).write_html(path, include_plotlyjs=True)


def _state_after(recipe: Recipe, store: TokenStore, stage: int) -> dict[str, Json]:
    """The sampler's state at the end of a stage, if no weight changed on the way."""
    previous = _state_after(recipe, store, stage - 1) if stage > 1 else None
    sampler = Sampler(store, recipe.stages[stage - 1], recipe.rows, recipe.seed, previous)
    batch = recipe.training.batch_rows
    sampler.skip(-(-sampler.total_rows // batch) * batch)
    return sampler.state()


def _documents(entry: LeafRows, row: Row) -> tuple[list[str], float | None]:
    """Ids of the documents of a row, and their mean perplexity."""
    numbers = list(dict.fromkeys(piece.document for piece in row))
    places = [entry.documents.locate(number) for number in numbers]
    ids = [bucket.doc_ids[index] for bucket, index in places]
    ppl = entry.documents.ppl[numbers]
    return ids, None if np.isnan(ppl).all() else float(np.nanmean(ppl))


def _first_epoch(entry: LeafRows) -> Iterator[Row]:
    while entry.stream.epoch == 0 and not entry.stream.exhausted:
        yield entry.stream.take()()


def _source(path: str) -> str:
    """`zh/web` of `zh/web/Others`."""
    return "/".join(path.split("/")[:2])

"""`reprise order`: the order of a stage as tables on the terminal, and the planned mixture over tokens as a plot."""

from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from typing_extensions import TypedDict

from reprise.mixture.forecast import Segment, forecast
from reprise.mixture.preview import Packing, PreviewRow, packing, preview
from reprise.mixture.state import SamplerState
from reprise.model.loading import load_tokenizer
from reprise.recipe import Recipe
from reprise.tables import print_table
from reprise.tokens.store import TokenStore


def draw_mixture(segments: list[Segment], title: str) -> Any:
    """Draw the planned share of each language and source over the tokens of the run, as a stacked plotly figure.

    Args:
        segments: segments from `forecast`, stages in order.
        title: title of the figure.
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
            100 * sum(share for bucket, share in s.shares.items() if _source(bucket) == path)
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


class Order(TypedDict):
    """The order in which a training stage will read its rows."""

    stage: int
    """From 1."""
    rows: list[PreviewRow]
    packing: list[Packing]
    warnings: list[str]
    """Warnings of the forecast."""


def plan_order(
    recipe: Recipe,
    store: TokenStore,
    *,
    stage: int = 1,
    rows: int = 200,
    previous: SamplerState | None = None,
    picture: Path | None = None,
) -> Order:
    """Compute the first rows of a stage, how its documents fit into rows, and the warnings of the forecast.

    Args:
        recipe: the run.
        store: token store of the run.
        stage: training stage, counted from 1.
        rows: how many rows to compute.
        previous: state of the sampler at the end of the previous stage, see `preview`.
        picture: HTML file for a plot of the mixture over tokens; None: no plot.
    """
    tokenizer = load_tokenizer(recipe.start_model())
    order = preview(recipe, store, lambda ids: str(tokenizer.decode(ids)), stage=stage, previous=previous)
    expected = forecast(recipe, store)
    if picture is not None:
        write_picture(expected.segments, f"{recipe.name}: planned mixture", picture)
    return {
        "stage": stage,
        "rows": list(islice(order, rows)),
        "packing": packing(recipe, store, stage),
        "warnings": list(expected.warnings),
    }


def order_json(order: Order) -> dict[str, object]:
    """Convert an order to JSON with names instead of indices, for `reprise order --json`."""
    return {
        **order,
        "rows": [row._asdict() for row in order["rows"]],
        "packing": [entry._asdict() for entry in order["packing"]],
    }


def show_order(order: Order) -> None:
    """Print an order as tables."""
    table = Table("step", "row", "bucket", "epoch", "perplexity", "documents", "begins with")
    table.title = f"stage {order['stage']}"
    for row in order["rows"]:
        ppl = "" if row.ppl is None else f"{row.ppl:.2f}"
        more = f" +{len(row.documents) - 2}" if len(row.documents) > 2 else ""
        documents = ", ".join(row.documents[:2]) + more
        table.add_row(str(row.step), str(row.row), row.bucket, str(row.epoch), ppl, documents, row.words[:60])
    print_table(table)
    fit = Table("bucket", "rows", "padding", "documents", "cut", "cut though short", title="rows of the first epoch")
    for entry in order["packing"]:
        figures = [entry.rows, f"{entry.padding:.2%}", entry.documents, entry.cut, entry.cut_though_short]
        fit.add_row(entry.bucket, *map(str, figures))
    print_table(fit)
    for warning in order["warnings"]:
        Console().print(f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def write_picture(segments: list[Segment], title: str, path: Path) -> None:
    """Write `draw_mixture` as a self-contained HTML file."""
    draw_mixture(segments, title).write_html(path, include_plotlyjs=True)


def _source(path: str) -> str:
    """Entry and source of a path: `zh/web` for `zh/web/Others`."""
    return "/".join(path.split("/")[:2])

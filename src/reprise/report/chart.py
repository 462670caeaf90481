"""A chart: a plotly figure whose colours name variables of the page's style sheet, and a table of its numbers.

The page's script puts in the colours of the light or the dark theme; `describe` is what a screen reader says.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, TypedDict

Trace = dict[str, Any]
"""A trace as plotly takes it."""

Layout = dict[str, Any]
"""A part of a layout as plotly takes it."""

Cell = str | float | None
"""A cell of a chart's table."""


class LegendEntry(TypedDict):
    """A curve in the legend."""

    name: str
    color: int
    """Index of the style sheet's `--cN`."""
    dash: str
    """Dash of the line, or `mark`."""


class ChartTable(TypedDict):
    """The numbers of a chart."""

    columns: list[str]
    rows: list[list[Cell]]


class Chart(TypedDict):
    """A chart of the page."""

    id: str
    title: str
    note: str
    """What the reader should know."""
    describe: str
    """For a screen reader."""
    traces: list[Trace]
    layout: Layout
    legend: list[LegendEntry]
    """Empty where there is nothing to tell apart."""
    table: ChartTable
    small: bool
    """Whether two fit side by side."""


COLORS = 12
"""Colours `--c0` ... of the style sheet."""

DASHES = ("solid", "dash", "dot", "dashdot")
"""Told apart without colour, too."""

MAX_TABLE_ROWS = 60
"""Rows of the table under a curve; report.json has every point."""


def plot_text(text: str) -> str:
    """Text for plotly, which reads a few HTML tags in titles and labels."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def label(language: str, source: str | None, topic: str | None) -> str:
    """Name of a bucket, for people."""
    return " / ".join(part for part in (language, source, topic) if part is not None)


def draw_line(
    name: str, xs: Sequence[float], ys: Sequence[float | None], index: int, *, markers: bool = False
) -> Trace:
    """One curve."""
    return {
        "type": "scatter",
        "mode": "lines+markers" if markers else "lines",
        "name": plot_text(name),
        "x": list(xs),
        "y": list(ys),
        "line": {"color": f"var(--c{index % COLORS})", "width": 2, "dash": dash(index)},
        "marker": {"size": 5},
    }


def dash(index: int) -> str:
    """Dash of the n-th curve of a chart: the first four are solid."""
    return "solid" if index < 4 else DASHES[index % len(DASHES)]


def _legend(traces: Sequence[Trace], names: Sequence[str]) -> list[LegendEntry]:
    """A legend only where there is something to tell apart; colours are numbers of the style sheet's `--cN`."""
    entries: list[LegendEntry] = [
        {
            "name": name,
            "color": int(trace["line"]["color"].removeprefix("var(--c").removesuffix(")")),
            "dash": "mark" if trace["mode"] == "markers" else trace["line"]["dash"],
        }
        for trace, name in zip(traces, names, strict=True)
    ]
    return entries if len(entries) > 1 else []


def thin(rows: list[list[Cell]]) -> list[list[Cell]]:
    """At most MAX_TABLE_ROWS rows, evenly spaced, the first and the last among them."""
    if len(rows) <= MAX_TABLE_ROWS:
        return rows
    last = len(rows) - 1
    return [rows[round(i * last / (MAX_TABLE_ROWS - 1))] for i in range(MAX_TABLE_ROWS)]


def make_chart(
    name: str,
    title: str,
    note: str,
    traces: list[Trace],
    layout: Layout,
    names: Sequence[str],
    table: ChartTable,
    *,
    small: bool = False,
) -> Chart:
    """A chart from its curves and their names."""
    return {
        "id": "chart-" + re.sub(r"\W+", "-", name),
        "title": title,
        "note": note,
        "describe": f"Chart: {title}. The numbers are in the table after it.",
        "traces": traces,
        "layout": layout,
        "legend": _legend(traces, names),
        "table": table,
        "small": small,
    }


def log_ticks(low: float, high: float) -> Layout:
    """Ticks of a logarithmic axis: powers of ten over a wide range, then 1, 2, 5 times them, then equal steps."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1,) if high > 1e4 * low else (1, 2, 5)
    values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    shown = [value for value in values if 0.8 * low <= value <= 1.25 * high]
    if len([value for value in shown if low <= value <= high]) < 3:
        power = 10.0 ** math.floor(math.log10(max(high - low, 1e-3 * high)))
        steps_down = (k * power for k in (1.0, 0.5, 0.2, 0.1))
        step = next((k for k in steps_down if math.floor(high / k) - math.ceil(low / k) >= 2), 0.1 * power)
        shown = [k * step for k in range(math.floor(low / step), math.ceil(high / step) + 1)]
    return {"tickvals": shown, "ticktext": [f"{value:,.10g}" for value in shown]}

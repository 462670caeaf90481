"""A chart: a plotly figure and a table of its numbers.

Colours are names of variables in the page's style sheet; the page's script replaces them by those of
the light or the dark theme.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, TypedDict

Trace = dict[str, Any]
"""A trace in plotly's JSON."""

Layout = dict[str, Any]
"""A layout, or a part of one, in plotly's JSON."""

Cell = str | float | None
"""A cell of a chart's table."""


class LegendEntry(TypedDict):
    """A curve in the legend."""

    name: str
    color: int
    """Index N of the style sheet's colour `--cN`."""
    dash: str
    """Dash of the line, one of `DASHES`; `mark` if only points are drawn."""


class ChartTable(TypedDict):
    """The numbers of a chart."""

    columns: list[str]
    rows: list[list[Cell]]


class Chart(TypedDict):
    """A chart of the page."""

    id: str
    title: str
    note: str
    """How to read the chart."""
    describe: str
    """Text for screen readers."""
    traces: list[Trace]
    layout: Layout
    legend: list[LegendEntry]
    """Empty for a single curve."""
    table: ChartTable
    small: bool
    """Whether two such charts fit side by side."""


COLORS = 12
"""Number of colours in the style sheet: `--c0` to `--c11`."""

DASHES = ("solid", "dash", "dot", "dashdot")
"""Dashes that distinguish curves without colour."""

MAX_TABLE_ROWS = 60
"""Maximum rows in the table under a chart; report.json has every point."""


def plot_text(text: str) -> str:
    """Escape text for plotly, which interprets some HTML tags in titles and labels."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def label(language: str, source: str | None, topic: str | None) -> str:
    """Readable name of a bucket, such as `zh / web / Others`."""
    return " / ".join(part for part in (language, source, topic) if part is not None)


def draw_line(
    name: str, xs: Sequence[float], ys: Sequence[float | None], index: int, *, markers: bool = False
) -> Trace:
    """A trace of one curve; `index` selects its colour and dash."""
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
    """Dash of the curve with this index; the first four are solid."""
    return "solid" if index < 4 else DASHES[index % len(DASHES)]


def _legend(traces: Sequence[Trace], names: Sequence[str]) -> list[LegendEntry]:
    """Legend of the traces; empty for a single one."""
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
    """Keep at most MAX_TABLE_ROWS evenly spaced rows, including the first and the last."""
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
    """Make a chart.

    Args:
        name: identifies the chart on the page.
        title: title of the chart.
        note: how to read it.
        traces: its curves.
        layout: plotly's layout.
        names: name of each trace in the legend.
        table: its numbers.
        small: whether two such charts fit side by side.
    """
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
    """Ticks of a logarithmic axis: powers of ten for a wide range, else 1, 2, 5 times those, else equal steps."""
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

"""A study as one self-contained page."""

import html
from typing import Literal, TypedDict

import plotly.graph_objects as go


class Numbers(TypedDict):
    """A measure of one variant."""

    values: list[float]
    """One for each seed, in their order."""
    mean: float
    ci: tuple[float, float] | None
    """95 % interval of the mean; null with one seed."""


class Difference(Numbers):
    """Against the baseline, paired by seed."""

    unit: Literal["relative", "difference"]
    """Relative for bits per byte, else of shares."""
    detectable: float | None
    """The smallest difference that would show in 4 of 5 such studies; null with one seed."""


class Comparison(TypedDict):
    """One measure of a study."""

    higher_is_better: bool
    variants: dict[str, Numbers]
    differences: dict[str, Difference]
    sentences: list[str]
    """What the numbers do and do not show."""


class StudyResult(TypedDict):
    """`study.json`."""

    name: str
    question: str
    baseline: str
    seeds: list[int]
    measures: dict[str, Comparison]


_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { padding: 0.2rem 0.8rem; text-align: right; border-bottom: 1px solid #8884; }
td:first-child, th:first-child { text-align: left; }
"""


def study_page(result: StudyResult) -> str:
    """HTML of a study's results; every text from the study is escaped."""
    parts = [f"<h1>{html.escape(result['name'])}</h1><p>{html.escape(result['question'])}</p>"]
    for number, (measure, comparison) in enumerate(result["measures"].items()):
        parts.append(f"<h2>{html.escape(measure)}</h2>")
        parts += [f"<p>{html.escape(sentence)}</p>" for sentence in comparison["sentences"]]
        parts.append(_table(comparison))
        parts.append(_differences(result["baseline"], comparison))
        figure = _figure(result["baseline"], comparison)
        options = {"displayModeBar": False, "responsive": True}
        parts.append(figure.to_html(full_html=False, include_plotlyjs=number == 0, config=options))
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{html.escape(result['name'])}</title><style>{_STYLE}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _table(comparison: Comparison) -> str:
    rows = ["<tr><th>variant</th><th>mean</th><th>95 % interval</th><th>each seed</th></tr>"]
    for variant, numbers in comparison["variants"].items():
        interval = "one seed" if numbers["ci"] is None else f"{numbers['ci'][0]:.4f} to {numbers['ci'][1]:.4f}"
        each = ", ".join(f"{value:.4f}" for value in numbers["values"])
        cells = "".join(f"<td>{cell}</td>" for cell in (f"{numbers['mean']:.4f}", interval, each))
        rows.append(f"<tr><td>{html.escape(variant)}</td>{cells}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _differences(baseline: str, comparison: Comparison) -> str:
    """Paired differences with their intervals, and what the design could have seen."""
    titles = f"<th>against {html.escape(baseline)}</th><th>mean</th><th>95 % interval</th><th>each seed</th>"
    rows = [f"<tr>{titles}<th>would show in 4 of 5 studies</th></tr>"]
    for variant, numbers in comparison["differences"].items():
        unit = " %" if numbers["unit"] == "relative" else ""
        interval = (
            "one seed" if numbers["ci"] is None else " to ".join(f"{100 * end:+.2f}{unit}" for end in numbers["ci"])
        )
        each = ", ".join(f"{100 * value:+.2f}" for value in numbers["values"])
        seen = "not known" if numbers["detectable"] is None else f"{100 * numbers['detectable']:.2f}{unit}"
        cells = (f"{100 * numbers['mean']:+.2f}{unit}", interval, each, seen)
        rows.append(f"<tr><td>{html.escape(variant)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _figure(baseline: str, comparison: Comparison) -> go.Figure:
    """Differences to the baseline, seed by seed: each as a point, their mean with its interval beside."""
    figure = go.Figure()
    numbers = list(comparison["differences"].values())
    names = [html.escape(variant) for variant in comparison["differences"]]
    half = [100 * (entry["ci"][1] - entry["mean"]) if entry["ci"] else 0.0 for entry in numbers]
    means = [100 * entry["mean"] for entry in numbers]
    figure.add_scatter(x=names, y=means, error_y={"array": half}, mode="markers", name="mean, 95 % interval")
    points = [(name, 100 * value) for name, entry in zip(names, numbers, strict=True) for value in entry["values"]]
    figure.add_scatter(
        x=[x for x, _ in points], y=[y for _, y in points], mode="markers", name="each seed", opacity=0.5
    )
    figure.add_hline(y=0, line_dash="dot", line_color="#888")
    unit = "%" if numbers[0]["unit"] == "relative" else "points"
    better = "higher" if comparison["higher_is_better"] else "lower"
    figure.update_layout(
        yaxis_title=f"against {html.escape(baseline)}, {unit} ({better} is better)",
        height=420,
        margin={"l": 60, "r": 10, "t": 40, "b": 60},
        legend={"orientation": "h", "y": 1.12},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font_color="#888",
    )
    figure.update_xaxes(gridcolor="#8883")
    figure.update_yaxes(gridcolor="#8883", zeroline=False)
    return figure

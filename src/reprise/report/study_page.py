"""A study as one self-contained page."""

import html
from typing import Any

import plotly.graph_objects as go

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { padding: 0.2rem 0.8rem; text-align: right; border-bottom: 1px solid #8884; }
td:first-child, th:first-child { text-align: left; }
"""


def study_page(result: dict[str, Any]) -> str:
    """HTML of a study's results; every text from the study is escaped."""
    parts = [f"<h1>{html.escape(result['name'])}</h1><p>{html.escape(result['question'])}</p>"]
    for number, (measure, comparison) in enumerate(result["measures"].items()):
        parts.append(f"<h2>{html.escape(measure)}</h2>")
        parts += [f"<p>{html.escape(sentence)}</p>" for sentence in comparison["sentences"]]
        parts.append(_table(comparison))
        figure = _figure(result["baseline"], comparison)
        options = {"displayModeBar": False, "responsive": True}
        parts.append(figure.to_html(full_html=False, include_plotlyjs=number == 0, config=options))
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{html.escape(result['name'])}</title><style>{_STYLE}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _table(comparison: dict[str, Any]) -> str:
    rows = ["<tr><th>variant</th><th>mean</th><th>95 % interval</th><th>each seed</th></tr>"]
    for variant, numbers in comparison["variants"].items():
        interval = "one seed" if numbers["ci"] is None else f"{numbers['ci'][0]:.4f} to {numbers['ci'][1]:.4f}"
        each = ", ".join(f"{value:.4f}" for value in numbers["values"])
        cells = "".join(f"<td>{cell}</td>" for cell in (f"{numbers['mean']:.4f}", interval, each))
        rows.append(f"<tr><td>{html.escape(variant)}</td>{cells}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _figure(baseline: str, comparison: dict[str, Any]) -> go.Figure:
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

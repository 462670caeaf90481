"""A study as one self-contained page."""

import html
from typing import Any

import plotly.graph_objects as go

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; }
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
        parts.append(_figure(measure, comparison).to_html(full_html=False, include_plotlyjs=number == 0))
    head = f'<meta charset="utf-8"><title>{html.escape(result["name"])}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _table(comparison: dict[str, Any]) -> str:
    rows = ["<tr><th>variant</th><th>mean</th><th>95 % interval</th><th>each seed</th></tr>"]
    for variant, numbers in comparison["variants"].items():
        interval = "one seed" if numbers["ci"] is None else f"{numbers['ci'][0]:.4f} to {numbers['ci'][1]:.4f}"
        each = ", ".join(f"{value:.4f}" for value in numbers["values"])
        cells = "".join(f"<td>{cell}</td>" for cell in (f"{numbers['mean']:.4f}", interval, each))
        rows.append(f"<tr><td>{html.escape(variant)}</td>{cells}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _figure(measure: str, comparison: dict[str, Any]) -> go.Figure:
    """Each seed as a point, the mean with its interval beside."""
    figure = go.Figure()
    names = [html.escape(variant) for variant in comparison["variants"]]
    numbers = list(comparison["variants"].values())
    half = [entry["ci"][1] - entry["mean"] if entry["ci"] else 0.0 for entry in numbers]
    means = [entry["mean"] for entry in numbers]
    figure.add_scatter(x=names, y=means, error_y={"array": half}, mode="markers", name="mean, 95 % interval")
    points = [(name, value) for name, entry in zip(names, numbers, strict=True) for value in entry["values"]]
    figure.add_scatter(
        x=[x for x, _ in points], y=[y for _, y in points], mode="markers", name="each seed", opacity=0.5
    )
    figure.update_layout(yaxis_title=html.escape(measure), template="plotly_white", height=420)
    return figure

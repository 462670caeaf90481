"""Facts -> HTML. Templates escape every value, and the content security policy allows only our own scripts."""

import base64
import hashlib
import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jinja2
from markupsafe import Markup, escape

from reprise.recipe.languages.packs import english_name
from reprise.report import charts, retention, tables
from reprise.report.chart import Chart, label
from reprise.report.compare import compare
from reprise.report.records import MachineFacts, Report, RunComparison
from reprise.report.study_records import StudyResult
from reprise.report.table_rows import (
    BeforeAndAfter,
    Changed,
    ComparisonViews,
    EventRow,
    ReportViews,
    StudyViews,
    Tolerated,
)
from reprise.report.training_records import TrainingEvent
from reprise.yaml_text import format_yaml

PLOTLY = "plotly.min.js"
"""URL path of the plotting script when a server serves the page."""


def render_report(facts: Report, *, live: bool = False) -> str:
    """Render the report of a run as a page.

    Args:
        facts: the report of the run.
        live: for `reprise watch`: the script comes from the server, and the page polls for changes.
    """
    kept = list(facts["tolerance"])
    drawn = {
        "course": charts.course_charts(facts),
        "perplexity": charts.perplexity_charts(facts),
        "curriculum": charts.curriculum_charts(facts),
        "curve": retention.curve_charts(facts),
        "chat": retention.chat_charts(facts),
        "plane": [chart for chart in [retention.plane_chart({facts["run"]["name"]: facts}, kept)] if chart],
    }
    return render_page("report.html", facts, drawn, _report_views(facts), title=facts["run"]["name"], live=live)


def _report_views(facts: Report) -> ReportViews:
    """Values of the template besides the facts: table rows with their pictures, and the recipe as text."""
    return {
        "budget": {stage["stage"]: tables.budget_rows(facts, stage["stage"]) for stage in facts["training"]},
        "flow": tables.flow_rows(facts["corpus"]["flow"]),
        "order": tables.order_rows(facts),
        "gains": tables.gain_rows(facts),
        "verdicts": tables.verdict_rows(facts["verdict"]["verdicts"]),
        "groups": tables.group_rows(facts["groups"]),
        "gold_bits": tables.gold_rows(facts["benchmarks"]),
        "other_metrics": tables.other_metric_rows(facts["benchmarks"]),
        "benchmarks": tables.score_rows(facts["benchmarks"]),
        "funnel": tables.funnel_rows(facts),
        "events": [_event(stage["stage"], event) for stage in facts["training"] for event in stage["events"]],
        "machine": _machine_rows(facts["repeat"]["machine"]),
        "machine_name": _machine_name(facts["repeat"]["machine"]),
        "recipe_yaml": format_yaml(facts["repeat"]["recipe"]),
    }


def _machine_rows(machine: MachineFacts | None) -> list[tuple[str, str]]:
    """The machine as rows of a table."""
    if machine is None:
        return []
    plain = {name: value for name, value in machine.items() if name not in ("accelerators", "versions")}
    return [
        *((name, cell(value)) for name, value in plain.items()),
        ("accelerators", ", ".join(machine["accelerators"]) or "none"),
        *machine["versions"].items(),
    ]


def _machine_name(machine: MachineFacts | None) -> str:
    """The machine in a few words: its accelerators, else its processor."""
    if machine is None:
        return ""
    names = list(dict.fromkeys(machine["accelerators"]))
    counts = [f"{machine['accelerators'].count(name)} x {name}" for name in names]
    return ", ".join(counts) or f"{machine['cores']} cores of {machine['processor']}"


def _event(stage: int, event: TrainingEvent) -> EventRow:
    """An event of training as a row of a table; empty fields are skipped."""
    parts = []
    for name, value in event["detail"].items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else cell(value)
        if value not in (None, [], ""):
            parts.append(f"{words(name)} {words(text)}" if name != event["kind"] else words(text))
    return {**event, "stage": stage, "text": "; ".join(parts)}


def render_comparison(comparison: RunComparison) -> str:
    """Render the comparison of several runs as a page."""
    drawn, views = compare(comparison["runs"])
    return render_page("compare.html", comparison, drawn, views, title="Comparison of runs", live=False)


def render_page(
    template: str,
    facts: Report | RunComparison | StudyResult,
    drawn: Mapping[str, Sequence[Chart]],
    views: ReportViews | ComparisonViews | StudyViews,
    *,
    title: str,
    live: bool,
) -> str:
    """Render a self-contained page from a template.

    Args:
        template: name of the template file.
        facts: record that the page shows; also embedded as JSON.
        drawn: section -> its charts.
        views: other values of the template.
        title: title of the page.
        live: see `render_report`.
    """
    script = _asset("page.js")
    plotly = "" if live else plotly_source()
    figures = [
        {"id": chart["id"], "traces": chart["traces"], "layout": chart["layout"]}
        for group in drawn.values()
        for chart in group
    ]
    return (
        _environment()
        .get_template(template)
        .render(
            **views,
            facts=facts,
            charts=drawn,
            figures=figures,
            title=title,
            live=live,
            style=_asset("page.css"),
            script=script,
            plotly=plotly,
            plotly_path=PLOTLY,
            policy=_policy([script] if live else [plotly, script], live),
        )
    )


def _policy(scripts: list[str], live: bool) -> str:
    """Content security policy: nothing is fetched and only our scripts run, whatever a document's text contains."""
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts]
    allowed = " ".join([*hashes, *(["'self'"] if live else [])])
    connect = "connect-src 'self'; " if live else ""
    return f"default-src 'none'; script-src {allowed}; {connect}style-src 'unsafe-inline'; img-src data: blob:"


def plotly_source() -> str:
    """Source of the plotting script."""
    from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    # HTML parsers replace CRLF by LF before they compute the hash.
    return source.replace("\r\n", "\n").replace("\r", "\n")


def _asset(name: str) -> str:
    return (importlib.resources.files("reprise.report") / "templates" / name).read_text(encoding="utf-8")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reprise.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False}
    environment.filters |= {
        "english_name": english_name,
        "count": count,
        "percent": percent,
        "fixed": fixed,
        "scientific": scientific,
        "duration": duration,
        "words": words,
        "bucket": lambda row: label(row.get("entry") or row["language"], row["source"], row["topic"]),
        "cell": cell,
        "change": change,
        "sense": sense,
        "amount": amount,
        "tolerance": tolerance,
        "unbroken": unbroken,
        "moment": moment,
        "points": points,
        "megabytes": megabytes,
        "breakable": breakable,
        "of": of,
        "setting": lambda value: "–" if value is None else json.dumps(value, ensure_ascii=False),
    }
    return environment


def count(value: float | None) -> str:
    """Format an integer: exact below ten million, else like `92.5 B`."""
    if value is None:
        return "–"
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if abs(value) >= size and abs(value) >= 1e7:
            return f"{value / size:.4g}\u202f{unit}"
    return f"{value:,.0f}"


def megabytes(size: int | None) -> str:
    """Format a size in 10^6 bytes: `3.65 MB`."""
    return "–" if size is None else f"{size / 1e6:,.3g}\u202fMB"


def of(amount: int, noun: str) -> str:
    """Format a count with its noun: `1 file`, `2 files`."""
    return f"{count(amount)} {noun}{'' if amount == 1 else 's'}"


def percent(value: float | None, digits: int = 1) -> str:
    """Format a share as `+1.2 %`, with a typographic minus sign."""
    if value is None:
        return "–"
    text = f"{100 * value:+.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "\u2212") + "\u202f%"


def points(value: float, digits: int = 1) -> str:
    """Format a difference of two shares in percentage points."""
    return percent(value, digits).removesuffix("\u202f%")


def change(row: Changed) -> str:
    """Describe a change: `fell by 9.90 %`, `rose by 2.10 points`, `did not change`."""
    size = abs(100 * row["change"])
    if float(f"{size:.2f}") == 0.0:
        return "did not change"
    return f"{'rose' if row['change'] > 0 else 'fell'} by {size:.2f}\u202f{_unit(row)}"


def sense(row: Changed) -> str:
    """`better`, `worse` or `same`: fewer bits per byte and more points are better."""
    if float(f"{100 * row['change']:.2f}") == 0.0:
        return "same"
    return "better" if (row["change"] > 0) == (row.get("unit") == "difference") else "worse"


def tolerance(row: Tolerated) -> str:
    """Format the tolerance of a measure, in the unit of its change."""
    if row["tolerance"] is None:
        return "–"
    share = cell(100 * row["tolerance"])
    return f"{share}\u202f{_unit(row).removesuffix('s') if share == '1' else _unit(row)}"


def moment(when: str) -> str:
    """Format a time: `2026-11-29T23:48:24Z` as `2026-11-29 23:48:24 UTC`."""
    return when.replace("T", " ").replace("Z", " UTC")


def unbroken(headline: str) -> str:
    """The headline with typographic minus signs, and no line break before a unit."""
    return re.sub(r" (%|points?\b)", "\u202f\\1", headline).replace("(-", "(\u2212")


def _unit(row: Changed) -> str:
    return "points" if row.get("unit") == "difference" else "%"


def amount(row: BeforeAndAfter, side: Literal["before", "after"]) -> str:
    """Format one side of a comparison: bits per byte, or the share of right answers in per cent."""
    share = row.get("unit") == "difference"
    return f"{fixed(100 * row[side], 2)}\u202f%" if share else fixed(row[side], 4)


def fixed(value: float | None, digits: int = 3) -> str:
    """Format a float with fixed decimals."""
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "\u2212")


def scientific(value: float) -> str:
    """Format a large value as `2.31 x 10^18`, with a typographic multiplication sign."""
    digits, exponent = f"{value:.2e}".split("e")
    return f"{digits}\u202f\u00d7\u202f10^{int(exponent)}"


def duration(seconds: float | None) -> str:
    """Format a duration: `1 h 02 min`, `3 min 20 s`, `4.2 s`."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f}\u202fs"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u202fmin {rest:02}\u202fs"
    return f"{minutes // 60}\u202fh {minutes % 60:02}\u202fmin"


def words(name: str) -> str:
    """A readable name: `too short` for `too_short`."""
    return re.sub(r"[_-]+", " ", name)


def breakable(name: str) -> Markup:
    """A long name that may only break after a dot or underscore."""
    return Markup(re.sub(r"([._])", r"\1<wbr>", str(escape(name))))


def cell(value: Any) -> str:
    """Format a cell of a table."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.5g}".replace("-", "\u2212") if isinstance(value, float) else str(value)

"""Facts -> charts of gain and forgetting: over checkpoints and merges, and gain against retention."""

from collections.abc import Sequence

from reprise.evaluation.results import CurvePoint
from reprise.report import charts
from reprise.report.chart import Cell, Chart, Trace, draw_line, make_chart, thin
from reprise.report.records import Report


def curve_charts(facts: Report) -> list[Chart]:
    """Bits per byte and scores over the measured checkpoints; empty if only the base and the end were measured."""
    rows = _of_run(facts)
    if len(rows) < 3:
        return []
    series = {entry: [(_tokens(row), row["bits_per_byte"][entry]) for row in rows] for entry in rows[0]["change"]}
    forgetting = charts.change_chart("curve", "Forgetting and gain over checkpoints", facts, series)
    assert forgetting is not None
    forgetting["note"] = (
        "Bits per byte of each kept checkpoint on all held-out text, against the base. Lower is better: below zero is "
        "a gain."
    )
    scores = charts.score_chart(
        "scores",
        "Benchmarks over checkpoints",
        "Share of right answers of each kept checkpoint.",
        facts,
        [(_tokens(row), row["scores"]) for row in rows],
    )
    return [charts.with_tolerances(forgetting, facts["tolerance"]), *([scores] if scores else [])]


def chat_charts(facts: Report) -> list[Chart]:
    """Bits per byte and scores of the merges with a chat model, over the factor."""
    merges = _merges(facts, "chat")
    if not merges:
        return []
    points = [(0.0, _of_run(facts)[-1]), *((row["factor"] or 0.0, row) for row in merges)]
    changes = {entry: [(factor, 100 * row["change"][entry]) for factor, row in points] for entry in merges[0]["change"]}
    scores = {
        name: [(factor, 100 * row["scores"][name]) for factor, row in points if name in row["scores"]]
        for name in merges[0]["scores"]
    }
    note = "The trained model plus the factor times the chat model's difference from its base; 0 is the trained model."
    bits = f"{note} Change against the base; below zero is a gain."
    right = f"{note} Higher is better."
    drawn = [
        _factor_chart("chat-bits", "Merge with a chat model: bits per byte", bits, "bits per byte, change", changes),
        _factor_chart("chat-scores", "Merge with a chat model: benchmarks", right, "right", scores),
    ]
    return [chart for chart in drawn if chart is not None]


def _factor_chart(
    name: str, title: str, note: str, axis: str, series: dict[str, list[tuple[float, float]]]
) -> Chart | None:
    """A chart of curves over the merge factor; None if there are no curves."""
    if not series:
        return None
    traces = [
        draw_line(key, [factor for factor, _ in points], [value for _, value in points], index, markers=True)
        for index, (key, points) in enumerate(series.items())
    ]
    layout = {"xaxis": {"title": {"text": "factor"}}, "yaxis": {"title": {"text": axis}, "ticksuffix": " %"}}
    factors = sorted({factor for points in series.values() for factor, _ in points})
    known = {key: dict(points) for key, points in series.items()}
    rows: list[list[Cell]] = [[factor, *(known[key].get(factor) for key in series)] for factor in factors]
    return make_chart(name, title, note, traces, layout, list(series), {"columns": ["Factor", *series], "rows": rows})


def _of_run(facts: Report) -> list[CurvePoint]:
    """The base and the checkpoints, in the order of training."""
    return [row for row in facts["curve"] if row["kind"] in ("base", "checkpoint")]


def _merges(facts: Report, kind: str) -> list[CurvePoint]:
    """Merges of a kind, sorted by factor."""
    return sorted((row for row in facts["curve"] if row["kind"] == kind), key=lambda row: row["factor"] or 0.0)


Point = tuple[str, float, float]
"""(name of the model, gain in the new entry, loss in the kept entry), both in per cent."""


def plane_chart(runs: dict[str, Report], kept: Sequence[str]) -> Chart | None:
    """Draw gain against retention, with curves for each run and pair of entries.

    One curve has a point per checkpoint, another a point per merge factor. Before the evaluation is done, there is one
    curve with a point per validation.

    Args:
        runs: name -> facts of a run; the name of a single run is not shown.
        kept: entries that must be kept; all others are new.
    """
    traces: list[Trace] = []
    names: list[str] = []
    rows: list[list[Cell]] = []
    pairs = 0
    for run, facts in runs.items():
        for new, old, curves in _planes(facts, kept):
            for kind, points in curves.items():
                name = " ".join(part for part in (f"{new} against {old}", kind) if part)
                names.append(name if len(runs) == 1 else f"{run}: {name}")
                traces.append(_plane_trace(names[-1], points, pairs, merged=kind in _MERGES))
                rows += [[names[-1], *point] for point in points]
            pairs += 1
    if max((len(trace["x"]) for trace in traces), default=0) < 2:
        return None
    layout = {
        "xaxis": {"title": {"text": "rise of bits per byte of kept text, %"}, "zeroline": True},
        "yaxis": {"title": {"text": "fall of bits per byte of new text, %"}, "zeroline": True},
    }
    measured = any(_is_measured(facts) for facts in runs.values())
    what = (
        "One point per checkpoint, and one per merge with the base weights" if measured else "One point per validation"
    )
    return make_chart(
        "plane",
        "Gain against retention",
        f"{what}, starting from the base at zero. Up is gain, right is loss.",
        traces,
        layout,
        names,
        {"columns": ["Entries", "Model", "Gained, %", "Lost, %"], "rows": thin(rows)},
    )


def _plane_trace(name: str, points: Sequence[Point], color: int, *, merged: bool) -> Trace:
    trace = draw_line(name, [loss for _, _, loss in points], [gain for _, gain, _ in points], color, markers=True)
    trace |= {"customdata": [model for model, _, _ in points], "hovertemplate": _PLANE_HOVER}
    if merged:
        named = tuple(_MERGES.values())
        trace["line"] |= {"dash": "dot"}
        trace["marker"] = {"size": 8, "symbol": "diamond"}
        # Labels are drawn for print, where nothing can be hovered; placed across the curve, not along it.
        trace["text"] = [model if model.startswith(named) else "" for model, _, _ in points]
        trace["textposition"] = ["top right" if gain * loss < 0 else "top left" for _, gain, loss in points]
        trace |= {"mode": "lines+markers+text", "textfont": {"size": 11}, "cliponaxis": False}
    return trace


_MERGES = {"merges": "merge ", "merges with the chat model": "chat "}
"""Kind of merge curve -> prefix of the names of its points."""
_PLANE_HOVER = "%{customdata}: %{y:+.2f} % gained, %{x:+.2f} % lost"


def _is_measured(facts: Report) -> bool:
    """Whether the evaluation measured more points than the base and the end."""
    return len(facts["curve"]) > 2


def _planes(facts: Report, kept: Sequence[str]) -> list[tuple[str, str, dict[str, list[Point]]]]:
    """(new entry, kept entry, name of each curve -> its points) of a run."""
    series = {key[0]: dict(points) for key, points in charts.held_out_series(facts).items() if key[1] is None}
    entries = facts["curve"][0]["change"] if _is_measured(facts) else series
    pairs = [(new, old) for new in entries if new not in kept for old in kept if old in entries]
    if not _is_measured(facts):
        return [(new, old, {"": _gain_and_loss(series[new], series[old])}) for new, old in pairs]
    run, merges, chats = _of_run(facts), _merges(facts, "merge"), _merges(facts, "chat")
    curves = {"checkpoints": run} | ({"merges": [run[0], *merges, run[-1]]} if merges else {})
    if chats:
        curves["merges with the chat model"] = [run[-1], *chats]
    return [
        (new, old, {kind: [_point(row, new, old) for row in rows] for kind, rows in curves.items()})
        for new, old in pairs
    ]


def _tokens(row: CurvePoint) -> int:
    assert row["tokens"] is not None, "only a merge has none"
    return row["tokens"]


def _point(row: CurvePoint, new: str, old: str) -> Point:
    merge = row["kind"] in ("merge", "chat")
    name = f"{row['kind']} {row['factor']:g}" if merge else f"after {row['tokens']:,} tokens"
    return name, -100 * row["change"][new], 100 * row["change"][old]


def _gain_and_loss(new: dict[int, float], old: dict[int, float]) -> list[Point]:
    """Points of the validations that measured both entries."""
    shared = [tokens for tokens in new if tokens in old]
    return [
        (
            f"after {tokens:,.0f} tokens",
            100 * (1 - new[tokens] / new[shared[0]]),
            100 * (old[tokens] / old[shared[0]] - 1),
        )
        for tokens in shared
    ]

"""Facts -> charts: training, held-out text, the mixture, perplexity and the order of the documents."""

from collections.abc import Sequence
from typing import Literal

from reprise.report.chart import (
    COLORS,
    Cell,
    Chart,
    ChartTable,
    Layout,
    draw_line,
    label,
    log_ticks,
    make_chart,
    plot_text,
    thin,
)
from reprise.report.corpus_records import PerplexityFacts
from reprise.report.records import Report


def course_charts(facts: Report) -> list[Chart]:
    """Charts over tokens: training loss, held-out loss, shares, learning rate, gradient norm and speed."""
    charts = [_loss(facts), *_held_out(facts), _benchmarks(facts), *_share_charts(facts), *_small_series(facts)]
    return [chart for chart in charts if chart]


def _offsets(facts: Report) -> list[int]:
    """Tokens trained before each stage."""
    offsets, total = [], 0
    for stage in facts["training"]:
        offsets.append(total)
        total += stage["tokens"]
    return offsets


def _stage_marks(facts: Report) -> Layout:
    """Vertical lines where a stage after the first begins, with its name."""
    shapes, notes = [], []
    for stage, offset in zip(facts["training"], _offsets(facts), strict=True):
        if stage["stage"] > 1 and stage["tokens"]:
            line = {"color": "var(--muted)", "width": 1, "dash": "dot"}
            shapes.append({"type": "line", "x0": offset, "x1": offset, "y0": 0, "y1": 1, "yref": "paper", "line": line})
            notes.append(
                {
                    "x": offset,
                    "y": 1,
                    "yref": "paper",
                    "text": plot_text(f"stage {stage['stage']}"),
                    "showarrow": False,
                    "xanchor": "left",
                    "yanchor": "bottom",
                    "xshift": -4,
                    "font": {"size": 11, "color": "var(--muted)"},
                }
            )
    return {"shapes": shapes, "annotations": notes}


def _loss(facts: Report) -> Chart | None:
    """Training loss, with restarts and guard events marked on it."""
    xs, ys = _joined(facts, "loss")
    if not xs:
        return None
    events = [
        (offset + event["tokens"], event["kind"])
        for stage, offset in zip(facts["training"], _offsets(facts), strict=True)
        for event in stage["events"]
    ]
    traces = [draw_line("training loss", xs, ys, 0)]
    names = ["training loss"]
    for index, (kind, symbol) in enumerate((("resume", "triangle-up"), ("guard", "x")), start=1):
        tokens_of_kind = [tokens for tokens, event_kind in events if event_kind == kind]
        if tokens_of_kind:
            names.append({"resume": "restart", "guard": "guard's event"}[kind])
            near = [ys[min(range(len(xs)), key=lambda i: abs(xs[i] - position))] for position in tokens_of_kind]
            traces.append(
                draw_line(names[-1], tokens_of_kind, near, index)
                | {"mode": "markers", "marker": {"size": 11, "symbol": symbol, "color": f"var(--c{index})"}}
            )
    width = max(stage["series"]["steps_per_point"] for stage in facts["training"])
    note = "Training loss of each step." if width == 1 else f"Each point is the mean of {width} steps."
    return make_chart(
        "loss",
        "Training loss",
        f"{note} It changes with the mixture, so judge progress by the held-out text below.",
        traces,
        tokens_axis(facts, "nats per token"),
        names,
        {
            "columns": ["Tokens", "Loss (nats per token)"],
            "rows": thin([list(pair) for pair in zip(xs, ys, strict=True)]),
        },
    )


Curve = Literal["loss", "lr", "grad_norm", "tokens_per_s"]


def _joined(facts: Report, name: Curve) -> tuple[list[int], list[float | None]]:
    """One series over all stages, with tokens counted from the start of the run."""
    xs: list[int] = []
    ys: list[float | None] = []
    for stage, offset in zip(facts["training"], _offsets(facts), strict=True):
        xs += [offset + tokens for tokens in stage["series"]["tokens"]]
        ys += stage["series"][name]
    return xs, ys


def tokens_axis(facts: Report | None, y_title: str) -> Layout:
    """Layout of a chart over tokens with the stages of a run marked; `facts` None: several runs, without marks."""
    return {
        "xaxis": {"title": {"text": "tokens trained"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": plot_text(y_title)}},
        "hovermode": "x unified",
    } | (_stage_marks(facts) if facts else {})


def held_out_series(facts: Report) -> dict[tuple[str, str | None, str | None], list[tuple[int, float]]]:
    """(entry, source, topic) -> (tokens, bits per byte) of every validation of the run."""
    series: dict[tuple[str, str | None, str | None], list[tuple[int, float]]] = {}
    for stage, offset in zip(facts["training"], _offsets(facts), strict=True):
        for validation in stage["validations"]:
            for entry in validation["bits_per_byte"]:
                key = (entry["entry"], entry["source"], entry["topic"])
                series.setdefault(key, []).append((offset + validation["tokens"], entry["value"]))
    return dict(sorted(series.items(), key=lambda item: topic_rank(facts, item[0][0], item[0][2])))


def topic_rank(facts: Report, entry: str, topic: str | None) -> int:
    """Index of a topic in the recipe's list; names that are not in it come last."""
    topics = facts["topics"].get(entry, [])
    return topics.index(topic) if topic in topics else len(topics)


def topic_colors(facts: Report, entry: str, names: Sequence[str]) -> list[int]:
    """Colour of each name. A topic has the same colour in every chart, its index in the recipe's list."""
    topics = facts["topics"].get(entry, [])
    if not set(names) & set(topics):
        return list(range(len(names)))
    further = [name for name in names if name not in topics]
    return [topics.index(name) if name in topics else len(topics) + further.index(name) for name in names]


def _held_out(facts: Report) -> list[Chart | None]:
    """Change of held-out bits per byte since the start: by entry, by source, and by topic of each split source."""
    series = held_out_series(facts)
    entries = list(dict.fromkeys(key[0] for key in series))
    chart = change_chart("entries", "Held-out text", facts, {k[0]: v for k, v in series.items() if not k[1]})
    charts: list[Chart | None] = [with_tolerances(chart, facts["tolerance"])] if chart else []
    for entry in entries:
        sources = {k[1]: v for k, v in series.items() if k[0] == entry and k[1] and k[2] is None}
        if len(sources) > 1:
            charts.append(change_chart(f"sources-{entry}", f"{entry}, by source", facts, sources))
        for source in sources:
            topics = {k[2]: v for k, v in series.items() if k[:2] == (entry, source) and k[2]}
            if topics:
                title = f"{entry} {source}, by topic"
                colors = topic_colors(facts, entry, list(topics))
                charts.append(change_chart(f"topics-{entry}-{source}", title, facts, topics, colors))
    return charts


def with_tolerances(chart: Chart, tolerance: dict[str, float]) -> Chart:
    """Add a horizontal line at the tolerance of each kept entry."""
    names = [trace["name"] for trace in chart["traces"]]
    end = max(x for trace in chart["traces"] for x in trace["x"])
    for path, share in tolerance.items():
        if path in names:
            name, color = f"tolerance of {path}", names.index(path) % COLORS
            line = draw_line(name, [0, end], [100 * share] * 2, color) | {"hoverinfo": "skip"}
            line["line"] |= {"dash": "dot", "width": 1}
            chart["traces"].append(line)
            chart["legend"].append({"name": name, "color": color, "dash": "dot"})
    return chart


def change_chart(
    name: str, title: str, facts: Report | None, series: dict[str, list[tuple[int, float]]], colors: Sequence[int] = ()
) -> Chart | None:
    """Change in per cent since the first measurement, a curve for each series; None without series.

    Args:
        name: identifies the chart.
        title: title of the chart.
        facts: the run; None: the chart of several runs.
        series: name -> (tokens, bits per byte).
        colors: colour of each series; empty: 0, 1, ...
    """
    if not series:
        return None
    traces = [
        draw_line(
            key, [x for x, _ in points], [100 * (value / points[0][1] - 1) for _, value in points], i, markers=True
        )
        | {"customdata": [value for _, value in points], "hovertemplate": "%{y:+.2f} % (%{customdata:.4f})"}
        for i, (key, points) in zip(colors or range(len(series)), series.items(), strict=True)
    ]
    layout = tokens_axis(facts, "change of bits per byte, %")
    layout["yaxis"] |= {"zeroline": True, "ticksuffix": " %"}
    tokens = sorted({x for points in series.values() for x, _ in points})
    values = {key: dict(points) for key, points in series.items()}
    rows: list[list[Cell]] = [[x, *(values[key].get(x) for key in series)] for x in tokens]
    return make_chart(
        name,
        title,
        "Bits per byte of held-out text, against the start of training. Lower is better: below zero is a gain.",
        traces,
        layout,
        list(series),
        {"columns": ["Tokens", *(f"{key} (bits per byte)" for key in series)], "rows": thin(rows)},
    )


def score_chart(
    name: str, title: str, note: str, facts: Report, points: Sequence[tuple[int, dict[str, float]]]
) -> Chart | None:
    """Scores over tokens of the benchmarks that every point has; None without such, or with fewer than two points."""
    names = [name for name in points[0][1] if all(name in scores for _, scores in points)] if points else []
    if not names or len(points) < 2:
        return None
    tokens = [position for position, _ in points]
    curves = [[100 * scores[name] for _, scores in points] for name in names]
    traces = [draw_line(one, tokens, curves[i], i, markers=True) for i, one in enumerate(names)]
    layout = tokens_axis(facts, "right answers, %")
    layout["yaxis"] |= {"ticksuffix": " %"}
    rows = thin([list(row) for row in zip(tokens, *curves, strict=True)])
    return make_chart(
        name, title, f"{note} Higher is better.", traces, layout, names, {"columns": ["Tokens", *names], "rows": rows}
    )


def _benchmarks(facts: Report) -> Chart | None:
    """Scores of benchmarks that were run during training."""
    points = [
        (offset + point["tokens"], point["scores"])
        for stage, offset in zip(facts["training"], _offsets(facts), strict=True)
        for point in stage["benchmarks"]
    ]
    note = "Share of right answers during training."
    return score_chart("benchmarks", "Benchmarks while training", note, facts, points)


def _share_charts(facts: Report) -> list[Chart]:
    """Shares over tokens, one chart for each part of the mixture that changed, such as the topics of `zh/web`."""
    series: dict[str, dict[str, list[tuple[int, float]]]] = {}
    inherited: dict[str, dict[str, float]] = {}
    for stage, offset in zip(facts["training"], _offsets(facts), strict=True):
        last: dict[str, dict[str, float]] = {}
        for change in stage["shares"]:
            curves = series.setdefault(change["path"], {})
            known = last.setdefault(change["path"], {})
            _add_points(curves, offset, {child: share for child, share in change["old"].items() if child not in known})
            _add_points(curves, offset + change["tokens"], change["new"])
            known |= change["new"]
        if facts["repeat"]["recipe"]["stages"][stage["stage"] - 1]["topics"]["initial"] == "inherit":
            last = inherited | last
        for path, shares in last.items():  # extend the curves to the last token
            _add_points(series[path], offset + stage["tokens"], shares)
        inherited = last
    return [_shares_chart(facts, path, curves) for path, curves in series.items()]


def _add_points(curves: dict[str, list[tuple[int, float]]], tokens: int, shares: dict[str, float]) -> None:
    for child, share in shares.items():
        curves.setdefault(child, []).append((tokens, share))


def _shares_chart(facts: Report, path: str, curves: dict[str, list[tuple[int, float]]]) -> Chart:
    entry = path.partition("/")[0]
    names = {child: child.removeprefix(f"{path}/") for child in curves}
    children = sorted(curves, key=lambda child: topic_rank(facts, entry, names[child]))
    whole = path.replace("/", " ") or "the stage"
    traces = []
    for i, child in zip(topic_colors(facts, entry, [names[child] for child in children]), children, strict=True):
        points = curves[child]
        trace = draw_line(names[child], [x for x, _ in points], [100 * share for _, share in points], i)
        trace["line"]["shape"] = "hv"
        traces.append(trace | {"hovertemplate": "%{y:.2f} %"})
    layout = tokens_axis(facts, f"share of {whole}, %")
    layout["yaxis"] |= {"ticksuffix": " %"}
    rows: list[list[Cell]] = []
    for child in children:
        first, last = 100 * curves[child][0][1], 100 * curves[child][-1][1]
        rows.append([names[child], first, last, last - first])
    return make_chart(
        f"shares-{path or 'stage'}",
        f"Shares inside {whole}",
        "Shares over tokens, on an axis that does not start at zero. Each step is a change by the policy or by hand.",
        traces,
        layout,
        [names[child] for child in children],
        {"columns": ["Part", "At the start, %", "At the end, %", "Change, points"], "rows": rows},
    )


def _small_series(facts: Report) -> list[Chart]:
    """Learning rate, gradient norm and speed."""
    charts = []
    series: tuple[tuple[Curve, str, str, str], ...] = (
        ("lr", "Learning rate", "learning rate", "Set by the schedule of each stage."),
        ("grad_norm", "Gradient norm", "norm before clipping", "Before clipping to the recipe's limit."),
        ("tokens_per_s", "Speed", "tokens per second", "Optimizer steps only, without validations and checkpoints."),
    )
    for name, title, unit, note in series:
        xs, ys = _joined(facts, name)
        if any(y is not None for y in ys):
            table: ChartTable = {
                "columns": ["Tokens", title],
                "rows": thin([list(pair) for pair in zip(xs, ys, strict=True)]),
            }
            layout = tokens_axis(facts, unit)
            layout["yaxis"] |= {"rangemode": "tozero", "exponentformat": "power" if name == "lr" else "SI"}
            charts.append(
                make_chart(name, title, note, [draw_line(title, xs, ys, 0)], layout, [title], table, small=True)
            )
    return charts


def perplexity_charts(facts: Report) -> list[Chart]:
    """Distribution of the perplexity of the training documents, one histogram per language and source."""
    return [_histogram(index, row) for index, row in enumerate(facts["corpus"]["perplexity"])]


def _histogram(index: int, row: PerplexityFacts) -> Chart:
    edges, counts = row["bin_edges"], row["bin_documents"]
    name = label(row["language"], row["source"], None)
    median = row["quantiles"]["0.5"]
    # The bins have equal ratios: a filled step curve draws them on a logarithmic axis.
    xs = [edge for edge in edges for _ in range(2)]
    ys = [0, *(count for count in counts for _ in range(2)), 0]
    trace = draw_line(name, xs, ys, 0) | {"fill": "tozeroy", "fillcolor": "var(--c0-soft)"}
    trace["line"]["width"] = 1.5
    trace["hovertemplate"] = "perplexity %{x:.3~g}: %{y} documents<extra></extra>"
    line = {"color": "var(--text)", "width": 1.5, "dash": "dash"}
    whole = {"dtick": 1} if max(counts) < 5 else {}  # no ticks at half a document
    layout = {
        "xaxis": {"type": "log", "title": {"text": "perplexity"}} | log_ticks(edges[0], edges[-1]),
        "yaxis": {"title": {"text": "documents"}, "rangemode": "tozero"} | whole,
        "shapes": [{"type": "line", "x0": median, "x1": median, "y0": 0, "y1": 1, "yref": "paper", "line": line}],
    }
    rows: list[list[Cell]] = [[f"{edges[i]:.4g} to {edges[i + 1]:.4g}", count] for i, count in enumerate(counts)]
    return make_chart(
        f"perplexity-{index}",
        f"Perplexity of {name}",
        f"{row['documents']:,} training documents; the dashed line is the median, {median:.3g}.",
        [trace],
        layout,
        [name],
        {"columns": ["Perplexity", "Documents"], "rows": rows},
        small=True,
    )


def curriculum_charts(facts: Report) -> list[Chart]:
    """Perplexity along an epoch, one chart per stage and entry, unless it equals that of the stage before."""
    groups: dict[tuple[int, str], dict[str, list[float | None]]] = {}
    for row in facts["curriculum"]:
        groups.setdefault((row["stage"], row["entry"]), {})[row["source"]] = row["median_ppl"]
    kept = {key: curves for key, curves in groups.items() if groups.get((key[0] - 1, key[1])) != curves}
    return [_curriculum_chart(*key, curves) for key, curves in kept.items()]


def _curriculum_chart(stage: int, entry: str, curves: dict[str, list[float | None]]) -> Chart:
    shares = [100 * (i + 0.5) / len(next(iter(curves.values()))) for i in range(len(next(iter(curves.values()))))]
    traces = [
        draw_line(source, shares, values, i, markers=True) | {"connectgaps": True, "hovertemplate": "%{y:.3~g}"}
        for i, (source, values) in enumerate(curves.items())
    ]
    known = [value for values in curves.values() for value in values if value is not None]
    layout = {
        "xaxis": {"title": {"text": "tokens of one epoch, %"}, "range": [0, 100]},
        "yaxis": {"type": "log", "title": {"text": "perplexity"}} | log_ticks(min(known), max(known)),
        "hovermode": "x unified",
    }
    return make_chart(
        f"curriculum-{stage}-{entry}",
        f"Order of {entry} in stage {stage}",
        "Median perplexity of the documents along one epoch, in the order in which training reads them: "
        "a rising curve goes from easy to hard.",
        traces,
        layout,
        list(curves),
        {
            "columns": ["Tokens of the epoch, %", *curves],
            "rows": [[share, *(values[i] for values in curves.values())] for i, share in enumerate(shares)],
        },
    )

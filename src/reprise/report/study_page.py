"""A study as a page: the results for each measure, and the paired differences with their intervals and seeds."""

from reprise.report import tables
from reprise.report.chart import Cell, Chart, draw_line, make_chart, plot_text
from reprise.report.page import cell, fixed, percent, points, render_page
from reprise.report.study_records import MeasureComparison, PairedDifference, StudyResult
from reprise.report.table_rows import Change, DifferenceRow, StudyViews, VariantRow

MAX_TICK_CHARS = 16
"""Maximum length of a variant's name on an axis, so that neighbours do not overlap; the table has the full name."""


def render_study(result: StudyResult) -> str:
    """Render a study as a self-contained page, with the templates of the report."""
    drawn = {
        measure: [_chart(index, measure, result, comparison)]
        for index, (measure, comparison) in enumerate(result["measures"].items())
    }
    views: StudyViews = {
        "measures": [
            {
                "id": f"measure-{index}",
                "name": measure,
                "better": "higher" if comparison["higher_is_better"] else "lower",
                "sentences": comparison["sentences"],
                "values": _value_rows(comparison, len(result["seeds"])),
                "differences": _difference_rows(comparison, len(result["seeds"])),
            }
            for index, (measure, comparison) in enumerate(result["measures"].items())
        ]
    }
    return render_page("study.html", result, drawn, views, title=result["name"], live=False)


def _pad(cells: list[str], num_seeds: int) -> list[str]:
    """The cells of a row, with a word for the seeds that a stopped variant did not run with."""
    return cells + ["stopped"] * (num_seeds - len(cells))


def _value_rows(comparison: MeasureComparison, num_seeds: int) -> list[VariantRow]:
    """Rows with the mean of each variant, its interval, and its value for each seed."""
    return [
        {
            "name": variant,
            "mean": fixed(numbers["mean"], 4),
            "interval": "one seed"
            if numbers["ci"] is None
            else f"{fixed(numbers['ci'][0], 4)} to {fixed(numbers['ci'][1], 4)}",
            "values": _pad([fixed(value, 4) for value in numbers["values"]], num_seeds),
        }
        for variant, numbers in comparison["variants"].items()
    ]


def _difference_rows(comparison: MeasureComparison, num_seeds: int) -> list[DifferenceRow]:
    """Rows with the difference of each variant from the baseline, and a picture in which better is always left."""
    verdicts = {
        variant: _verdict(numbers, comparison["higher_is_better"])
        for variant, numbers in comparison["differences"].items()
    }
    pictures = tables.change_pictures(
        [
            Change(numbers["mean"], numbers["ci"], numbers["unit"], verdict=verdicts[variant])
            for variant, numbers in comparison["differences"].items()
        ]
    )
    return [
        {
            "name": variant,
            "verdict": verdicts[variant],
            "size": _amount(numbers["mean"], numbers["unit"]),
            "interval": "one seed"
            if numbers["ci"] is None
            else f"{_amount(numbers['ci'][0], numbers['unit'])} to {_amount(numbers['ci'][1], numbers['unit'])}",
            "values": _pad([_amount(value, numbers["unit"]) for value in numbers["values"]], num_seeds),
            "detectable": "not known"
            if numbers["detectable"] is None
            else _amount(numbers["detectable"], numbers["unit"]).lstrip("+"),
            "picture": picture,
        }
        for (variant, numbers), picture in zip(comparison["differences"].items(), pictures, strict=True)
    ]


def _verdict(numbers: PairedDifference, higher_is_better: bool) -> str:
    """Style of a row: `gained` or `lost` if the interval excludes 0, else `undecided`."""
    if numbers["ci"] is None or numbers["ci"][0] <= 0 <= numbers["ci"][1]:
        return "undecided"
    return "gained" if (numbers["mean"] > 0) == higher_is_better else "lost"


def _amount(value: float, unit: str) -> str:
    """Format a difference as `-1.20 %`, or in percentage points."""
    return percent(value, 2) if unit == "relative" else f"{points(value, 2)}\u202fpoints"


def _short(name: str) -> str:
    """Shorten a name for an axis."""
    return name if len(name) <= MAX_TICK_CHARS else f"{name[: MAX_TICK_CHARS - 1]}…"


def _chart(index: int, measure: str, result: StudyResult, comparison: MeasureComparison) -> Chart:
    """Chart of the differences from the baseline: a point per seed, and their mean with its interval."""
    differences = comparison["differences"]
    names = list(differences)
    xs = list(range(len(names)))
    means = [100 * numbers["mean"] for numbers in differences.values()]
    reach = [
        100 * (numbers["ci"][1] - numbers["mean"]) if numbers["ci"] is not None else 0.0
        for numbers in differences.values()
    ]
    each = [(x, 100 * value) for x, n in zip(xs, differences.values(), strict=True) for value in n["values"]]
    mean_trace = draw_line("mean, 95 % interval", xs, means, 0) | {
        "customdata": [plot_text(name) for name in names],
        "hovertemplate": "%{customdata}: %{y:+.2f}",
        "mode": "markers",
        "marker": {"size": 10, "color": "var(--c0)"},
        "error_y": {"type": "data", "array": reach, "color": "var(--c0)"},
    }
    seed_trace = draw_line("each seed", [x for x, _ in each], [y for _, y in each], 1) | {
        "mode": "markers",
        "marker": {"size": 7, "symbol": "x", "color": "var(--c1)"},
    }
    unit = "%" if all(numbers["unit"] == "relative" for numbers in differences.values()) else "points"
    better = "higher" if comparison["higher_is_better"] else "lower"
    layout = {
        "xaxis": {
            "tickvals": xs,
            "ticktext": [plot_text(_short(name)) for name in names],
            "range": [-0.5, len(names) - 0.5],
        },
        "yaxis": {"title": {"text": plot_text(f"against {result['baseline']}, {unit}")}, "zeroline": True},
    }
    rows: list[list[Cell]] = [
        [
            variant,
            100 * numbers["mean"],
            *(100 * value for value in numbers["values"]),
            *[None] * (len(result["seeds"]) - len(numbers["values"])),
        ]
        for variant, numbers in differences.items()
    ]
    columns = ["Variant", f"Mean, {unit}", *(f"Seed {cell(seed)}" for seed in result["seeds"])]
    return make_chart(
        f"study-{index}",
        f"{measure} against {result['baseline']}",
        f"Each seed, and their mean with its interval; {better} is better, zero is the baseline.",
        [mean_trace, seed_trace],
        layout,
        ["mean, 95 % interval", "each seed"],
        {"columns": columns, "rows": rows},
    )

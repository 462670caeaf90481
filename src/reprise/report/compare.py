"""Several runs -> the settings in which they differ, and their results."""

from collections.abc import Iterable

from reprise.report import charts, retention
from reprise.report.chart import Chart
from reprise.report.records import ComparedRun
from reprise.report.table_rows import (
    ComparedBenchmark,
    ComparedChange,
    ComparedRunRow,
    ComparedSetting,
    ComparisonViews,
)


def compare(runs: list[ComparedRun]) -> tuple[dict[str, list[Chart]], ComparisonViews]:
    """Charts of the comparison by section, and the other values of its template."""
    names = _names(runs)
    entries = list(dict.fromkeys(change["entry"] for run in runs for change in _changes(run)))
    rows: list[ComparedRunRow] = []
    for name, run in zip(names, runs, strict=True):
        changes = {change["entry"]: change for change in _changes(run)}
        rows.append(
            {
                "name": name,
                "state": run["report"]["run"]["state"],
                "headline": run["report"]["verdict"]["headline"],
                "provisional": run["report"]["verdict"]["provisional"],
                "tokens": sum(stage["tokens"] for stage in run["report"]["training"]),
                "seconds": run["report"]["repeat"]["seconds"],
                "changes": [changes.get(entry) for entry in entries],
            }
        )
    return (
        {"held_out": _held_out(names, runs, entries), "plane": _plane(names, runs)},
        {
            "rows": rows,
            "benchmarks": _benchmarks(runs),
            "entries": entries,
            "differ": _different_text(runs),
            "settings": _settings(runs),
            "names": names,
        },
    )


def _names(runs: list[ComparedRun]) -> list[str]:
    """Name of each run; its folder if another run has the same name."""
    names = [run["report"]["run"]["name"] for run in runs]
    return [run["folder"] if names.count(name) > 1 else name for name, run in zip(names, runs, strict=True)]


def _changes(run: ComparedRun) -> list[ComparedChange]:
    """Change of each entry: from the evaluation, else from the validations so far."""
    rows = run["report"]["bits_per_byte"] or run["report"]["verdict"]["so_far"]
    return [
        {"entry": row["entry"], "before": row["before"], "after": row["after"], "change": row["change"]}
        for row in rows
        if row["source"] is None
    ]


def _benchmarks(runs: list[ComparedRun]) -> list[ComparedBenchmark]:
    """Each benchmark with its row in each run; None if the run did not measure it."""
    asked = [{row["benchmark"]: row for row in run["report"]["benchmarks"]} for run in runs]
    return [
        {"name": name, "per_run": [rows.get(name) for rows in asked]}
        for name in dict.fromkeys(n for rows in asked for n in rows)
    ]


def _different_text(runs: list[ComparedRun]) -> list[str]:
    """Entries whose bits per byte before training differ: the held-out text or the base model differs."""
    before: dict[str, set[float]] = {}
    for run in runs:
        for row in run["report"]["bits_per_byte"]:
            if row["source"] is None:
                before.setdefault(row["entry"], set()).add(round(row["before"], 6))
    return [entry for entry, values in before.items() if len(values) > 1]


def _held_out(names: list[str], runs: list[ComparedRun], entries: list[str]) -> list[Chart]:
    """One chart per entry: the change of its held-out bits per byte in each run."""
    drawn = []
    for entry in entries:
        series = {}
        for name, run in zip(names, runs, strict=True):
            points = charts.held_out_series(run["report"]).get((entry, None, None))
            if points:
                series[name] = points
        chart = charts.change_chart(f"compare-{entry}", f"Held-out {entry}", None, series)
        drawn += [chart] if chart else []
    return drawn


def _plane(names: list[str], runs: list[ComparedRun]) -> list[Chart]:
    """Gain against retention of all runs, in one chart."""
    kept = list(dict.fromkeys(path for run in runs for path in run["report"]["tolerance"]))
    chart = retention.plane_chart({name: run["report"] for name, run in zip(names, runs, strict=True)}, kept)
    return [chart] if chart else []


def _settings(runs: list[ComparedRun]) -> list[ComparedSetting]:
    """Settings that differ between the runs, with their value in each run."""
    flat = [_flat(run["report"]["repeat"]["recipe"]) for run in runs]
    names = list(dict.fromkeys(name for settings in flat for name in settings))
    rows: list[ComparedSetting] = [
        {"name": name, "per_run": [settings.get(name) for settings in flat]} for name in names
    ]
    return [row for row in rows if any(value != row["per_run"][0] for value in row["per_run"])]


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    """Flatten nested settings to dotted name -> value."""
    if isinstance(value, dict) and value:
        items: Iterable[tuple[object, object]] = value.items()
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        items = enumerate(value)
    else:
        return {prefix: value}
    return {
        name: item
        for key, child in items
        for name, item in _flat(child, f"{prefix}.{key}" if prefix else str(key)).items()
    }

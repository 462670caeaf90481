"""Several runs -> what differs between them and what came of it."""

from reprise.report import charts, retention
from reprise.report.facts import changes_so_far
from reprise.storage import Json


def compare(runs: list[Json]) -> tuple[Json, dict[str, list[Json]], Json]:
    """Facts, charts and rows of the comparison.

    Args:
        runs: facts of each run (`facts.gather`) with its `folder`.
    """
    names = _names(runs)
    languages = list(dict.fromkeys(change["language"] for run in runs for change in _changes(run)))
    rows = []
    for name, run in zip(names, runs, strict=True):
        changes = {change["language"]: change for change in _changes(run)}
        rows.append(
            {
                "name": name,
                "state": run["run"]["state"],
                "headline": run["verdict"]["headline"],
                "provisional": run["verdict"]["provisional"],
                "tokens": sum(stage["tokens"] for stage in run["training"]),
                "seconds": run["repeat"]["seconds"],
                "changes": [changes.get(language) for language in languages],
            }
        )
    return (
        {"runs": runs},
        {"held_out": _held_out(names, runs, languages), "plane": _plane(names, runs)},
        {
            "rows": rows,
            "benchmarks": _benchmarks(runs),
            "languages": languages,
            "differ": _different_text(runs),
            "settings": _settings(runs),
            "names": names,
        },
    )


def _names(runs: list[Json]) -> list[str]:
    """Names of the runs; the folder where two have the same."""
    names = [run["run"]["name"] for run in runs]
    return [run["folder"] if names.count(name) > 1 else name for name, run in zip(names, runs, strict=True)]


def _changes(run: Json) -> list[Json]:
    """Change per language: of the evaluation, else of the validations so far."""
    totals = [row for row in run["bits_per_byte"] if row["source"] is None]
    if not totals:
        return changes_so_far(run["training"])
    return [{name: row[name] for name in ("language", "before", "after", "change")} for row in totals]


def _benchmarks(runs: list[Json]) -> list[Json]:
    """Each benchmark that a run was asked: its row of each run, None where there is none."""
    asked = [{row["benchmark"]: row for row in run["benchmarks"]} for run in runs]
    return [
        {"name": name, "per_run": [rows.get(name) for rows in asked]}
        for name in dict.fromkeys(n for rows in asked for n in rows)
    ]


def _different_text(runs: list[Json]) -> list[str]:
    """Languages in which the runs began from different bits per byte: other held-out text or another model."""
    before: dict[str, set[float]] = {}
    for run in runs:
        for row in run["bits_per_byte"]:
            if row["source"] is None:
                before.setdefault(row["language"], set()).add(round(row["before"], 6))
    return [language for language, values in before.items() if len(values) > 1]


def _held_out(names: list[str], runs: list[Json], languages: list[str]) -> list[Json]:
    """One chart per language: the change of its held-out bits per byte in each run."""
    drawn = []
    for language in languages:
        series = {}
        for name, run in zip(names, runs, strict=True):
            points = charts.held_out_series(run).get((language, None, None))
            if points:
                series[name] = points
        chart = charts.change_chart(f"compare-{language}", f"Held-out {language}", {"training": []}, series)
        drawn += [chart] if chart else []
    return drawn


def _plane(names: list[str], runs: list[Json]) -> list[Json]:
    """Gain against retention of all runs, where they have the same kept and the same new language."""
    kept = list(dict.fromkeys(language for run in runs for language in run["tolerance"]))
    chart = retention.plane_chart(dict(zip(names, runs, strict=True)), kept)
    return [chart] if chart else []


def _settings(runs: list[Json]) -> list[Json]:
    """Settings that differ between the runs: name, and the value in each."""
    flat = [_flat(run["repeat"]["recipe"]) for run in runs]
    names = list(dict.fromkeys(name for settings in flat for name in settings))
    rows = [{"name": name, "per_run": [settings.get(name) for settings in flat]} for name in names]
    return [row for row in rows if any(value != row["per_run"][0] for value in row["per_run"])]


def _flat(value: Json, prefix: str = "") -> dict[str, Json]:
    """Dotted name -> value of every setting."""
    if isinstance(value, dict) and value:
        items = value.items()
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        items = enumerate(value)  # type: ignore[assignment]
    else:
        return {prefix: value}
    return {
        name: item
        for key, child in items
        for name, item in _flat(child, f"{prefix}.{key}" if prefix else str(key)).items()
    }

"""Facts -> rows of the page's tables; bars and intervals in cells are positioned in per cent of the width."""

from collections.abc import Iterable

from reprise.evaluation.results import METRIC_NAMES, BenchmarkRow
from reprise.report.records import Report
from reprise.storage import Json


def level(row: Json) -> str:
    """Level of a row: `total` for an entry, `part` for a source, `subpart` for a topic."""
    return "total" if row["source"] is None else "part" if row["topic"] is None else "subpart"


def name(row: Json) -> str:
    """Name of a row within its level: its topic, source or entry."""
    return str(row["topic"] or row["source"] or row.get("entry") or row["language"])


def gain_rows(facts: Report) -> list[Json]:
    """Rows of bits per byte: each entry, followed by its sources, each followed by its topics."""
    entries = list(dict.fromkeys(row["entry"] for row in facts["bits_per_byte"]))
    rows = sorted(
        facts["bits_per_byte"],
        key=lambda row: (entries.index(row["entry"]), row["source"] or "", row["topic"] or ""),
    )
    pictures = change_pictures(rows)
    return [
        row | {"level": level(row), "name": name(row), "picture": picture}
        for row, picture in zip(rows, pictures, strict=True)
    ]


def with_pictures(rows: list[Json]) -> list[Json]:
    """Add a picture of the change to each verdict or benchmark; better is always left."""
    relative = [row for row in rows if row.get("unit") != "difference"]
    points = [row for row in rows if row.get("unit") == "difference"]  # have a scale of their own
    pictures = {
        id(row): picture
        for group in (relative, points)
        for row, picture in zip(group, change_pictures(group), strict=True)
    }
    return [row | {"picture": pictures[id(row)]} for row in rows]


def gold_rows(benchmarks: list[BenchmarkRow]) -> list[Json]:
    """Rows with the bits per byte of the right answers, of each benchmark that scores them."""
    rows = [
        {**gold, "name": row["benchmark"], "unit": "relative", "verdict": None}
        for row in benchmarks
        if (gold := row["gold_bits_per_byte"]) is not None
    ]
    return with_pictures(rows)


def group_rows(groups: Json) -> list[Json]:
    """Rows with the mean score of each group of benchmarks that is complete for both models."""
    before, after = groups.get("before", {}), groups.get("after", {})
    return [
        {
            "name": name,
            "before": before[name],
            "after": after[name],
            "change": after[name] - before[name],
            "unit": "difference",
        }
        for name in before
        if name in after
    ]


def other_metric_rows(benchmarks: list[BenchmarkRow]) -> list[Json]:
    """Rows with the scores of other metrics than that of the verdict, such as the symbolic one of MATH."""
    return [
        {
            "benchmark": row["benchmark"],
            "metric": metric,
            "name": METRIC_NAMES.get(metric, metric),
            "before": scores["before"],
            "after": scores["after"],
            "change": scores["after"] - scores["before"],
            "unit": "difference",
            "questions": row["questions"],
        }
        for row in benchmarks
        for metric, scores in row["other_metrics"].items()
    ]


def change_pictures(rows: list[Json]) -> list[Json]:
    """Positions of the change, its interval and the tolerance of each row, on a common axis with zero in the middle."""
    reach = max((abs(end) for row in rows for end in (row["change"], *(row.get("ci") or []))), default=0.0) or 0.01

    def position(value: float) -> float:
        return round(50 + 50 * max(-1.0, min(1.0, value / (1.05 * reach))), 2)

    pictures = []
    for row in rows:
        better = -1.0 if row.get("unit") == "difference" else 1.0  # more points and fewer bits are better
        low, high = sorted(better * end for end in row.get("ci") or (row["change"], row["change"]))
        tolerance = row.get("tolerance")
        pictures.append(
            {
                "dot": position(better * row["change"]),
                "low": position(low),
                "width": round(position(high) - position(low), 2),
                "band": None if tolerance is None else [position(0.0), round(position(tolerance) - position(0.0), 2)],
                "verdict": row["verdict"] or "described",
            }
        )
    return pictures


def order_rows(facts: Report) -> list[Json]:
    """Rows with the order of each source; sources of an entry with the same order share a row."""
    rows: dict[str, Json] = {}
    for row in facts["order"]:
        key = str([value for name, value in row.items() if name != "source"])
        rows.setdefault(key, {**row, "sources": []})["sources"].append(row["source"])
    return list(rows.values())


def funnel_rows(facts: Report) -> list[Json]:
    """Rows with the synthetic questions left after each step: all of them, then by discipline."""
    funnel = facts["synthesis"]["funnel"]
    if not funnel:
        return []
    groups = {"all": funnel["total"], **funnel["disciplines"]}
    return [
        {
            **counts,
            "name": name,
            "level": "total" if name == "all" else "part",
            "picture": {"planned": 100.0, "spent": round(100 * counts["kept"] / max(counts["requests"], 1), 2)},
        }
        for name, counts in groups.items()
    ]


def budget_rows(facts: Report, stage: int) -> list[Json]:
    """Rows with planned and spent tokens of a stage: entries, sources and topics, with the sums of each level."""
    buckets = [row for row in facts["budget"] if row["stage"] == stage]
    rows = []
    for entry in _unique(row["entry"] for row in buckets):
        of_entry = [row for row in buckets if row["entry"] == entry]
        rows.append(_sum(of_entry, entry, None, None))
        for source in _unique(row["source"] for row in of_entry):
            of_source = [row for row in of_entry if row["source"] == source]
            rows.append(_sum(of_source, entry, source, None))
            rows += [_sum([row], entry, source, row["topic"]) for row in of_source if row["topic"] is not None]
    reach = max((value for row in rows for value in (row["planned"], row["spent"]) if value), default=1)
    for row in rows:
        row["picture"] = {key: round(100 * (row[key] or 0) / reach, 2) for key in ("planned", "spent")}
    return rows


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _sum(rows: list[Json], entry: str, source: str | None, topic: str | None) -> Json:
    total: Json = {"entry": entry, "source": source, "topic": topic}
    for key in ("planned", "spent", "available", "text_bytes"):
        known = [row[key] for row in rows if row[key] is not None]
        total[key] = sum(known) if known else None
    total["epochs"] = round(total["spent"] / total["available"], 4) if total["spent"] and total["available"] else None
    return total | {"level": level(total), "name": name(total)}


def bars(rows: list[Json], key: str) -> list[Json]:
    """Add the length of a bar for one field to each row."""
    reach = max((row[key] for row in rows), default=0) or 1
    return [row | {"bar": round(100 * row[key] / reach, 2)} for row in rows]

"""Facts -> rows of the page's tables; bars and intervals in cells are positioned in per cent of the width."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from reprise.evaluation.results import METRIC_NAMES, BenchmarkRow, Verdict
from reprise.report.corpus_records import FlowRow
from reprise.report.records import Report
from reprise.report.table_rows import (
    BudgetTableRow,
    BudgetTotals,
    Change,
    FlowTableRow,
    FunnelRow,
    GainRow,
    GoldRow,
    GroupRow,
    IntervalPicture,
    Level,
    OtherMetricRow,
    ScoreRow,
    SourcesOrderRow,
    Unit,
    VerdictRow,
)
from reprise.report.training_records import BudgetRow


def level(source: str | None, topic: str | None) -> Level:
    """Level of a row: `total` for an entry, `part` for a source, `subpart` for a topic."""
    return "total" if source is None else "part" if topic is None else "subpart"


def gain_rows(facts: Report) -> list[GainRow]:
    """Rows of bits per byte: each entry, followed by its sources, each followed by its topics."""
    entries = list(dict.fromkeys(row["entry"] for row in facts["bits_per_byte"]))
    rows = sorted(
        facts["bits_per_byte"],
        key=lambda row: (entries.index(row["entry"]), row["source"] or "", row["topic"] or ""),
    )
    changes = [Change(row["change"], row["ci"], "relative", row["tolerance"], row["verdict"]) for row in rows]
    return [
        {
            **row,
            "level": level(row["source"], row["topic"]),
            "name": row["topic"] or row["source"] or row["entry"],
            "picture": picture,
        }
        for row, picture in zip(rows, change_pictures(changes), strict=True)
    ]


def verdict_rows(verdicts: Sequence[Verdict]) -> list[VerdictRow]:
    """Verdicts with pictures of their changes."""
    changes = [Change(row["change"], row["ci"], row["unit"], row["tolerance"], row["verdict"]) for row in verdicts]
    return [{**row, "picture": picture} for row, picture in zip(verdicts, change_pictures(changes), strict=True)]


def score_rows(benchmarks: Sequence[BenchmarkRow]) -> list[ScoreRow]:
    """Benchmarks with pictures of their changes."""
    changes = [Change(row["change"], row["ci"], "difference", row["tolerance"], row["verdict"]) for row in benchmarks]
    return [
        {**row, "unit": "difference", "picture": picture}
        for row, picture in zip(benchmarks, change_pictures(changes), strict=True)
    ]


def gold_rows(benchmarks: Sequence[BenchmarkRow]) -> list[GoldRow]:
    """Rows with the bits per byte of the right answers, of each benchmark that scores them."""
    scored = [(row["benchmark"], gold) for row in benchmarks if (gold := row["gold_bits_per_byte"]) is not None]
    changes = [Change(gold["change"], gold["ci"], "relative") for _, gold in scored]
    return [
        {**gold, "name": name, "unit": "relative", "picture": picture}
        for (name, gold), picture in zip(scored, change_pictures(changes), strict=True)
    ]


def group_rows(groups: Mapping[Literal["before", "after"], Mapping[str, float]]) -> list[GroupRow]:
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


def other_metric_rows(benchmarks: Sequence[BenchmarkRow]) -> list[OtherMetricRow]:
    """Rows with the scores of other metrics than that of the verdict, such as the symbolic one of MATH."""
    return [
        {
            "benchmark": row["benchmark"],
            "metric": metric,
            "name": METRIC_NAMES.get(metric, metric),
            "before": scores["before"],
            "after": scores["after"],
            "change": scores["change"],
            "unit": "difference",
            "ci": scores["ci"],
            "verdict": scores["verdict"],
            "questions": row["questions"],
        }
        for row in benchmarks
        for metric, scores in row["other_metrics"].items()
    ]


def change_pictures(changes: Sequence[Change]) -> list[IntervalPicture]:
    """Pictures of changes, in which better is always left; changes of the same unit have the same scale."""
    reach: dict[Unit, float] = {}
    for one in changes:
        reach[one.unit] = max(reach.get(one.unit, 0.0), *map(abs, (one.change, *(one.ci or ()))))
    pictures: list[IntervalPicture] = []
    for one in changes:
        size = 1 / (1.05 * (reach[one.unit] or 0.01))
        scale = -size if one.unit == "difference" else size  # more points and fewer bits are better
        zero = _position(0.0)
        low, high = sorted(_position(scale * end) for end in one.ci or (one.change, one.change))
        pictures.append(
            {
                "dot": _position(scale * one.change),
                "low": low,
                "width": round(high - low, 2),
                "band": None if one.tolerance is None else [zero, round(_position(size * one.tolerance) - zero, 2)],
                "verdict": one.verdict or "described",
            }
        )
    return pictures


def _position(value: float) -> float:
    """Position of a value from -1 to 1, in per cent of the width."""
    return round(50 + 50 * max(-1.0, min(1.0, value)), 2)


def order_rows(facts: Report) -> list[SourcesOrderRow]:
    """Rows with the order of each source; sources of an entry with the same order share a row."""
    rows: dict[str, SourcesOrderRow] = {}
    for row in facts["order"]:
        key = str([value for name, value in row.items() if name != "source"])
        rows.setdefault(key, {**row, "sources": []})["sources"].append(row["source"])
    return list(rows.values())


def funnel_rows(facts: Report) -> list[FunnelRow]:
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


def budget_rows(facts: Report, stage: int) -> list[BudgetTableRow]:
    """Rows with planned and spent tokens of a stage: entries, sources and topics, with the sums of each level."""
    buckets = [row for row in facts["budget"] if row["stage"] == stage]
    rows: list[BudgetTotals] = []
    for entry in _unique(row["entry"] for row in buckets):
        of_entry = [row for row in buckets if row["entry"] == entry]
        rows.append(_sum(of_entry, entry, None, None))
        for source in _unique(row["source"] for row in of_entry):
            of_source = [row for row in of_entry if row["source"] == source]
            rows.append(_sum(of_source, entry, source, None))
            rows += [_sum([row], entry, source, row["topic"]) for row in of_source if row["topic"] is not None]
    reach = max((tokens for row in rows for tokens in (row["planned"], row["spent"]) if tokens), default=1)
    return [
        {
            **row,
            "picture": {
                "planned": round(100 * (row["planned"] or 0) / reach, 2),
                "spent": round(100 * (row["spent"] or 0) / reach, 2),
            },
        }
        for row in rows
    ]


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _sum(rows: Sequence[BudgetRow], entry: str, source: str | None, topic: str | None) -> BudgetTotals:
    spent, available = _total(row["spent"] for row in rows), _total(row["available"] for row in rows)
    return {
        "entry": entry,
        "source": source,
        "topic": topic,
        "planned": _total(row["planned"] for row in rows),
        "spent": spent,
        "available": available,
        "text_bytes": _total(row["text_bytes"] for row in rows),
        "epochs": round(spent / available, 4) if spent and available else None,
        "level": level(source, topic),
        "name": topic or source or entry,
    }


def _total(values: Iterable[int | None]) -> int | None:
    """Sum of the known values; None without any."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def flow_rows(flow: Sequence[FlowRow]) -> list[FlowTableRow]:
    """Documents that passed each stage, with a bar."""
    reach = max((row["documents"] for row in flow), default=0) or 1
    return [{**row, "bar": round(100 * row["documents"] / reach, 2)} for row in flow]

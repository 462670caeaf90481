"""Facts -> rows of the page's tables, with the places of the pictures in their cells in per cent of the width."""

from collections.abc import Iterable

from reprise.workspace import Json


def level(row: Json) -> str:
    """Which line of a table a bucket is: a language's total, a source, or a topic."""
    return "total" if row["source"] is None else "part" if row["topic"] is None else "subpart"


def name(row: Json) -> str:
    """What tells this line from those around it."""
    return str(row["topic"] or row["source"] or row["language"])


def gain_rows(facts: Json) -> list[Json]:
    """Before and after for each bucket, the languages first, each followed by its sources and their topics."""
    found = facts["bits_per_byte"]
    rows = sorted(found, key=lambda row: (_rank(found, row["language"]), row["source"] or "", row["topic"] or ""))
    reach = max((abs(end) for row in rows for end in _ends(row)), default=0.0) or 0.01
    return [row | {"level": level(row), "name": name(row), "picture": _interval(row, facts, reach)} for row in rows]


def _rank(rows: list[Json], language: str) -> int:
    return next(i for i, row in enumerate(rows) if row["language"] == language)


def _ends(row: Json) -> list[float]:
    change = row["after"] / row["before"] - 1
    return [change, *(row.get("ci") or [])]


def _interval(row: Json, facts: Json, reach: float) -> Json:
    """Places of zero, the change, its confidence interval and the tolerance on an axis from -reach to +reach."""

    def place(value: float) -> float:
        return round(50 + 50 * max(-1.0, min(1.0, value / (1.05 * reach))), 2)

    change = row["after"] / row["before"] - 1
    low, high = row.get("ci") or (change, change)
    tolerance = facts["tolerance"].get(row["language"])
    return {
        "dot": place(change),
        "low": place(low),
        "width": round(place(high) - place(low), 2),
        "band": None if tolerance is None else [place(0.0), round(place(tolerance) - place(0.0), 2)],
        "verdict": row["verdict"],
    }


def verdict_rows(facts: Json) -> list[Json]:
    """The verdicts on bits per byte, with a picture of the change; the others without one."""
    rows = facts["verdict"]["verdicts"]
    pictured = [row for row in rows if row.get("before") and row.get("language")]
    reach = max((abs(end) for row in pictured for end in _ends(row)), default=0.0) or 0.01
    return [row | {"picture": _interval(row, facts, reach) if row in pictured else None} for row in rows]


def order_rows(facts: Json) -> list[Json]:
    """The order of each source; sources of a language that are taken in the same order share a row."""
    rows: dict[str, Json] = {}
    for row in facts["order"]:
        key = str([row[name] for name in row if name != "source"])
        rows.setdefault(key, row | {"sources": []})["sources"].append(row["source"])
    return list(rows.values())


FUNNEL = ("requests", "answered", "parsed", "kept")


def funnel_rows(facts: Json) -> list[Json]:
    """What was left of the synthetic questions after each step: all of them, then each discipline."""
    funnel = facts["synthesis"].get("funnel")
    if not funnel:
        return []
    groups = {"all": funnel["total"], **funnel["disciplines"]}
    return [
        {"name": name, "level": "total" if name == "all" else "part", "dropped": found["dropped"]}
        | {step: found[step] for step in FUNNEL}
        | {"picture": {"planned": 100.0, "spent": round(100 * found["kept"] / max(found["requests"], 1), 2)}}
        for name, found in groups.items()
    ]


def budget_rows(facts: Json, stage: int) -> list[Json]:
    """Planned and spent tokens of a stage: languages, sources, topics, each level with its sums."""
    leaves = [row for row in facts["budget"] if row["stage"] == stage]
    rows = []
    for language in _unique(row["language"] for row in leaves):
        of_language = [row for row in leaves if row["language"] == language]
        rows.append(_sum(of_language, language, None, None))
        for source in _unique(row["source"] for row in of_language):
            of_source = [row for row in of_language if row["source"] == source]
            rows.append(_sum(of_source, language, source, None))
            rows += [_sum([row], language, source, row["topic"]) for row in of_source if row["topic"] is not None]
    reach = max((value for row in rows for value in (row["planned"], row["spent"]) if value), default=1)
    for row in rows:
        row["picture"] = {key: round(100 * (row[key] or 0) / reach, 2) for key in ("planned", "spent")}
    return rows


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _sum(rows: list[Json], language: str, source: str | None, topic: str | None) -> Json:
    total: Json = {"language": language, "source": source, "topic": topic}
    for key in ("planned", "spent", "available"):
        known = [row[key] for row in rows if row[key] is not None]
        total[key] = sum(known) if known else None
    passes = [row["epochs"] for row in rows if row["epochs"] is not None]
    total["epochs"] = max(passes) if passes else None
    return total | {"level": level(total), "name": name(total)}


def bars(rows: list[Json], key: str) -> list[Json]:
    """Rows with the length of a bar for one of their numbers."""
    reach = max((row[key] for row in rows), default=0) or 1
    return [row | {"bar": round(100 * row[key] / reach, 2)} for row in rows]

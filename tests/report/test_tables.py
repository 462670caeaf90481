import pytest

from reprise.recipe import Recipe
from reprise.report import tables
from reprise.report.facts import gather
from reprise.report.page import render_report
from reprise.report.table_rows import Change
from reprise.workspace import Workspace

Run = tuple[Workspace, Recipe]


def test_sums_of_the_budget(unchanged: Run) -> None:
    facts = gather(*unchanged)
    rows = tables.budget_rows(facts, 1)
    stage = unchanged[1].stages[0]
    totals = {row["name"]: row for row in rows if row["level"] == "total"}
    assert {name: row["planned"] for name, row in totals.items()} == {
        name: round(stage.tokens * part.share) for name, part in stage.mixture.items()
    }
    for language in totals:
        for source in stage.mixture[language].sources:
            (of_source,) = (r for r in rows if r["level"] == "part" and (r["entry"], r["source"]) == (language, source))
            topics = [r for r in rows if r["level"] == "subpart" and (r["entry"], r["source"]) == (language, source)]
            if topics:
                assert sum(r["spent"] for r in topics) == of_source["spent"]


def test_before_and_after_go_from_the_entry_to_the_topic(unchanged: Run) -> None:
    rows = tables.gain_rows(gather(*unchanged))
    assert [row["level"] for row in rows[:6]] == ["total", "part", "part", "part", "subpart", "subpart"]
    assert [row["name"] for row in rows if row["level"] == "total"] == ["en", "zh"]


def test_bits_of_the_right_answers_are_shown_where_they_were_scored(unchanged: Run) -> None:
    facts = gather(*unchanged)
    (row,) = tables.gold_rows(facts["benchmarks"])  # the answers of the other benchmark were generated
    assert row["name"] == "ceval" and row["picture"]["dot"] < 50
    page = render_report(facts)
    assert "Bits per byte of the right answers" in page and ">1.200<" in page


def test_better_is_left_for_bits_and_for_points() -> None:
    bits = Change(-0.1, (-0.12, -0.08), "relative", tolerance=0.02, verdict="gained")
    points = Change(0.1, (0.08, 0.12), "difference", tolerance=0.02, verdict="gained")
    first, second = tables.change_pictures([bits, points])
    assert first == second
    assert first["dot"] < 50
    assert first["low"] < first["dot"] < first["low"] + first["width"] < 50
    assert first["band"][0] == 50


@pytest.mark.parametrize("change", [-3.0, 0.0, 0.4])
def test_pictures_stay_inside_their_cell(change: float) -> None:
    changes = [Change(change, None, "relative", tolerance=5.0, verdict="lost"), Change(0.1, None, "relative")]
    for picture in tables.change_pictures(changes):
        assert 0 <= picture["low"] <= picture["dot"] <= 100
        if picture["band"]:
            assert sum(picture["band"]) <= 100


def test_the_same_orders_share_a_row(unchanged: Run) -> None:
    rows = tables.order_rows(gather(*unchanged))
    assert [(row["stage"], row["entry"], row["order"]) for row in rows] == [
        (1, "zh", "ascending"),
        (1, "en", "random"),
        (2, "zh", "ascending"),
        (2, "en", "random"),
        (2, "synthetic", "random"),
    ]
    assert rows[0]["sources"] == ["web", "encyclopedia", "book", "qa_forum"]


def test_no_row_has_no_bar() -> None:
    assert tables.flow_rows([]) == []
    assert tables.flow_rows([{"stage": "read", "documents": 0, "dropped": 0}])[0]["bar"] == 0

"""What a plan promises of the verdicts is what simulated runs reach."""

import numpy as np
import pytest

from reprise.evaluation.bits_per_byte import Text
from reprise.evaluation.comparison import compare_bits, judge_rows
from reprise.evaluation.power import plan_reach, reach_sentences
from reprise.recipe.groups import find_groups

GROUPS = find_groups([], {"en": 0.02})


def shares_of_verdicts(count, spread, change, runs=200):
    """How often 60 documents of English, or as many as are said, get each verdict."""
    random = np.random.default_rng(count)
    verdicts = []
    for _ in range(runs):
        texts = [Text("x" * 1000, "en", "web")] * count
        before = np.full(count, 1300.0)
        after = before * (1 + change + random.normal(0, spread, count))
        (entry,) = judge_rows(compare_bits(texts, before, after, GROUPS), [])
        verdicts.append(entry["verdict"])
    return {verdict: verdicts.count(verdict) / runs for verdict in ("gained", "kept", "lost", "undecided")}


def test_what_can_be_detected_is_gained_in_four_of_five_runs_and_kept_takes_as_many_documents_as_are_said():
    (reach,) = plan_reach({("en", "web"): np.full(60, 1000.0)}, GROUPS, {}, 0.01, spread=0.03)
    assert shares_of_verdicts(60, 0.03, -reach["detectable"])["gained"] == pytest.approx(0.8, abs=0.1)
    needed = reach["items_for_kept"]
    assert reach["can_be_kept"] == (needed <= 60)
    assert shares_of_verdicts(needed, 0.03, 0.0)["kept"] >= 0.72
    assert shares_of_verdicts(max(5, needed // 3), 0.03, 0.0)["kept"] < 0.72


def test_a_benchmark_takes_thousands_of_questions_to_be_kept_within_a_point():
    (alone,) = plan_reach({}, find_groups([], {}), {"mmlu": 1000}, 0.01)
    assert alone["items_for_kept"] == pytest.approx(7849, abs=2) and not alone["can_be_kept"]
    assert plan_reach({}, find_groups([], {}), {"mmlu": 8000}, 0.01)[0]["can_be_kept"]


def test_more_verdicts_in_a_report_need_more_documents():
    size = np.full(60, 1000.0)
    (few,) = plan_reach({("en", "web"): size}, GROUPS, {}, 0.01)
    many = plan_reach({("en", "web"): size, ("zh", "web"): size}, GROUPS, {"mmlu": 100, "arc": 100}, 0.01)
    assert many[0]["detectable"] > few["detectable"] and many[0]["items_for_kept"] > few["items_for_kept"]


def test_groups_without_enough_documents_are_said():
    sizes = {("en", "web"): np.full(3, 900.0), ("zh", "web"): np.array([1e9, *np.ones(9)])}
    reaches = plan_reach(sizes, GROUPS, {}, 0.01)
    assert [reach["detectable"] for reach in reaches] == [None, None]
    lines = reach_sentences(reaches)
    assert lines[0] == "en: 3 documents: no verdict is possible; hold out more"
    (line,) = reach_sentences(plan_reach({("en", "web"): np.full(20, 1.0)}, GROUPS, {}, 0.01))
    assert "`kept` within 2 % cannot: it takes about" in line

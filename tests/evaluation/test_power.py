"""What a plan promises of the verdicts is what simulated runs reach."""

import numpy as np
import pytest

from reprise.evaluation.benchmarks.runner import Measured, compare_benchmarks
from reprise.evaluation.bits_per_byte import Text
from reprise.evaluation.comparison import compare_bits, judge_rows
from reprise.evaluation.power import Spread, plan_reach, reach_sentences
from reprise.evaluation.previous import known_spreads
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.groups import find_groups
from reprise.storage import write_json

GROUPS = find_groups([], {"en": 0.02})


def shares_of_verdicts(count, spread, change, runs=200):
    """How often 60 documents of English, or as many as are said, get each verdict."""
    random = np.random.default_rng(count)
    verdicts = []
    for _ in range(runs):
        texts = [Text(f"{number:04}".ljust(1000, "x"), "en", "web") for number in range(count)]
        before = np.full(count, 1300.0)
        after = before * (1 + change + random.normal(0, spread, count))
        (entry,) = judge_rows(compare_bits(texts, before, after, GROUPS), [])
        verdicts.append(entry["verdict"])
    return {verdict: verdicts.count(verdict) / runs for verdict in ("gained", "kept", "lost", "undecided")}


def test_what_can_be_detected_is_gained_in_four_of_five_runs_and_kept_takes_as_many_documents_as_are_said():
    (reach,) = plan_reach({("en", "web"): np.full(60, 1000.0)}, GROUPS, {}, {"en": Spread(0.03, "runs/before")})
    assert shares_of_verdicts(60, 0.03, -reach["detectable"])["gained"] == pytest.approx(0.8, abs=0.1)
    needed = reach["items_for_kept"]
    assert reach["can_be_kept"] == (needed <= 60)
    assert shares_of_verdicts(needed, 0.03, 0.0)["kept"] >= 0.72
    assert shares_of_verdicts(max(5, needed // 3), 0.03, 0.0)["kept"] < 0.72


def test_a_benchmark_takes_thousands_of_questions_to_be_kept_within_a_point():
    (alone,) = plan_reach({}, find_groups([], {}), {"mmlu": (1000, 0.01)})
    assert alone["items_for_kept"] == pytest.approx(7865, abs=2) and not alone["can_be_kept"]
    assert plan_reach({}, find_groups([], {}), {"mmlu": (8000, 0.01)})[0]["can_be_kept"]


def test_more_verdicts_in_a_report_need_more_documents():
    size = np.full(60, 1000.0)
    (few,) = plan_reach({("en", "web"): size}, GROUPS, {})
    many = plan_reach({("en", "web"): size, ("zh", "web"): size}, GROUPS, dict.fromkeys(("mmlu", "arc"), (100, 0.01)))
    assert many[0]["detectable"] > few["detectable"] and many[0]["items_for_kept"] > few["items_for_kept"]


def test_groups_without_enough_documents_are_said():
    sizes = {("en", "web"): np.full(3, 900.0), ("zh", "web"): np.array([1e9, *np.ones(9)])}
    reaches = plan_reach(sizes, GROUPS, {})
    assert [reach["detectable"] for reach in reaches] == [None, None]
    lines = reach_sentences(reaches)
    assert lines[0] == "en: 3 documents: no verdict is possible; hold out more"
    (line,) = reach_sentences(plan_reach({("en", "web"): np.full(20, 1.0)}, GROUPS, {}))
    assert "`kept` within 2 % cannot: it takes about" in line


def results_of(spread):
    """Results of an evaluation of 400 documents of English that differ by a spread, and 400 questions, 80 changed."""
    random = np.random.default_rng(1)
    size = random.lognormal(7.0, 0.3, 400).astype(int)
    texts = [Text(f"{number:04}".ljust(int(count), "x"), "en", "web") for number, count in enumerate(size)]
    before = size * 1.3
    after = before * (1 + random.normal(0, spread, 400))
    rows = [row for row, _ in compare_bits(texts, before, after, GROUPS)]
    won = np.zeros(400)
    won[:80] = 1.0
    scores = {f"sciq/{number}": float(score) for number, score in enumerate(won)}
    sides = [
        Measured("sciq", 0, "acc", 400, dict.fromkeys(scores, 0.0), {}),
        Measured("sciq", 0, "acc", 400, scores, {}),
    ]
    questions = [compared.row for compared in compare_benchmarks(sides[:1], sides[1:], Evaluation())]
    return {
        "headline": "", "verdicts": [], "untested": [], "bits_per_byte": rows, "benchmarks": questions,
        "groups": {"before": {}, "after": {}}, "absent": {}, "samples": [], "settings": {},
        "fingerprints": {"before": "", "after": ""}, "harness": None,
    }  # fmt: skip


def write_run(root, spread, model="base"):
    write_json(root / "evaluate" / "results.json", results_of(spread))
    (root / "recipe.yaml").write_text(f"model: {{path: {model}}}\n")


def test_the_spread_is_that_of_an_earlier_evaluation_or_is_called_assumed(tmp_path):
    """Of this run, else of a run of the same model beside it; a run of another model or version says nothing."""
    own, beside, other, broken = (tmp_path / name for name in ("own", "beside", "other", "broken"))
    for folder in (own, beside, other, broken):
        (folder / "evaluate").mkdir(parents=True)
    sizes = {("en", "web"): np.full(60, 1000.0)}
    assert known_spreads(own, "base") == {}
    (assumed,) = plan_reach(sizes, GROUPS, {}, known_spreads(own, "base"))
    assert assumed["spread_from"] is None and "(documents differ by 4 %, assumed)" in reach_sentences([assumed])[0]
    write_run(other, 0.01, model="another")
    (broken / "evaluate" / "results.json").write_text("{}")
    (broken / "recipe.yaml").write_text("model: {path: base}\n")
    assert known_spreads(own, "base") == {}
    write_run(beside, 0.02)
    known = known_spreads(own, "base")
    assert known["en"].run == str(beside)
    assert known["en"].value == pytest.approx(0.02, rel=0.2)
    assert known["sciq"] == Spread(pytest.approx(0.2), str(beside))
    documents, questions = plan_reach(sizes, GROUPS, {"sciq": (500, 0.01)}, known)
    assert documents["detectable"] < assumed["detectable"]
    assert (
        "(documents differ by 2" in reach_sentences([documents])[0] and str(beside) in reach_sentences([documents])[0]
    )
    assert "(answers changed: 20 %, measured in" in reach_sentences([questions])[0]
    write_run(own, 0.1)
    assert known_spreads(own, "base")["en"] == Spread(pytest.approx(0.1, rel=0.2), str(own))

"""Verdicts follow from intervals, hold together in one report, and are said in plain words."""

import numpy as np
import pytest

from reprise.evaluation.bits_per_byte import Text
from reprise.evaluation.comparison import compare_bits, find_untested, judge_rows
from reprise.evaluation.intervals import Estimate, bootstrap_interval, estimate_rate
from reprise.evaluation.verdicts import has_loss, headline, judge, judge_all, smallest_error
from reprise.recipe.groups import Groups, find_groups
from reprise.recipe.languages.packs import english_name
from reprise.recipe.mixture import Stage


@pytest.mark.parametrize(
    ("ci", "tolerance", "verdict"),
    [
        ((-0.10, -0.01), None, "gained"),
        ((-0.10, -0.01), 0.02, "gained"),
        ((-0.01, 0.01), 0.02, "kept"),
        ((0.001, 0.02), 0.02, "kept"),
        ((0.001, 0.02), None, "lost"),
        ((0.021, 0.05), 0.02, "lost"),
        ((0.01, 0.03), 0.02, "undecided"),
        ((-0.01, 0.03), 0.02, "undecided"),
        ((-0.01, 0.01), None, "undecided"),
        (None, 0.02, "undecided"),
    ],
)
def test_verdict_needs_the_whole_interval(ci, tolerance, verdict):
    assert judge(ci, tolerance, better="lower") == verdict
    mirrored = None if ci is None else (-ci[1], -ci[0])
    assert judge(mirrored, tolerance, better="higher") == verdict


def estimate(change, error=0.01, better="lower", items=100, degrees=99.0):
    return Estimate(1.0, 1.0 + change, change, items, better, change, error, degrees)


@pytest.mark.parametrize("better", ["lower", "higher"])
@pytest.mark.parametrize("tolerance", [None, 0.0, 0.02])
@pytest.mark.parametrize("change", [-0.05, -0.01, 0.0, 0.01, 0.02, 0.03, 0.06])
def test_the_smallest_error_is_where_the_verdict_begins(change, tolerance, better):
    one = estimate(change if better == "lower" else -change, better=better)
    error = smallest_error(one, tolerance)
    for factor, decided in ((1.001, True), (0.999, False)):
        if 0.0 < error * factor < 1.0:
            verdict = judge(one.interval(error * factor), tolerance, better=better)
            assert (verdict != "undecided") == decided


def test_holm_gives_the_surest_rows_their_verdicts_and_stops_at_the_first_that_fails():
    changes = [0.06, 0.0235, 0.001, 0.0005]  # t = 6, 2.35 (p = 0.021), 0.1, 0.05
    judged = judge_all([(estimate(change), None) for change in changes])
    assert [one.verdict for one in judged] == ["lost", "undecided", "undecided", "undecided"]
    assert [one.error for one in judged] == pytest.approx([0.05 / 4, 0.05 / 3, 0.05 / 3, 0.05 / 3])
    assert "alone it would be lost" in judged[1].reason and "among 4 verdicts" in judged[1].reason
    assert judge_all([(estimate(0.0235), None)])[0].verdict == "lost"


def test_rows_with_few_documents_do_not_count_in_the_family():
    few = estimate(0.3, items=4)
    judged = judge_all([(few, None)] * 30 + [(estimate(0.0235), None)])
    assert judged[-1].verdict == "lost"
    assert judged[0].verdict == "undecided" and judged[0].reason == "4 documents, and 5 are needed at least"


def test_at_most_one_report_in_twenty_has_a_wrong_verdict():
    """40 rows in which nothing changed: a plain 95 % interval alone is wrong in two of them."""
    random = np.random.default_rng(5)
    wrong = plain = 0
    for _ in range(300):
        rows = [estimate(random.standard_t(30) * 0.01, degrees=30.0) for _ in range(40)]
        wrong += any(one.verdict != "undecided" for one in judge_all([(row, None) for row in rows]))
        plain += sum(judge(row.interval(), None, better="lower") != "undecided" for row in rows)
    assert wrong / 300 <= 0.08 and plain / 300 > 1.0


STAGE = Stage(
    name="code",
    tokens=1000,
    mixture={
        "en": {"share": 1.0, "sources": {"code": 0.8, "paper": 0.1, "web": 0.1}},
    },
)


def measured(changes, groups, documents=40, noise=0.005):
    """Rows and verdicts where the documents of each (language, source) changed by so much."""
    random = np.random.default_rng(8)
    texts, before, after = [], [], []
    for (language, source), change in changes.items():
        for _ in range(documents if isinstance(documents, int) else documents[source]):
            texts.append(Text(f"{len(texts):04}".ljust(int(random.integers(500, 1500)), "x"), language, source))
            before.append(len(texts[-1].text) * 1.3)
            after.append(before[-1] * (1 + change + random.normal(0, noise)))
    table = compare_bits(texts, np.array(before), np.array(after), groups)
    verdicts = judge_rows(table, [])
    return verdicts, headline(verdicts, find_untested(texts, groups, verdicts, {}))


CODE_AGAINST_PAPER = {("en", "code"): -0.145, ("en", "paper"): 0.059, ("en", "web"): 0.02}


@pytest.mark.parametrize("tolerance", [None, {"en/paper": 0.02}, {"en": 0.02}])
def test_a_run_that_gained_code_and_lost_papers_never_says_that_it_lost_nothing(tolerance):
    verdicts, line = measured(CODE_AGAINST_PAPER, find_groups([STAGE], tolerance))
    words = {entry["path"]: entry["verdict"] for entry in verdicts}
    assert words["en/code"] == "gained" and words["en/paper"] == "lost"
    assert has_loss(verdicts)
    assert "lost nothing" not in line and "no loss" not in line
    assert "lost English/paper (bits per byte rose by 5." in line and "tolerance 2 %" in line
    assert "Bits per byte: lower is better." in line


def test_two_entries_of_one_language_get_a_verdict_each():
    stage = Stage(
        name="law",
        tokens=1000,
        mixture={
            "law": {"share": 0.7, "language": "en", "sources": {"cases": 1.0}},
            "general": {"share": 0.3, "language": "en", "sources": {"web": 1.0}, "keep": True, "tolerance": 0.03},
        },
    )
    changes = {("en", "cases"): -0.2, ("en", "web"): 0.06}
    verdicts, line = measured(changes, find_groups([stage], None))
    assert {entry["path"]: entry["verdict"] for entry in verdicts} == {"law": "gained", "general": "lost"}
    assert "gained law" in line and "lost general" in line and has_loss(verdicts)
    verdicts, line = measured(changes | {("en", "web"): 0.01}, find_groups([stage], None))
    assert "kept general (bits per byte rose by 1.0 %, tolerance 3 %)" in line
    assert "lost nothing of what was measured" in line and not has_loss(verdicts)


def test_what_nothing_tested_is_not_called_kept():
    groups = find_groups([STAGE], {})
    gained = dict.fromkeys(CODE_AGAINST_PAPER, -0.1)
    _, line = measured(gained, groups)
    assert "lost nothing" not in line and "there is no tolerance and no benchmark" in line
    assert "not tested: benchmarks, tolerance" in line
    _, line = measured(gained, find_groups([STAGE], None), documents={"code": 1, "paper": 1, "web": 1})
    assert "whether anything was lost is undecided" in line
    assert "undecided English (3 documents, and 5 are needed at least)" in line
    _, line = measured(gained, find_groups([STAGE], None), documents={"code": 40, "paper": 1, "web": 40})
    assert "no loss shown, 1 of 4 measures undecided" in line and "English/paper (1 document, and" in line


def test_copies_of_a_document_prove_nothing_more():
    """100 copies of one text would have an interval without length."""
    texts = [Text("the same text " * 20, "en", "web")] * 100
    before = np.full(100, 500.0)
    table = compare_bits(texts, before, before * 0.99, find_groups([], None))
    (verdict,) = judge_rows(table, [])
    assert verdict["verdict"] == "undecided" and verdict["reason"].startswith("1 document, and 5 are needed")
    random = np.random.default_rng(1)
    few = [Text(f"{number} " * 50, "en", "web") for number in range(8)]
    before = random.lognormal(6, 0.5, 8)
    after = before * (1 - 0.01 + 0.02 * random.standard_normal(8))
    once, many = (
        compare_bits(few * times, np.tile(before, times), np.tile(after, times), find_groups([], None))[0][0]
        for times in (1, 25)
    )
    assert many["ci"] == pytest.approx(once["ci"]) and many["documents"] == once["documents"] == 8


def test_a_named_group_without_held_out_text_is_said():
    groups = find_groups([STAGE], {"fr": 0.02, "en/mail": 0.02})
    texts = [Text("x", "en", "web")] * 6
    untested = find_untested(texts, groups, [], {"mmlu": "it is missing"})
    assert [entry["measure"] for entry in untested] == [
        "English/mail bits per byte", "French bits per byte", "benchmarks",
    ]  # fmt: skip
    assert "valid_share" in untested[0]["reason"] and "mmlu: it is missing" in untested[2]["reason"]


def test_an_unchanged_model_is_kept():
    verdicts, line = measured(dict.fromkeys(CODE_AGAINST_PAPER, 0.0), find_groups([STAGE], None), noise=0.0)
    assert {entry["verdict"] for entry in verdicts} == {"kept"}
    assert "kept English (bits per byte did not change, tolerance 2 %; so did 3 of its 3 sources)" in line


def test_sources_are_counted_with_their_entry_and_named_where_they_differ():
    changes = {("zh", name): -0.1 for name in ("web", "book", "news")} | {("zh", "mail"): 0.2}
    verdicts, line = measured(changes, Groups())
    assert "gained Chinese (bits per byte fell by" in line and "; so did 3 of its 4 sources)" in line
    assert "lost Chinese/mail (bits per byte rose by 19.9 %" in line and "Chinese/web" not in line
    assert len(verdicts) == 5


def test_the_bootstrap_interval_is_told_and_close_to_the_deciding_one_on_many_documents():
    rng = np.random.default_rng(5)
    before = rng.lognormal(8, 0.5, 400)
    after = before * (0.97 + 0.05 * rng.standard_normal(400))
    low, high = bootstrap_interval(before, after, 2000)
    exact = estimate_rate(before, after, before).interval()
    assert low == pytest.approx(exact[0], abs=0.0008) and high == pytest.approx(exact[1], abs=0.0008)
    assert bootstrap_interval(before, after, 0) is None
    assert bootstrap_interval(before[:1], after[:1], 20) == pytest.approx((after[0] / before[0] - 1,) * 2)


def test_a_language_whose_code_is_an_english_word_cannot_be_misread():
    assert [english_name(path) for path in ("no", "it/web", "zh", "law", "law/web", "no-such", "", "n" * 300)] == [
        "Norwegian", "Italian/web", "Chinese", "law", "law/web", "no-such", "", "n" * 300,
    ]  # fmt: skip

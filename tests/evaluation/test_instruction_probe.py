"""The instruction probe: its rules on answers that keep them and answers that just miss."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.evaluation.conftest import make_model, make_tokenizer

from reprise.benchmark_files import LocalSet
from reprise.evaluation.benchmarks import harness
from reprise.evaluation.benchmarks.catalogue import BENCHMARKS
from reprise.evaluation.benchmarks.instruction_probe import (
    QUESTIONS_OF_A_KIND,
    follows,
    in_language,
    instruction_questions,
    instruction_results,
    repeats,
)
from reprise.evaluation.benchmarks.runner import BenchmarkRunner, Measured, compare_benchmarks
from reprise.evaluation.command import _benchmark_lines
from reprise.evaluation.comparison import ComparedBenchmark, find_untested, judge_rows
from reprise.evaluation.intervals import estimate_score
from reprise.evaluation.model import EvaluatedModel
from reprise.evaluation.verdicts import has_loss, headline
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.groups import find_groups
from reprise.recipe.model import Model

EN = {"language": "en", "topic": "bread", "one": "water", "other": "old", "count": 2, "limit": 10, "start": "Today"}
ZH = {"language": "zh", "topic": "面包", "one": "水", "other": "古老", "count": 2, "limit": 10, "start": "今天"}

CASES = [
    (EN, "lines", "- It is warm\n- It is soft", True),
    (EN, "lines", "Here they are:\n- It is warm\n- It is soft", True),
    (EN, "lines", "- It is warm\n- It is soft\n- It is old", False),
    (EN, "lines", "- It is warm\n- It is warm", False),
    (EN, "lines", "1. It is warm\n2. It is soft", False),
    (EN, "length", "Bread is a food made of flour.", True),
    (EN, "length", "Bread is a food made of flour and of water and salt.", False),
    (EN, "length", "Bread.", False),
    (EN, "keywords", "Old bread needs water.", True),
    (EN, "keywords", "Golden bread needs water.", False),
    (EN, "without", "Bread is warm and soft.", True),
    (EN, "without", "Bread needs Water and flour.", False),
    (EN, "without", "Warm.", False),
    (EN, "json", '```json\n{"water": 1, "topic": "bread"}\n```', True),
    (EN, "json", '{"water": 1, "topic": "bread", "more": 2}', False),
    (EN, "json", 'Here: {"water": 1, "topic": "bread"}', False),
    (EN, "ending", "Bread is warm. People like it. That is all, water.", True),
    (EN, "ending", "Bread is warm. People like it. That is all, friend.", False),
    (EN, "ending", "That is all, water.", False),
    (EN, "beginning", "Today bread is warm and soft.", True),
    (EN, "beginning", "Todays bread is warm and soft.", False),
    (EN, "beginning", "Well, today bread is warm.", False),
    (EN, "language", "It is warm and soft.", True),
    (EN, "language", "它又软又热,大家都喜欢。", False),
    (ZH, "lines", "-很香\n-很软", True),
    (ZH, "lines", "很香\n很软", False),
    (ZH, "length", "面包是面粉做的。", True),
    (ZH, "length", "面包是用面粉和水做成的一种食物。", False),
    (ZH, "keywords", "古老的面包要水。", True),
    (ZH, "keywords", "古老的面包。", False),
    (ZH, "without", "面包很香很软。", True),
    (ZH, "without", "面包里有水和面粉。", False),
    (ZH, "json", '{"水": 1, "topic": "面包"}', True),
    (ZH, "json", '{"水": 1}', False),
    (ZH, "ending", "面包很香很软。以上就是关于水的回答。", True),
    (ZH, "ending", "面包很香很软。以上就是回答。", False),
    (ZH, "beginning", "今天的面包很香。", True),
    (ZH, "beginning", "面包今天很香。", False),
    (ZH, "language", "面包很香。", True),
    (ZH, "language", "Bread is good for you.", False),
]


@pytest.mark.parametrize("rule,kind,answer,kept", CASES)
def test_a_rule_knows_what_keeps_it(rule, kind, answer, kept):
    assert follows({**rule, "kind": kind}, answer) is kept


@pytest.mark.parametrize("language", ["en", "zh"])
def test_questions_are_the_same_each_time_and_every_kind_has_its_dozen(language):
    questions = instruction_questions(language)
    assert questions == instruction_questions(language)
    kinds = [question["kind"] for question in questions]
    assert len(set(kinds)) == 8 and all(kinds.count(kind) == QUESTIONS_OF_A_KIND for kind in kinds)
    assert len({question["query"] for question in questions}) == len(questions)
    for question in questions:
        rule = json.loads(question["rule"])
        assert rule["topic"] in question["query"] and "{" not in question["query"].replace('{"', "")


@given(st.sampled_from(["en", "zh"]).flatmap(lambda one: st.sampled_from(instruction_questions(one))), st.text())
def test_any_answer_has_scores(question, answer):
    scores = instruction_results(question, [answer])
    assert set(scores) == {"acc", "no_repetition", "own_language"} and set(scores.values()) <= {0.0, 1.0}
    assert not (scores["acc"] and not scores["no_repetition"])


def test_going_round_in_circles_counts_as_wrong():
    circle = "Bread is warm and soft. " * 8
    assert repeats(circle) and repeats("很香很软。" * 20) and repeats("It is warm\n" * 4)
    assert not repeats("Bread is warm and soft, and people like it in the morning with butter or cheese.")
    rule = json.dumps({**EN, "kind": "without"})
    assert instruction_results({"rule": rule}, [circle])["acc"] == 0.0
    assert instruction_results({"rule": rule}, ["Bread is warm and soft."])["acc"] == 1.0


def test_languages_by_their_letters():
    assert in_language("en", "Bread, 面包.") and in_language("zh", "面包是 bread 吗?很香很软。")
    assert not in_language("en", "Хлеб тёплый") and not in_language("zh", "123")


def evaluated(folder):
    return EvaluatedModel(Model(path=str(folder)), Evaluation(dtype="float32"))


def test_a_model_is_asked_through_its_chat_template_and_one_without_is_not(tmp_path):
    tokenizer = make_tokenizer()
    plain = make_model(tmp_path / "plain", tokenizer)
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    chat = make_model(tmp_path / "chat", tokenizer, context=512)
    settings = Evaluation(dtype="float32", benchmarks=["instructions-zh"], limit=3)
    runner = BenchmarkRunner(evaluated(plain), settings, cache=tmp_path / "cache", seed=0)
    assert runner.run() == [] and "no chat template" in runner.absent["instructions-zh"]
    runner = BenchmarkRunner(evaluated(chat), settings, cache=tmp_path / "cache", seed=0)
    (measured,) = runner.run()
    assert len(measured.scores) == 3 and measured.total == 8 * QUESTIONS_OF_A_KIND
    assert set(measured.other_metrics) == {"no_repetition", "own_language"}
    tasks = harness.local_tasks(BENCHMARKS["instructions-zh"], LocalSet([], []))
    name = "instructions_zh_json"
    lm = harness.BatchedLM(evaluated(chat).model, evaluated(chat).tokenizer, batch_tokens=64)
    logs = harness.run_tasks(lm, {name: tasks[name]}, {name: [0]}, as_chat=True)
    prompt = logs[name][0]["arguments"][0][0]
    query = next(question["query"] for question in instruction_questions("zh") if question["kind"] == "json")
    assert prompt == f"[user]{query}[assistant]"


def answered(right, repetitive=frozenset()):
    """The probe of which some answers are right, and some repetitive."""
    asked = range(8 * QUESTIONS_OF_A_KIND)
    return Measured(
        "instructions-en", 0, "acc", len(asked), {f"probe/{number}": float(number in right) for number in asked},
        {"no_repetition": {f"probe/{number}": float(number not in repetitive) for number in asked}},
    )  # fmt: skip


def verdicts_between(before, after, others=0):
    """Verdicts of the probe at the default tolerance, among others that are decided by nothing."""
    compared = compare_benchmarks([before], [after], Evaluation())
    unknown = estimate_score(np.r_[np.ones(20), np.zeros(180)], np.r_[np.zeros(180), np.ones(20)])
    row = compared[0].row | {"benchmark": "mmlu", "tolerance": 0.01, "other_metrics": {}}
    verdicts = judge_rows([], [*compared, *(ComparedBenchmark(dict(row), unknown) for _ in range(others))])
    words = {verdict["path"]: verdict["verdict"] for verdict in verdicts}
    return words, verdicts, compared[0].row


@pytest.mark.parametrize(
    ("won", "lost", "others", "expected"),
    [
        (11, 11, 0, "kept"),
        (12, 12, 0, "undecided"),
        (0, 4, 0, "kept"),
        (0, 5, 0, "undecided"),
        (0, 18, 0, "undecided"),
        (0, 19, 0, "lost"),
        (5, 0, 0, "kept"),
        (6, 0, 0, "gained"),
        (6, 6, 3, "kept"),
        (7, 7, 3, "undecided"),
        (0, 22, 3, "lost"),
        (5, 5, 7, "kept"),
        (6, 6, 7, "undecided"),
        (0, 23, 7, "lost"),
        (10, 32, 0, "undecided"),
        (10, 33, 0, "lost"),
        (0, 3, 3, "kept"),
        (8, 0, 3, "gained"),
        (10, 37, 3, "lost"),
        (0, 3, 7, "kept"),
        (9, 0, 7, "gained"),
        (10, 39, 7, "lost"),
    ],
)
def test_which_changes_of_answers_are_decided_at_the_default_tolerance(won, lost, others, expected):
    """The figures of docs/evaluation.md."""
    before = answered(range(60, 120))
    after = answered([*range(60 - won, 60), *range(60, 120 - lost)])
    assert verdicts_between(before, after, others)[0]["instructions-en"] == expected


def test_answers_that_go_round_in_circles_are_a_loss_with_an_interval():
    verdicts, rows, row = verdicts_between(answered(range(60)), answered(range(60), range(100, 140)))
    assert verdicts == {"instructions-en": "kept", "instructions-en/no_repetition": "lost"} and has_loss(rows)
    metric = row["other_metrics"]["no_repetition"]
    low, high = metric["ci"]
    assert metric["change"] == pytest.approx(-40 / 192) and low < metric["change"] < high < -0.05
    assert _benchmark_lines(row)[1][-2:] == [f"{100 * low:.2f} to {100 * high:.2f}", "lost"]
    assert "lost instructions-en: answers without repetition (score fell by 20.8 points" in headline(rows)


def test_a_report_on_an_assistant_says_where_instruction_following_was_not_tested():
    def untested(verdicts, *, is_assistant):
        rows = find_untested([], find_groups([], {}), verdicts, {}, is_assistant=is_assistant)
        return [row["measure"] for row in rows]

    asked = [{"path": "instructions-en", "kind": "benchmark", "tolerance": 0.01}]
    assert "instruction following" in untested([], is_assistant=True)
    assert "instruction following" not in untested([], is_assistant=False) + untested(asked, is_assistant=True)

"""The instruction probe: its rules on answers that keep them and answers that just miss."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprise.evaluation.benchmarks.instruction_probe import (
    QUESTIONS_OF_A_KIND,
    follows,
    in_language,
    instruction_questions,
    instruction_results,
    repeats,
)

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

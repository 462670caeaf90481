"""Strict parsing: the right form and nothing else; boxed results; corruption."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprise.math_answers import boxed
from reprise.synthesis.parsing import DoesNotParseError, Pair, corrupt_final, normalize_final, parse_answer
from reprise.synthesis.prompts import known, load_prompt

PROBLEM = {"question": "## Problem", "answer": "## Solution"}
SHORT = {"question": "Question:", "answer": "Answer:"}
CHOICE = {"question": "## Question", "options": "## Options", "answer": "## Answer"}


def test_a_problem() -> None:
    text = "## Problem\nHow much is 2 + 3?\n\n## Solution\nAdd.\n\nSo \\boxed{5}.\n"
    assert parse_answer("problem", text, PROBLEM) == Pair("How much is 2 + 3?", "Add.\n\nSo \\boxed{5}.", "5")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "missing"),
        ("Sure! Here it is:\n## Problem\na\n## Solution\nb", "before"),
        ("## Problem\na", "'## Solution' is missing"),
        ("## Problem\n\n## Solution\nb", "nothing under"),
        ("## Problem\na\n## Solution\n", "nothing under"),
        ("## Solution\nb\n## Problem\na", "before|missing"),
        ("## Problem\na\n## Solution\nb\n## Problem\nc", "more than once"),
        ("## Problem\na\n## Problem\nb\n## Solution\nc", "more than once"),
        ("## Problem\na\n## Solution\nb\n## Note\nc", "not asked for"),
        ("## Problem 1\na\n## Solution\nb", "missing"),
        ("### Problem\na\n### Solution\nb", "missing"),
    ],
)
def test_other_forms_do_not_parse(text: str, reason: str) -> None:
    with pytest.raises(DoesNotParseError, match=reason):
        parse_answer("problem", text, PROBLEM)


@pytest.mark.parametrize(
    "text",
    ["Question: Why\nAnswer: So.", "Question: Why?\nAnswer: So", "Question: A?\nB?\nAnswer: So.",
     "Question: Why? Answer: So.", "Question: Why?\nAnswer: So.\nMore."],
)  # fmt: skip
def test_a_short_pair_is_a_line_and_a_paragraph(text: str) -> None:
    with pytest.raises(DoesNotParseError):
        parse_answer("question", text, SHORT)
    assert parse_answer("question", "Question: Why?\nAnswer: So.", SHORT) == Pair("Why?", "So.")


def test_multiple_choice() -> None:
    good = "## Question\nWhich?\n## Options\nA. one\nB. two\nC. three\nD. four\n## Answer\nB. Because."
    assert parse_answer("multiple_choice", good, CHOICE) == Pair(
        "Which?\nA. one\nB. two\nC. three\nD. four", "B. Because.", "B"
    )
    for old, new in (
        ("D. four\n", ""),
        ("D. four", "C. four"),
        ("two", "one"),
        ("B. Because", "Because"),
        ("B. Because.", "E. x"),
    ):
        with pytest.raises(DoesNotParseError):
            parse_answer("multiple_choice", good.replace(old, new), CHOICE)


def test_faq_and_table() -> None:
    faq = "## FAQ\n" + "\n".join(f"Q: Why {number}?\nA: So {number}." for number in range(3))
    assert parse_answer("faq", faq, {"faq": "## FAQ"}).answer.count("Q:") == 3
    for broken in (faq + "\nQ: more?", faq.replace("A: So 1.", "So 1."), "## FAQ\nQ: a\nA: b"):
        with pytest.raises(DoesNotParseError):
            parse_answer("faq", broken, {"faq": "## FAQ"})
    marks = {"table": "## Table", "reading": "## Reading"}
    table = "## Table\n| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n\n## Reading\nIt grows."
    assert parse_answer("table", table, marks).answer.endswith("| 3 | 4 |\n\nIt grows.")
    for old, new in (("| 3 | 4 |", ""), ("| 3 | 4 |", "| 3 |"), ("|---|---|", "| x | y |"), ("| 3 | 4 |", "3 | 4")):
        with pytest.raises(DoesNotParseError):
            parse_answer("table", table.replace(old, new), marks)


def test_code() -> None:
    marks = {"question": "## Problem", "solution": "## Solution", "tests": "## Tests"}
    good = (
        "## Problem\np\n## Solution\n```python\ndef f():\n    return 1\n```\n## Tests\n```python\nassert f() == 1\n```"
    )
    pair = parse_answer("code", good, marks)
    assert (pair.program, pair.tests) == ("def f():\n    return 1", "assert f() == 1")
    for old, new in (
        ("return 1", "return 1 +"),
        ("```python\nassert", "assert"),
        ("return 1\n```", "return 1\n```\nmore"),
    ):
        with pytest.raises(DoesNotParseError):
            parse_answer("code", good.replace(old, new), marks)


@settings(deadline=None)
@given(st.text(alphabet=string.ascii_letters + "#\n :?.|`", max_size=200), st.sampled_from(known()))
def test_no_text_raises_anything_else(text: str, name: str) -> None:
    kind, language = name.rsplit(".", 1)
    prompt = load_prompt(kind, language)
    if not prompt.sections:
        return
    for candidate in (text, prompt.begin + text, "\n".join(f"{mark}\n{text}" for mark in prompt.sections.values())):
        try:
            pair = parse_answer(kind, candidate, prompt.sections)
        except DoesNotParseError:
            continue
        assert pair.answer.strip()


def test_boxed() -> None:
    assert boxed("a \\boxed{1} b \\boxed{\\frac{1}{2}} c") == "\\frac{1}{2}"
    assert boxed("\\boxed{}") is None
    assert boxed("\\boxed{1") is None
    assert boxed("none") is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1,000", "1000.0"),
        ("$x = 2$", "x=2"),
        ("3.50", "3.5"),
        ("\\text{Yes}.", "yes"),
        ("\\text{B}", "B"),
        ("10", "10"),
    ],
)
def test_equal_finals(one: str, other: str) -> None:
    assert normalize_final(one) == normalize_final(other)
    assert normalize_final("10") != normalize_final("100")
    assert normalize_final("-5") != normalize_final("5")


@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**6), max_value=10**6), st.floats(0, 1)
)
def test_a_corrupted_number_is_another_number_and_all_else_stays(value: object, choice: float) -> None:
    final = f"{value} kg"
    answer = f"We see {value} twice.\nSo \\boxed{{{final}}} it is."
    changed = corrupt_final(answer, final, choice)
    assert changed is not None
    text, wrong = changed
    assert boxed(text) == wrong
    assert normalize_final(wrong) != normalize_final(final)
    assert text.replace(wrong, final) == answer or text.split("\\boxed")[0] == answer.split("\\boxed")[0]


def test_a_corrupted_choice_is_another_letter() -> None:
    letters = {corrupt_final("B. Because.", "B", choice / 10)[1] for choice in range(10)}  # type: ignore[index]
    assert letters == {"A", "C", "D"}
    assert corrupt_final("So \\boxed{x}", "x", 0.5) is None


def test_every_prompt_of_reprise_is_whole() -> None:
    kinds = {name.rsplit(".", 1)[0] for name in known()}
    assert known() == sorted(f"{kind}.{language}" for kind in kinds for language in ("en", "zh"))
    values = {name: f"<{name}>" for name in ("text", "discipline", "ending", "examples", "question", "answer")}
    for name in known():
        prompt = load_prompt(*name.rsplit(".", 1))
        request = prompt.request(max_tokens=1, temperature=0, top_p=1, **values)
        text = "\n".join(text for _, text in request.messages)
        marks = list(prompt.sections.values())
        assert name.startswith("code") or all(mark in text for mark in marks), name
        assert not marks or prompt.begin.strip() == marks[0]
        assert "<text>" in text or "<question>" in text or "<examples>" in text


def test_what_is_filled_in_is_not_filled_again() -> None:
    prompt = load_prompt("problem", "en")
    request = prompt.request(
        max_tokens=1, temperature=0, top_p=1, text="{discipline} \\frac{a}{b} {x}", discipline="d", ending=""
    )
    assert "{discipline} \\frac{a}{b} {x}" in request.messages[-1][1]

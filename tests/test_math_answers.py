"""Equal answers are called equal, and no unequal ones; nothing that a model writes can hang the judge."""

import resource
import time

import pytest

from reprise.evaluation.benchmarks.answer_matching import competition_results, last_number, word_problem_is_right
from reprise.math_answers import Judge, boxed

EQUAL = [
    (r"0.50", r"\frac12"),
    (r"12 cm", r"12"),
    (r"12\text{ cm}", r"12"),
    (r"12\,\mathrm{cm}", r"12"),
    (r"1{,}000", r"1000"),
    (r"1,000", r"1000"),
    (r"1 000 000", r"1000000"),
    (r"1\,000", r"1000"),
    (r"\{3,1,2\}", r"\{1,2,3\}"),
    (r"1,2", r"2,1"),
    (r"x=5", r"5"),
    (r"50\%", r"50"),
    (r"\sqrt{8}", r"2\sqrt2"),
    (r"\frac{\sqrt3}{3}", r"\frac1{\sqrt3}"),
    (r"2^{10}", r"1024"),
    (r"\text{A}", r"A"),
    (r"\text{(A)}", r"A"),
    (r"90^\circ", r"90"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    (r"x^2+2x+1", r"(x+1)^2"),
    (r"5", r"5.0"),
    (r"y=2x+1", r"2x+1"),
    (r"3\frac12", r"7/2"),
    (r"1.5\times10^3", r"1500"),
    (r"\$5", r"5"),
    (r"Evelyn", r"\text{Evelyn}"),
    (r"\dfrac{1}{2}", r"\frac{1}{2}"),
    (r"\tfrac34", r"0.75"),
    (r"x=1,x=2", r"1,2"),
    (r"\pm 2", r"2,-2"),
    (r"10!", r"3628800"),
    (r"5 \text{ dollars}", r"5"),
    (r"\sin 30^\circ", r"1/2"),
    ("−5", r"-5"),
    (r"(1, 2)", r"(1,2)"),
    (r"\left(1,2\right)", r"(1,2)"),
    (r"[0,1)", r"[0, 1)"),
    (r"(-\infty,3]", r"(-\infty, 3]"),
    (r"\log_2 8", r"3"),
    (r"\frac{x}{2}", r"x/2"),
    (r"2\pi r", r"2r\pi"),
    (r"\sqrt[3]{27}", r"3"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    (r"0.\overline{3}", r"\frac13"),
    (r"101_2", r"101_{2}"),
    (r".5", r"0.5"),
    (r"7.", r"7"),
    (r"$7$", r"7"),
    (r"2:3", r"2/3"),
    (r"\frac{10}{4}", r"2.5"),
    (r"1e6", r"1000000"),
    (r"a+b", r"b+a"),
    (r"3 m", r"3m"),
    (r"(1,2)\cup(3,4)", r"(3,4)\cup(1,2)"),
    (r"\text{no solution}", r"No Solution"),
    (r"x\in[0,1]", r"[0,1]"),
    (r"\frac{\pi}{4}", r"\pi/4"),
    (r"|x|", r"|x|"),
    (r"ab", r"ba"),
    (r"\text{no}", r"no"),
    (r"\binom{5}{2}", r"10"),
    (r"2\sqrt{3}+1", r"1+2\sqrt{3}"),
    (r"(x-1)(x+1)", r"x^2-1"),
    (r"6,\!000", r"6000"),
    (r"\emptyset", r"\varnothing"),
    (r"10\text{ meters}", r"10\text{ m}"),
    (r"120^{\circ}", r"120\text{ degrees}"),
    (r"\triangle ABC", r"\triangle ABC"),
    (r"x \ge 3", r"[3,\infty)"),
    (r"1\frac{3}{4}", r"1.75"),
    (r"\lfloor 2.7 \rfloor", r"2"),
]

UNEQUAL = [
    (r"(1,2)", r"(2,1)"),
    (r"(1,2)", r"[1,2]"),
    (r"(1,2)", r"\{1,2\}"),
    (r"1/3", r"0.333"),
    (r"0.3333333", r"1/3"),
    (r"10", r"100"),
    (r"\infty", r"-\infty"),
    (r"(-\infty,3]", r"(-\infty,3)"),
    (r"\pi", r"3.14"),
    (r"\pi", r"3.14159265"),
    (r"3\frac12", r"\frac{31}{2}"),
    (r"even", r"odd"),
    (r"listen", r"silent"),
    (r"i", r"-i"),
    (r"11_2", r"11"),
    (r"11_2", r"3"),
    (r"5\text{ apples}", r"6"),
    (r"3 m", r"3 cm"),
    (r"3 m", r"3 km"),
    (r"", r"1"),
    (r"0.5", r"50"),
    (r"x+1", r"x-1"),
    (r"2", r"-2"),
    (r"x^2", r"x^3"),
    (r"\{1,2\}", r"\{1,2,3\}"),
    (r"1,2", r"1,2,3"),
    (r"(1,2,3)", r"(1,2)"),
    (r"\sqrt{2}", r"1.41421356"),
    (r"1{,}000", r"1.000"),
    (r"A", r"B"),
    (r"\text{Monday}", r"\text{Friday}"),
    (r"x=5", r"y=5"),
    (r"x<3", r"x>3"),
    (r"x<3", r"x\le 3"),
    (r"1/2", r"1/20"),
    (r"12", r"1.2"),
    (r"true", r"false"),
    (r"yes", r"no"),
    (r"2^{100}", r"2^{101}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    (r"3+4i", r"3-4i"),
    (r"\frac{a}{b}", r"\frac{b}{a}"),
    (r"a", r"b"),
    (r"999999999999", r"1000000000000"),
    (r"abc", r"cab"),
    (r"\text{cat}", r"act"),
    (r"PQR", r"RQP"),
    (r"AB", r"BA"),
    (r"\angle ABC", r"\angle ACB"),
    (r"\overline{AB}", r"\overline{AC}"),
    (r"5^\circ", r"5\text{ rad}"),
    (r"5\text{ cm}^2", r"5\text{ cm}^3"),
    (r"5\text{ hours}", r"5\text{ minutes}"),
    (r"1 2", r"12"),
    (r"\sin 30", r"\sin 30^\circ"),
    (r"x=1,y=2", r"x=2,y=1"),
    (r"0.\overline{12}", r"0.1\overline{2}"),
    (r"\mathbb{R}\setminus\{0\}", r"\mathbb{R}"),
    (r"\text{是}", r"\text{否}"),
    (r"7 \pmod{10}", r"17"),
]


@pytest.fixture(scope="module")
def judge():
    return Judge()


@pytest.mark.parametrize(("first", "second"), EQUAL)
def test_equal_answers(judge, first, second):
    assert judge.equal(first, second) and judge.equal(second, first)


@pytest.mark.parametrize(("first", "second"), UNEQUAL)
def test_unequal_answers(judge, first, second):
    assert not judge.equal(first, second) and not judge.equal(second, first)


@pytest.mark.parametrize(
    "hostile",
    [
        "9^{9^{9^{9^9}}}",
        "10^{10^{10}}!",
        "(((((((((((((((((((((((((((" * 20,
        "\\frac" * 150,
        "\\sum_{i=1}^{10^{12}} \\sin(i)",
        "\\int_0^1 \\frac{\\sin(x^{x^x})}{x^{1/x}+\\ln x} dx",
        "{" * 400 + "}" * 400,
        "\\sqrt{" * 120 + "2" + "}" * 120,
    ],
)
def test_a_hostile_answer_takes_bounded_time_and_is_not_right(hostile):
    judge = Judge(timeout_seconds=2)
    judge.equal("2", "2.0")  # the process is up
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert not judge.equal("7", hostile)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)  # of a process that was ended
    assert end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime < 6  # 2 s, and those of its start
    assert judge.equal("0.5", "1/2")


def test_an_answer_without_end_is_not_compared(judge):
    start = time.monotonic()
    assert not judge.equal("1", "1" * 10_000_000)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so it is \boxed 5.", "5"),
        (r"\fbox{5}", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"$\boxed 12$ in all", "12"),
        (r"\boxed {7}", "7"),
        (r"first \boxed{1}, then \boxed{2}", "2"),
        (r"\boxed{", None),
        (r"\boxed{}", None),
        ("no box", None),
    ],
)
def test_the_boxed_answer(text, content):
    assert boxed(text) == content


def test_both_judgements_are_results():
    assert competition_results({"answer": r"\frac{1}{2}"}, [r"It is $\boxed{0.50}$."]) == {
        "acc": 0.0,
        "acc_symbolic": 1.0,
    }
    assert competition_results({"answer": r"\frac{1}{2}"}, [r"It is $\boxed{\frac12}$."]) == {
        "acc": 1,
        "acc_symbolic": 1,
    }
    assert competition_results({"answer": "2"}, ["It is 2."]) == {"acc": 0, "acc_symbolic": 0}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("8 (5+3)", 8),
        ("The answer is 8 apples (5 red + 3 green).", 8),
        ("3 1/2", 3.5),
        ("-3 1/2", -3.5),
        ("1 000 000", 1_000_000),
        ("1\u202f000\u202f000", 1_000_000),
        ("\u22125", -5),
        ("1e6", 1_000_000),
        ("1.5 x 10^3", 1500),
        (r"1.5 \times 10^{-2}", 0.015),
        ("$1,200.50", 1200.5),
        ("１２", 12),
        ("1{,}000", 1000),
        ("1/2", 0.5),
        ("1/0", None),
        ("1e999", float("inf")),
        ("nothing", None),
        ("5+3=8", 8),
        ("in 12 345 steps", 12345),
        ("12 dogs and 345 cats", 345),
    ],
)
def test_the_last_number(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [
        ("8", "The answer is 8 (5+3).", True),
        ("45", "The answer is forty-five (45).", True),
        ("3", "The answer is 8 (5+3).", False),
        ("3.5", "The answer is 3 1/2.", True),
        ("1000000", "The answer is 1 000 000.", True),
        ("-5", "The answer is \u22125.", True),
        ("1000000", "The answer is 1e6.", True),
        ("12", "The answer is 12 345.", False),
        ("2", "The answer is 1 1/2.", False),
    ],
)
def test_word_problems(answer, text, right):
    assert word_problem_is_right(answer, text) is right

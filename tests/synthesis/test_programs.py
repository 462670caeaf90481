"""Code questions, self-consistency, the judge, and the plan."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.synthesis.serving import FaultyServer, Runner, good_answer, read_documents
from tests.synthesis.serving import settings as server_settings

from reprise.errors import UserError
from reprise.recipe.synthesis import Code, Synthesis
from reprise.sandbox.run import require_sandbox
from reprise.schemas import FORMATS
from reprise.synthesis.estimate import estimate_need
from reprise.synthesis.programs import code_tasks, read_bank
from reprise.synthesis.proof import prove

(PROVENANCE,) = (one for one in FORMATS if one.name == "provenance")

SOLUTION = "def double_up(numbers):\n    return [2 * number for number in numbers]"
TESTS = "assert double_up([1]) == [2]\nassert double_up([]) == []\nassert double_up([-1, 4]) == [-2, 8]"
QUESTION = "Every price in a shop rises to twice its value. Write `double_up(numbers)` that returns the new list."


@pytest.fixture(scope="module")
def sandbox() -> None:
    try:
        require_sandbox()
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_every_problem_of_the_bank_is_proven(sandbox: None) -> None:
    bank = read_bank(None)
    assert len(bank) >= 25
    assert len({problem.id for problem in bank}) == len({problem.problem for problem in bank}) == len(bank)
    for problem in bank:
        assert prove(problem.solution, problem.tests, Code()).drop is None, problem.id


def answer_of(question: str, solution: str, tests: str) -> str:
    return f"## Problem\n{question}\n\n## Solution\n```python\n{solution}\n```\n\n## Tests\n```python\n{tests}\n```"


def code_settings(server: FaultyServer, requests: int, allow: bool, **more: Any) -> Synthesis:
    return Synthesis.model_validate({
        **server_settings(server, 0, max_tokens=400).model_dump(), "requests": 0, "allow_code_execution": allow,
        "code": {"requests": requests, "timeout_s": 2.0}, "min_answer_tokens": 5, **more,
    })  # fmt: skip


def test_programs_are_run_and_only_proven_ones_stay(server: FaultyServer, run_stage: Runner, sandbox: None) -> None:
    bank = read_bank(None)[0]
    vacuous = "assert double_up([1]) != 7\nassert double_up([2]) != 7\nassert double_up([3]) != 7"
    answers = [
        answer_of(QUESTION, SOLUTION, TESTS),
        answer_of(QUESTION + " Now for wrong ones.", SOLUTION.replace("2 *", "3 *"), TESTS),
        answer_of(QUESTION + " Now with tests that test nothing.", SOLUTION, vacuous),
        answer_of(QUESTION + " Now with two tests.", SOLUTION, "\n".join(TESTS.split("\n")[:2])),
        answer_of(QUESTION + " Now for ever.", "def double_up(numbers):\n    while True: pass", TESTS),
        answer_of(bank.problem, bank.solution, bank.tests),
        answer_of(QUESTION + " Now with an error.", "def double_up(numbers) return", TESTS),
    ]
    order: dict[int, int] = {}
    server.answer = lambda prompt, seed: answers[order.setdefault(seed, len(order))]
    work = run_stage(code_settings(server, 7, True, generator={
        **server_settings(server).generator.model_dump(), "batch_size": 1}))  # fmt: skip
    assert work.counts["dropped_by_reason"] == {
        "tests_failed": 2, "tests_prove_nothing": 1, "few_tests": 1, "copied": 1, "does_not_parse": 1,
    }  # fmt: skip
    (document,) = read_documents(work)
    assert SOLUTION in document["text"]
    lines = [json.loads(line) for line in (work.output / "provenance.jsonl").read_text().splitlines()]
    assert [(line["verified"], line["mutation_score"]) for line in lines if line["kept"]] == [(True, 1.0)]
    for line in lines:
        PROVENANCE.check(line)
    assert all(name.startswith("bank-") for line in lines for name in line["examples"])


def test_without_leave_no_program_runs(
    server: FaultyServer, run_stage: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reprise.synthesis.proof.run_program", lambda *args: pytest.fail("it ran"))
    server.answer = lambda prompt, seed: answer_of(QUESTION, SOLUTION.replace("2 *", "3 *"), TESTS)
    work = run_stage(code_settings(server, 1, False))
    lines = [json.loads(line) for line in (work.output / "provenance.jsonl").read_text().splitlines()]
    assert [(line["kept"], line["verified"]) for line in lines] == [(True, False)]


@pytest.mark.parametrize(("line", "message"), [("{}", "bank.jsonl:2"), ("[1]", "bank.jsonl:2"), ("x", "bank.jsonl:2")])
def test_a_broken_bank_names_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bank.jsonl"
    path.write_text(json.dumps({"problem": "p", "solution": "s", "tests": "t"}) + f"\n{line}\n")
    recipe = Synthesis.model_validate({"code": {"requests": 1, "problems": str(path)}})
    with pytest.raises(UserError, match=message):
        code_tasks(recipe, 1)


def boxed_answer(prompt: str, seed: int) -> str:
    if "Solve this problem" in prompt:
        wrong = "wrong" in prompt and seed % 10
        return f"Let us see. \\boxed{{{7 if wrong else 42}}}"
    kind = "right" if seed % 2 else "wrong"
    pair = good_answer(prompt, seed).split("\n")
    return f"## Problem\n{kind} {pair[0]}\n\n## Solution\n{pair[1]}\nSo it is \\boxed{{42}}."


def test_self_consistency_drops_what_is_not_agreed_on(server: FaultyServer, run_stage: Runner) -> None:
    server.answer = boxed_answer
    recipe = {**server_settings(server, 8, max_tokens=300).model_dump(), "kinds": {"problem": 1.0},
              "checks": {"self_consistency": 3, "min_agreement": 0.6}}  # fmt: skip
    work = run_stage(Synthesis.model_validate(recipe))
    lines = [json.loads(line) for line in (work.output / "provenance.jsonl").read_text().splitlines()]
    asked = sum(server.asked.values())
    assert asked == 8 + 3 * 8 == work.counts["requests"]
    dropped = [line for line in lines if line["reason"] == "inconsistent"]
    assert dropped and all(line["agreement"] < 0.6 for line in dropped)
    assert all(line["agreement"] >= 0.6 for line in lines if line["kept"])
    run_stage(Synthesis.model_validate(recipe), name="again")
    assert sum(server.asked.values()) == asked


def choice_answer(prompt: str, seed: int) -> str:
    """A multiple choice whose right option is B; solved again, it is B for some questions and C for the others."""
    if prompt.startswith("Solve this problem"):
        return f"So the option is \\boxed{{\\text{{{'B' if 'right' in prompt else 'C'}}}}}."
    kind = "right" if seed % 2 else "wrong"
    question, answer = (line.split(": ", 1)[1] for line in good_answer(prompt, seed).split("\n"))
    options = "\n".join(f"{letter}. Option number {place}" for place, letter in enumerate("ABCD"))
    return f"## Question\n{kind} {question}\n\n## Options\n{options}\n\n## Answer\nB. {answer}"


def test_a_multiple_choice_is_solved_again_too(server: FaultyServer, run_stage: Runner) -> None:
    server.answer = choice_answer
    recipe = {**server_settings(server, 8, max_tokens=300).model_dump(), "kinds": {"multiple_choice": 1.0},
              "checks": {"self_consistency": 2}}  # fmt: skip
    work = run_stage(Synthesis.model_validate(recipe))
    lines = [json.loads(line) for line in (work.output / "provenance.jsonl").read_text().splitlines()]
    assert {line["reason"] for line in lines} == {None, "inconsistent"}
    assert {line["agreement"] for line in lines if line["kept"]} == {1.0}
    assert {line["agreement"] for line in lines if not line["kept"]} == {0.0}


def test_the_judge_drops_what_it_grades_low(server: FaultyServer, run_stage: Runner) -> None:
    grades = ["Fine.\nGrade: 5", "Bad.\n**Grade: 2**", "I like it.", "Grade: 4"]

    def answer(prompt: str, seed: int) -> str:
        return grades[seed % 4] if prompt.startswith("Grade the following") else good_answer(prompt, seed)

    server.answer = answer
    base = server_settings(server, 12)
    recipe = {
        **base.model_dump(),
        "checks": {"judge": {**base.generator.model_dump(), "temperature": 0.0, "model": "j"}},
    }
    work = run_stage(Synthesis.model_validate(recipe))
    lines = [json.loads(line) for line in (work.output / "provenance.jsonl").read_text().splitlines()]
    assert {line["reason"] for line in lines} <= {None, "judged_low", "no_grade"}
    for line in lines:
        PROVENANCE.check(line)
    assert all(line["grade"] >= 4 for line in lines if line["kept"])
    assert {body["model"] for body in server.bodies} == {"m", "j"}
    assert work.counts["documents_out"] < 12


def test_need_of_a_recipe_before_and_after_a_run(tmp_path: Path) -> None:
    recipe = Synthesis.model_validate({"generator": {"max_tokens": 1000, "input_price": 1.0, "output_price": 2.0}})
    before = estimate_need(recipe, tokens_needed=250_000, tokens_there=0, stage=tmp_path)
    assert (before["measured"], before["requests"], before["completion_tokens"], before["hours"]) == (
        False,
        1000,
        500_000,
        None,
    )
    assert before["cost"] == pytest.approx((before["prompt_tokens"] + 2 * 500_000) / 1e6)
    manifest = {"seconds": 100.0, "counts": {
        "documents_in": 100, "documents_out": 40, "requests": 100, "failed": 0, "from_journal": 0,
        "prompt_tokens": 50_000, "completion_tokens": 20_000, "dropped_by_reason": {},
    }}  # fmt: skip
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    after = estimate_need(recipe, tokens_needed=20_000, tokens_there=10_000, stage=tmp_path)
    assert (after["measured"], after["tokens_missing"], after["requests"]) == (True, 10_000, 100)
    assert (after["prompt_tokens"], after["completion_tokens"]) == (50_000, 20_000)
    assert after["hours"] == pytest.approx(100 / 3600)
    assert estimate_need(recipe, tokens_needed=5, tokens_there=9, stage=tmp_path)["requests"] == 0

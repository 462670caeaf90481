"""New programming problems after a bank of known ones, and whether their solutions pass their tests."""

import ast
import importlib.resources
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reprise.errors import UserError
from reprise.progress import track
from reprise.recipe.synthesis import Code, Synthesis
from reprise.sandbox.run import Limits, Verdict, require_sandbox, run_program
from reprise.synthesis.checks import content_words, longest_common_run
from reprise.synthesis.parsing import Pair
from reprise.synthesis.prompts import load_prompt
from reprise.synthesis.tasks import Task

DISCIPLINE = "programming"
MIN_ASSERTS = 3


@dataclass(frozen=True)
class Problem:
    """A problem of the bank."""

    id: str
    problem: str
    solution: str
    tests: str


def read_bank(path: str | None) -> list[Problem]:
    """The user's problems, or those that come with Reprise.

    Raises:
        UserError: the file is not there, or a line is not a problem.
    """
    if path is None:
        name = "problems.jsonl"
        text = (importlib.resources.files("reprise.synthesis") / name).read_text(encoding="utf-8")
    else:
        name = path
        try:
            text = Path(path).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"the bank of problems cannot be read: {error}", where=f"synthesis.code.problems={path}"
            ) from None
    bank = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            fields = {key: str(entry[key]) for key in ("problem", "solution", "tests")}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"not a problem ({type(error).__name__}: {error})",
                where=f"{name}:{number}",
                remedy="write one JSON object a line with `problem`, `solution` and `tests`",
            ) from None
        bank.append(Problem(str(entry.get("id", f"{Path(name).stem}:{number}")), **fields))
    if not bank:
        raise UserError("the bank of problems is empty", where=name)
    return bank


def code_tasks(synthesis: Synthesis, seed: int) -> list[Task]:
    """Requests for new problems, the languages in turn, each with other problems of the bank as examples.

    Raises:
        UserError: the bank cannot be read, a prompt is missing, or programs cannot be confined on this machine.
    """
    code = synthesis.code
    if not code.requests:
        return []
    if synthesis.allow_code_execution:
        require_sandbox()
    bank = read_bank(code.problems)
    prompts = [load_prompt("code", language, synthesis.prompts) for language in synthesis.languages]
    chance = np.random.default_rng([seed, 0xC0DE])
    tasks = []
    for number in range(code.requests):
        prompt = prompts[number % len(prompts)]
        shown = [bank[place] for place in chance.permutation(len(bank))[: code.shots]]
        request = prompt.request(
            max_tokens=synthesis.generator.max_tokens,
            temperature=synthesis.generator.temperature,
            top_p=synthesis.generator.top_p,
            sample=number,
            examples="\n\n---\n\n".join(_show(problem, prompt.sections) for problem in shown),
        )
        language = synthesis.languages[number % len(prompts)]
        tasks.append(Task("code", language, DISCIPLINE, prompt, request, examples=tuple(entry.id for entry in shown)))
    return tasks


def _show(problem: Problem, marks: dict[str, str]) -> str:
    return (
        f"{marks['question']}\n{problem.problem}\n\n{marks['solution']}\n```python\n{problem.solution}\n```\n\n"
        f"{marks['tests']}\n```python\n{problem.tests}\n```"
    )


def verify_programs(tasks: Sequence[Task], synthesis: Synthesis) -> None:
    """Drop copies of the bank and tests that test nothing; run the rest, if the recipe allows that.

    A solution must pass its tests, and a stand-in for it that returns nothing must not.
    """
    tasks = [task for task in tasks if task.kind == "code" and task.drop is None]
    if not tasks:
        return
    bank = read_bank(synthesis.code.problems)
    known = [content_words(problem.problem, "en") for problem in bank]
    for task in tasks:
        assert task.pair is not None
        task.drop = _read_tests(task.pair) or _compare(task.pair, known, synthesis.checks.max_copied_words)
    tasks = [task for task in tasks if task.drop is None]
    if not synthesis.allow_code_execution:
        for task in tasks:
            task.notes["verified"] = False
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool, track("run programs", len(tasks), "programs") as advance:
        for task, drop in zip(tasks, pool.map(lambda task: run_tests(task.pair, synthesis.code), tasks), strict=True):
            task.drop = drop
            task.notes["verified"] = drop is None
            advance()


def run_tests(pair: Pair | None, code: Code) -> tuple[str, str] | None:
    """Why a solution is not proven by its tests; None where it is."""
    assert pair is not None and pair.program is not None and pair.tests is not None
    limits = Limits(seconds=code.timeout_s, memory_mb=code.max_memory_mb)
    verdict: Verdict = run_program(pair.program, pair.tests, limits)
    if not verdict.passed:
        return "tests_failed", f"{verdict.verdict}: {verdict.detail}"
    if run_program(stand_in(pair.program), pair.tests, limits).passed:
        return "tests_prove_nothing", "a solution that returns nothing passes them too"
    return None


def stand_in(program: str) -> str:
    """A program that defines the same functions and classes, which take anything and return None."""
    lines = []
    for node in ast.parse(program).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines.append(f"def {node.name}(*args, **kwargs): return None")
        elif isinstance(node, ast.ClassDef):
            lines.append(f"class {node.name}:\n    def __init__(self, *args, **kwargs): pass")
            lines.append("    def __getattr__(self, name): return lambda *args, **kwargs: None")
    return "\n".join(lines)


def _read_tests(pair: Pair) -> tuple[str, str] | None:
    """Whether the tests call what the solution defines."""
    assert pair.program is not None and pair.tests is not None
    defined = {
        node.name
        for node in ast.parse(pair.program).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    if not defined:
        return "no_function", "the solution defines no function and no class"
    nodes = list(ast.walk(ast.parse(pair.tests)))
    asserts = sum(isinstance(node, ast.Assert) for node in nodes)
    if asserts < MIN_ASSERTS:
        return "few_tests", f"{asserts} assert statements, at least {MIN_ASSERTS} wanted"
    if not defined & {node.id for node in nodes if isinstance(node, ast.Name)}:
        return "few_tests", f"the tests never use {', '.join(sorted(defined))}"
    return None


def _compare(pair: Pair, known: Sequence[Sequence[str]], limit: int) -> tuple[str, str] | None:
    words = content_words(pair.question, "en")
    run = max(longest_common_run(words, other) for other in known)
    allowed = min(limit, max(8, len(words) // 2))
    return (
        ("copied", f"{run} words in a row are of a problem of the bank, at most {allowed} wanted")
        if run > allowed
        else None
    )

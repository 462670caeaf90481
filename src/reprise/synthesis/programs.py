"""Generate new programming problems from a bank of known ones, and check that their solutions pass their tests."""

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
from reprise.recipe.synthesis import Synthesis
from reprise.sandbox.run import require_sandbox
from reprise.synthesis.checks import content_words, longest_common_run
from reprise.synthesis.parsing import Pair
from reprise.synthesis.prompts import load_prompt
from reprise.synthesis.proof import prove, read_program
from reprise.synthesis.tasks import Task

DISCIPLINE = "programming"


@dataclass(frozen=True)
class Problem:
    """A problem in the bank."""

    id: str
    problem: str
    solution: str
    tests: str


def read_bank(path: str | None) -> list[Problem]:
    """Read the user's problems, or those shipped with Reprise.

    Raises:
        UserError: the file does not exist, or a line is not a problem.
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
    for line_index, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            fields = {key: str(entry[key]) for key in ("problem", "solution", "tests")}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"not a problem ({type(error).__name__}: {error})",
                where=f"{name}:{line_index}",
                remedy="write one JSON object a line with `problem`, `solution` and `tests`",
            ) from None
        bank.append(Problem(str(entry.get("id", f"{Path(name).stem}:{line_index}")), **fields))
    if not bank:
        raise UserError("the bank of problems is empty", where=name)
    return bank


def code_tasks(synthesis: Synthesis, seed: int) -> list[Task]:
    """Requests for new problems, alternating between languages, each with other problems of the bank as examples.

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
    for sample in range(code.requests):
        prompt = prompts[sample % len(prompts)]
        shown = [bank[index] for index in chance.permutation(len(bank))[: code.shots]]
        request = prompt.request(
            max_tokens=synthesis.generator.max_tokens,
            temperature=synthesis.generator.temperature,
            top_p=synthesis.generator.top_p,
            sample=sample,
            examples="\n\n---\n\n".join(_show(problem, prompt.sections) for problem in shown),
        )
        language = synthesis.languages[sample % len(prompts)]
        tasks.append(Task("code", language, DISCIPLINE, prompt, request, examples=tuple(entry.id for entry in shown)))
    return tasks


def _show(problem: Problem, marks: dict[str, str]) -> str:
    return (
        f"{marks['question']}\n{problem.problem}\n\n{marks['solution']}\n```python\n{problem.solution}\n```\n\n"
        f"{marks['tests']}\n```python\n{problem.tests}\n```"
    )


def verify_programs(tasks: Sequence[Task], synthesis: Synthesis) -> None:
    """Drop copies of the bank and tests that check nothing; run the other programs if the recipe allows it.

    The mutation score (`proof.py`) of a program that was run is saved in the notes of its task.
    """
    tasks = [task for task in tasks if task.kind == "code" and task.drop is None]
    if not tasks:
        return
    bank = read_bank(synthesis.code.problems)
    known = [content_words(problem.problem, "en") for problem in bank]
    programs: list[tuple[Task, str, str]] = []
    for task in tasks:
        pair = task.pair
        assert pair is not None and pair.program is not None and pair.tests is not None
        task.drop = read_program(pair.program, pair.tests) or _compare(pair, known, synthesis.checks.max_copied_words)
        if task.drop is None:
            programs.append((task, pair.program, pair.tests))
    if not synthesis.allow_code_execution:
        for task, _, _ in programs:
            task.notes["verified"] = False
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool, track("run programs", len(programs), "programs") as advance:
        proofs = pool.map(lambda entry: prove(entry[1], entry[2], synthesis.code), programs)
        for (task, _, _), proof in zip(programs, proofs, strict=True):
            task.drop = proof.drop
            task.notes["verified"] = proof.drop is None
            task.notes["mutation_score"] = proof.mutation_score
            advance()


def _compare(pair: Pair, known: Sequence[Sequence[str]], limit: int) -> tuple[str, str] | None:
    words = content_words(pair.question, "en")
    run = max(longest_common_run(words, other) for other in known)
    allowed = min(limit, max(8, len(words) // 2))
    return (
        ("copied", f"{run} words in a row are of a problem of the bank, at most {allowed} allowed")
        if run > allowed
        else None
    )

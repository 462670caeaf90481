"""Check an answer by further model calls: solve the problem again, or have a judge grade the pair."""

import re
from collections.abc import Sequence

from reprise.generators.cached import Asker
from reprise.generators.generator import Answer, Request
from reprise.math_answers import boxed
from reprise.recipe.synthesis import Synthesis
from reprise.synthesis.parsing import normalize_final
from reprise.synthesis.passages import discipline_name
from reprise.synthesis.prompts import load_prompt
from reprise.synthesis.tasks import Task

_GRADE = re.compile(r"^\W*(?:Grade|评分)\s*[:：]\s*\**([1-5])\b\W*$", re.IGNORECASE | re.MULTILINE)


def check_agreement(tasks: Sequence[Task], synthesis: Synthesis, asker: Asker) -> None:
    """Solve problems with a final result again; drop those whose solutions disagree on it (boxed, or a letter)."""
    checks, generator = synthesis.checks, synthesis.generator
    tasks = [task for task in tasks if task.drop is None and task.pair and task.pair.final]
    if not checks.self_consistency or not tasks:
        return
    requests: list[Request] = []
    for task in tasks:
        assert task.pair is not None
        prompt = load_prompt("solve", task.language, synthesis.prompts)
        requests += [
            prompt.request(
                max_tokens=generator.max_tokens,
                temperature=generator.temperature,
                top_p=generator.top_p,
                sample=sample,
                question=task.pair.question,
            )
            for sample in range(checks.self_consistency)
        ]
    outcomes = asker.ask(requests, "solve again")
    for index, task in enumerate(tasks):
        assert task.pair is not None and task.pair.final is not None
        answers = outcomes[index * checks.self_consistency : (index + 1) * checks.self_consistency]
        finals = [boxed(answer.text) if isinstance(answer, Answer) else None for answer in answers]
        expected = normalize_final(task.pair.final)
        agreement = sum(final is not None and normalize_final(final) == expected for final in finals) / len(finals)
        task.notes["agreement"] = agreement
        if agreement < checks.min_agreement:
            detail = f"{agreement:.2f} of {len(finals)} solutions agree, at least {checks.min_agreement:g} required"
            task.drop = ("inconsistent", detail)


def judge(tasks: Sequence[Task], synthesis: Synthesis, asker: Asker) -> None:
    """Have each pair graded by the judge; drop pairs with a grade below the minimum or without a grade."""
    settings = synthesis.checks.judge
    tasks = [task for task in tasks if task.drop is None]
    if settings is None or not tasks:
        return
    requests = []
    for task in tasks:
        assert task.pair is not None
        prompt = load_prompt("judge", task.language, synthesis.prompts)
        requests.append(
            prompt.request(
                max_tokens=settings.max_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                question=task.pair.question or "-",
                answer=task.pair.answer,
                discipline=discipline_name(task.discipline, task.language),
            )
        )
    for task, outcome in zip(tasks, asker.ask(requests, "judge"), strict=True):
        grades = _GRADE.findall(outcome.text) if isinstance(outcome, Answer) else []
        if not grades:
            task.drop = ("no_grade", "the judge gave no grade")
            continue
        task.notes["grade"] = grade = int(grades[-1])
        if grade < synthesis.checks.min_grade:
            task.drop = ("judged_low", f"grade {grades[-1]}, at least {synthesis.checks.min_grade} required")

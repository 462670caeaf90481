"""Suites per language, from `language_suites.yaml` and what the installed lm-evaluation-harness has."""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import langcodes
import yaml
from pydantic import Field

from reprise.evaluation.benchmarks.harness_index import harness_tasks
from reprise.recipe.fields import Settings
from reprise.recipe.languages.codes import find_language

PREFIX = "language:"
"""Prefix of a language's suite in `evaluation.benchmarks`."""


class Family(Settings):
    """Tasks that exist for many languages."""

    name: str
    """Name of the family."""
    asks: str
    """Subject of its questions, in a word."""
    suite: bool
    """Whether its tasks are part of the suite of their language."""
    tasks: str
    """Regular expression of the names, with a group `code`."""


class OfLanguage(Settings):
    """Tasks of one language."""

    suite: list[str] = Field(default=[])
    """Tasks in the language's suite."""
    more: list[str] = Field(default=[])
    """Tasks that are only listed."""


class Suites(Settings):
    """Content of `language_suites.yaml`."""

    families: list[Family]
    """Families of tasks."""
    languages: dict[str, OfLanguage]
    """Language -> tasks that exist only for it."""


@dataclass(frozen=True)
class ListedTask:
    """A task or group with questions in a language."""

    name: str
    """Name in `evaluation.benchmarks`."""
    family: str
    asks: str
    in_suite: bool


@functools.cache
def read_suites() -> Suites:
    """Read and check `language_suites.yaml`."""
    path = Path(__file__).with_suffix(".yaml")
    return Suites.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@functools.cache
def tasks_by_language() -> dict[str, list[ListedTask]]:
    """Language -> the installed tasks with questions in it, those of its suite first.

    Raises:
        UserError: the harness is not installed.
    """
    installed, suites = harness_tasks(), read_suites()
    listed: dict[str, list[ListedTask]] = {}
    for language, own in suites.languages.items():
        for names, in_suite in ((own.suite, True), (own.more, False)):
            tasks = [ListedTask(name, name, "", in_suite) for name in names if name in installed]
            listed.setdefault(language, []).extend(tasks)
    for family in suites.families:
        pattern = re.compile(family.tasks)
        for name in installed:
            match = pattern.fullmatch(name)
            code = _language(match["code"]) if match else None
            if code is not None and not any(task.name == name for task in listed.get(code, [])):
                listed.setdefault(code, []).append(ListedTask(name, family.name, family.asks, family.suite))
    return {
        language: sorted(tasks, key=lambda task: (not task.in_suite, task.family))
        for language, tasks in sorted(listed.items())
        if tasks
    }


def _language(code: str) -> str | None:
    """Language of a family's code; None if it is not a language, or in a script that is unusual for it."""
    language = find_language(code)
    parts = code.split("_")
    if language is None or len(parts) < 2:
        return language
    return language if parts[1].title() == langcodes.get(language).maximize().script else None


def suite_of(language: str) -> list[str]:
    """Names of the installed tasks of a language's suite; empty if it has none."""
    return [task.name for task in tasks_by_language().get(language, []) if task.in_suite]


@functools.cache
def _languages_of_tasks() -> dict[str, str]:
    return {task.name: language for language, tasks in tasks_by_language().items() for task in tasks}


def language_of(task: str) -> str:
    """Language of a task of the harness; `und` (undetermined) if the data file does not name it."""
    return _languages_of_tasks().get(task, "und")

"""`reprise benchmarks`: which benchmarks exist, in which language, and whether their questions are on this machine."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from rich.table import Table

from reprise.benchmark_files import set_files
from reprise.errors import UserError
from reprise.evaluation.benchmarks.catalogue import BENCHMARKS
from reprise.evaluation.benchmarks.harness_index import harness_tasks, leaf_tasks
from reprise.evaluation.benchmarks.language_suites import PREFIX, tasks_by_language
from reprise.recipe.evaluation import SUITES
from reprise.recipe.languages.codes import find_language
from reprise.recipe.languages.packs import load_pack


class ListedBenchmark(TypedDict):
    """A benchmark of the catalogue, or a task of the harness."""

    name: str
    """Name in `evaluation.benchmarks`."""
    language: str
    suites: list[str]
    """Suites that it is part of."""
    asks: str
    """Subject of its questions, or the family of the task; empty if neither is known."""
    data: str
    """`here`, `not here`, or `generated`."""
    dataset: str
    """Source of the questions: a file, or datasets on the Hub."""


class ListedLanguage(TypedDict):
    """A language with benchmarks."""

    language: str
    name: str
    suite: str
    """Name of its suite in `evaluation.benchmarks`; empty if there are only single tasks."""
    tasks_in_suite: int
    other_tasks: int


def list_own(data: Path | None) -> list[ListedBenchmark]:
    """List the benchmarks of the catalogue.

    Args:
        data: folder of local benchmark files (`evaluation.data`); None: only the Hub's cache is searched for questions.
    """
    rows: list[ListedBenchmark] = []
    for name, benchmark in BENCHMARKS.items():
        suites = [suite for suite, names in SUITES.items() if name in names]
        if benchmark.folder is None:
            rows.append(_row(name, benchmark.language, suites, "", "generated", ""))
        elif data is not None:
            file = set_files(data, benchmark.folder)[0]
            rows.append(_row(name, benchmark.language, suites, "", "here" if file.is_file() else "not here", str(file)))
        else:
            datasets = _datasets(benchmark.hub)
            rows.append(_row(name, benchmark.language, suites, "", _in_cache(datasets), ", ".join(datasets)))
    return rows


def list_languages() -> list[ListedLanguage]:
    """List the languages for which the installed harness has tasks.

    Raises:
        UserError: the harness is not installed.
    """
    rows: list[ListedLanguage] = []
    for language, tasks in tasks_by_language().items():
        in_suite = sum(task.in_suite for task in tasks)
        rows.append(
            {
                "language": language,
                "name": load_pack(language).name,
                "suite": f"{PREFIX}{language}" if in_suite else "",
                "tasks_in_suite": in_suite,
                "other_tasks": len(tasks) - in_suite,
            }
        )
    return rows


def list_language(code: str) -> list[ListedBenchmark]:
    """List the tasks with questions in a language, those of its suite first.

    Raises:
        UserError: the code is not a language, or there is no task in it.
    """
    language = find_language(code)
    tasks = tasks_by_language().get(language or "", [])
    if not tasks:
        known = ", ".join(tasks_by_language())
        raise UserError(
            f"the installed lm-evaluation-harness has no task in {code!r} that is listed here",
            where="reprise benchmarks",
            remedy=f"languages: {known}; any task of the harness can be named in evaluation.benchmarks all the same",
        )
    rows = []
    for task in tasks:
        datasets = _datasets(task.name)
        asks = f"{task.family}: {task.asks}" if task.asks else ""
        suites = [f"{PREFIX}{language}"] if task.in_suite else []
        rows.append(_row(task.name, language or "", suites, asks, _in_cache(datasets), ", ".join(datasets)))
    return rows


def _row(name: str, language: str, suites: list[str], asks: str, data: str, dataset: str) -> ListedBenchmark:
    return {"name": name, "language": language, "suites": suites, "asks": asks, "data": data, "dataset": dataset}


def _datasets(task: str) -> list[str]:
    """Datasets on the Hub with the questions of a task or group."""
    installed = harness_tasks()
    names = [installed[leaf].dataset.split(":")[0] for leaf in leaf_tasks(task, installed)]
    return sorted({name for name in names if name})


def _in_cache(datasets: list[str]) -> str:
    """Whether all datasets are in the Hugging Face cache, judging by the names of its folders."""
    return (
        "here"
        if datasets and all(any(folder.is_dir() for folder in _places(name)) for name in datasets)
        else "not here"
    )


def _places(dataset: str) -> Iterator[Path]:
    # Not pathlib's: without a home folder it raises.
    home = Path(os.path.expanduser(os.environ.get("HF_HOME") or "~/.cache/huggingface"))  # noqa: PTH111
    yield Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"datasets--{dataset.replace('/', '--')}"
    yield Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets") / dataset.replace("/", "___")


def benchmark_table(rows: list[ListedBenchmark], title: str) -> Table:
    """Format benchmarks as a table for the terminal."""
    table = Table(title=title, title_justify="left")
    table.add_column("name")
    more = {"language": [row["language"] for row in rows], "asks": [row["asks"] for row in rows]}
    told = {name: values for name, values in more.items() if len(set(values)) > 1}  # the rest would repeat itself
    for name in ("suites", *told, "questions"):
        table.add_column(name)
    for index, row in enumerate(rows):
        cells = [values[index] for values in told.values()]
        table.add_row(row["name"], ", ".join(row["suites"]), *cells, row["data"])
    return table


def language_table(rows: list[ListedLanguage]) -> Table:
    """Format languages as a table for the terminal."""
    title = "Languages (reprise benchmarks LANGUAGE lists their tasks)"
    table = Table("language", "", "suite", "tasks in it", "other tasks", title=title, title_justify="left")
    for row in rows:
        counts = [str(row["tasks_in_suite"]), str(row["other_tasks"])]
        table.add_row(row["language"], row["name"], row["suite"], *counts)
    return table

"""Benchmark files on this machine: read here only, for decontamination and for evaluation.

    DATA/FOLDER/test.jsonl   the questions
    DATA/FOLDER/dev.jsonl    examples for the prompt; optional

One JSON object per line. `question` (text) is required; evaluation also needs `answer` (text). `choices` (list
of texts, without letters) makes it multiple choice; `answer` is then a letter, or several. The other fields are
listed in `Item`. This module does not import Daft.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

from reprise.errors import UserError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_REMEDY = "correct the file; docs/evaluation.md describes the format"


class Item(TypedDict, total=False):
    """A question that can be evaluated: has `question` and `answer`, and from a file the first five fields."""

    id: str
    """The id in the file, else file:line."""
    subject: str
    """`all` if the benchmark has no subjects."""
    question: str
    answer: str
    choices: list[str]
    """Empty for a free answer."""
    lang: str
    solution: str
    """Worked solution, for the examples of MATH and MMLU-Pro."""
    answer_type: str
    """SciEval: the type of question."""
    support: str
    """A paragraph that contains the answer."""
    entry_point: str
    """For programs: name of the tested function."""
    test: str
    test_list: list[str]
    test_setup_code: str
    task_id: str | int
    instruction_id_list: list[str]
    """IFEval: the instructions that an answer must follow."""
    kwargs: list[dict[str, Any]]
    """IFEval: the arguments of each instruction."""


@dataclass(frozen=True)
class Question:
    """A question to search for in documents; an answer is not needed."""

    benchmark: str
    id: str
    text: str
    choices: tuple[str, ...]
    """The texts of the options; empty for a free answer."""
    lang: str


@dataclass(frozen=True)
class LocalSet:
    """The questions of one benchmark."""

    test: list[Item]
    dev: list[Item]

    def subjects(self) -> list[str]:
        """Subjects of the questions, sorted."""
        return sorted({item["subject"] for item in self.test})

    def subject(self, *names: str) -> "LocalSet":
        """The questions with these subjects only."""
        keep = [[item for item in items if item["subject"] in names] for items in (self.test, self.dev)]
        return LocalSet(*keep)


def set_files(data: Path, folder: str) -> tuple[Path, Path]:
    """Paths of a benchmark's questions and examples, whether or not they exist."""
    return data / folder / "test.jsonl", data / folder / "dev.jsonl"


def read_set(data: Path, folder: str, subjects: Sequence[str] | None = None) -> LocalSet | None:
    """Read a benchmark for evaluation; None if it has no file.

    Args:
        data: the folder of all benchmarks.
        folder: name of the benchmark's folder in `data`.
        subjects: keep only these.

    Raises:
        UserError: a line is not a question with an answer.
    """
    test, dev = set_files(data, folder)
    if not test.is_file():
        return None
    questions = LocalSet(read_set_file(test), read_set_file(dev) if dev.is_file() else [])
    return questions if subjects is None else questions.subject(*subjects)


def question_files(benchmarks: Sequence[str], data: str | None, extra: Sequence[str]) -> dict[Path, str]:
    """File -> name of its benchmark, in order: all files with questions to search for in documents.

    Args:
        benchmarks: names; each is a folder of `data` that contains JSON Lines files.
        data: folder of the benchmarks.
        extra: more files, each named as a benchmark by its stem, or by its whole path if stems coincide.

    Raises:
        UserError: a benchmark or file does not exist.
    """
    if benchmarks and data is None:
        raise UserError(
            f"there is no folder with the questions of {', '.join(benchmarks)}, so no text can be checked for them",
            where="evaluation.data=null",
            remedy="set evaluation.data to a folder with BENCHMARK/*.jsonl, or documents.decontaminate.enabled=false",
        )
    files: dict[Path, str] = {}
    for name in benchmarks:
        paths = sorted(Path(str(data), name).expanduser().glob("*.jsonl"))
        if not paths:
            raise UserError(
                f"there are no questions of {name}",
                where=f"evaluation.data={data}",
                remedy=f"put JSON Lines with a `question` into {Path(str(data), name)}",
            )
        files.update(dict.fromkeys(paths, name))
    stems = Counter([*benchmarks, *(Path(path).name.split(".")[0] for path in dict.fromkeys(extra))])
    for name in extra:
        path = Path(name).expanduser()
        if not path.is_file():
            raise UserError(
                "the benchmark file does not exist",
                where=f"documents.decontaminate.extra_benchmarks={name}",
                remedy="correct the path",
            )
        stem = path.name.split(".")[0]
        files[path] = stem if stems[stem] == 1 else name
    return files


def read_questions(files: dict[Path, str]) -> list[Question]:
    """All questions of the files, in order.

    Raises:
        UserError: a line is not a question.
    """
    return [
        Question(
            benchmark=name,
            id=str(record.get("id") or where),
            text=record["question"],
            choices=tuple(record["choices"]),
            lang=str(record.get("lang") or ""),
        )
        for path, name in files.items()
        for where, record in _read_records(path)
    ]


def read_set_file(path: Path) -> list[Item]:
    """The questions of one file, each with an answer.

    Raises:
        UserError: a line is not a question with an answer.
    """
    return list(_read_items(path))


def _read_items(path: Path) -> Iterator[Item]:
    for where, record in _read_records(path):
        answer, choices = record.get("answer"), record["choices"]
        if not isinstance(answer, str):
            raise UserError("`answer` is not a text", where=where, remedy=_REMEDY)
        if choices and not (answer and set(answer) <= set(LETTERS[: len(choices)])):
            raise UserError(f"the answer {answer!r} is no letter of the choices", where=where, remedy=_REMEDY)
        record |= {"subject": str(record.get("subject") or "all"), "id": str(record.get("id") or where)}
        yield cast(Item, record)


def _read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `file:line` and the object of each line, with `question` as text and `choices` as a list of texts."""
    for line_index, line in enumerate(path.read_bytes().split(b"\n"), 1):
        where = f"{path}:{line_index}"
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"not JSON: {error}", where=where, remedy=_REMEDY) from None
        if not isinstance(record, dict):
            raise UserError("not a JSON object", where=where, remedy=_REMEDY)
        if not isinstance(record.get("question"), str):
            raise UserError("`question` is not a text", where=where, remedy=_REMEDY)
        choices = record.get("choices") or []
        if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
            raise UserError("`choices` is not a list of texts", where=where, remedy=_REMEDY)
        yield where, record | {"choices": choices}

"""Benchmark files on this machine.

    DATA/FOLDER/test.jsonl   the questions
    DATA/FOLDER/dev.jsonl    examples for the prompt; may be missing, then there are none

One JSON object a line. Every question has `question` (text) and `answer` (text); `choices` (list of texts, without
letters) makes it multiple choice, and `answer` is then a letter, or several. Optional: `id`, `subject`, `solution`,
`prompt`, `answer_type`, `support`; for programs `test` and `entry_point`, or `test_list`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprise.errors import UserError

Item = dict[str, Any]


@dataclass(frozen=True)
class LocalSet:
    """The questions of one benchmark."""

    test: list[Item]
    dev: list[Item]

    def subjects(self) -> list[str]:
        """Subjects of the questions, sorted."""
        return sorted({item["subject"] for item in self.test})

    def subject(self, *names: str) -> "LocalSet":
        """Only these subjects."""
        keep = [[item for item in items if item["subject"] in names] for items in (self.test, self.dev)]
        return LocalSet(*keep)


def set_files(data: Path, folder: str) -> tuple[Path, Path]:
    """The files of a benchmark's questions and of its examples, whether they exist or not."""
    return data / folder / "test.jsonl", data / folder / "dev.jsonl"


def read_set(data: Path, folder: str, subjects: Sequence[str] | None = None) -> LocalSet | None:
    """Read a benchmark; None where there is no file of it.

    Args:
        data: the folder of all benchmarks.
        folder: of this one.
        subjects: keep only these.

    Raises:
        UserError: a line is not a question.
    """
    test, dev = set_files(data, folder)
    if not test.is_file():
        return None
    found = LocalSet(_read(test), _read(dev))
    return found if subjects is None else found.subject(*subjects)


def _read(path: Path) -> list[Item]:
    if not path.is_file():
        return []
    items = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            items.append(_check(line, f"{path}:{number}"))
    return items


def _check(line: bytes, where: str) -> Item:
    remedy = "docs/evaluation.md describes the format"
    try:
        item = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}", where=where, remedy=remedy) from None
    if not isinstance(item, dict):
        raise UserError("not a JSON object", where=where, remedy=remedy)
    for name in ("question", "answer"):
        if not isinstance(item.get(name), str):
            raise UserError(f"`{name}` is not a text", where=where, remedy=remedy)
    choices = item.setdefault("choices", [])
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise UserError("`choices` is not a list of texts", where=where, remedy=remedy)
    if choices and not (item["answer"] and set(item["answer"]) <= set(LETTERS[: len(choices)])):
        raise UserError(f"the answer {item['answer']!r} is no letter of the choices", where=where, remedy=remedy)
    return item | {"subject": str(item.get("subject") or "all"), "id": str(item.get("id") or where)}


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

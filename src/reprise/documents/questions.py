"""The questions of benchmark files. Imports without Daft."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reprise.errors import UserError


@dataclass(frozen=True)
class Question:
    """One question of a benchmark."""

    benchmark: str
    id: str
    text: str
    choices: tuple[str, ...]
    """The texts of the options; empty for a free answer."""
    subject: str
    lang: str


def benchmark_files(benchmarks: Sequence[str], data: str | None, extra: Sequence[str]) -> dict[Path, str]:
    """File -> name of its benchmark, in order.

    Args:
        benchmarks: names; each is a folder of `data` that holds JSON Lines files.
        data: folder of the benchmarks.
        extra: more files; the stem of the name is the name of the benchmark, or all of the path where stems are alike.

    Raises:
        UserError: a benchmark or file is not there.
    """
    if benchmarks and data is None:
        raise UserError(
            f"the questions of {', '.join(benchmarks)} are not at hand, so documents cannot be checked against them",
            where="evaluation.data=null",
            remedy="set evaluation.data to a folder with BENCHMARK/*.jsonl, or documents.decontaminate.enabled=false",
        )
    files: dict[Path, str] = {}
    for name in benchmarks:
        found = sorted(Path(str(data), name).expanduser().glob("*.jsonl"))
        if not found:
            raise UserError(
                f"there are no questions of {name}",
                where=f"evaluation.data={data}",
                remedy=f"put JSON Lines with a `question` into {Path(str(data), name)}",
            )
        files.update(dict.fromkeys(found, name))
    stems = Counter([*benchmarks, *(Path(path).name.split(".")[0] for path in dict.fromkeys(extra))])
    for path in extra:
        if not Path(path).expanduser().is_file():
            raise UserError(
                "the benchmark file does not exist",
                where=f"documents.decontaminate.extra_benchmarks={path}",
                remedy="correct the path",
            )
        stem = Path(path).name.split(".")[0]
        files[Path(path).expanduser()] = stem if stems[stem] == 1 else path
    return files


def read_questions(files: dict[Path, str]) -> list[Question]:
    """All questions, in order.

    Raises:
        UserError: a line is no JSON object with a text `question` (and, where given, a list of texts `choices`).
    """
    questions = []
    for path, name in files.items():
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
            if line.strip():
                questions.append(_read_question(name, f"{path}:{number}", line))
    return questions


def _read_question(benchmark: str, where: str, line: bytes) -> Question:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("question"), str):
        raise UserError("not a JSON object with a text `question`", where=where, remedy="mend the benchmark file")
    choices = record.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise UserError("`choices` is not a list of texts", where=where, remedy="mend the benchmark file")
    return Question(
        benchmark=benchmark,
        id=str(record.get("id") or where),
        text=record["question"],
        choices=tuple(choices),
        subject=str(record.get("subject") or ""),
        lang=str(record.get("lang") or ""),
    )

"""Stage `decontaminate`: drop documents that contain questions of a benchmark (defined in index.py)."""

import functools
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from typing_extensions import TypedDict

from reprise.benchmark_files import Question, question_files, read_questions
from reprise.documents.decontaminate.index import Index, build_index
from reprise.documents.decontaminate.search import find_questions
from reprise.documents.engine import Engine
from reprise.documents.part_step import Drop, Outcome, RowsOrigin, StepCounts, Tally, pass_through, run_step
from reprise.recipe.documents import Decontaminate
from reprise.records import record
from reprise.workspace import Work

REASON = "benchmark_question"

_BATCH_CHARS = 400_000
_LISTED = 3


@record
class BenchmarkMatches(TypedDict):
    """Questions of one benchmark that occur in the text."""

    benchmark: str
    """Name of the benchmark."""
    questions: int
    """Questions that were searched for."""
    questions_found: int
    """Questions that at least one document contains."""
    finds: int
    """Pairs of a question and a document that contains it."""
    questions_too_vague: int
    """Questions that were not searched for, because they are too short and too common."""


@record
class DecontaminateCounts(StepCounts):
    """Counts of the stage `decontaminate`, for its manifest."""

    decontaminated: bool
    """Whether the documents were compared with the questions."""
    benchmarks: list[BenchmarkMatches]
    """Matches per benchmark."""


def run(
    work: Work,
    *,
    decontaminate: Decontaminate,
    benchmarks: list[str],
    data: str | None,
    questions: Mapping[Path, str] | None = None,
    engine: Engine,
) -> None:
    """Write `documents/` and `dropped/` of the stage, and the matches per benchmark into the counts.

    Args:
        work: the stage; it reads the output of `deduplicate`.
        decontaminate: settings of the decontamination.
        benchmarks: names of the benchmarks that the recipe evaluates on, with suites expanded.
        data: folder of the local benchmark files.
        questions: path of each additional file of questions -> name of its benchmark.
        engine: where the documents are searched.

    Raises:
        UserError: the questions of a benchmark are missing or cannot be read.
    """
    if not decontaminate.enabled:
        passed: DecontaminateCounts = {
            **pass_through(work, "deduplicate"),
            "decontaminated": False,
            "benchmarks": [],
        }
        work.counts.update(passed)
        return
    files = question_files(benchmarks, data, decontaminate.extra_benchmarks) | dict(questions or {})
    asked = read_questions(files)
    index = build_index(asked, decontaminate)
    path = work.output.resolve() / "index.pickle"
    path.write_bytes(pickle.dumps(index))
    step = functools.partial(_drop_contaminated, str(path), decontaminate.min_overlap)
    counted, tally = run_step(work, "deduplicate", step, engine=engine, what="decontaminate")
    path.unlink()
    documents = {int(question): count for (question,), count in tally.items()}
    counts: DecontaminateCounts = {
        **counted,
        "decontaminated": True,
        "benchmarks": _report(asked, index, documents),
    }
    work.counts.update(counts)


def _report(questions: Sequence[Question], index: Index, documents: dict[int, int]) -> list[BenchmarkMatches]:
    """Matches per benchmark.

    Args:
        questions: all questions.
        index: index of these questions.
        documents: index of a question -> how many documents contain it.
    """
    total = Counter(question.benchmark for question in questions)
    vague = Counter(questions[question].benchmark for question in index.vague)
    matched = Counter(questions[question].benchmark for question in documents)
    matches: Counter[str] = Counter()
    for question, count in documents.items():
        matches[questions[question].benchmark] += count
    return [
        {
            "benchmark": name,
            "questions": count,
            "questions_found": matched[name],
            "finds": matches[name],
            "questions_too_vague": vague[name],
        }
        for name, count in total.items()
    ]


@functools.lru_cache(maxsize=1)
def _load_index(path: str) -> Index:
    index = pickle.loads(Path(path).read_bytes())
    assert isinstance(index, Index)
    return index


def _drop_contaminated(path: str, min_overlap: float, rows: pa.Table, origin: RowsOrigin) -> Outcome:
    """Drop the rows that contain questions. Runs in a worker."""
    index = _load_index(path)
    drops: list[Drop] = []
    tally: Tally = Counter()
    first = 0
    for texts in _text_batches(rows["text"].to_pylist()):
        for row, matches in enumerate(find_questions(index, texts, min_overlap), first):
            if matches:
                tally.update((str(question),) for question in matches)
                listing = [f"{index.ids[question]} ({share:.0%})" for question, share in sorted(matches.items())]
                more = f" and {len(matches) - _LISTED} more" if len(matches) > _LISTED else ""
                drops.append((row, REASON, ", ".join(listing[:_LISTED]) + more))
        first += len(texts)
    return Outcome(drops=drops, tally=tally)


def _text_batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield runs of texts with a bounded total length."""
    batch: list[str] = []
    num_chars = 0
    for text in texts:
        batch.append(text)
        num_chars += len(text)
        if num_chars >= _BATCH_CHARS:
            yield batch
            batch, num_chars = [], 0
    if batch:
        yield batch

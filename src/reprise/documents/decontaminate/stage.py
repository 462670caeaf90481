"""Stage `decontaminate`: drop documents that hold questions of a benchmark (what that means: search.py)."""

import functools
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from reprise.benchmark_files import Question, question_files, read_questions
from reprise.documents.decontaminate.index import Index, build_index
from reprise.documents.decontaminate.search import find_questions
from reprise.documents.engine import Engine
from reprise.documents.part_step import Drop, Outcome, Place, pass_through, run_step
from reprise.recipe.documents import Decontaminate
from reprise.workspace import Work

REASON = "benchmark_question"

_BATCH_CHARS = 400_000
_FOUND = "found "
_LISTED = 3


def run(
    work: Work,
    *,
    decontaminate: Decontaminate,
    benchmarks: list[str],
    data: str | None,
    questions: Mapping[Path, str] | None = None,
    engine: Engine,
) -> None:
    """Write `documents/` and `dropped/` of the stage, and what was found per benchmark into the counts.

    Args:
        work: reads `deduplicate`.
        decontaminate: settings.
        benchmarks: names of the benchmarks that the recipe evaluates on, suites resolved.
        data: folder of the local benchmark files.
        questions: more files of questions, with the names of their benchmarks.
        engine: where the work is done.

    Raises:
        UserError: the questions of a benchmark are missing or cannot be read.
    """
    if not decontaminate.enabled:
        pass_through(work, "deduplicate")
        work.counts.update(decontaminated=False)
        return
    files = question_files(benchmarks, data, decontaminate.extra_benchmarks) | dict(questions or {})
    asked = read_questions(files)
    index = build_index(asked, decontaminate)
    path = work.output.resolve() / "index.pickle"
    path.write_bytes(pickle.dumps(index))
    step = functools.partial(_drop_contaminated, str(path), decontaminate.min_overlap)
    run_step(work, "deduplicate", step, engine=engine, what="decontaminate")
    path.unlink()
    names = [name for name in work.counts if name.startswith(_FOUND)]
    found = {int(name.removeprefix(_FOUND)): work.counts.pop(name) for name in names}
    work.counts.update(decontaminated=True, benchmarks=_report(asked, index, found))


def _report(questions: Sequence[Question], index: Index, found: dict[int, int]) -> list[dict[str, object]]:
    """Per benchmark: questions, those found, (question, document) pairs, and those too vague to be looked for."""
    total = Counter(question.benchmark for question in questions)
    vague = Counter(questions[number].benchmark for number in index.vague)
    hit = Counter(questions[number].benchmark for number in found)
    pairs: Counter[str] = Counter()
    for number, count in found.items():
        pairs[questions[number].benchmark] += count
    return [
        {
            "benchmark": name,
            "questions": count,
            "questions_found": hit[name],
            "finds": pairs[name],
            "questions_too_vague": vague[name],
        }
        for name, count in total.items()
    ]


@functools.lru_cache(maxsize=1)
def _load_index(path: str) -> Index:
    index = pickle.loads(Path(path).read_bytes())
    assert isinstance(index, Index)
    return index


def _drop_contaminated(path: str, min_overlap: float, rows: pa.Table, place: Place) -> Outcome:
    """Runs in a worker."""
    index = _load_index(path)
    drops: list[Drop] = []
    numbers: Counter[str] = Counter()
    first = 0
    for texts in _text_batches(rows["text"].to_pylist()):
        for row, found in enumerate(find_questions(index, texts, min_overlap), first):
            if found:
                numbers.update(f"{_FOUND}{question}" for question in found)
                listing = [f"{index.ids[number]} ({share:.0%})" for number, share in sorted(found.items())]
                more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
                drops.append((row, REASON, ", ".join(listing[:_LISTED]) + more))
        first += len(texts)
    return Outcome(drops=drops, numbers=dict(numbers))


def _text_batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Runs of texts of bounded length together."""
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

"""Run the document stages on synthetic documents, and drop those that are not new to the corpus.

Cleaning, deduplication among themselves and decontamination are the stages of `reprise.documents`, run on a small
table. For the comparison with the corpus only the synthetic documents are indexed; the corpus, including held-out
documents, is streamed and not changed.
"""

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from reprise.documents.clean import stage as clean_stage
from reprise.documents.decontaminate import stage as decontaminate_stage
from reprise.documents.deduplicate import stage as deduplicate_stage
from reprise.documents.deduplicate.signatures import choose_bands, estimate_similarity, shingle_text, sign_texts
from reprise.documents.engine import Engine, run_pieces
from reprise.documents.table import DOCUMENTS, DROPPED, TableWriter, list_parts, read_table
from reprise.recipe.documents import Clean, Decontaminate, Deduplicate
from reprise.synthesis.tasks import Task
from reprise.workspace import Work

_BATCH_ROWS = 1000


def drop_by_documents(
    tasks: Sequence[Task],
    corpus: Path,
    scratch: Path,
    clean: Clean,
    deduplicate: Deduplicate,
    decontaminate: Decontaminate,
    benchmarks: list[str],
    data: str | None,
    questions: Mapping[Path, str],
    engine: Engine,
) -> None:
    """Set `drop` of the tasks whose documents are dropped, and `text` to the cleaned text of the others.

    Args:
        tasks: tasks with documents, none of them dropped yet.
        corpus: table of the labelled documents.
        scratch: folder for temporary files; the caller removes it.
        clean: settings of the cleaning.
        deduplicate: settings of the deduplication.
        decontaminate: settings of the decontamination.
        benchmarks: benchmarks whose questions the documents must not contain.
        data: folder of the benchmark files.
        questions: path of each additional file of questions -> name of its benchmark.
        engine: where the steps run.
    """
    _drop_same_questions(tasks)
    by_id = {str(index): task for index, task in enumerate(tasks) if task.drop is None}
    with TableWriter(scratch / "read" / DOCUMENTS) as writer:
        writer.write(
            [
                {"id": key, "text": task.text, "lang": task.language, "source": "synthetic", "split": "train",
                 "origin": f"synthetic:{key}"}
                for key, task in by_id.items()
            ]
        )  # fmt: skip
    clean_stage.run(_work(scratch, "clean", "read"), clean=clean, engine=engine)
    deduplicate_stage.run(_work(scratch, "deduplicate", "clean"), deduplicate=deduplicate, engine=engine)
    decontaminate_stage.run(
        _work(scratch, "decontaminate", "deduplicate"),
        decontaminate=decontaminate,
        benchmarks=benchmarks,
        data=data,
        questions=questions,
        engine=engine,
    )
    for stage in ("clean", "deduplicate", "decontaminate"):
        for batch in read_table(scratch / stage / DROPPED):
            for row in batch.to_pylist():
                by_id[row["id"]].drop = (row["reason"], row["detail"])
    for batch in read_table(scratch / "decontaminate" / DOCUMENTS, ["id", "text"]):
        for row in batch.to_pylist():
            by_id[row["id"]].text = row["text"]
    if deduplicate.enabled:
        _drop_known([task for task in tasks if task.drop is None], corpus, deduplicate, engine)


def _drop_same_questions(tasks: Sequence[Task]) -> None:
    """Keep only the first pair with each question, even if later answers differ."""
    seen: dict[str, Task] = {}
    for task in tasks:
        if task.pair is None or not task.pair.question:
            continue
        first = seen.setdefault(shingle_text(task.pair.question, task.language), task)
        if first is not task:
            task.drop = ("same_question", f"as in the request {first.key}")


def _work(scratch: Path, stage: str, before: str) -> Work:
    (scratch / stage).mkdir(parents=True)
    return Work(output=scratch / stage, inputs={before: scratch / before}, cache=scratch / "cache")


def _drop_known(tasks: Sequence[Task], corpus: Path, settings: Deduplicate, engine: Engine) -> None:
    """Drop near copies of documents in the corpus, which are found by the bands of their signatures."""
    if not tasks:
        return
    signatures = sign_texts([task.text for task in tasks], [task.language for task in tasks], settings)
    parts = list_parts(corpus.resolve())
    compare = functools.partial(_find_known, signatures, settings)
    num_bytes = 2 * sum(part.stat().st_size for part in parts)
    for copies in run_pieces(
        compare, [str(part) for part in parts], engine=engine, what="compare with the corpus", num_bytes=num_bytes
    ):
        for copy in copies:
            if tasks[copy.task].drop is None:
                detail = f"{copy.similarity:.2f} like the document {copy.document}"
                tasks[copy.task].drop = ("near_copy_of_corpus", detail)


class NearCopy(NamedTuple):
    """A synthetic text that is nearly the same as a document of the corpus."""

    task: int
    """Index of the task that the text belongs to."""
    similarity: float
    """Estimated Jaccard similarity of the shingles of both."""
    document: str
    """Id of the document in the corpus."""


def _find_known(signatures: Any, settings: Deduplicate, part: str) -> list[NearCopy]:
    """Near copies between the texts with these signatures and the documents in one part of the corpus."""
    bands, band_rows = choose_bands(settings)
    holders: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for task, signature in enumerate(signatures):
        for band in range(bands):
            holders[band, signature[band * band_rows : (band + 1) * band_rows].tobytes()].append(task)
    copies = []
    with pq.ParquetFile(part) as file:
        for batch in file.iter_batches(_BATCH_ROWS, columns=["id", "text", "lang"]):
            rows: list[dict[str, Any]] = batch.to_pylist()
            known = sign_texts([row["text"] for row in rows], [row["lang"] for row in rows], settings)
            for row, signature in zip(rows, known, strict=True):
                near = {
                    task
                    for band in range(bands)
                    for task in holders.get((band, signature[band * band_rows : (band + 1) * band_rows].tobytes()), ())
                }
                for task in sorted(near):
                    similarity = float(estimate_similarity(signatures[task][np.newaxis], signature[np.newaxis])[0])
                    if similarity >= settings.threshold:
                        copies.append(NearCopy(task, similarity, str(row["id"])))
    return copies

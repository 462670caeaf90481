"""Stage `synthesize`: generate question-answer documents about passages, and check them.

    documents/        kept documents, in the table's schema: source `synthetic`, split `train`
    dropped/          answers that were dropped, each with its reason
    provenance.jsonl  one object per request: passage, prompt and its version, model, sampling, results of the checks
    funnel.json       counts per discipline, from requests to documents
    samples.json      ten kept and ten dropped pairs, for the report

The answers themselves are in the journal of `work.cache`, which is kept when the stage is run again.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash

from reprise.documents.engine import Engine
from reprise.documents.table import DOCUMENTS, DROPPED, DROPPED_SCHEMA, TableWriter, read_table
from reprise.errors import UserError
from reprise.generators.cached import Asker, Spending
from reprise.generators.generator import Answer, Failure, ModelIdentity
from reprise.generators.journal import Journal
from reprise.generators.open import open_generator
from reprise.model.loading import load_tokenizer
from reprise.processes import Processes
from reprise.progress import console
from reprise.recipe.documents import Clean, Decontaminate, Deduplicate
from reprise.recipe.model import Model
from reprise.recipe.synthesis import Synthesis
from reprise.storage import write_json
from reprise.synthesis.checks import check_instructions, check_pair
from reprise.synthesis.judge import check_agreement, judge
from reprise.synthesis.novelty import drop_by_documents
from reprise.synthesis.parsing import DoesNotParseError, corrupt_final, parse_answer
from reprise.synthesis.programs import code_tasks, verify_programs
from reprise.synthesis.records import (
    Funnel,
    FunnelCounts,
    Provenance,
    SynthesisCounts,
    SyntheticSample,
    SyntheticSamples,
)
from reprise.synthesis.tasks import Task, needs_final, science_tasks
from reprise.workspace import Work

_GENERATOR, _JUDGE = "synthesis.generator", "synthesis.checks.judge"

SOURCE = "synthetic"
SAMPLES = 10
_PASSAGE_COLUMNS = ["id", "text", "lang", "source", "topic", "split", "origin"]


def run(
    work: Work,
    *,
    synthesis: Synthesis,
    model: Model,
    clean: Clean,
    deduplicate: Deduplicate,
    decontaminate: Decontaminate,
    benchmarks: list[str],
    data: str | None,
    questions: Mapping[Path, str] | None = None,
    seed: int,
    engine: Engine,
) -> None:
    """Generate synthetic documents from the labelled ones.

    Args:
        work: the stage; it reads the output of `label`, writes to `output` and keeps answers in `cache`.
        synthesis: settings of the synthesis.
        model: base model; its tokenizer counts the tokens of answers, and it generates them if no other model is named.
        clean: settings for cleaning the synthetic documents.
        deduplicate: settings for deduplicating them, among themselves and against the corpus.
        decontaminate: settings of the decontamination.
        benchmarks: names of the benchmarks whose questions the documents must not contain.
        data: folder of the benchmark files.
        questions: path of each additional file of questions -> name of its benchmark.
        seed: random seed for the choice of templates and of corrupted answers.
        engine: where the document steps run.

    Raises:
        UserError: there is no passage or no generator, too many requests failed, or the cost limit was reached.
    """
    if not synthesis.requests + synthesis.code.requests:
        raise UserError(
            "synthesis is enabled but nothing is asked for",
            where="synthesis.requests=0",
            remedy="set synthesis.requests or synthesis.code.requests, or synthesis.enabled=false",
        )
    corpus = work.inputs["label"] / DOCUMENTS
    tasks = science_tasks(synthesis, _rows(corpus)) + code_tasks(synthesis, seed)
    journal = Journal(work.cache)
    generator = open_generator(synthesis.generator, model, _GENERATOR)
    try:
        asker = Asker(generator, synthesis.generator, journal, setting=_GENERATOR, processes=work.processes)
        for task in tasks:
            task.key = task.request.key(generator.identity)
        for task, outcome in zip(tasks, asker.ask([task.request for task in tasks], "synthesize"), strict=True):
            task.outcome = outcome
        inspect(tasks, synthesis, model)
        verify_programs(tasks, synthesis)
        check_agreement(tasks, synthesis, asker)
        generator.close()
        if synthesis.checks.judge is not None:
            _judge(tasks, synthesis, model, journal, asker.spending, work.processes)
        identity: ModelIdentity = {"name": synthesis.generator.model or model.path, **generator.identity}
    finally:
        generator.close()
        journal.close()
    _corrupt(tasks, synthesis.error_rate, seed)
    for task in kept(tasks):
        task.text = _document(task, synthesis.forms_of(task.language), seed)
    scratch = work.output / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    drop_by_documents(
        kept(tasks), corpus, scratch, clean, deduplicate, decontaminate, benchmarks, data, questions or {}, engine
    )
    shutil.rmtree(scratch)
    _write(work, tasks, identity, asker.spending)


def _judge(
    tasks: Sequence[Task],
    synthesis: Synthesis,
    model: Model,
    journal: Journal,
    spending: Spending,
    processes: Processes,
) -> None:
    assert synthesis.checks.judge is not None
    generator = open_generator(synthesis.checks.judge, model, _JUDGE)
    try:
        asker = Asker(generator, synthesis.checks.judge, journal, spending, _JUDGE, processes)
        judge(tasks, synthesis, asker)
    finally:
        generator.close()


def kept(tasks: Sequence[Task]) -> list[Task]:
    """Tasks that no check has dropped yet."""
    return [task for task in tasks if task.drop is None]


def inspect(tasks: Sequence[Task], synthesis: Synthesis, model: Model) -> None:
    """Parse each answer and run the checks of a single pair."""
    tokenizer = load_tokenizer(model)

    def count_tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    for task in tasks:
        task.drop = _inspect_one(task, synthesis, count_tokens)


def _inspect_one(task: Task, synthesis: Synthesis, count_tokens: Callable[[str], int]) -> tuple[str, str] | None:
    outcome = task.outcome
    if not isinstance(outcome, Answer):
        return "failed", outcome.reason if isinstance(outcome, Failure) else "not asked"
    if outcome.finish == "length":
        return "cut_off", f"not at its end after {outcome.completion_tokens} tokens"
    try:
        task.pair = parse_answer(task.kind, outcome.text, task.prompt.sections)
    except DoesNotParseError as error:
        return "does_not_parse", str(error)
    instructions = "\n".join(text for _, text in task.prompt.messages)
    if (copied := check_instructions(task.pair, instructions, task.language)) is not None:
        return copied
    if needs_final(synthesis, task.kind, task.discipline) and task.pair.final is None:
        return "no_final_answer", "the solution does not end in a boxed result"
    return check_pair(
        task.pair,
        language=task.language,
        passage=task.passage.text if task.passage else "",
        answer_tokens=count_tokens(task.pair.answer),
        minimum=synthesis.min_answer_tokens,
        checks=synthesis.checks,
    )


def _corrupt(tasks: Sequence[Task], error_rate: float, seed: int) -> None:
    """Replace this share of the final answers that can be changed reliably, chosen by keys and seed alone."""
    changed = []
    for task in kept(tasks):
        if task.pair is not None and task.pair.final is not None:
            choice = _fraction(f"{seed}/wrong/{task.key}")
            if (wrong := corrupt_final(task.pair.answer, task.pair.final, choice)) is not None:
                changed.append((_fraction(f"{seed}/corrupt/{task.key}"), task, wrong))
    changed.sort(key=lambda entry: (entry[0], entry[1].key))
    for _, task, (answer, final) in changed[: round(error_rate * len(changed))]:
        assert task.pair is not None
        task.notes["corrupted"] = {"right": task.pair.final, "wrong": final}
        task.pair = type(task.pair)(task.pair.question, answer, final, task.pair.program, task.pair.tests)


def _document(task: Task, forms: Sequence[str], seed: int) -> str:
    """The plain text: the pair in one of the templates, or the passage as it is."""
    assert task.pair is not None
    if not task.pair.question:
        return task.pair.answer
    index = int(_fraction(f"{seed}/form/{task.key}") * len(forms))
    task.notes["form"] = index
    question, answer = task.pair.question, task.pair.answer
    before, _, rest = forms[index].partition("{question}")
    if "{answer}" in before:  # a template may begin with the answer
        before = before.replace("{answer}", answer)
    return before + question + rest.replace("{answer}", answer)


def _fraction(text: str) -> float:
    """A pseudo-random value in [0, 1), computed from the text."""
    return xxhash.xxh3_64_intdigest(text.encode()) / 2**64


def _rows(folder: Path) -> Iterator[Mapping[str, Any]]:
    for batch in read_table(folder, _PASSAGE_COLUMNS):
        yield from batch.to_pylist()


def _write(work: Work, tasks: Sequence[Task], identity: ModelIdentity, spending: Spending) -> None:
    for name in (DOCUMENTS, DROPPED):  # left by a run that was killed between here and its publication
        shutil.rmtree(work.output / name, ignore_errors=True)
    dropped = TableWriter(work.output / DROPPED, DROPPED_SCHEMA)
    with TableWriter(work.output / DOCUMENTS) as documents, dropped:
        for task in tasks:
            row = {"id": document_id(task), "lang": task.language, "source": SOURCE, "origin": _origin(task)}
            if task.drop is None:
                documents.write([{**row, "text": task.text, "split": "train"}])
            else:
                text = task.outcome.text if isinstance(task.outcome, Answer) else ""
                dropped.write([{**row, "text": text, "reason": task.drop[0], "detail": task.drop[1]}])
    with (work.output / "provenance.jsonl").open("w", encoding="utf-8") as file:
        for task in tasks:
            file.write(json.dumps(_provenance(task, identity), ensure_ascii=False) + "\n")
    funnel = _funnel(tasks, spending)
    write_json(work.output / "funnel.json", funnel)
    write_json(work.output / "samples.json", _samples(tasks))
    counts: SynthesisCounts = {
        "documents_in": len(tasks),
        "documents_out": documents.num_rows,
        "dropped": dropped.num_rows,
        "dropped_by_reason": funnel["total"]["dropped"],
        **spending.record(),
    }
    work.counts.update(counts)
    if documents.num_rows + dropped.num_rows != len(tasks):
        raise RuntimeError(f"answers were lost: {work.counts}")
    console.print(f"synthesize: {documents.num_rows} of {len(tasks)} answers became documents")


def document_id(task: Task) -> str:
    """Id of a task's document."""
    return f"{SOURCE}-{task.key}"


def _origin(task: Task) -> str:
    return f"{task.passage.origin}#{task.passage.index}" if task.passage else "+".join(task.examples)


def _provenance(task: Task, identity: ModelIdentity) -> Provenance:
    request, passage = task.request, task.passage
    return {
        "id": document_id(task),
        "kept": task.drop is None,
        "reason": task.drop[0] if task.drop else None,
        "discipline": task.discipline,
        "language": task.language,
        "kind": task.kind,
        "passage": None
        if passage is None
        else {"id": passage.document_id, "passage": passage.index, "origin": passage.origin},
        "examples": list(task.examples),
        "prompt": task.prompt.name,
        "model": identity,
        "sampling": {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_tokens": request.max_tokens,
            "sample": request.sample,
        },
        **task.notes,
    }


def _funnel(tasks: Sequence[Task], spending: Spending) -> Funnel:
    """Counts per discipline: each count includes only what the step before kept."""
    names = sorted({task.discipline for task in tasks})
    return {
        "total": _funnel_of(tasks),
        "disciplines": {name: _funnel_of([task for task in tasks if task.discipline == name]) for name in names},
        "spending": spending.record(),
    }


def _funnel_of(tasks: Sequence[Task]) -> FunnelCounts:
    dropped = Counter(task.drop[0] for task in tasks if task.drop)
    return {
        "requests": len(tasks),
        "answered": sum(isinstance(task.outcome, Answer) for task in tasks),
        "parsed": sum(task.pair is not None for task in tasks),
        "kept": len(kept(tasks)),
        "dropped": dict(dropped.most_common()),
    }


def _samples(tasks: Sequence[Task]) -> SyntheticSamples:
    ordered = sorted(tasks, key=lambda task: _fraction(f"sample/{task.key}"))
    return {
        "kept": [_sample(task) for task in ordered if task.drop is None][:SAMPLES],
        "dropped": [_sample(task) for task in ordered if task.drop is not None][:SAMPLES],
    }


def _sample(task: Task) -> SyntheticSample:
    reason, detail = task.drop or (None, None)
    return {
        "id": document_id(task),
        "discipline": task.discipline,
        "language": task.language,
        "kind": task.kind,
        "passage": task.passage.text if task.passage else "",
        "text": task.text or (task.outcome.text if isinstance(task.outcome, Answer) else ""),
        "reason": reason,
        "detail": detail,
    }

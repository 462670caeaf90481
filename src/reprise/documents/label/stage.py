"""Stage `label`: one topic to each document of the sources that are split by topic.

A document that carries a topic keeps it; a sample of the others may be labelled by a language model. The rest is
labelled by a classifier, one to a language, that is fitted on the labels; how good it is on labels that it did
not see goes into `report.json`.
"""

import functools
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from reprise.documents.engine import Engine
from reprise.documents.label.calibration import Fit, choose_temperature, hold_out, measure
from reprise.documents.label.classifier import Classifier
from reprise.documents.label.glossary import read_glossary
from reprise.documents.label.linear import LinearClassifier
from reprise.documents.label.llm_labels import FILE as ASKED
from reprise.documents.label.llm_labels import ask_topics, read_asked
from reprise.documents.label.saved import load_classifier
from reprise.documents.label.training_set import Labelled, collect_labels
from reprise.documents.part_step import Outcome, Place, run_step
from reprise.documents.table import DOCUMENTS, hash_text, read_table
from reprise.errors import UserError
from reprise.recipe.documents import Topics
from reprise.recipe.model import Model
from reprise.storage import write_json
from reprise.workspace import Work

REPORT, CLASSIFIERS = "report.json", "classifiers"

_COUNTED = "topic "


def run(
    work: Work,
    *,
    topics: Topics,
    split_sources: Sequence[str],
    seed: int,
    engine: Engine,
    model: Model | None = None,
) -> None:
    """Write `documents/`, the classifiers and `report.json` of the stage.

    Args:
        work: reads `decontaminate`.
        topics: settings.
        split_sources: sources whose documents get a topic.
        seed: seed of the classifier.
        engine: where the documents are labelled.
        model: base model of the recipe, asked for labels where `topics.llm.generator` names none.

    Raises:
        UserError: a label is no topic of its language, there are no labels to learn from, or the language model that
            is asked for some refuses or costs too much.
    """
    source = work.inputs["decontaminate"] / DOCUMENTS
    unlabelled = _count_unlabelled(source, set(split_sources))
    labelled = collect_labels(source, topics.labelled, topics.list_of, split_sources)
    for lang, count in sorted(unlabelled.items()):
        _check_can_learn(lang, count, labelled, topics)
    report: dict[str, Any] = {}
    if topics.llm is not None:
        assert model is not None
        asked = ask_topics(work, source, topics, split_sources, model, labelled)
        report = {lang: {"asked": found} for lang, found in asked.items()}
    classifiers = work.output.resolve() / CLASSIFIERS
    for lang, known in labelled.items():
        classifier, figures = fit_classifier(known, topics.list_of(lang), seed, topics)
        classifier.save(classifiers / lang)
        report[lang] = figures | report.get(lang, {})
    step = functools.partial(_label_rows, topics, tuple(split_sources), str(work.output.resolve()), os.getpid())
    run_step(work, "decontaminate", step, engine=engine, what="label")
    for name in [name for name in work.counts if name.startswith(_COUNTED)]:
        _, lang, how, topic = name.split("\t")
        entry = report.setdefault(lang, {"topics": topics.list_of(lang)})
        entry.setdefault(how, {})[topic] = work.counts.pop(name)
    write_json(work.output / REPORT, report)
    work.counts.update(labels={lang: len(known.texts) for lang, known in labelled.items()}, unlabelled=dict(unlabelled))


def fit_classifier(
    known: Labelled, topics: Sequence[str], seed: int, settings: Topics
) -> tuple[Classifier, dict[str, Any]]:
    """A classifier with calibrated confidence, and its figures on held-out labels.

    Raises:
        UserError: the encoder that is to be fine-tuned cannot be loaded.
    """
    fit = (
        _fit_encoder(topics, seed, settings)
        if settings.classifier == "encoder"
        else _fit_linear(topics, seed, settings)
    )
    once = settings.classifier == "encoder"
    scores, gold = hold_out(known.texts, known.labels, topics, fit, once=once)
    temperature = choose_temperature(scores, gold)
    classifier = fit(known.texts, known.labels)
    classifier.scale(temperature)
    report = {
        "classifier": settings.classifier,
        "topics": list(topics),
        "labels": dict(Counter(known.labels)),
        "temperature": temperature,
        "held_out": asdict(measure(scores / temperature, gold, topics)),
    }
    return classifier, report


def _fit_linear(topics: Sequence[str], seed: int, settings: Topics) -> Fit:
    glossary = read_glossary(topics) if settings.glossary else None
    return lambda texts, labels: LinearClassifier.fit(
        texts, labels, topics, seed=seed, glossary=glossary, prior=settings.glossary
    )


def _fit_encoder(topics: Sequence[str], seed: int, settings: Topics) -> Fit:
    from reprise.documents.label.encoder import EncoderClassifier

    encoder = settings.encoder
    return lambda texts, labels: EncoderClassifier.fit(texts, labels, topics, seed=seed, settings=encoder)


def _count_unlabelled(documents: Path, split_sources: set[str]) -> Counter[str]:
    """Language -> documents that need a topic and carry none."""
    count: Counter[str] = Counter()
    for batch in read_table(documents, ["lang", "source", "topic"]):
        for row in batch.filter(batch.column("topic").is_null()).to_pylist():
            if row["source"] in split_sources:
                count[row["lang"]] += 1
    return count


def _check_can_learn(lang: str, count: int, labelled: Mapping[str, Labelled], topics: Topics) -> None:
    if lang not in labelled and topics.llm is None:
        raise UserError(
            f"{count} documents of the language {lang!r} need a topic, and there is no label to learn from",
            where="documents.topics.labelled",
            remedy="name labelled files (fields text, lang, topic), give some of the documents a `topic`, "
            "or have a language model name some: documents.topics.llm",
        )


@functools.lru_cache(maxsize=8)
def _load(folder: str, is_worker: bool) -> Classifier:
    classifier = load_classifier(Path(folder))
    if is_worker and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # there is a worker to each core
    return classifier


def _label_rows(
    topics: Topics, split_sources: tuple[str, ...], output: str, main_process: int, rows: pa.Table, place: Place
) -> Outcome:
    """Runs in a worker."""
    langs, sources = rows["lang"].to_pylist(), rows["source"].to_pylist()
    carried = rows["topic"].to_pylist()
    chosen = [topic if source in split_sources else None for topic, source in zip(carried, sources, strict=True)]
    confidence: list[float | None] = [None] * rows.num_rows
    numbers = Counter(f"{_COUNTED}\t{langs[row]}\tcarried\t{topic}" for row, topic in enumerate(chosen) if topic)
    missing = [row for row, topic in enumerate(chosen) if topic is None and sources[row] in split_sources]
    if topics.llm is not None:
        named = read_asked(str(Path(output, ASKED)))
        texts = rows["text"]
        for row in missing:
            chosen[row] = named.get(hash_text(texts[row].as_py()))
            if chosen[row] is not None:
                numbers[f"{_COUNTED}\t{langs[row]}\tnamed\t{chosen[row]}"] += 1
        missing = [row for row in missing if chosen[row] is None]
    for lang in sorted({langs[row] for row in missing}):
        places = [row for row in missing if langs[row] == lang]
        classifier = _load(str(Path(output, CLASSIFIERS, lang)), os.getpid() != main_process)
        probabilities = classifier.probabilities(rows["text"].take(places).to_pylist())
        for row, best, probability in zip(places, probabilities.argmax(1), probabilities.max(1), strict=True):
            is_sure = probability >= topics.min_confidence
            chosen[row] = classifier.topics[best] if is_sure else topics.list_of(lang)[-1]
            confidence[row] = float(np.float32(probability))
            numbers[f"{_COUNTED}\t{lang}\t{'classified' if is_sure else 'unsure'}\t{chosen[row]}"] += 1
    return Outcome(columns={"topic": chosen, "topic_confidence": confidence}, numbers=dict(numbers))


def read_report(folder: Path) -> dict[str, Any]:
    """What the stage found, per language: labels, figures on held-out labels, documents per topic.

    Args:
        folder: the published stage.

    Raises:
        UserError: the stage has not run.
    """
    path = folder / REPORT
    if not path.exists():
        raise UserError("there is no report of the topics", where=str(path), remedy="run `reprise label RECIPE` first")
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def show_report(report: Mapping[str, Any]) -> None:
    """Print, for each language, how good the labels are on labels that the classifier was not fitted on."""
    console = Console()
    for language, found in report.items():
        if asked := found.get("asked"):
            unusable = ", ".join(f"{count} {reason}" for reason, count in asked["unusable"].items()) or "none unusable"
            console.print(
                f"{language}: a language model named the topic of {asked['labelled']:,} of {asked['documents']:,} "
                f"documents ({unusable}; cost {asked['cost']:,.2f})"
            )
        held_out = found.get("held_out")
        if held_out is None:
            console.print(f"{language}: every document carries its topic; no classifier was fitted")
            continue
        title = f"{language}: accuracy {held_out['accuracy']:.3f}, macro-F1 {held_out['macro_f1']:.3f}"
        title += f" on {held_out['labels']:,} held-out labels; calibration error {held_out['calibration_error']:.3f}"
        columns = [f"{number}" for number in range(1, len(found["topics"]) + 1)]
        table = Table("topic (rows: true)", "F1", *columns, title=title)
        for number, (topic, counts) in enumerate(zip(found["topics"], held_out["confusion"], strict=True), 1):
            cells = [str(count) if count else "" for count in counts]
            table.add_row(f"{number} {topic}", f"{held_out['f1'].get(topic, 0.0):.2f}", *cells)
        console.print(table)

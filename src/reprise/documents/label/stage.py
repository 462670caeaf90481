"""Stage `label`: one topic for each document in sources that are split by topic, and a quality grade if configured.

A document that carries a topic keeps it; a sample of the others may be labelled by a language model. The rest are
labelled by one classifier per language, fitted on the labels; its figures on held-out labels are written to
`report.json`. Quality grades are learned and applied in the same way; documents with a grade below
`documents.quality.min_grade` are dropped.
"""

import functools
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from reprise.documents.engine import Engine
from reprise.documents.label.calibration import Fit, choose_temperature, hold_out, measure
from reprise.documents.label.classifier import Classifier
from reprise.documents.label.glossary import read_glossary
from reprise.documents.label.grades import expected_grades, fit_grades, grade_topic
from reprise.documents.label.linear import LinearClassifier
from reprise.documents.label.llm_labels import FILE as ASKED
from reprise.documents.label.llm_labels import GRADED, GRADES, ask_grades, ask_topics, read_asked
from reprise.documents.label.records import GradeReport, LabelCounts, LabelKey, TopicReport
from reprise.documents.label.report import GRADE_REPORT, REPORT
from reprise.documents.label.saved import load_classifier
from reprise.documents.label.training_set import Labelled, collect_grades, collect_labels
from reprise.documents.part_step import Drop, Outcome, RowsOrigin, Tally, run_step
from reprise.documents.table import DOCUMENTS, hash_text, read_table
from reprise.errors import UserError
from reprise.generators.cached import Expenses
from reprise.recipe.documents import Quality, Topics
from reprise.recipe.model import Model
from reprise.storage import write_json
from reprise.workspace import Work

CLASSIFIERS, GRADE_CLASSIFIERS = "classifiers", "grade_classifiers"

LOW_GRADE = "low_grade"
"""Reason for which documents are dropped."""

_TOPIC, _GRADE = "topic", "grade"


def run(
    work: Work,
    *,
    topics: Topics,
    split_sources: Sequence[str],
    seed: int,
    engine: Engine,
    model: Model | None = None,
    quality: Quality | None = None,
) -> None:
    """Write `documents/`, the classifiers and `report.json` of the stage.

    Args:
        work: the stage; it reads the output of `decontaminate`.
        topics: settings of the topics.
        split_sources: sources whose documents get a topic.
        seed: random seed of the classifier.
        engine: where the documents are labelled.
        model: base model of the recipe, asked for labels if `llm.generator` names none.
        quality: settings of the grades; None: no grades are given.

    Raises:
        UserError: a label is not a topic of its language, there are no labels to learn from, or the language model that
            is asked for labels refuses or costs too much.
    """
    source = work.inputs["decontaminate"] / DOCUMENTS
    by_grade = set(quality.sources) if quality is not None and quality.as_topic else set()
    by_topic = sorted(set(split_sources) - by_grade)
    unlabelled = _count_unlabelled(source, set(by_topic))
    labelled = collect_labels(source, topics.labelled, topics.list_of, by_topic)
    for lang, count in sorted(unlabelled.items()):
        _check_can_learn(lang, count, labelled, topics)
    report: dict[str, TopicReport] = {}
    if topics.llm is not None:
        assert model is not None
        for lang, asked in ask_topics(work, source, topics, by_topic, model, labelled).items():
            report[lang] = {"asked": asked, "documents": {}}
    classifiers = work.output.resolve() / CLASSIFIERS
    for lang, known in labelled.items():
        classifier, figures = fit_classifier(known, topics.list_of(lang), seed, topics)
        classifier.save(classifiers / lang)
        report[lang] = {**figures, **report.get(lang, {"documents": {}})}
    grades = _learn_grades(work, source, quality, seed, model) if quality is not None else {}
    labelling = Labelling(topics, tuple(by_topic), quality, str(work.output.resolve()), os.getpid())
    step, tally = run_step(
        work, "decontaminate", functools.partial(_label_rows, labelling), engine=engine, what="label"
    )
    for key, count in sorted(tally.items()):
        what, lang, how, label = key
        if what == _TOPIC:
            documents = report.setdefault(lang, {"topics": topics.list_of(lang), "documents": {}})["documents"]
        else:
            documents = grades.setdefault(lang, {"documents": {}})["documents"]
        documents.setdefault(how, {})[label] = count
    write_json(work.output / REPORT, report)
    if quality is not None:
        write_json(work.output / GRADE_REPORT, grades)
    counts: LabelCounts = {
        **step,
        "labels": {lang: len(known.texts) for lang, known in labelled.items()},
        "unlabelled": dict(unlabelled),
        "asked": cast(Expenses | None, work.counts.get("asked")),
        "asked_grades": cast(Expenses | None, work.counts.get("asked_grades")),
    }
    work.counts.update(counts)


def _learn_grades(
    work: Work, documents: Path, quality: Quality, seed: int, model: Model | None
) -> dict[str, GradeReport]:
    """Fit and save a classifier of grades for each language; returns language -> what was asked, and figures."""
    known = collect_grades(quality.labelled, GRADES)
    report: dict[str, GradeReport] = {}
    if quality.llm is not None:
        assert model is not None
        for lang, asked in ask_grades(work, documents, quality, model, known).items():
            report[lang] = {"asked": asked, "documents": {}}
    for lang in sorted(_languages_of(documents, set(quality.sources)) - known.keys()):
        raise UserError(
            f"documents of the language {lang!r} need a grade, and there is none to learn from",
            where="documents.quality",
            remedy="name graded files in documents.quality.labelled, or have a language model grade some: "
            "documents.quality.llm",
        )
    # The glossary in the recipe is about topics, not about grades.
    settings = Topics(classifier=quality.classifier, encoder=quality.encoder, glossary=0)
    for lang, graded in known.items():
        classifier, figures = fit_grades(
            graded,
            make_fit(GRADES, seed, settings),
            kind=quality.classifier,
            min_grade=quality.min_grade,
            once=quality.classifier == "encoder",
        )
        classifier.save(work.output.resolve() / GRADE_CLASSIFIERS / lang)
        report.setdefault(lang, {"documents": {}})["figures"] = figures
    return report


def _languages_of(documents: Path, sources: set[str]) -> set[str]:
    """Languages of the documents in these sources."""
    return {
        row["lang"]
        for batch in read_table(documents, ["lang", "source"])
        for row in batch.to_pylist()
        if row["source"] in sources
    }


def fit_classifier(
    known: Labelled, topics: Sequence[str], seed: int, settings: Topics
) -> tuple[Classifier, TopicReport]:
    """Fit a classifier with calibrated confidence; returns it and its report with figures on held-out labels.

    Raises:
        UserError: the encoder to fine-tune cannot be loaded.
    """
    fit = make_fit(topics, seed, settings)
    once = settings.classifier == "encoder"
    scores, gold = hold_out(known.texts, known.labels, topics, fit, once=once)
    temperature = choose_temperature(scores, gold)
    classifier = fit(known.texts, known.labels)
    classifier.scale(temperature)
    report: TopicReport = {
        "classifier": settings.classifier,
        "topics": list(topics),
        "labels": dict(Counter(known.labels)),
        "temperature": temperature,
        "held_out": measure(scores / temperature, gold, topics),
        "documents": {},
    }
    return classifier, report


def make_fit(topics: Sequence[str], seed: int, settings: Topics) -> Fit:
    """A function that fits the recipe's kind of classifier to labelled texts."""
    return (_fit_encoder if settings.classifier == "encoder" else _fit_linear)(topics, seed, settings)


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
    """Language -> documents that need a topic but carry none."""
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
        sys.modules["torch"].set_num_threads(1)  # there is one worker per core
    return classifier


@dataclass(frozen=True)
class Labelling:
    """What a worker needs in order to label documents."""

    topics: Topics
    split_sources: tuple[str, ...]
    """Sources whose documents get a topic from the list."""
    quality: Quality | None
    output: str
    """Folder of the stage, which contains the classifiers and the answers of language models."""
    main_process: int
    """Process id of the main process."""

    def classifier(self, folder: str, lang: str) -> Classifier:
        """Load the saved classifier of a language."""
        return _load(str(Path(self.output, folder, lang)), os.getpid() != self.main_process)


def _label_rows(labelling: Labelling, rows: pa.Table, origin: RowsOrigin) -> Outcome:
    """Choose the topics and grades of some rows. Runs in a worker."""
    langs, sources = rows["lang"].to_pylist(), rows["source"].to_pylist()
    topics, confidence, tally = _choose_topics(labelling, rows, langs, sources)
    columns: dict[str, Any] = {"topic": topics, "topic_confidence": confidence}
    drops: list[Drop] = []
    quality = labelling.quality
    if quality is not None:
        grades, counted = _grade_rows(labelling, quality, rows, langs, sources)
        tally.update(counted)
        columns["grade"] = grades
        graded = [(row, grade) for row, grade in enumerate(grades) if grade is not None]
        drops = [
            (row, LOW_GRADE, f"{grade:.2f}, least {quality.min_grade:g}")
            for row, grade in graded
            if grade < quality.min_grade
        ]
        if quality.as_topic:
            for row, grade in graded:
                topics[row] = grade_topic(grade)
    return Outcome(columns=columns, drops=drops, tally=tally)


def _grade_rows(
    labelling: Labelling, quality: Quality, rows: pa.Table, langs: Sequence[str], sources: Sequence[str]
) -> tuple[list[float | None], Tally]:
    """Grade of each row (None if its source gets none), and counts by grade and by how it was given."""
    grades: list[float | None] = [None] * rows.num_rows
    tally: Tally = Counter()
    asked = read_asked(str(Path(labelling.output, GRADED)), "grade") if quality.llm is not None else {}
    missing: dict[str, list[int]] = defaultdict(list)
    for row, source in enumerate(sources):
        if source in quality.sources:
            named = asked.get(hash_text(rows["text"][row].as_py())) if asked else None
            if named is None:
                missing[langs[row]].append(row)
            else:
                grades[row] = float(named)
                tally[LabelKey(_GRADE, langs[row], "named", named)] += 1
    for lang, indices in sorted(missing.items()):
        classifier = labelling.classifier(GRADE_CLASSIFIERS, lang)
        given = expected_grades(classifier, rows["text"].take(indices).to_pylist())
        for row, grade in zip(indices, given, strict=True):
            grades[row] = float(np.float32(grade))
            tally[LabelKey(_GRADE, lang, "classified", str(int(np.rint(grade))))] += 1
    return grades, tally


def _choose_topics(
    labelling: Labelling, rows: pa.Table, langs: Sequence[str], sources: Sequence[str]
) -> tuple[list[str | None], list[float | None], Tally]:
    """Topic of each row, confidence of those that the classifier chose, and counts by topic and by how it was given."""
    topics, split_sources = labelling.topics, labelling.split_sources
    carried = rows["topic"].to_pylist()
    chosen = [topic if source in split_sources else None for topic, source in zip(carried, sources, strict=True)]
    confidence: list[float | None] = [None] * rows.num_rows
    tally: Tally = Counter(LabelKey(_TOPIC, langs[row], "carried", topic) for row, topic in enumerate(chosen) if topic)
    missing = [row for row, topic in enumerate(chosen) if topic is None and sources[row] in split_sources]
    if topics.llm is not None:
        named = read_asked(str(Path(labelling.output, ASKED)))
        texts = rows["text"]
        for row in missing:
            topic = named.get(hash_text(texts[row].as_py()))
            if topic is not None:
                chosen[row] = topic
                tally[LabelKey(_TOPIC, langs[row], "named", topic)] += 1
        missing = [row for row in missing if chosen[row] is None]
    for lang in sorted({langs[row] for row in missing}):
        indices = [row for row in missing if langs[row] == lang]
        classifier = labelling.classifier(CLASSIFIERS, lang)
        probabilities = classifier.probabilities(rows["text"].take(indices).to_pylist())
        for row, best, probability in zip(indices, probabilities.argmax(1), probabilities.max(1), strict=True):
            is_sure = probability >= topics.min_confidence
            topic = classifier.topics[best] if is_sure else topics.list_of(lang)[-1]
            chosen[row], confidence[row] = topic, float(np.float32(probability))
            tally[LabelKey(_TOPIC, lang, "classified" if is_sure else "unsure", topic)] += 1
    return chosen, confidence, tally

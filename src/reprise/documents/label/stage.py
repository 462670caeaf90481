"""Stage `label`: one topic to each document of the sources that are split by topic, and a grade where it is asked for.

A document that carries a topic keeps it; a sample of the others may be labelled by a language model. The rest is
labelled by a classifier, one to a language, that is fitted on the labels; how good it is on labels that it did
not see goes into `report.json`. Grades of quality are learned and applied in the same way; documents under
`documents.quality.min_grade` are dropped.
"""

import functools
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
from reprise.documents.label.grades import expected_grades, fit_grades, grade_topic
from reprise.documents.label.linear import LinearClassifier
from reprise.documents.label.llm_labels import FILE as ASKED
from reprise.documents.label.llm_labels import GRADED, GRADES, ask_grades, ask_topics, read_asked
from reprise.documents.label.saved import load_classifier
from reprise.documents.label.training_set import Labelled, collect_grades, collect_labels
from reprise.documents.part_step import Drop, Outcome, Place, run_step
from reprise.documents.table import DOCUMENTS, hash_text, read_table
from reprise.errors import UserError
from reprise.recipe.documents import Quality, Topics
from reprise.recipe.model import Model
from reprise.storage import write_json
from reprise.tables import print_table
from reprise.workspace import Work

REPORT, CLASSIFIERS = "report.json", "classifiers"
GRADE_REPORT, GRADE_CLASSIFIERS = "grades.json", "grade_classifiers"

LOW_GRADE = "low_grade"
"""Reason of the documents that are dropped."""

_COUNTED, _GRADED = "topic ", "grade "


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
        work: reads `decontaminate`.
        topics: settings.
        split_sources: sources whose documents get a topic.
        seed: seed of the classifier.
        engine: where the documents are labelled.
        model: base model of the recipe, asked for labels where `llm.generator` names none.
        quality: settings of the grades; None: none are given.

    Raises:
        UserError: a label is no topic of its language, there are no labels to learn from, or the language model that
            is asked for some refuses or costs too much.
    """
    source = work.inputs["decontaminate"] / DOCUMENTS
    by_grade = set(quality.sources) if quality is not None and quality.as_topic else set()
    by_topic = sorted(set(split_sources) - by_grade)
    unlabelled = _count_unlabelled(source, set(by_topic))
    labelled = collect_labels(source, topics.labelled, topics.list_of, by_topic)
    for lang, count in sorted(unlabelled.items()):
        _check_can_learn(lang, count, labelled, topics)
    report: dict[str, Any] = {}
    if topics.llm is not None:
        assert model is not None
        asked = ask_topics(work, source, topics, by_topic, model, labelled)
        report = {lang: {"asked": found} for lang, found in asked.items()}
    classifiers = work.output.resolve() / CLASSIFIERS
    for lang, known in labelled.items():
        classifier, figures = fit_classifier(known, topics.list_of(lang), seed, topics)
        classifier.save(classifiers / lang)
        report[lang] = figures | report.get(lang, {})
    grades = _learn_grades(work, source, quality, seed, model) if quality is not None else {}
    labelling = Labelling(topics, tuple(by_topic), quality, str(work.output.resolve()), os.getpid())
    run_step(work, "decontaminate", functools.partial(_label_rows, labelling), engine=engine, what="label")
    for name in [name for name in work.counts if name.startswith((_COUNTED, _GRADED))]:
        kind, lang, how, label = name.split("\t")
        if kind == _COUNTED:
            entry = report.setdefault(lang, {"topics": topics.list_of(lang)})
        else:
            entry = grades.setdefault(lang, {})
        entry.setdefault(how, {})[label] = work.counts.pop(name)
    write_json(work.output / REPORT, report)
    if quality is not None:
        write_json(work.output / GRADE_REPORT, grades)
    work.counts.update(labels={lang: len(known.texts) for lang, known in labelled.items()}, unlabelled=dict(unlabelled))


def _learn_grades(
    work: Work, documents: Path, quality: Quality, seed: int, model: Model | None
) -> dict[str, dict[str, Any]]:
    """Fit and save a classifier of grades for each language; language -> what was asked, and figures (GradeFigures)."""
    known = collect_grades(quality.labelled, GRADES)
    report: dict[str, dict[str, Any]] = {}
    if quality.llm is not None:
        assert model is not None
        report = {lang: {"asked": found} for lang, found in ask_grades(work, documents, quality, model, known).items()}
    for lang in sorted(_languages_of(documents, set(quality.sources)) - known.keys()):
        raise UserError(
            f"documents of the language {lang!r} need a grade, and there is none to learn from",
            where="documents.quality",
            remedy="name graded files in documents.quality.labelled, or have a language model grade some: "
            "documents.quality.llm",
        )
    # The recipe's terms are about topics.
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
        report[lang] = {**figures, **report.get(lang, {})}
    return report


def _languages_of(documents: Path, sources: set[str]) -> set[str]:
    """Languages of the documents of some sources."""
    return {
        row["lang"]
        for batch in read_table(documents, ["lang", "source"])
        for row in batch.to_pylist()
        if row["source"] in sources
    }


def fit_classifier(
    known: Labelled, topics: Sequence[str], seed: int, settings: Topics
) -> tuple[Classifier, dict[str, Any]]:
    """A classifier with calibrated confidence, and its figures on held-out labels.

    Raises:
        UserError: the encoder that is to be fine-tuned cannot be loaded.
    """
    fit = make_fit(topics, seed, settings)
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


def make_fit(topics: Sequence[str], seed: int, settings: Topics) -> Fit:
    """What fits a classifier of the recipe's kind to labelled texts."""
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


@dataclass(frozen=True)
class Labelling:
    """What a worker needs to label documents."""

    topics: Topics
    split_sources: tuple[str, ...]
    """Sources whose documents get a topic of the list."""
    quality: Quality | None
    output: str
    """Folder of the stage, with the classifiers and the answers of language models."""
    main_process: int
    """Its id."""

    def classifier(self, folder: str, lang: str) -> Classifier:
        """A saved classifier of a language."""
        return _load(str(Path(self.output, folder, lang)), os.getpid() != self.main_process)


def _label_rows(labelling: Labelling, rows: pa.Table, place: Place) -> Outcome:
    """Runs in a worker."""
    langs, sources = rows["lang"].to_pylist(), rows["source"].to_pylist()
    topics, confidence, numbers = _choose_topics(labelling, rows, langs, sources)
    columns: dict[str, Any] = {"topic": topics, "topic_confidence": confidence}
    drops: list[Drop] = []
    quality = labelling.quality
    if quality is not None:
        grades, counted = _grade_rows(labelling, quality, rows, langs, sources)
        numbers.update(counted)
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
    return Outcome(columns=columns, drops=drops, numbers=dict(numbers))


def _grade_rows(
    labelling: Labelling, quality: Quality, rows: pa.Table, langs: Sequence[str], sources: Sequence[str]
) -> tuple[list[float | None], Counter[str]]:
    """The grade of each row, None where its source has none, and how many got which and how."""
    grades: list[float | None] = [None] * rows.num_rows
    numbers: Counter[str] = Counter()
    asked = read_asked(str(Path(labelling.output, GRADED)), "grade") if quality.llm is not None else {}
    missing: dict[str, list[int]] = defaultdict(list)
    for row, source in enumerate(sources):
        if source in quality.sources:
            named = asked.get(hash_text(rows["text"][row].as_py())) if asked else None
            if named is None:
                missing[langs[row]].append(row)
            else:
                grades[row] = float(named)
                numbers[f"{_GRADED}\t{langs[row]}\tnamed\t{named}"] += 1
    for lang, places in sorted(missing.items()):
        classifier = labelling.classifier(GRADE_CLASSIFIERS, lang)
        given = expected_grades(classifier, rows["text"].take(places).to_pylist())
        for row, grade in zip(places, given, strict=True):
            grades[row] = float(np.float32(grade))
            numbers[f"{_GRADED}\t{lang}\tclassified\t{int(np.rint(grade))}"] += 1
    return grades, numbers


def _choose_topics(
    labelling: Labelling, rows: pa.Table, langs: Sequence[str], sources: Sequence[str]
) -> tuple[list[str | None], list[float | None], Counter[str]]:
    """The topic of each row, the confidence of those that a classifier chose, and how many got which and how."""
    topics, split_sources = labelling.topics, labelling.split_sources
    carried = rows["topic"].to_pylist()
    chosen = [topic if source in split_sources else None for topic, source in zip(carried, sources, strict=True)]
    confidence: list[float | None] = [None] * rows.num_rows
    numbers = Counter(f"{_COUNTED}\t{langs[row]}\tcarried\t{topic}" for row, topic in enumerate(chosen) if topic)
    missing = [row for row, topic in enumerate(chosen) if topic is None and sources[row] in split_sources]
    if topics.llm is not None:
        named = read_asked(str(Path(labelling.output, ASKED)))
        texts = rows["text"]
        for row in missing:
            chosen[row] = named.get(hash_text(texts[row].as_py()))
            if chosen[row] is not None:
                numbers[f"{_COUNTED}\t{langs[row]}\tnamed\t{chosen[row]}"] += 1
        missing = [row for row in missing if chosen[row] is None]
    for lang in sorted({langs[row] for row in missing}):
        places = [row for row in missing if langs[row] == lang]
        classifier = labelling.classifier(CLASSIFIERS, lang)
        probabilities = classifier.probabilities(rows["text"].take(places).to_pylist())
        for row, best, probability in zip(places, probabilities.argmax(1), probabilities.max(1), strict=True):
            is_sure = probability >= topics.min_confidence
            chosen[row] = classifier.topics[best] if is_sure else topics.list_of(lang)[-1]
            confidence[row] = float(np.float32(probability))
            numbers[f"{_COUNTED}\t{lang}\t{'classified' if is_sure else 'unsure'}\t{chosen[row]}"] += 1
    return chosen, confidence, numbers


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


def read_grades(folder: Path) -> dict[str, Any]:
    """How right the grades of quality are, per language; empty where none are given.

    Args:
        folder: the published stage.
    """
    path = folder / GRADE_REPORT
    grades: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return grades


def show_grades(folder: Path) -> None:
    """Print `read_grades`; nothing where no grades are given."""
    for language, found in read_grades(folder).items():
        if asked := found.get("asked"):
            print(
                f"{language}: a language model graded {asked['labelled']:,} of {asked['documents']:,} documents "
                f"(cost {asked['cost']:,.2f})"
            )
        if "held_out" not in found:
            continue
        correlation = found["rank_correlation"]
        print(
            f"{language}: grades of {found['held_out']:,} held-out documents: mean error {found['mean_error']:.2f} "
            f"({found['error_of_mean']:.2f} if all got the mean), rank correlation "
            + (f"{correlation:.2f}" if correlation is not None else "not defined")
        )
        for entry in found["calibration"]:
            print(f"  given {entry['given']:.2f}: true {entry['true']:.2f} ({entry['documents']:,} documents)")
        if found["min_grade"] and found["precision"] is not None and found["recall"] is not None:
            print(
                f"  of those kept from grade {found['min_grade']:g} on, {found['precision']:.1%} deserve it; "
                f"of those that deserve it, {found['recall']:.1%} are kept"
            )


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
        print_table(table)

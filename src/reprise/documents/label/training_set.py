"""Labelled documents: those that carry a topic, and those in the user's labelled files."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from reprise.documents.language import detect_languages
from reprise.documents.read.files import find_files
from reprise.documents.read.parsing import PageParser
from reprise.documents.read.records import Reject, read_records
from reprise.documents.table import read_table
from reprise.errors import UserError
from reprise.recipe.documents import Input

ListOf = Callable[[str], Sequence[str]]
"""Function from a language to its topics."""

MAX_LABELS = 50_000
"""Most labels per language that a classifier is fitted on: those with the smallest hash of the text."""


@dataclass
class Labelled:
    """Labelled texts of one language."""

    texts: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)


def collect_labels(
    documents: Path, inputs: Sequence[Input], list_of: ListOf, split_sources: Sequence[str]
) -> dict[str, Labelled]:
    """Labelled texts per language, each text once; held-out documents are skipped.

    Args:
        documents: table of the stage that precedes `label`.
        inputs: the user's labelled files.
        list_of: returns the topics of a language.
        split_sources: sources whose labels must be topics in the list; labels of other sources are used if they are.

    Raises:
        UserError: a label is not a topic of its language, or a labelled file cannot be read.
    """
    hashed: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for lang, text, label in [*_of_inputs(inputs, list_of), *_of_documents(documents, list_of, set(split_sources))]:
        hashed[lang].append((xxhash.xxh3_64_intdigest(text.encode()), text, label))
        if len(hashed[lang]) > 2 * MAX_LABELS:
            hashed[lang] = heapq.nsmallest(MAX_LABELS, hashed[lang])
    labelled = {}
    for lang, entries in sorted(hashed.items()):
        once = {text: label for _, text, label in reversed(heapq.nsmallest(MAX_LABELS, entries))}
        labelled[lang] = Labelled(list(once), list(once.values()))
    return labelled


def _of_documents(documents: Path, list_of: ListOf, split_sources: set[str]) -> Iterator[tuple[str, str, str]]:
    columns = ["text", "lang", "source", "topic", "split", "origin"]
    for batch in read_table(documents, columns):
        for row in batch.filter(batch.column("topic").is_valid()).to_pylist():
            known = row["topic"] in list_of(row["lang"])
            if row["source"] in split_sources and not known:
                raise _unknown(row["topic"], row["lang"], row["origin"], list_of(row["lang"]))
            if known and row["split"] == "train":
                yield row["lang"], row["text"], row["topic"]


def collect_grades(inputs: Sequence[Input], grades: Sequence[str]) -> dict[str, Labelled]:
    """Graded texts per language from the user's files, each text once.

    Raises:
        UserError: a grade is not among `grades`, or a file cannot be read.
    """
    known: dict[str, dict[str, str]] = defaultdict(dict)
    for lang, text, label in _of_inputs(inputs, lambda _: grades, "documents.quality.labelled"):
        known[lang].setdefault(text, label)
    return {lang: Labelled(list(pairs), list(pairs.values())) for lang, pairs in sorted(known.items())}


def _of_inputs(
    inputs: Sequence[Input], list_of: ListOf, setting: str = "documents.topics.labelled"
) -> Iterator[tuple[str, str, str]]:
    for index, entry in enumerate(inputs):
        where = f"{setting}[{index}].path"
        constants = {"source": "labelled", **entry.constants}
        entry = entry.model_copy(update={"constants": constants})
        with PageParser() as parser:
            for record in (one for file in find_files(entry, where) for one in read_records(file, entry, None, parser)):
                if isinstance(record, Reject):
                    reason = record.reason.replace("_", " ")
                    raise UserError(
                        f"cannot be read: {reason}", where=f"{record.file}:{record.line}", remedy="correct the line"
                    )
                line = f"{record.file}:{record.line}"
                text, topic = str(record.fields["text"]), record.fields["topic"]
                if topic is None:
                    raise UserError("there is no topic", where=line, remedy="map it: `fields: {topic: NAME}`")
                lang = record.fields["lang"] or detect_languages([text], entry.language_identifier)[0]
                if topic not in list_of(lang):
                    raise _unknown(topic, lang, line, list_of(lang))
                yield lang, text, topic


def _unknown(topic: str, lang: str, where: str, topics: Sequence[str]) -> UserError:
    return UserError(
        f"{topic!r} is no topic of the language {lang!r}; its topics are: {', '.join(topics)}",
        where=where,
        remedy=f"correct the label, or add it to documents.topics.lists.{lang}",
    )

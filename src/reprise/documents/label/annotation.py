"""Labels by hand: draw a spread-out sample, save each label to a file as it is given, and measure agreement.

    {"id": hash of the text, "text": ..., "lang": "tr", "topic": "Law", "source": "web", "origin": "a.jsonl:3"}

One such line per document, in the order of labelling; the file can be used in `documents.topics.labelled`.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np
import xxhash

from reprise.documents.label.agreement import Agreement, measure_agreement
from reprise.documents.label.calibration import Fit
from reprise.documents.label.llm_labels import Asked, choose_sample
from reprise.documents.label.training_set import Labelled, ListOf
from reprise.documents.table import hash_text
from reprise.errors import UserError
from reprise.storage import write_text

_POOL = 2000
"""Documents of a language and source from which the sample is drawn: those with the smallest hash of the text, which a
language model is also asked about first."""
_CLUSTERED_CHARS = 2000
_DIMENSIONS = 50
_FOLDS = 5
_FEWEST = 20
"""Fewest labels of a language with which the classifier's agreement is measured."""


class Annotation(TypedDict):
    """One line of the file."""

    id: str
    text: str
    lang: str
    topic: str
    source: str
    origin: str


@dataclass
class AnnotationFile:
    """The labels of one person, in a file."""

    path: Path
    lines: list[Annotation] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path) -> "AnnotationFile":
        """Read a file to add to it, or create it; a last line that a killed process left incomplete is removed.

        Raises:
            UserError: another line is not an annotation.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        data = path.read_bytes()
        whole, newline, rest = data.rpartition(b"\n")
        if rest:
            os.truncate(path, len(whole) + len(newline))
        return cls.read(path)

    @classmethod
    def read(cls, path: Path) -> "AnnotationFile":
        """Read a file; an incomplete last line is skipped.

        Raises:
            UserError: the file cannot be read, or another line is not an annotation.
        """
        try:
            whole, newline, _ = path.read_bytes().rpartition(b"\n")
        except OSError as error:
            raise UserError(
                f"cannot be read: {error.strerror}", where=str(path), remedy="name a file of labels"
            ) from None
        lines = []
        for line_index, line in enumerate(whole.split(b"\n") if newline else (), 1):
            try:
                entry = json.loads(line)
                annotation = Annotation(
                    id=hash_text(entry["text"]),
                    text=entry["text"],
                    lang=entry.get("lang") or "",
                    topic=entry["topic"],
                    source=entry.get("source") or "",
                    origin=entry.get("origin") or "",
                )
                if not all(isinstance(value, str) for value in annotation.values()):
                    raise TypeError
            except (ValueError, TypeError, KeyError, AttributeError):
                raise UserError(
                    "not a line of an annotation file (JSON with text, lang and topic)",
                    where=f"{path}:{line_index}",
                    remedy="correct the line, or name another file with --file",
                ) from None
            lines.append(annotation)
        return cls(path, lines)

    def add(self, document: Asked, topic: str) -> None:
        """Save a label; it is on disk when this returns."""
        annotation = Annotation(
            id=document.hash,
            text=document.text,
            lang=document.lang,
            topic=topic,
            source=document.source,
            origin=document.origin,
        )
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(annotation, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(annotation)

    def remove_last(self) -> None:
        """Remove the last label from the file."""
        self.lines.pop()
        write_text(self.path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self.lines))

    def labels(self) -> dict[str, str]:
        """Hash of a text -> its topic; the last one if a text was labelled more than once."""
        return {line["id"]: line["topic"] for line in self.lines}

    def documents(self) -> list[Asked]:
        """The labelled documents, without their topics."""
        return [Asked(line["id"], line["text"], line["lang"], line["source"], line["origin"]) for line in self.lines]


def draw_sample(
    documents: Path, split_sources: Sequence[str], list_of: ListOf, count: int, seed: int, language: str | None = None
) -> list[Asked]:
    """Draw documents to label, ordered so that every prefix is spread over languages, sources and kinds of text.

    Kinds are clusters of the texts of a language and source, as many as the language has topics: a random sample of the
    web would show common topics many times before a rare one once. The sample depends only on the texts and the seed.

    Args:
        documents: table of the stage that precedes `label`.
        split_sources: sources whose documents get a topic; documents that already carry one are skipped.
        list_of: returns the topics of a language.
        count: how many documents to draw.
        seed: random seed of the clustering.
        language: draw only documents in this language; None: in all languages.
    """
    pools: dict[tuple[str, str], list[Asked]] = defaultdict(list)
    for lang, chosen in choose_sample(documents, set(split_sources), _POOL).items():
        for entry in chosen if language in (None, lang) else ():
            pools[lang, entry.source].append(entry)
    queues = [_spread(pool, len(list_of(lang)), seed) for (lang, _), pool in sorted(pools.items())]
    drawn: list[Asked] = []
    while queues and len(drawn) < count:
        for queue in list(queues):
            document = next(queue, None)
            if document is None:
                queues.remove(queue)
            else:
                drawn.append(document)
    return drawn[:count]


def _spread(pool: Sequence[Asked], num_clusters: int, seed: int) -> Iterator[Asked]:
    """Yield the documents of a pool, one from each cluster in turn, beginning with the largest cluster."""
    clusters: dict[int, list[Asked]] = defaultdict(list)
    for entry, cluster in zip(pool, _cluster([entry.text for entry in pool], num_clusters, seed), strict=True):
        clusters[cluster].append(entry)
    ranked = sorted(clusters.values(), key=lambda entries: (-len(entries), entries[0].hash))
    for rank in range(max(map(len, ranked))):
        yield from (entries[rank] for entries in ranked if rank < len(entries))


def _cluster(texts: Sequence[str], num_clusters: int, seed: int) -> list[int]:
    """The cluster of each text, from character n-grams, which exist in every script."""
    if len(texts) <= num_clusters:
        return list(range(len(texts)))
    from sklearn.cluster import KMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), max_features=50_000, sublinear_tf=True)
    try:
        features = vectorizer.fit_transform([text[:_CLUSTERED_CHARS] for text in texts])
    except ValueError:  # the texts are only white space
        return [0] * len(texts)
    dimensions = min(_DIMENSIONS, len(texts) - 1, features.shape[1] - 1)
    if dimensions >= 1:
        features = TruncatedSVD(dimensions, random_state=seed).fit_transform(features)
    return [int(label) for label in KMeans(num_clusters, n_init=1, random_state=seed).fit_predict(features)]


def classifier_answers(
    annotations: Sequence[Annotation], other: Mapping[str, Labelled], fits: Mapping[str, Fit], *, once: bool
) -> dict[str, str]:
    """Topics by a classifier that was not fitted on the document: hash of the text -> topic.

    For each fifth in turn, the classifier is fitted on the other labels and the remaining four fifths of these. A
    language
    with fewer than 20 annotations is skipped.

    Args:
        annotations: the labels to compare with.
        other: language -> labels from elsewhere; texts that are annotated are ignored.
        fits: language -> function that fits a classifier.
        once: classify only one fifth, if fitting is slow.
    """
    annotated = {line["text"] for line in annotations}
    by_language: dict[str, dict[str, str]] = defaultdict(dict)
    for line in annotations:
        by_language[line["lang"]][line["text"]] = line["topic"]
    answers: dict[str, str] = {}
    for lang, labels in sorted(by_language.items()):
        if lang not in fits or len(labels) < _FEWEST:
            continue
        known = other.get(lang, Labelled())
        rest = [pair for pair in zip(known.texts, known.labels, strict=True) if pair[0] not in annotated]
        fold_of = {text: xxhash.xxh3_64_intdigest(text.encode()) % _FOLDS for text in labels}
        for fold in range(1 if once else _FOLDS):
            inside = [*rest, *((text, label) for text, label in labels.items() if fold_of[text] != fold)]
            outside = [text for text in labels if fold_of[text] == fold]
            if inside and outside:
                classifier = fits[lang]([text for text, _ in inside], [label for _, label in inside])
                best = np.argmax(classifier.log_probabilities(outside), axis=1)
                answers |= {
                    hash_text(text): classifier.topics[index] for text, index in zip(outside, best, strict=True)
                }
    return answers


def compare_annotations(labels: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> dict[str, Agreement]:
    """Name of each other labelling -> its agreement with these labels."""
    return {name: measure_agreement(labels, other) for name, other in others.items()}

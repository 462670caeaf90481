"""`LinearClassifier`: a linear support vector machine over hashed n-grams of words and characters."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reprise.documents.label.classifier import DESCRIPTION
from reprise.documents.label.glossary import Glossary
from reprise.documents.words import Hashes, Words, hash_ngrams, split_words

_FEATURE_BITS = 20
_WORD_SIZES, _CHAR_SIZES, _SINGLE_SIZES = (1, 2), (4,), (1, 2, 3)
_STRENGTH = 1.0
"""Inverse of the penalty on the weights: the best of 0.3, 1 and 3 on MMLU and CMMLU subjects."""
_MAX_CHARS = 6_000
"""Characters of a document that are examined: its beginning shows the topic."""
_PASSAGE_BYTES = 500
"""UTF-8 bytes per passage, about the length of a benchmark question with its options."""
_BATCH_CHARS = 100_000


class LinearClassifier:
    """A linear support vector machine, one topic versus the rest, on hashed n-grams.

    Features are words, pairs of words and runs of 4 characters, also across words; in scripts without spaces, runs of 1
    to 3
    characters. The value of a feature is (1 + ln count) times its inverse document frequency; rows have length 1. A
    glossary is used twice: its lines are labelled texts, and the logarithm of a feature's share in the terms of a topic
    over its mean share is added to the weights, which is naive Bayes on the glossary alone. The SVM learns every
    difference
    between the labelled texts, including style; the terms describe only the subject, and matter most for texts unlike
    the labelled ones. The classifier is fitted on whole texts and applied to passages, and averages their margins: all
    passages of a long text count, not only the words that it repeats most. Probabilities are a softmax of the margins
    over
    a temperature.
    """

    def __init__(
        self,
        topics: list[str],
        columns: NDArray[np.int64],
        idf: NDArray[np.float64],
        weights: NDArray[np.float64],
        bias: NDArray[np.float64],
    ) -> None:
        """`columns`: sorted hashes of features; `idf` [columns]; `weights` [columns, topics]; `bias` [topics]."""
        self.topics, self._columns, self._idf, self._weights, self._bias = topics, columns, idf, weights, bias
        self._place = np.full(1 << _FEATURE_BITS, -1, np.int32)
        self._place[columns] = np.arange(len(columns))

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        labels: Sequence[str],
        topics: Sequence[str],
        *,
        seed: int,
        glossary: Glossary | None = None,
        prior: float = 0.0,
    ) -> "LinearClassifier":
        """Fit to labelled texts.

        Args:
            texts: the documents.
            labels: topic of each text, one of `topics`.
            topics: all topics; one that has neither documents nor terms gets probability 0.
            seed: random seed of the solver.
            glossary: terms of every topic; None: not used.
            prior: weight of the glossary's terms relative to the labels.
        """
        import scipy.sparse as sp
        from sklearn.svm import LinearSVC

        num_texts = len(texts)
        texts = [*texts, *(line for line, _ in glossary or [])]
        labels = [*labels, *(topic for _, topic in glossary or [])]
        counts = sp.vstack(list(_count_features([text[:_MAX_CHARS] for text in texts])), format="csr")
        columns, inverse = np.unique(counts.indices, return_inverse=True)
        document_frequency = np.bincount(inverse, minlength=len(columns))
        kept = document_frequency >= min(2, len(texts))
        columns, document_frequency = columns[kept].astype(np.int64), document_frequency[kept]
        idf = np.log((1 + len(texts)) / (1 + document_frequency)) + 1
        bias = np.full(len(topics), -np.inf)
        classifier = cls(list(topics), columns, idf, np.zeros((len(columns), len(topics))), bias)
        fitted = sorted({classifier.topics.index(label) for label in labels})
        if len(fitted) == 1 or not len(columns):
            bias[fitted] = 0.0
            return classifier
        machine = LinearSVC(C=_STRENGTH, random_state=seed)
        weighed = classifier._weigh(_with_columns(counts, classifier._place))
        gold = np.array([classifier.topics.index(label) for label in labels])
        machine.fit(weighed, gold)
        weights, offsets = machine.coef_.T, machine.intercept_
        if len(fitted) == 2:
            weights, offsets = np.hstack([-weights, weights]), np.concatenate([-offsets, offsets])
        classifier._weights[:, fitted], bias[fitted] = weights, offsets
        if glossary:
            classifier._weights += prior * _log_shares(weighed[num_texts:], gold[num_texts:], len(topics))
        return classifier

    def _weigh(self, counts: Any) -> Any:
        """Feature values from counts: CSR matrix float64[texts, columns], the shape of `counts`."""
        import scipy.sparse as sp

        values = (1 + np.log(counts.data)) * self._idf[counts.indices]
        rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        norm = np.sqrt(np.bincount(rows, values**2, minlength=counts.shape[0]))
        return sp.csr_matrix((values / norm[rows], counts.indices, counts.indptr), shape=counts.shape)

    def log_probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Log-probabilities, float64[texts, topics]."""
        if not texts:
            return np.zeros((0, len(self.topics)))
        passages, of_text = _cut_passages(texts)
        blocks = _count_features(passages, self._place)
        margins = np.concatenate([self._weigh(block) @ self._weights for block in blocks])
        count = np.bincount(of_text)
        scores = np.add.reduceat(margins, np.cumsum(count) - count) / count[:, None] + self._bias
        scores -= scores.max(axis=1, keepdims=True)
        return np.asarray(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Probabilities, float64[texts, topics]; each row sums to 1."""
        return np.exp(self.log_probabilities(texts))

    def scale(self, temperature: float) -> None:
        """Divide the scores by a temperature: the order of the topics is unchanged, the confidence is not."""
        self._weights, self._bias = self._weights / temperature, self._bias / temperature

    def save(self, folder: Path) -> None:
        """Write `classifier.json` and `classifier.npz`."""
        folder.mkdir(parents=True, exist_ok=True)
        description = {"kind": "linear", "topics": self.topics}
        (folder / DESCRIPTION).write_text(json.dumps(description, ensure_ascii=False), encoding="utf-8")
        weights = self._weights.astype(np.float32)
        np.savez(folder / "classifier.npz", columns=self._columns, idf=self._idf, weights=weights, bias=self._bias)

    @classmethod
    def load(cls, folder: Path) -> "LinearClassifier":
        """Load the files that `save` wrote."""
        topics = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["topics"]
        with np.load(folder / "classifier.npz") as arrays:
            weights = arrays["weights"].astype(np.float64)
            return cls(topics, arrays["columns"], arrays["idf"], weights, arrays["bias"])


def _log_shares(weighed: Any, gold: NDArray[np.int64], num_topics: int) -> NDArray[np.float64]:
    """ln (share of each feature in its topic / mean of its shares over topics), float64[columns, topics].

    For smoothing, the total weight of a topic's terms is spread evenly over the features that occur.
    """
    of_topic = np.zeros((len(gold), num_topics))
    of_topic[np.arange(len(gold)), gold] = 1.0
    sums = np.asarray(weighed.T @ of_topic)
    shares = sums / sums.sum(axis=0)
    even = 1.0 / np.count_nonzero(sums.sum(axis=1))
    return np.asarray(np.log((shares + even) / (shares.mean(axis=1, keepdims=True) + even)))


def _cut_passages(texts: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Passages of the texts, at least one per text, and the index of each passage's text."""
    passages: list[str] = []
    counts = []
    for text in texts:
        text = text[:_MAX_CHARS]
        count = max(1, round(len(text.encode()) / _PASSAGE_BYTES))
        size = max(1, -(-len(text) // count))
        pieces = [text[start : start + size] for start in range(0, len(text), size)] or [""]
        passages += pieces
        counts.append(len(pieces))
    return passages, np.repeat(np.arange(len(counts)), counts)


def _count_features(texts: Sequence[str], column_of: NDArray[np.int32] | None = None) -> Iterator[Any]:
    """Counts of n-grams: CSR matrices float64[some texts, 2^20], or [some texts, columns] if `column_of` is given."""
    batch, num_chars = [], 0
    for text in texts:
        batch.append(text)
        num_chars += len(text)
        if num_chars >= _BATCH_CHARS:
            yield _count_batch(batch, column_of)
            batch, num_chars = [], 0
    yield _count_batch(batch, column_of)


def _count_batch(texts: Sequence[str], column_of: NDArray[np.int32] | None) -> Any:
    import scipy.sparse as sp

    width = 1 << _FEATURE_BITS if column_of is None else int(column_of.max(initial=-1)) + 1
    if not texts:
        return sp.csr_matrix((0, width))
    words, chars = split_words(texts), split_words(texts, by_char=True)
    keys: list[Hashes] = []
    for kind, source, sizes in ((0, words, _WORD_SIZES), (1, chars, _CHAR_SIZES), (2, words, _SINGLE_SIZES)):
        keys += [_feature_keys(source, size, kind, column_of) for size in sizes]
    pairs, counts = np.unique(np.concatenate(keys), return_counts=True)
    starts = np.searchsorted(pairs, np.arange(len(texts) + 1, dtype=np.uint64) << np.uint64(32))
    columns = (pairs & np.uint64(0xFFFFFFFF)).astype(np.int32)
    return sp.csr_matrix((counts.astype(np.float64), columns, starts.astype(np.int32)), shape=(len(texts), width))


def _with_columns(counts: Any, column_of: NDArray[np.int32]) -> Any:
    """Select the features that have a column from the counts of all features, in the order of the columns."""
    return counts[:, np.flatnonzero(column_of >= 0)]


def _feature_keys(words: Words, size: int, kind: int, column_of: NDArray[np.int32] | None) -> Hashes:
    """(document << 32) + feature, or column, for each n-gram of this kind; n-grams without a column are skipped."""
    hashes, starts = hash_ngrams(words, size)
    if kind != 1:
        chosen = words.is_single[starts] == (kind == 2)
        hashes, starts = hashes[chosen], starts[chosen]
    features = (hashes + np.uint64(kind)) >> np.uint64(64 - _FEATURE_BITS)
    if column_of is not None:
        chosen_columns = column_of[features]
        known = chosen_columns >= 0
        features, starts = chosen_columns[known].astype(np.uint64), starts[known]
    return (words.document_of()[starts].astype(np.uint64) << np.uint64(32)) + features

"""Accuracy and calibration of a topic classifier on labels that it was not fitted on."""

from collections.abc import Callable, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from reprise.documents.label.classifier import Classifier
from reprise.documents.label.records import ConfidenceBin, TopicFigures

Fit = Callable[[Sequence[str], Sequence[str]], Classifier]

_FOLDS = 5
_EVERY_FOLD_BELOW = 2000
"""With fewer labels each fold is held out in turn; with more, one fold is enough."""
_TEMPERATURES = np.geomspace(0.1, 10, 60)
_BINS = 10
_LEAST = -1e3
"""Log-probability of a topic that the classifier was not fitted on; finite, so that sums stay finite."""


def hold_out(
    texts: Sequence[str], labels: Sequence[str], topics: Sequence[str], fit: Fit, *, once: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Fit on four fifths of the labels and classify the rest; every fifth in turn if labels are few and `once` is
    false.

    A fifth is chosen by a hash of the text, so that copies of a text fall into the same one.

    Returns:
        log-probabilities float64[held-out texts, topics] and indices of their labels int64[held-out texts].
    """
    folds = np.array([xxhash.xxh3_64_intdigest(text.encode()) % _FOLDS for text in texts])
    answers, gold = [], []
    for fold in range(1 if once or len(texts) >= _EVERY_FOLD_BELOW else _FOLDS):
        inside, outside = np.flatnonzero(folds != fold).tolist(), np.flatnonzero(folds == fold).tolist()
        if inside and outside:
            classifier = fit([texts[i] for i in inside], [labels[i] for i in inside])
            answers.append(classifier.log_probabilities([texts[i] for i in outside]))
            gold += [list(topics).index(labels[i]) for i in outside]
    stacked = np.concatenate(answers) if answers else np.zeros((0, len(topics)))
    return np.maximum(stacked, _LEAST), np.array(gold, np.int64)


def choose_temperature(scores: NDArray[np.float64], gold: NDArray[np.int64]) -> float:
    """The temperature that maximises the probability of the held-out labels.

    Args:
        scores: log-probabilities, float64[documents, topics].
        gold: index of each document's label, int64[documents].
    """
    if not len(gold):
        return 1.0
    losses = [-_log_softmax(scores / value)[np.arange(len(gold)), gold].mean() for value in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])


def _log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    scores = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))


def measure(
    scores: NDArray[np.float64], gold: Sequence[int] | NDArray[np.int64], topics: Sequence[str]
) -> TopicFigures:
    """Figures from log-probabilities float64[documents, topics] and label indices int64[documents]."""
    gold = np.asarray(gold, np.int64)
    probabilities = np.exp(_log_softmax(scores)) if len(gold) else scores
    answers, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1, initial=0.0)
    right = answers == gold
    confusion = np.zeros((len(topics), len(topics)), np.int64)
    np.add.at(confusion, (gold, answers), 1)
    hits, labelled, answered = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = {
        topic: float(2 * hits[index] / (labelled[index] + answered[index]))
        for index, topic in enumerate(topics)
        if labelled[index]
    }
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    calibration: list[ConfidenceBin] = [
        {
            "confidence": float(confidence[bins == value].mean()),
            "accuracy": float(right[bins == value].mean()),
            "documents": int((bins == value).sum()),
        }
        for value in np.unique(bins)
    ]
    gaps = [abs(entry["confidence"] - entry["accuracy"]) * entry["documents"] for entry in calibration]
    return TopicFigures(
        labels=len(gold),
        accuracy=float(right.mean()) if len(gold) else 0.0,
        macro_f1=float(np.mean(list(f1.values()))) if f1 else 0.0,
        f1=f1,
        confusion=confusion.tolist(),
        calibration_error=sum(gaps) / max(1, len(gold)),
        calibration=calibration,
    )

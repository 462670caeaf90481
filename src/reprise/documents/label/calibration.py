"""How good a topic classifier is on labels that it was not fitted on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from reprise.documents.label.classifier import Classifier

Fit = Callable[[Sequence[str], Sequence[str]], Classifier]

_FOLDS = 5
_EVERY_FOLD_BELOW = 2000
"""With fewer labels each fold is held out once; with more, one fold is enough."""
_TEMPERATURES = np.geomspace(0.1, 10, 60)
_BINS = 10
_LEAST = -1e3
"""Log-probability of a topic that the classifier was not fitted on, so that sums stay finite."""


@dataclass(frozen=True)
class Quality:
    """Figures on held-out labels."""

    labels: int
    """Labelled documents that were held out, each once."""
    accuracy: float
    macro_f1: float
    """Mean F1 over the topics that have a label."""
    f1: dict[str, float]
    """Topic -> F1."""
    confusion: list[list[int]]
    """[label][answer], in the order of the topics."""
    calibration_error: float
    """Expected calibration error: mean distance of confidence and accuracy over ten bins of confidence."""
    calibration: list[dict[str, float]]
    """Per bin that has documents: mean confidence, accuracy, documents."""


def hold_out(
    texts: Sequence[str], labels: Sequence[str], topics: Sequence[str], fit: Fit, *, once: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Fit on four fifths, answer on the rest; every fifth in turn where labels are few, unless it is to be `once`.

    A fifth is chosen by a hash of the text, so that copies of a text fall into the same one.

    Returns:
        log-probabilities float64[held out, topics] and labels int64[held out].
    """
    folds = np.array([xxhash.xxh3_64_intdigest(text.encode()) % _FOLDS for text in texts])
    answers, gold = [], []
    for fold in range(1 if once or len(texts) >= _EVERY_FOLD_BELOW else _FOLDS):
        inside, outside = np.flatnonzero(folds != fold).tolist(), np.flatnonzero(folds == fold).tolist()
        if inside and outside:
            classifier = fit([texts[place] for place in inside], [labels[place] for place in inside])
            answers.append(classifier.log_probabilities([texts[place] for place in outside]))
            gold += [list(topics).index(labels[place]) for place in outside]
    stacked = np.concatenate(answers) if answers else np.zeros((0, len(topics)))
    return np.maximum(stacked, _LEAST), np.array(gold, np.int64)


def choose_temperature(scores: NDArray[np.float64], gold: NDArray[np.int64]) -> float:
    """The temperature under which the held-out labels are most probable.

    Args:
        scores: log-probabilities, float64[documents, topics].
        gold: labels, int64[documents].
    """
    if not len(gold):
        return 1.0
    losses = [-_log_softmax(scores / value)[np.arange(len(gold)), gold].mean() for value in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])


def _log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    scores = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))


def measure(scores: NDArray[np.float64], gold: Sequence[int] | NDArray[np.int64], topics: Sequence[str]) -> Quality:
    """Figures from log-probabilities float64[documents, topics] and labels int64[documents]."""
    gold = np.asarray(gold, np.int64)
    probabilities = np.exp(_log_softmax(scores)) if len(gold) else scores
    answers, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1, initial=0.0)
    right = answers == gold
    confusion = np.zeros((len(topics), len(topics)), np.int64)
    np.add.at(confusion, (gold, answers), 1)
    hits, labelled, answered = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = {
        topic: float(2 * hits[place] / (labelled[place] + answered[place]))
        for place, topic in enumerate(topics)
        if labelled[place]
    }
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    calibration = [
        {
            "confidence": float(confidence[bins == number].mean()),
            "accuracy": float(right[bins == number].mean()),
            "documents": int((bins == number).sum()),
        }
        for number in np.unique(bins)
    ]
    gaps = [abs(entry["confidence"] - entry["accuracy"]) * entry["documents"] for entry in calibration]
    return Quality(
        labels=len(gold),
        accuracy=float(right.mean()) if len(gold) else 0.0,
        macro_f1=float(np.mean(list(f1.values()))) if f1 else 0.0,
        f1=f1,
        confusion=confusion.tolist(),
        calibration_error=sum(gaps) / max(1, len(gold)),
        calibration=calibration,
    )

"""Quality grades: a classifier of the six grades, the grade that it expects for a text, and its error."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reprise.documents.label.calibration import Fit, choose_temperature, hold_out
from reprise.documents.label.classifier import Classifier
from reprise.documents.label.llm_labels import GRADES
from reprise.documents.label.records import GradeBin, GradeFigures
from reprise.documents.label.training_set import Labelled

_VALUES = np.arange(len(GRADES), dtype=np.float64)


def fit_grades(
    known: Labelled, fit: Fit, *, kind: str, min_grade: float, once: bool
) -> tuple[Classifier, GradeFigures]:
    """Fit a classifier of grades with calibrated confidence; returns it and its figures on held-out labels.

    Args:
        known: texts and their grades, each one of GRADES.
        fit: function that fits a classifier of GRADES.
        kind: name of the kind of classifier, for the report.
        min_grade: threshold of the filter for which precision and recall are computed.
        once: hold out only one fifth, if fitting is slow.
    """
    scores, gold = hold_out(known.texts, known.labels, GRADES, fit, once=once)
    temperature = choose_temperature(scores, gold)
    classifier = fit(known.texts, known.labels)
    classifier.scale(temperature)
    given = _expected(scores / temperature)
    return classifier, _figures(given, gold.astype(np.float64), known, kind, min_grade)


def expected_grades(classifier: Classifier, texts: Sequence[str]) -> NDArray[np.float64]:
    """float64[texts]: the mean grade under the classifier's probabilities, 0 to 5."""
    return np.asarray(classifier.probabilities(texts) @ _VALUES)


def _expected(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected grade from log-probabilities float64[documents, grades] that need not be normalised."""
    if not len(scores):
        return np.zeros(0)
    probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(probabilities @ _VALUES / probabilities.sum(axis=1))


def _figures(
    given: NDArray[np.float64], true: NDArray[np.float64], known: Labelled, kind: str, min_grade: float
) -> GradeFigures:
    bins = np.rint(given)
    kept, good = given >= min_grade, true >= min_grade
    return GradeFigures(
        classifier=kind,
        labels=dict(sorted(Counter(known.labels).items())),
        held_out=len(true),
        mean_error=float(np.abs(given - true).mean()) if len(true) else 0.0,
        error_of_mean=float(np.abs(true - true.mean()).mean()) if len(true) else 0.0,
        rank_correlation=_rank_correlation(given, true),
        calibration=[
            GradeBin(
                given=float(given[bins == value].mean()),
                true=float(true[bins == value].mean()),
                documents=int((bins == value).sum()),
            )
            for value in np.unique(bins)
        ],
        min_grade=min_grade,
        precision=float(good[kept].mean()) if kept.any() else None,
        recall=float(kept[good].mean()) if good.any() else None,
    )


def _rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    from scipy.stats import spearmanr

    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second).statistic)


def grade_topic(grade: float) -> str:
    """Topic of a document in a source that is split by grade, such as `Grade 3`."""
    return f"Grade {int(np.rint(grade))}"

"""The interface of a topic classifier: fit, apply, save."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

DESCRIPTION = "classifier.json"
"""File of a saved classifier that says which kind it is."""


class Classifier(Protocol):
    """Computes the probability of each topic for a text."""

    topics: list[str]

    def log_probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Log-probabilities, float64[texts, topics]."""
        ...

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Probabilities, float64[texts, topics]; each row sums to 1."""
        ...

    def scale(self, temperature: float) -> None:
        """Divide the scores by a temperature: the order of the topics is unchanged, the confidence is not."""
        ...

    def save(self, folder: Path) -> None:
        """Write the files that `load_classifier` reads."""
        ...

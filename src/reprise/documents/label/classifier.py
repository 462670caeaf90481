"""The interface of a topic classifier: fit, apply, save."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

DESCRIPTION = "classifier.json"
"""The file of a saved classifier that names its kind."""


class Classifier(Protocol):
    """Gives each text a probability for each of its topics."""

    topics: list[str]

    def log_probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """float64[texts, topics]."""
        ...

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """float64[texts, topics]; each row sums to 1."""
        ...

    def scale(self, temperature: float) -> None:
        """Divide the scores by a temperature: the order of the topics stays, the confidence changes."""
        ...

    def save(self, folder: Path) -> None:
        """Write what `load_classifier` needs."""
        ...

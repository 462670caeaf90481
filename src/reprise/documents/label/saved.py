"""Load a saved topic classifier of either kind."""

import json
from pathlib import Path

from reprise.documents.label.classifier import DESCRIPTION, Classifier
from reprise.documents.label.linear import LinearClassifier


def load_classifier(folder: Path) -> Classifier:
    """Load the classifier that `save` wrote, whatever its kind."""
    if json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["kind"] == "linear":
        return LinearClassifier.load(folder)
    from reprise.documents.label.encoder import EncoderClassifier

    return EncoderClassifier.load(folder)

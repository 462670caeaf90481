"""Terms that are typical of the topics of the default lists, in English and Chinese: `glossary/LANGUAGE.yaml`."""

import functools
from collections.abc import Sequence
from pathlib import Path

from reprise.yaml_text import read_yaml

FOLDER = Path(__file__).with_name("glossary_terms")

Glossary = list[tuple[str, str]]
"""(terms of one branch of a field, topic)."""


def read_glossary(topics: Sequence[str]) -> Glossary:
    """Lines of the files that have terms for every one of the topics; empty if no file has."""
    chosen: Glossary = []
    for path in sorted(FOLDER.glob("*.yaml")):
        terms = _read(path)
        if set(topics) <= set(terms):
            chosen += [(line, topic) for topic in topics for line in terms[topic]]
    return chosen


@functools.cache
def _read(path: Path) -> dict[str, list[str]]:
    terms: dict[str, list[str]] = read_yaml(path.read_text(encoding="utf-8"))
    return terms

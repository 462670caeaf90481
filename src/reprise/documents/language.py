"""The language of a text, by a classifier whose model ships with its package (py3langid)."""

from collections.abc import Sequence

_LOOKED_AT = 2000
"""Characters of a document that are looked at: from its middle, since beginnings are often boilerplate."""

WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "km", "my", "bo", "dz"})
"""Languages that do not put spaces between words: characters stand for words in shingles and rules."""


def detect_languages(texts: Sequence[str]) -> list[str]:
    """ISO 639-1 codes, such as `zh`."""
    import py3langid

    return [str(py3langid.classify(_excerpt(text))[0]) for text in texts]


def _excerpt(text: str) -> str:
    start = max(0, (len(text) - _LOOKED_AT) // 2)
    return text[start : start + _LOOKED_AT]

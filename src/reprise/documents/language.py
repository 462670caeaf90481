"""The language of a text, by a classifier whose model ships with its package (py3langid)."""

from collections.abc import Sequence

from reprise.recipe.languages.codes import find_language

_LOOKED_AT = 2000
"""Characters of a document that are looked at: from its middle, since beginnings are often boilerplate."""


UNKNOWN = "und"
"""ISO 639's code for a language that is not known."""


def detect_languages(texts: Sequence[str]) -> list[str]:
    """Codes as `find_language` gives them, such as `zh`; UNKNOWN for a text without words, such as numbers."""
    import py3langid

    return [find_language(str(py3langid.classify(_excerpt(text))[0])) or UNKNOWN for text in texts]


def _excerpt(text: str) -> str:
    start = max(0, (len(text) - _LOOKED_AT) // 2)
    return text[start : start + _LOOKED_AT]

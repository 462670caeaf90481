"""Judge a generated answer: numbers and short texts of word problems, boxed answers of competition mathematics."""

import re
import unicodedata
from typing import Any

_NUMBER = re.compile(r"-?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+)?")
_MARK = re.compile(r"answer\s+is:?", re.IGNORECASE)


def final_answer(text: str) -> str:
    """What stands behind the last `answer is` on its line; the whole text where it does not say so."""
    marks = list(_MARK.finditer(text))
    return text[marks[-1].end() :].strip().split("\n")[0] if marks else text


def last_number(text: str) -> float | None:
    """The last number of a text, `$1,200`, `1/2` and `3.5` among them; None where there is none."""
    found = _NUMBER.findall(text)
    if not found:
        return None
    parts = re.sub(r"[$,\s]", "", found[-1]).split("/")
    denominator = float(parts[1]) if len(parts) == 2 else 1.0
    return float(parts[0]) / denominator if denominator else None


def word_problem_is_right(answer: str, text: str) -> bool:
    """Whether a generated solution of a word problem ends in the right answer.

    A number is compared as a number (relative difference at most 1e-4, as golden answers are rounded); any other answer
    as text without case, articles and punctuation.
    """
    said = final_answer(text)
    if _NUMBER.fullmatch(answer.strip()):
        expected, found = last_number(answer), last_number(said)
        return expected is not None and found is not None and abs(expected - found) <= 1e-4 * max(1.0, abs(expected))
    return _plain(answer) == _plain(said) and bool(_plain(answer))


def word_problem_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The harness calls this with one generation."""
    return {"acc": float(word_problem_is_right(doc["answer"], results[0]))}


def boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{...}`, braces balanced; None where there is none."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for position in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : position]
    return None


def competition_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """A boxed answer, compared with the harness's own normalisation of MATH answers."""
    from lm_eval.tasks.hendrycks_math.utils import is_equiv

    found = boxed(results[0])
    return {"acc": float(found is not None and bool(is_equiv(found, doc["answer"])))}


def _plain(text: str) -> str:
    words = re.sub(r"[^\w:']+", " ", unicodedata.normalize("NFKC", text).casefold()).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))

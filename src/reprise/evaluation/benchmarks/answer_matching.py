"""Judge a generated answer: numbers and short texts of word problems, boxed answers of competition mathematics."""

import functools
import re
import unicodedata
from typing import Any

from reprise.math_answers import Judge, boxed

_NUMBER = re.compile(
    r"-?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
    r"(?:[eE][-+]?\d{1,3}(?!\w|\.\d)|\s*(?:\*|x|\u00d7|\\times)\s*10\s*(?:\^|\*\*)\s*\{?-?\d{1,3}\}?|(?:\s+\d+)?\s*/\s*\d+)?"
)
_REMARK = re.compile(r"(?<=[\w%.])\s*\([^()]*\)")
"""`8 (5+3)`: parentheses after a number explain it."""
_GROUPS = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d])")
_MARK = re.compile(r"answer\s+is:?", re.IGNORECASE)


def final_answer(text: str) -> str:
    """The rest of the line after the last `answer is`; the whole text if that does not occur."""
    marks = list(_MARK.finditer(text))
    return text[marks[-1].end() :].strip().split("\n")[0] if marks else text


def last_number(text: str) -> float | None:
    """The last number in a text: `$1,200`, `1 000 000`, `1/2`, `3 1/2`, `1e6`; None if there is none.

    A number in parentheses only counts if there is no other: `forty-five (45)`.
    """
    text = _GROUPS.sub(lambda match: match[0].replace(" ", ""), _normalise(text))
    numbers = _NUMBER.findall(_REMARK.sub("", text)) or _NUMBER.findall(text)
    return _value(numbers[-1]) if numbers else None


def _normalise(text: str) -> str:
    """Normalise compatibility forms (full width, narrow spaces) and the minus sign U+2212."""
    return unicodedata.normalize("NFKC", text).replace("\u2212", "-").replace("{,}", ",")


def _value(text: str) -> float | None:
    plain = re.sub(r"[$,]", "", text)
    try:
        if power := re.search(r"\s*(?:\*|x|\u00d7|\\times)\s*10\s*(?:\^|\*\*)\s*\{?(-?\d+)\}?$", plain):
            return float(f"{plain[: power.start()]}e{power[1]}")
        head, _, denominator = plain.partition("/")
        if not denominator:
            return float(plain)
        *whole, numerator = head.split()
        fraction = float(numerator) / float(denominator)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return float(whole[0]) + (-fraction if whole[0].startswith("-") else fraction) if whole else fraction


def word_problem_is_right(answer: str, text: str) -> bool:
    """Whether a generated solution of a word problem ends in the right answer.

    A number is compared as a number (relative difference at most 1e-4, as golden answers are rounded); any other answer
    as text without case, articles and punctuation.
    """
    said = final_answer(text)
    if _NUMBER.fullmatch(_normalise(answer).strip()):
        expected, given = last_number(answer), last_number(said)
        return expected is not None and given is not None and abs(expected - given) <= 1e-4 * max(1.0, abs(expected))
    return _plain(answer) == _plain(said) and bool(_plain(answer))


def word_problem_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score a generated answer; called by the harness."""
    return {"acc": float(word_problem_is_right(doc["answer"], results[0]))}


def competition_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score a boxed answer: `acc` by the harness's normalisation of MATH answers, `acc_symbolic` by their value.

    An answer that the harness accepts is right by both.
    """
    from lm_eval.tasks.hendrycks_math.utils import is_equiv

    given = boxed(results[0])
    same = given is not None and bool(is_equiv(given, doc["answer"]))
    symbolic = same or (given is not None and _judge().equal(doc["answer"], given))
    return {"acc": float(same), "acc_symbolic": float(symbolic)}


@functools.cache
def _judge() -> Judge:
    return Judge()


def _plain(text: str) -> str:
    words = re.sub(r"[^\w:']+", " ", unicodedata.normalize("NFKC", text).casefold()).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))

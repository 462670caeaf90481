"""Checks of a single pair. Each returns None if the pair passes, else (reason, detail)."""

import re
from collections import Counter
from collections.abc import Sequence

from reprise.documents.language import detect_languages
from reprise.recipe.languages.codes import WITHOUT_SPACES
from reprise.recipe.synthesis import Checks
from reprise.synthesis.parsing import Pair

Drop = tuple[str, str]
"""(reason, detail)."""

_PROMPT_RUN = 12
"""Most consecutive words that an answer may have in common with its prompt."""

_WORDS = re.compile(r"[^\W_]+")
_CJK = re.compile(r"[\u3400-\u9fff]")
_LETTERS = re.compile(r"[^\W\d_]")
_LATEX = re.compile(r"\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)|\\[a-zA-Z]+", re.DOTALL)
_CODE = re.compile(r"```.*?```", re.DOTALL)
_SOURCE_TALK = {
    "en": re.compile(
        r"\b(?:(?:the|this|that|given|above|following|provided) (?:\w+ )?"
        r"(?:text|passage|article|excerpt|paragraph|document|author)s?"
        r"|(?:mentioned|described|discussed|shown|stated|given|listed|as) (?:above|below|earlier))\b",
        re.IGNORECASE,
    ),
    "zh": re.compile(
        r"(?:这段|上述|上面的?|以上|该|本|原|下面的?|给出的)(?:文字|文章|短文|段落|材料|文本|资料|内容)|(?:本|原|上)文|文中|作者"
    ),
}
_REFUSAL = re.compile(
    r"\b(?:as an ai|language model|i(?: am|'m) (?:sorry|unable)|i cannot|i can't help|i apologi[sz]e)\b"
    r"|作为(?:一个)?(?:AI|人工智能|语言模型)|很抱歉|无法回答",
    re.IGNORECASE,
)
_LOST_REFERENCE = re.compile(
    r"\b(?:figure|fig\.|table|equation|eq\.|section|chapter|exercise|example) \(?\d|[如见](?:图|表)\s*\d", re.IGNORECASE
)
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a about after all also an and any are as at be because been but by can could did do does for from had has "
        "have he her his how i if in into is it its may more most no not of on one or other our she so some such than "
        "that the their them then there these they this to two up was we were what when where which while who why will "
        "with would you your",
    )
)


def content_words(text: str, language: str) -> list[str]:
    """Lower-case words; pairs of adjacent characters in languages without spaces."""
    words = _WORDS.findall(text.lower())
    if language not in WITHOUT_SPACES:
        return words
    return [run[at : at + 2] for run in words for at in range(0, len(run), 2)]


def check_pair(
    pair: Pair, *, language: str, passage: str, answer_tokens: int, minimum: int, checks: Checks
) -> Drop | None:
    """Drop by the first check that a pair fails; None if it passes all.

    Args:
        pair: the parsed pair.
        language: language that was requested.
        passage: text that the pair was made from; empty if there is none.
        answer_tokens: length of the answer in tokens of the base model.
        minimum: fewest tokens that an answer must have.
        checks: settings of the checks.
    """
    if pair.question and len(pair.question) < checks.min_question_chars:
        return "short_question", f"{len(pair.question)} characters, at least {checks.min_question_chars} required"
    if answer_tokens < minimum:
        return "short_answer", f"{answer_tokens} tokens, at least {minimum} required"
    if answer_tokens > checks.max_answer_tokens:
        return "long_answer", f"{answer_tokens} tokens, at most {checks.max_answer_tokens} allowed"
    return (
        _check_language(pair, language)
        or _check_self_contained(pair, language)
        or _check_echo(pair, language, checks.min_new_words)
        or _check_repetition(pair, language, checks.max_repetition)
        or (_check_copying(pair, passage, language, checks.max_copied_words) if passage else None)
        or (_check_support(pair, passage, language, checks.min_support) if passage and checks.min_support else None)
    )


def _check_repetition(pair: Pair, language: str, limit: float) -> Drop | None:
    words = content_words(f"{pair.question}\n{pair.answer}" if not pair.program else pair.question, language)
    share = repetition(words)
    return ("repetition", f"{share:.2f} of the words repeat, at most {limit:g} allowed") if share > limit else None


def repetition(words: Sequence[str]) -> float:
    """Share of the runs of four words that occurred earlier in the same text."""
    runs = Counter(tuple(words[at : at + 4]) for at in range(len(words) - 3))
    total = runs.total()
    return 1 - len(runs) / total if total else 0.0


def _check_language(pair: Pair, language: str) -> Drop | None:
    """Tell Chinese from other languages by script, also in short and mathematical texts; others by a classifier."""
    prose = _LATEX.sub(" ", _CODE.sub(" ", f"{pair.question}\n{pair.answer}"))
    letters = len(_LETTERS.findall(prose))
    if not letters:
        return "language", "no words"
    ideographs = len(_CJK.findall(prose)) / letters
    if language == "zh":
        return ("language", f"{ideographs:.2f} of the letters are Chinese") if ideographs < 0.4 else None
    if language != "ja" and ideographs > 0.05:
        return "language", f"{ideographs:.2f} of the letters are Chinese, {language} expected"
    if language == "en" or letters < 200:
        foreign = sum(not char.isascii() for char in _LETTERS.findall(prose)) / letters
        return (
            ("language", f"{foreign:.2f} of the letters are not English")
            if language == "en" and foreign > 0.1
            else None
        )
    detected = detect_languages([prose])[0]
    return ("language", f"{detected}, {language} expected") if detected != language else None


def _check_self_contained(pair: Pair, language: str) -> Drop | None:
    text = f"{pair.question}\n{pair.answer}"
    pattern = _SOURCE_TALK.get(language)
    if pattern and (match := pattern.search(text)):
        return "not_self_contained", f"speaks of {match[0]!r}"
    if match := _LOST_REFERENCE.search(pair.question):
        return "not_self_contained", f"speaks of {match[0]!r}"
    if match := _REFUSAL.search(text):
        return "refusal", f"{match[0]!r}"
    return None


def check_instructions(pair: Pair, instructions: str, language: str) -> Drop | None:
    """Drop a pair that repeats its instructions, or the examples in them, as small models do.

    Args:
        pair: the parsed pair.
        instructions: text of the prompt file.
        language: language of both.
    """
    said = content_words(f"{pair.question}\n{pair.answer}", language)
    run = longest_common_run(said, content_words(instructions, language))
    detail = f"{run} words in a row are of the prompt, at most {_PROMPT_RUN} allowed"
    return ("copied_prompt", detail) if run > _PROMPT_RUN else None


def _check_echo(pair: Pair, language: str, least: int) -> Drop | None:
    """Drop a pair whose answer only repeats the question."""
    if not pair.question or pair.program:
        return None
    question, answer = set(content_words(pair.question, language)), content_words(pair.answer, language)
    new = [word for word in answer if word not in question and word not in _STOP_WORDS]
    detail = f"{len(set(new))} words that are not in the question, at least {least} required"
    return ("echo", detail) if len(set(new)) < least else None


def _check_copying(pair: Pair, passage: str, language: str, limit: int) -> Drop | None:
    run = longest_common_run(content_words(pair.answer, language), content_words(passage, language))
    return ("copied", f"{run} words in a row are the passage's, at most {limit} allowed") if run > limit else None


def longest_common_run(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest sequence of words that both contain, by bisection: a run of n contains one of n - 1."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        runs = {tuple(one[at : at + middle]) for at in range(len(one) - middle + 1)}
        if any(tuple(other[at : at + middle]) in runs for at in range(len(other) - middle + 1)):
            low = middle
        else:
            high = middle - 1
    return low


def _check_support(pair: Pair, passage: str, language: str, least: float) -> Drop | None:
    share = support(pair, passage, language)
    return (
        ("unsupported", f"{share:.2f} of its words are in the passage, at least {least:g} required")
        if share < least
        else None
    )


def support(pair: Pair, passage: str, language: str) -> float:
    """Share of the content words of question and answer that the passage contains: low if the model made things up."""
    words = [word for word in content_words(f"{pair.question}\n{pair.answer}", language) if word not in _STOP_WORDS]
    known = set(content_words(passage, language))
    if language in WITHOUT_SPACES:  # the texts may be split into different pairs of characters
        return sum(word in passage.lower() for word in words) / len(words) if words else 0.0
    stems = {_stem(word) for word in known}
    return sum(_stem(word) in stems for word in words) / len(words) if words else 0.0


def _stem(word: str) -> str:
    """A word without the most common English endings, so that `cells` and `cell` are equal."""
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word

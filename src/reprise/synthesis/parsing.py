"""Parse answers strictly: an answer that does not have exactly the requested format is rejected."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from reprise.math_answers import boxed

_OPTION = re.compile(r"^([A-D])[.．、]\s*(\S.*)$")
_LETTER = re.compile(r"^([A-D])[.．。、]\s*(?=\S)")
_CODE_BLOCK = re.compile(r"^```(?:python|py)?\n(.*?)\n?```$", re.DOTALL)
_QUESTION_LINE = re.compile(r"^(?:Q:|问：)\s*(\S.*)$")
_ANSWER_LINE = re.compile(r"^(?:A:|答：)\s*(\S.*)$")
_BOXED = "\\boxed"
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


class DoesNotParseError(ValueError):
    """The answer has another format; the message says what is wrong."""


@dataclass(frozen=True)
class Pair:
    """A question and its answer, or a passage (whose question is empty)."""

    question: str
    answer: str
    final: str | None = None
    """The final result, if the answer marks one: the content of the box, or the letter of the right option."""
    program: str | None = None
    tests: str | None = None


def split_sections(text: str, marks: Mapping[str, str]) -> dict[str, str]:
    """The text below each mark: every mark once, in order, at the start of a line, and no text before the first.

    Raises:
        DoesNotParseError: a mark is missing or misplaced, or a section is empty.
    """
    rest = text.strip()
    sections: dict[str, str] = {}
    names = list(marks)
    for index, name in enumerate(names):
        start = _find_mark(rest, marks[name])
        if start != 0:
            raise DoesNotParseError(f"{marks[name]!r} is missing" if start is None else f"text before {marks[name]!r}")
        rest = rest[len(marks[name]) :]
        end = _find_mark(rest, marks[names[index + 1]]) if index + 1 < len(names) else len(rest)
        if end is None:
            raise DoesNotParseError(f"{marks[names[index + 1]]!r} is missing")
        sections[name], rest = rest[:end].strip(), rest[end:]
    for name, section in sections.items():
        if not section:
            raise DoesNotParseError(f"nothing under {marks[name]!r}")
        for mark in marks.values():
            if _find_mark(section, mark) is not None:
                raise DoesNotParseError(f"{mark!r} comes more than once")
    return sections


def _find_mark(text: str, mark: str) -> int | None:
    """Offset of a mark at the start of a line, or None. A heading mark must be the whole line."""
    tail = r"[ \t]*$" if mark.startswith("#") else ""
    match = re.search(rf"^{re.escape(mark)}{tail}", text, re.MULTILINE)
    return match.start() if match else None


def parse_answer(kind: str, text: str, marks: Mapping[str, str]) -> Pair:
    """Parse the pair in an answer.

    Args:
        kind: kind of the text, such as `problem`.
        text: the answer.
        marks: section -> its mark in the prompt.

    Raises:
        DoesNotParseError: the answer does not have the format of its kind.
    """
    sections = split_sections(text, marks)
    if headings := [line for section in sections.values() for line in section.splitlines() if line.startswith("## ")]:
        raise DoesNotParseError(f"a section that was not asked for: {headings[0]!r}")
    match kind:
        case "problem":
            return Pair(sections["question"], sections["answer"], boxed(sections["answer"]))
        case "question":
            return _short_pair(sections)
        case "multiple_choice":
            return _choice(sections)
        case "textbook":
            return Pair("", sections["passage"])
        case "faq":
            return Pair("", _faq(sections["faq"]))
        case "table":
            return Pair("", f"{_table(sections['table'])}\n\n{sections['reading']}")
        case "code":
            program, tests = _code(sections["solution"], "solution"), _code(sections["tests"], "tests")
            return Pair(sections["question"], sections["solution"], program=program, tests=tests)
    # For a kind of the user's own, the first section is the question, and the others together are the answer.
    question, *answers = sections.values()
    return Pair(question, "\n\n".join(answers)) if answers else Pair("", question)


def _short_pair(sections: Mapping[str, str]) -> Pair:
    question, answer = sections["question"], sections["answer"]
    if "\n" in question or question[-1] not in "?？":
        raise DoesNotParseError("the question is not one line that ends in a question mark")
    if "\n" in answer or answer[-1] not in ".!。！":
        raise DoesNotParseError("the answer is not one paragraph that ends in a full stop")
    return Pair(question, answer)


def _choice(sections: Mapping[str, str]) -> Pair:
    options = [_OPTION.match(line.strip()) for line in sections["options"].splitlines() if line.strip()]
    if [option and option[1] for option in options] != list("ABCD"):
        raise DoesNotParseError("the options are not the four lines A to D")
    texts = [option[2].strip() for option in options if option]
    if len(set(texts)) < len(texts):
        raise DoesNotParseError("two options are the same")
    letter = _LETTER.match(sections["answer"])
    if letter is None:
        raise DoesNotParseError("the answer does not begin with the letter of an option")
    lines = "\n".join(f"{name}. {text}" for name, text in zip("ABCD", texts, strict=True))
    return Pair(f"{sections['question']}\n{lines}", sections["answer"], letter[1])


def _faq(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    patterns = (_QUESTION_LINE, _ANSWER_LINE)
    if len(lines) % 2 or not 6 <= len(lines) <= 12:
        raise DoesNotParseError("the FAQ does not hold three to six pairs of lines")
    if not all(patterns[index % 2].match(line) for index, line in enumerate(lines)):
        raise DoesNotParseError("the lines of the FAQ are not questions and answers in turn")
    return "\n\n".join(f"{lines[index]}\n{lines[index + 1]}" for index in range(0, len(lines), 2))


def _table(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    widths = {line.count("|") for line in lines}
    if len(lines) < 4 or any(not (line.startswith("|") and line.endswith("|")) for line in lines):
        raise DoesNotParseError("the table has not a header, a rule and two rows between bars")
    if len(widths) != 1 or widths.pop() < 3 or not re.fullmatch(r"[|\s:-]+", lines[1]):
        raise DoesNotParseError("the rows of the table have not the same columns, at least two")
    return "\n".join(lines)


def _code(text: str, what: str) -> str:
    block = _CODE_BLOCK.match(text)
    if block is None or "```" in block[1]:
        raise DoesNotParseError(f"the {what} is not one code block")
    try:
        compile(block[1], what, "exec")
    except (SyntaxError, ValueError) as error:
        raise DoesNotParseError(f"the {what} is not valid Python: {error}") from None
    return block[1]


def normalize_final(final: str) -> str:
    """The form in which final answers are compared: without spaces, dollar signs, trailing zeros and full stops."""
    plain = re.sub(r"\\(?:text|mathrm|left|right|,|;|!| )|[\s$]", "", final).rstrip(".。").lower()
    if re.fullmatch(r"\{[^{}]*\}", plain):  # the braces of \text{...}
        plain = plain[1:-1]
    if _NUMBER.fullmatch(plain):
        plain = plain.replace(",", "")
        plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
    return plain


def corrupt_final(answer: str, final: str, choice: float) -> tuple[str, str] | None:
    """Replace the final result of an answer; returns the answer and the wrong result, or None if no change is reliable.

    The last occurrence of the first number of the result is changed by -50 % to +150 %, but never by 0, or the letter
    of a multiple choice is changed. The steps that lead to the result are kept, as in the study of wrong answers.

    Args:
        answer: text that contains the result in a box, or begins with its letter.
        final: the result.
        choice: uniform random value in [0, 1) that selects the wrong result.
    """
    if final in tuple("ABCD") and answer.startswith(final):
        wrong = [letter for letter in "ABCD" if letter != final][int(choice * 3) % 3]
        return wrong + answer[1:], wrong
    match = _NUMBER.search(final)
    start = answer.rfind(_BOXED)
    if match is None or start < 0:
        return None
    value = float(match[0].replace(",", ""))
    decimals = len(match[0].partition(".")[2])
    step = 10.0**-decimals
    changed = value + max(step, abs(value) * 0.5) * (1 + 2 * choice) * (1 if choice < 0.5 else -1)
    shown = f"{changed:.{decimals}f}"
    if float(shown) == value:
        shown = f"{value + step:.{decimals}f}"
    wrong = final[: match.start()] + shown + final[match.end() :]
    at = answer.index(final, start)
    return answer[:at] + wrong + answer[at + len(final) :], wrong

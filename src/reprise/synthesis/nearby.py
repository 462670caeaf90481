"""Call a program near its tests' arguments: a table of answers returns one fallback for most, a program does not."""

import ast
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

MIN_ANSWERS = 3
"""Fewest different answers that the tests must expect; with fewer, honest programs also return one for most calls."""
MAX_CALLS = 80
SPELLED = 0.6
"""If the program contains the values of at least this share of the answers, it may be a table of them."""
FALLBACK = 0.6
"""A table returns the same result for at least this share of the calls near those of its tests."""
HIDDEN_FALLBACK = 0.8
"""The same if the program does not contain the answers: it may compute them (`'3,60;-21,33'.split(';')`)."""
SPREAD = 0.4
"""Largest share of the tests' own calls with the same answer: above it, an honest program often returns it too."""

MARK = "SAME OUTCOME"

_SCRIPT = """
def _nearby():
    import collections
    outcomes = []
    for function, arguments in {calls}:
        try:
            value = function(*arguments)
            outcomes.append(repr(list(value) if hasattr(value, "__next__") else value))
        except Exception:
            outcomes.append("an error")
    outcome, count = collections.Counter(outcomes).most_common(1)[0]
    if count >= {fallback} * len(outcomes) and len(set(outcomes) - {answers}) <= 1:
        raise AssertionError("{mark}: " + outcome[:60])
_nearby()
"""


class _Call(NamedTuple):
    name: str
    arguments: tuple[Any, ...]
    answer: Any


def nearby_test(program: str, tests: str) -> str | None:
    """Source of a test that fails, with MARK, on a program that looks like a table of its tests' answers.

    It fails if most of the calls near those of the tests have the same outcome (a result or an error) and the tests do
    not expect at most one of the outcomes; a larger share of calls is required if the program does not contain the
    answers. None if such a test is not reliable: few different answers, or arguments that are not literals.
    """
    calls = list(_calls(ast.parse(tests)))
    answers = Counter(repr(call.answer) for call in calls)
    if len(answers) < MIN_ANSWERS or max(answers.values()) > SPREAD * len(calls):
        return None
    inside = _leaves_of(ast.parse(program))
    spelled = [_leaves(call.answer) <= inside for call in calls if _leaves(call.answer)]
    is_spelled = bool(spelled) and sum(spelled) >= SPELLED * len(calls)
    known = {(call.name, repr(call.arguments)) for call in calls}
    near = dict.fromkeys(
        (call.name, repr(arguments))
        for call in calls
        for arguments in _neighbours(call.arguments)
        if (call.name, repr(arguments)) not in known
    )
    if len(near) < len(calls):
        return None
    listed = ", ".join(f"({name}, {arguments})" for name, arguments in list(near)[:MAX_CALLS])
    return _SCRIPT.format(
        calls=f"[{listed}]", fallback=FALLBACK if is_spelled else HIDDEN_FALLBACK, answers=repr(set(answers)), mark=MARK
    )


def _calls(tests: ast.Module) -> Iterator[_Call]:
    """Calls in asserts of the form `name(values) == value`."""
    for node in ast.walk(tests):
        match node:
            case ast.Assert(
                test=ast.Compare(
                    left=ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]),
                    ops=[ast.Eq()],
                    comparators=[answer],
                )
            ):
                try:
                    values = tuple(ast.literal_eval(argument) for argument in arguments)
                    yield _Call(name, values, ast.literal_eval(answer))
                except ValueError:
                    continue


def _neighbours(arguments: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Yield variants of the arguments in which one is slightly different and of the same type."""
    for i, value in enumerate(arguments):
        for other in _variants(value):
            yield (*arguments[:i], other, *arguments[i + 1 :])


def _variants(value: Any) -> Iterator[Any]:
    match value:
        case bool():
            yield not value
        case int():
            yield value + 1
            yield value + 2
        case float():
            yield value + 0.5
        case str():
            yield from _variants_of_text(value)
        case list() | tuple():
            kind = type(value)
            if value:
                yield value[:-1]
                yield kind([*value, value[0]])
                yield from (kind([other, *value[1:]]) for other in _variants(value[0]))
        case dict():
            for key in list(value)[:2]:
                yield from ({**value, key: other} for other in _variants(value[key]))
        case _:
            return


def _variants_of_text(text: str) -> Iterator[str]:
    digit = next((i for i, char in enumerate(text) if char in "0123456789"), None)
    if digit is not None:
        yield f"{text[:digit]}{(int(text[digit]) + 1) % 10}{text[digit + 1 :]}"
    if len(text) > 1:
        yield text[:-1]
        yield text[1:]
        yield text + text[0]


def _leaves(value: Any) -> set[object]:
    """Numbers and strings in a value, without signs and without values that any program may contain."""
    return _leaves_of(ast.parse(repr(value), mode="eval"))


def _leaves_of(tree: ast.AST) -> set[object]:
    values = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return {value for value in values if isinstance(value, int | float | str) and value not in ("", 0, 1)}

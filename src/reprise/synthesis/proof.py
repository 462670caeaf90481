"""Whether tests prove a program correct: they pass on it, compare plain values, and fail on wrong versions of it."""

import ast
import builtins
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from reprise.recipe.synthesis import Code
from reprise.sandbox.run import Limits, run_program
from reprise.synthesis.checks import Drop
from reprise.synthesis.mutants import mutants, stand_ins
from reprise.synthesis.nearby import MARK, nearby_test

MIN_ASSERTS = 3
MAX_MUTANTS = 20
"""Most wrong versions that are run, in addition to the stand-ins."""
_HARD_CODED = 0.5
"""If the program contains the values of at least this share of the asserts, it is a table of answers."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TEST_MODULES = _words(
    "bisect cmath collections copy datetime decimal fractions functools heapq itertools json math operator random re "
    "statistics string"
)
_FORBIDDEN_MODULES = _words(
    "ast atexit builtins code codeop ctypes faulthandler gc importlib inspect marshal mock multiprocessing os pickle "
    "pytest runpy signal subprocess sys traceback types unittest"
)
_FORBIDDEN_NAMES = _words(
    "__builtins__ __import__ breakpoint compile delattr eval exec exit globals input locals quit setattr vars"
)
_FORBIDDEN_DUNDERS = _words(
    "__eq__ __ne__ __lt__ __le__ __gt__ __ge__ __bool__ __hash__ __instancecheck__ __subclasscheck__ __class__ "
    "__bases__ __mro__ __subclasses__ __globals__ __code__ __builtins__ __dict__ __getattribute__ __del__ "
    "__init_subclass__ __set_name__ __prepare__ __new__ __class_getitem__ __defaults__ __closure__"
)

_GUARD = """
def _guard():
    import collections, datetime, decimal, fractions, functools
    kinds = (int, float, complex, str, bytes, bool, type(None), range, decimal.Decimal, fractions.Fraction,
             datetime.date, datetime.time, datetime.datetime, datetime.timedelta)
    many = (list, tuple, set, frozenset, dict, collections.Counter, collections.OrderedDict, collections.defaultdict,
            collections.deque)
    iterators = (type(_ for _ in ()), map, filter, zip, enumerate, type(iter([])), type(reversed([])))
    names = {names!r}
    own = [globals()[name] for name in names if isinstance(globals()[name], type)]

    def check(value, depth=0):
        kind = type(value)
        if kind in kinds or kind in own:
            return value
        if depth > 20:
            raise RuntimeError("NOT PLAIN: too deep")
        if kind in iterators:
            return (check(part, depth + 1) for part in value)
        if kind not in many and not (hasattr(kind, "_fields") and kind.__eq__ is tuple.__eq__
                                     and kind.__ne__ is tuple.__ne__):
            raise RuntimeError("NOT PLAIN: " + kind.__name__)
        for part in [*value, *value.values()] if isinstance(value, dict) else tuple(value):
            check(part, depth + 1)
        return value

    def guarded(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            return check(function(*args, **kwargs))
        return call

    for name in names:
        value = globals()[name]
        if isinstance(value, type):
            for key, member in list(vars(value).items()):
                if type(member) is type(_guard) and not key.startswith("__"):
                    setattr(value, key, guarded(member))
        elif type(value) is type(_guard):
            globals()[name] = guarded(value)
_guard()
del _guard
"""
"""Runs between the program and the tests: functions must return values of a plain type, because any other type can
define an `==` that is always true."""


@dataclass(frozen=True)
class Proof:
    """How well tests prove a program correct."""

    drop: Drop | None
    """Why the program is dropped; None if it is proven."""
    mutation_score: float | None = None
    """Share of the wrong versions on which the tests fail; None if none were run."""
    mutants: int = 0
    """Wrong versions that were run, without the stand-ins, on all of which the tests must fail."""


def prove(program: str, tests: str, code: Code) -> Proof:
    """Run the tests in the sandbox on the program, on stand-ins for it and on its mutants."""
    if (drop := read_program(program, tests)) is not None:
        return Proof(drop)
    names = _defined(ast.parse(program))
    guarded = _GUARD.replace("{names!r}", repr(sorted(names))) + "\n" + tests
    limits = Limits(seconds=code.timeout_s, memory_mb=code.max_memory_mb)
    start = time.monotonic()
    verdict = run_program(program, guarded, limits)
    if not verdict.passed:
        reason = "not_plain_values" if "NOT PLAIN" in verdict.detail else "tests_failed"
        return Proof((reason, f"{verdict.verdict}: {verdict.detail}"))
    if (near := nearby_test(program, tests)) is not None:
        outcome = run_program(program, near, limits).detail
        if MARK in outcome:
            detail = f"of most inputs near those of its tests it makes the same ({outcome.partition(f'{MARK}: ')[2]})"
            return Proof(("hard_coded", detail))
    # A wrong version may never end; it gets at most a few times as long as the correct version took.
    limits = replace(limits, seconds=min(limits.seconds, 1.0 + 5 * (time.monotonic() - start)))
    for what, source in stand_ins(program):
        if run_program(source, tests, limits).passed:
            return Proof(("tests_prove_nothing", f"a solution that {what} passes them too"), 0.0)
    changed = mutants(program, MAX_MUTANTS)
    survivors = [what for what, source in changed if run_program(source, tests, limits).passed]
    score = 1 - len(survivors) / len(changed) if changed else 1.0
    drop = None
    if score < code.min_mutation_score:
        detail = f"{len(survivors)} of {len(changed)} wrong versions pass, such as {survivors[0]}"
        drop = ("weak_tests", f"{detail}; mutation score {score:.2f}, at least {code.min_mutation_score:g} required")
    return Proof(drop, round(score, 3), len(changed))


def read_program(program: str, tests: str) -> Drop | None:
    """Checks that do not run anything: tests that never call the program, and attempts to deceive the tests."""
    code, checks = ast.parse(program), ast.parse(tests)
    names = _defined(code)
    if not names:
        return "no_function", "the solution defines no function and no class"
    asserts = [node for node in ast.walk(checks) if isinstance(node, ast.Assert)]
    if len(asserts) < MIN_ASSERTS:
        return "few_tests", f"{len(asserts)} assert statements, at least {MIN_ASSERTS} required"
    if not names & {node.id for node in ast.walk(checks) if isinstance(node, ast.Name)}:
        return "few_tests", f"the tests never use {', '.join(sorted(names))}"
    problem = next(_deceptions(code, checks), None)
    if problem is not None:
        return "not_plain_values", problem
    values = [_literals(node) for node in asserts]
    inside = _literals(code) | _spelled(code)
    telling = [part for part in values if part]
    copied = sum(part <= inside for part in telling)
    if len(telling) >= 2 and copied >= max(2, _HARD_CODED * len(asserts)):
        return "hard_coded", f"the values of {copied} of {len(asserts)} asserts are in the solution"
    return None


def _defined(tree: ast.Module) -> set[str]:
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}


def _deceptions(code: ast.Module, checks: ast.Module) -> Iterator[str]:
    """Yield the means by which a wrong program would pass the tests, or the tests would pass on any program."""
    for where, tree in (("solution", code), ("tests", checks)):
        for node in ast.walk(tree):
            for module in _imported(node):
                if module in _FORBIDDEN_MODULES or (where == "tests" and module not in _TEST_MODULES):
                    yield f"the {where} import {module}"
            for name in _names(node):
                if name in _FORBIDDEN_DUNDERS or name in _FORBIDDEN_NAMES:
                    yield f"the {where} use {name}"
            if isinstance(node, ast.ClassDef) and node.keywords:
                yield f"the {where} use a metaclass"
    for node in ast.walk(checks):
        if isinstance(node, ast.ClassDef | ast.With) or (isinstance(node, ast.Try) and not _catches_one_error(node)):
            yield f"the tests hold `{'class' if isinstance(node, ast.ClassDef) else type(node).__name__.lower()}`"
    for statement in code.body:
        if shadowed := sorted(_bound(statement) & set(dir(builtins))):
            yield f"the solution redefines {shadowed[0]}"


def _names(node: ast.AST) -> list[str]:
    names = [getattr(node, field, None) for field in ("id", "attr", "name", "value")]
    return [name for name in names if isinstance(name, str)]


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a statement at module level binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    bound = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and _stores(node)}
    return bound | {alias.asname or alias.name for alias in getattr(statement, "names", [])}


def _stores(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store | ast.Del)


def _catches_one_error(node: ast.AST) -> bool:
    """Whether a `try` expects a specific error and asserts that it is raised, in `else` or at the end of its body."""
    if not isinstance(node, ast.Try) or not node.handlers:
        return False
    named = all(isinstance(handler.type, ast.Name) for handler in node.handlers)
    broad = {"Exception", "BaseException", "AssertionError"}
    return named and not any(getattr(handler.type, "id", "") in broad for handler in node.handlers)


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [(node.module or "").split(".")[0]]
    return []


def _literals(tree: ast.AST) -> set[object]:
    """Numbers of at least 10 and strings of at least three characters, which a program does not contain by chance."""
    values: set[object] = set()
    for node in ast.walk(tree):
        value = node.value if isinstance(node, ast.Constant) else None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if (isinstance(value, str) and len(value) >= 3) or (is_number and abs(value) >= 10):  # type: ignore[arg-type]
            values.add(value)
    return values


def _spelled(tree: ast.AST) -> set[object]:
    """Numbers of at least 10 inside strings: a table of answers may have `str(numbers)` as its keys."""
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    values = {float(value) for text in texts for value in re.findall(r"\d{2,15}(?:\.\d+)?", text)}
    return {value for value in values if value >= 10}

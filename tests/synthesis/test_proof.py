# ruff: noqa: E501
"""Cheats of programs and worthless tests: each is refused, and honest ones stay."""

import pytest

from reprise.errors import UserError
from reprise.recipe.synthesis import Code
from reprise.sandbox.run import require_sandbox, run_program
from reprise.synthesis.mutants import mutants, stand_ins
from reprise.synthesis.nearby import nearby_test
from reprise.synthesis.programs import read_bank
from reprise.synthesis.proof import prove

TESTS = "assert triple([1, 20]) == [3, 60]\nassert triple([]) == []\nassert triple([-7, 11]) == [-21, 33]"
RIGHT = "def triple(numbers):\n    return [3 * number for number in numbers]"
LIMITS = Code(timeout_s=2.0)


@pytest.fixture(autouse=True, scope="module")
def _sandbox_works():
    try:
        require_sandbox()
    except UserError as error:
        pytest.skip(str(error))


HONEST = {
    "plain": (RIGHT, TESTS),
    "imports": ("import math\nfrom collections import Counter\nLIMIT = 2\ndef top(text):\n    "
                "return [word for word, _ in Counter(text.split()).most_common(LIMIT)]",
                "assert top('a b a') == ['a', 'b']\nassert top('') == []\nassert top('c c d d e') == ['c', 'd']"),
    "tests import": ("import math\ndef side(area):\n    return math.sqrt(area)",
                     "import math\nassert math.isclose(side(2), 1.41421356, rel_tol=1e-6)\nassert side(9) == 3\n"
                     "assert side(0) == 0"),
    "class": ("class Box:\n    def __init__(self):\n        self.items = []\n    def put(self, item):\n"
              "        self.items.append(item)\n        return len(self.items)\n    def last(self):\n"
              "        return self.items[-1] if self.items else None",
              "box = Box()\nassert box.put(5) == 1\nassert box.last() == 5\nassert box.put(7) == 2\n"
              "assert box.last() == 7\nassert Box().last() is None"),
    "expects an error": ("def inverse(x):\n    if x == 0:\n        raise ValueError('zero')\n    return 1 / x",
                         "assert inverse(2) == 0.5\nassert inverse(-4) == -0.25\ntry:\n    inverse(0)\n"
                         "except ValueError:\n    caught = True\nelse:\n    caught = False\nassert caught"),
    "generator": ("def evens(n):\n    for i in range(0, n, 2):\n        yield i",
                  "assert list(evens(5)) == [0, 2, 4]\nassert list(evens(0)) == []\nassert list(evens(7)) == [0, 2, 4, 6]"),
    "named tuple": ("from collections import namedtuple\nPoint = namedtuple('Point', 'x y')\ndef turn(x, y):\n"
                    "    return Point(-y, x)",
                    "assert turn(1, 2) == (-2, 1)\nassert turn(0, 5).x == -5\nassert turn(3, 0) == (0, 3)"),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_are_proven(name):
    proof = prove(*HONEST[name], LIMITS)
    assert proof.drop is None, proof
    assert proof.mutation_score is not None and proof.mutation_score >= 0.6


ANY = "class Any:\n    def __eq__(self, other): return True\n"
CHEATS = {
    "equal to everything": ANY + "def triple(numbers): return Any()",
    "not unequal": "class Any(list):\n    def __ne__(self, other): return False\n    __eq__ = lambda s, o: True\n"
                   "def triple(numbers): return Any()",
    "mock.ANY": "from unittest.mock import ANY\ndef triple(numbers): return ANY",
    "mock": "import mock\ndef triple(numbers): return mock.MagicMock()",
    "type made at run time": "Any = type('Any', (), {'__eq__': lambda s, o: True})\ndef triple(numbers): return Any()",
    "name of the method in parts": "Any = type('Any', (list,), {'__e' + 'q__': lambda s, o: True})\n"
                                   "def triple(numbers): return Any()",
    "list of equal things": "C = type('C', (), {'__e' + 'q__': lambda s, o: True})\n"
                            "def triple(numbers): return [C() for _ in numbers]",
    "named like the function": "C = type('triple', (), {'__e' + 'q__': lambda s, o: True})\ndef triple(numbers): return C()",
    "of another module": "C = type('C', (list,), {'__e' + 'q__': lambda s, o: True, '__module__': 'collections'})\n"
                         "def triple(numbers): return C()",
    "a table with texts as keys": "def triple(numbers):\n"
                                  "    return {'[1, 20]': [3, 60], '[]': [], '[-7, 11]': [-21, 33]}[str(numbers)]",
    "a table of the answers": "def triple(numbers):\n    return {(1, 20): [3, 60], (): [], (-7, 11): [-21, 33]}"
                              "[tuple(numbers)]",
    "a chain of the answers": "def triple(numbers):\n    if numbers == [1, 20]: return [3, 60]\n"
                              "    if numbers == [-7, 11]: return [-21, 33]\n    return []",
    "the answers in turn": "ANSWERS = iter([[3, 60], [], [-21, 33]])\ndef triple(numbers): return next(ANSWERS)",
    "the answers in turn, of a default": "def triple(numbers, rest=[[-21, 33], [], [3, 60]]): return rest.pop()",
    "a decorator that answers": "def cheat(f):\n    rest = [[3, 60], [], [-21, 33]]\n    return lambda n: rest.pop(0)\n@cheat\n"
                                "def triple(numbers): return numbers",
    "a decoded table": "def triple(numbers):\n    text = '3,60;;-21,33'.split(';')[{21: 0, 0: 1, 4: 2}[sum(numbers)]]\n"
                       "    return [int(number) for number in text.split(',') if number]",
    "a table of characters": "def triple(numbers):\n    table = {21: (chr(51), chr(54) + chr(48)), 4: ('-2' + '1', '3' + '3')}\n"
                             "    return [int(number) for number in table.get(sum(numbers), ())]",
    "an error of its own": "class Wrong(AssertionError): pass\ndef triple(numbers): raise Wrong",
    "interrupts": "def triple(numbers): raise KeyboardInterrupt",
    "not a number": "def triple(numbers): return float('nan')",
    "compares nothing": "import dataclasses\n@dataclasses.dataclass\nclass Any:\n"
                        "    x: int = dataclasses.field(default=1, compare=False)\ndef triple(numbers): return Any()",
    "one key for all": "import functools\nKEY = functools.cmp_to_key(lambda a, b: 0)\ndef triple(numbers): return KEY(numbers)",
    "leaves by another name": "import posix\nposix._exit(0)\ndef triple(numbers): return []",
    "leaves early": "import sys\ndef triple(numbers): sys.exit(0)",
    "leaves at once": "import os\nos._exit(0)\ndef triple(numbers): return []",
    "raises exit": "def triple(numbers): raise SystemExit(0)",
    "len redefined": "def len(x): return 0\ndef triple(numbers): return []",
    "all redefined": "all = lambda *x: True\ndef triple(numbers): return []",
    "AssertionError redefined": "AssertionError = int\ndef triple(numbers): return []",
    "builtins patched": "import builtins\nbuiltins.list = int\ndef triple(numbers): return []",
    "__builtins__ patched": "__builtins__['AssertionError'] = None\ndef triple(numbers): return []",
    "globals patched": "globals()['list'] = int\ndef triple(numbers): return []",
    "trace": "import sys\nsys.settrace(None)\ndef triple(numbers): return []",
    "eval of a text": "def triple(numbers): return eval('[]')",
    "reads the caller": "import inspect\ndef triple(numbers): return inspect.stack()",
    "metaclass": "class M(type): pass\nclass A(metaclass=M): pass\ndef triple(numbers): return A()",
    "imports by name": "def triple(numbers): return __import__('unittest.mock').mock.ANY",
    "changes the argument's class": "def triple(numbers): numbers.__class__ = int",
    "wrong": "def triple(numbers): return [4 * number for number in numbers]",
    "never ends": "def triple(numbers):\n    while True: pass",
    "no function": "triple = abs",
}  # fmt: skip


def test_what_a_generator_gives_is_plain_too():
    program = ("C = type('C', (), {'__e' + 'q__': lambda s, o: True})\ndef triple(numbers):\n    for _ in numbers:\n"
               "        yield C()")  # fmt: skip
    drop = prove(program, TESTS.replace("triple(", "list(triple(").replace(") ==", ")) =="), LIMITS).drop
    assert drop is not None and drop[0] == "not_plain_values"


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_are_refused(name):
    assert prove(CHEATS[name], TESTS, LIMITS).drop is not None


CALL = "triple([1, 20])"
WORTHLESS = {
    "never compared": f"r = {CALL}\nassert True\nassert 1 == 1\nassert r is r",
    "only not something": f"assert {CALL} != 7\nassert triple([2]) != 8\nassert triple([3]) != 9",
    "only the type": f"assert isinstance({CALL}, list)\nassert isinstance(triple([]), list)\nassert type(triple([2])) is list",
    "or True": f"assert {CALL} == [3, 60] or True\nassert triple([]) == [] or 1\nassert triple([2]) or True",
    "pairs": f"assert ({CALL} == [3, 60], 'x')\nassert (triple([]) == [], 'y')\nassert (triple([2]) == [6], 'z')",
    "compared with itself": f"assert {CALL} == {CALL}\nassert triple([]) == triple([])\nassert triple([2]) == triple([2])",
    "caught": f"try:\n    assert {CALL} == [9]\n    assert triple([]) == [1]\n    assert 0\nexcept Exception:\n    pass",
    "suppressed": f"import contextlib\nwith contextlib.suppress(AssertionError):\n    assert {CALL} == [9]\n"
                  "    assert triple([]) == [1]\n    assert 0",
    "never reached": f"if False:\n    assert {CALL} == [9]\n    assert triple([]) == [1]\n    assert 0",
    "in a function that nobody calls": f"def test():\n    assert {CALL} == [9]\n    assert triple([]) == [1]\n    assert 0",
    "empty loop": f"for x in []:\n    assert {CALL} == [9]\n    assert triple([x]) == [1]\n    assert 0",
    "mock.ANY": f"from unittest.mock import ANY\nassert {CALL} == ANY\nassert triple([]) == ANY\nassert triple([2]) == ANY",
    "an own ANY": f"{ANY}assert {CALL} == Any()\nassert triple([]) == Any()\nassert triple([2]) == Any()",
    "needs an import": f"import numpy\nassert numpy.all({CALL})\nassert triple([]) != 1\nassert triple([2])",
    "a name of the solution": f"assert LIMIT == 3\nassert LIMIT > 2\nassert LIMIT and {CALL} is not None",
    "defines the function again": "def triple(x): return 1\nassert triple(1) == 1\nassert triple(2) == 1\nassert triple(3) == 1",
    "only the length": f"assert len({CALL}) == 2\nassert len(triple([])) == 0\nassert len(triple([2])) == 1",
    "only empty": "assert triple([]) == []\nassert not triple([])\nassert len(triple([])) == 0",
    "first argument": "assert triple([]) == []\nassert triple([0]) == [0]\nassert triple([0, 0]) == [0, 0]",
    "a check that checks nothing": f"def check(a, b): return True\nassert check({CALL}, [3, 60])\nassert check(triple([]), [])\n"
                                   "assert check(triple([2]), [6])",
    "any of them": f"assert any([{CALL} == [3, 60], True])\nassert any([triple([]) == [], 1])\nassert any([triple([2]), 1])",
    "another condition": f"assert ({CALL} == [3, 60] if False else True)\nassert (triple([]) == [] if 0 else 1)\nassert 1",
    "among many": f"assert {CALL} in ([3, 60], [1, 20], [], None)\nassert triple([]) in ([], None)\nassert triple([2]) in ([6], [2])",
    "near enough": f"import math\nassert math.isclose(sum({CALL}), 63, abs_tol=1e9)\nassert math.isclose(0, 0)\nassert 1",
    "a function of its own": "triple = lambda n: [3 * x for x in n]\nassert triple([1]) == [3]\nassert triple([]) == []\n"
                             "assert triple([2]) == [6]",
    "a pattern that matches all": f"import re\nassert re.match('.*', str({CALL}))\nassert re.match('', str(triple([])))\nassert 1",
    "two": f"assert {CALL} == [3, 60]\nassert triple([]) == []",
    "never called": "assert 1 + 1 == 2\nassert [] == []\nassert 3 > 2",
}  # fmt: skip


@pytest.mark.parametrize("name", WORTHLESS)
def test_worthless_tests_are_refused(name):
    assert prove("LIMIT = 3\n" + RIGHT, WORTHLESS[name], LIMITS).drop is not None


def test_the_threshold_is_a_setting():
    program = ("def grade(points):\n    if points >= 90:\n        return 'A'\n    if points >= 75:\n        return 'B'\n"
               "    if points >= 60:\n        return 'C'\n    return 'D'")  # fmt: skip
    tests = "assert grade(95) == 'A'\nassert grade(80) == 'B'\nassert grade(10) == 'D'"
    weak = prove(program, tests, LIMITS)
    assert weak.mutation_score is not None and weak.mutants > 5
    strict = prove(program, tests, Code(timeout_s=2.0, min_mutation_score=1.0))
    assert strict.drop is not None and strict.drop[0] == "weak_tests"
    assert prove(program, tests, Code(timeout_s=2.0, min_mutation_score=0.0)).drop is None
    edges = "\n".join(f"assert grade({n}) == '{letter}'" for n, letter in
                      ((95, "A"), (90, "A"), (89, "B"), (75, "B"), (74, "C"), (60, "C"), (59, "D")))  # fmt: skip
    better = prove(program, edges, LIMITS)
    assert better.mutation_score is not None and better.mutation_score > weak.mutation_score


def test_wrong_versions_keep_imports_and_constants_and_differ():
    program = "import math\nLIMIT = 3\ndef f(a, b=2):\n    '''Text.'''\n    return a + b if a < LIMIT and not b else 0"
    versions = [*stand_ins(program), *mutants(program, 20)]
    assert len({source for _, source in versions}) == len(versions) > 15
    for _, source in versions:
        assert "import math" in source and "LIMIT = 3" in source and "b=2" in source
        compile(source, "mutant", "exec")
    assert len(mutants(program, 3)) == 3


AREA = (
    "assert area(13, 14) == 182\nassert area(15, 16) == 240\nassert area(12, 19) == 228\n"
    "assert area(17, 17) == 289\nassert area(18, 11) == 198"
)
DAY_TESTS = (
    "assert day(0) == 'Monday'\nassert day(8) == 'Tuesday'\nassert day(16) == 'Wednesday'\n"
    "assert day(31) == 'Thursday'\nassert day(25) == 'Friday'"
)
DAYS = "['Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday']"
GRADE_TESTS = (
    "assert grade(95) == 'very good'\nassert grade(81) == 'good'\nassert grade(70) == 'fair'\n"
    "assert grade(52) == 'poor'\nassert grade(20) == 'failed'"
)
TABLES = {
    "by a hash": "def area(a, b):\n    return {417: 182, 481: 240, 391: 228, 544: 289, 569: 198}.get((a * 31 + b) % 1009, 0)",
    "by a square": "def area(a, b):\n    return {155: 182, 209: 240, 125: 228, 272: 289, 313: 198}[a * a - b]",
    "by its text": "def area(a, b):\n    table = {'1314': 182, '1516': 240, '1219': 228, '1717': 289, '1811': 198}\n"
                   "    return table.get(str(a) + str(b))",
    "a chain": "def area(a, b):\n    key = a * 100 + b\n    for known, answer in ((1314, 182), (1516, 240), (1219, 228), "
               "(1717, 289), (1811, 198)):\n        if key == known:\n            return answer\n    return 240",
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_a_table_by_a_computed_key_is_refused(name):
    assert prove(TABLES[name], AREA, LIMITS).drop[0] == "hard_coded"


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        ("def area(a, b):\n    return a * b", AREA),
        (f"def day(n):\n    return {DAYS}[n % 7]", DAY_TESTS),
        ("def grade(n):\n    for least, word in ((90, 'very good'), (80, 'good'), (65, 'fair'), (50, 'poor')):\n"
         "        if n >= least:\n            return word\n    return 'failed'", GRADE_TESTS),
    ],
)  # fmt: skip
def test_few_answers_that_stand_in_an_honest_program_are_no_table(program, tests):
    near = nearby_test(program, tests)
    assert near is None or run_program(program, near).passed


def test_no_problem_of_the_bank_looks_like_a_table():
    for problem in read_bank(None):
        near = nearby_test(problem.solution, problem.tests)
        assert near is None or run_program(problem.solution, near).passed, problem.id

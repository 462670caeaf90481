"""Mathematical answers: find the boxed answer, and decide whether two of them are equal.

Equality is decided by math-verify (a parser of LaTeX over sympy) in a separate process, since a model's answer
can keep sympy busy forever or fill the memory: the process has a memory limit and is killed when it takes too long.
"""

import atexit
import json
import os
import queue
import re
import resource
import subprocess
import sys
import threading
import time
from typing import IO

from reprise.errors import missing_extra
from reprise.run_delay import run_delay

TIMEOUT_SECONDS = 5.0
"""A comparison that takes longer, not counting time waiting for the processor, is stopped: the answers differ."""
_STARTUP_SECONDS = 120.0
_MEMORY_BYTES = 4 << 30
MAX_CHARS = 1_000
"""A longer answer is only equal to itself."""


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` or `\fbox{...}`, braces balanced, or what follows `\boxed ` up to its end.

    None if there is no box, or it is empty or never closed.
    """
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    rest = text[start:].removeprefix("\\boxed").removeprefix("\\fbox")
    opened = rest.lstrip()
    if not opened.startswith("{"):
        match = re.match(r"\s+([^$\n]+)|(\d)", rest)
        return (match[1] or match[2]).strip().removesuffix("\\)").rstrip(" .,;。") or None if match else None
    depth = 0
    for i, char in enumerate(opened):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth == 0:
            return opened[1:i].strip() or None
    return None


class Judge:
    """Decides whether two answers have the same value. Starts its process on first use; thread-safe."""

    def __init__(self, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._timeout = timeout_seconds
        self._process: subprocess.Popen[str] | None = None
        self._replies: queue.Queue[str] = queue.Queue()
        self._lock = threading.Lock()
        self.given_up = 0
        """How many comparisons took too long or ended the process."""

    def equal(self, first: str, second: str) -> bool:
        """Whether both are the same number, expression, set, tuple, interval, equation, matrix or text.

        Raises:
            UserError: math-verify is not installed.
        """
        if first.strip() == second.strip():
            return bool(first.strip())
        if max(len(first), len(second)) > MAX_CHARS:
            return False
        with self._lock:
            process = self._process or self._start()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps([first, second]) + "\n")
                process.stdin.flush()
                reply = self._wait(process)
            except (queue.Empty, OSError):
                reply = ""
            if not reply:
                self.given_up += 1
                self._stop()
            return reply == "equal\n"

    def _wait(self, process: subprocess.Popen[str]) -> str:
        """Wait for the next line from the process.

        Raises:
            queue.Empty: it took too long, not counting time when other programs had the processor.
        """
        start, delayed = time.monotonic(), run_delay(process.pid)
        limit = self._timeout
        while (left := start + limit - time.monotonic()) > 0:
            try:
                return self._replies.get(timeout=left)
            except queue.Empty:
                limit = self._timeout + run_delay(process.pid) - delayed
        raise queue.Empty

    def _start(self) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-c", "from reprise.math_answers import serve; serve()"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            preexec_fn=_limit_memory,
        )
        assert process.stdout is not None
        self._replies = queue.Queue()
        threading.Thread(target=_forward, args=(process.stdout, self._replies), daemon=True).start()
        self._process = process
        atexit.register(process.kill)
        try:
            greeting = self._replies.get(timeout=_STARTUP_SECONDS)
        except queue.Empty:
            greeting = ""
        if greeting != "ready\n":
            self._stop()
            raise missing_extra("math-verify", "evaluation", "comparing mathematical answers")
        return process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            atexit.unregister(self._process.kill)
            self._process = None


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))


def _forward(stream: IO[str], replies: "queue.Queue[str]") -> None:
    for line in stream:
        replies.put(line)
    replies.put("")


def serve() -> None:
    """Answer comparisons, one JSON list per line, until the input ends; runs in the judge's process."""
    import logging

    import math_verify  # noqa: F401 - fails early if it is missing

    logging.disable(logging.CRITICAL)
    print("ready", flush=True)
    for line in sys.stdin:
        first, second = json.loads(line)
        try:
            equal = _compare(first, second)
        except (MemoryError, RecursionError):
            equal = False
        print("equal" if equal else "different", flush=True)


_THIN = re.compile(r"(?<!\\)\\[,;: ]|~|\\(?:left|right|displaystyle|big|Big)(?![a-zA-Z])|\\(?:tfrac|dfrac)")
_TEXT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mbox|operatorname)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"[^\W\d_]{2,}(?:[\s-]+[^\W\d_]+)*")
_UNIT = re.compile(
    r"^(?P<value>.*?[\d})\]])(?:\\\s)?\s*(?P<unit>\\?(?:[a-zA-Zµ°]{1,12}\.?)(?:\s*/\s*[a-zA-Z]+|\s+[a-zA-Z]+)*"
    r"(?:\s*\^\s*\{?[23]\}?)?)\s*$"
)
_SUBSCRIPT = re.compile(r"_\{?(\d+)\}?$")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|°|\\degree(?:s)?")
_UNIT_NAMES = {
    name: names[0]
    for names in (
        ("mm", "millimeter", "millimetre"), ("cm", "centimeter", "centimetre"), ("m", "meter", "metre"),
        ("km", "kilometer", "kilometre"), ("in", "inch", "inches"), ("ft", "foot", "feet"), ("yd", "yard"),
        ("mi", "mile"), ("g", "gram"), ("kg", "kilogram"), ("lb", "pound"), ("oz", "ounce"), ("s", "sec", "second"),
        ("min", "minute"), ("h", "hr", "hour"), ("rad", "radian"), ("degree",), ("dollar",), ("cent",), ("percent",),
    )
    for name in names
}  # fmt: skip
"""Name of a unit -> the first name of the same unit."""
_POINTS = re.compile(r"(?<![\\A-Za-z])[A-Z]{2,}(?![a-z])")
"""Names of lines, angles and polygons, whose letters are not a product."""
_VARIABLE = re.compile(r"\s*([a-zA-Z]\w?)\s*=\s*([^=,]+)$")
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})(?![\w.])")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{(\d{1,20})\}")
_FUNCTIONS = frozenset(
    re.findall(
        r"\w+",
        "sin cos tan cot sec csc log ln exp sqrt pi infty circ degree pm mp alpha beta gamma theta phi omega in",
    )
)


def _compare(first: str, second: str) -> bool:
    a, b = _Answer(first), _Answer(second)
    if a.is_text or b.is_text:
        # math-verify parses a word as a product of letters, so that `even` equals `neve`.
        return a.words == b.words
    if a.points != b.points:
        return False
    for one, other in ((a.base, b.base), (a.unit, b.unit), (a.variable, b.variable), (a.bracket, b.bracket)):
        if one and other and one != other:
            return False
    if a.base != b.base:
        return False
    return _values_equal(a.value, b.value)


class _Answer:
    """An answer in parts: `words` if it is only letters (`is_text`: and surely not a product); its value, and
    if present, its unit, the base of its digits, the variable that equals it, and the kind of bracket around it.
    """

    def __init__(self, text: str) -> None:
        text = text.strip().strip("$").strip().rstrip(".").strip()
        text = text.replace("\\!", "").replace("\\varnothing", "\\emptyset")
        text = _THIN.sub(lambda match: "\\frac" if "frac" in match[0] else " ", text)
        text = text.replace("\u2212", "-").replace("{,}", ",").replace("\\%", "%").replace("\\$", "")
        plain = _TEXT.sub(lambda match: f" {match[1]} ", text).strip()
        self.words: str | None = None
        if (match := _WORDS.fullmatch(re.sub(r"[()\s]+", " ", plain).strip())) and match[0] not in _FUNCTIONS:
            self.words = " ".join(match[0].casefold().split())
        # Two letters may be a product; three are more likely a word, or the corners of a triangle.
        self.is_text = self.words is not None and (len(self.words) > 2 or _TEXT.search(text) is not None)
        self.points = sorted(_POINTS.findall(plain))
        self.unit = self.base = self.variable = ""
        self.value = plain
        if match := _VARIABLE.match(plain):
            self.variable, self.value = match[1], match[2]
        self.bracket = "set" if self.value.startswith("\\{") else "tuple" if self.value.startswith(("(", "[")) else ""
        if match := _SUBSCRIPT.search(self.value):
            self.base, self.value = match[1], self.value[: match.start()].rstrip("{} ")
        in_function = re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", self.value)
        if not in_function and _DEGREES.search(self.value):
            self.unit = "degree"
        self.value = _DEGREES.sub(r" \\cdot \\frac{\\pi}{180}" if in_function else "", self.value)
        self.value = _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", self.value)
        self.value = _REPEATING.sub(_repeating_fraction, self.value)
        if (match := _UNIT.match(self.value)) and self._is_unit(match["unit"]):
            self.unit, self.value = _unit_name(match["unit"]), match["value"]
        # A group separator is a comma or a space before three digits.
        if re.fullmatch(r"[-+]?\d{1,3}(?:[, ]\d{3})+(?:\.\d+)?", self.value.strip()):
            self.value = re.sub(r"[, ]", "", self.value)

    def _is_unit(self, unit: str) -> bool:
        """One letter is a variable, not a unit, except metres, grams and the like after white space."""
        letters = re.sub(r"[^a-zA-Zµ]", "", unit)
        if letters in _FUNCTIONS or unit.startswith("\\"):
            return False
        spaced = re.search(r"\s" + re.escape(unit) + r"\s*$", self.value) is not None
        return spaced if len(letters) == 1 else spaced or letters in ("cm", "mm", "km", "kg", "mg", "ml", "dollars")


def _unit_name(text: str) -> str:
    """The canonical name of a unit, given in singular or plural."""
    name = text.strip().rstrip(".").casefold()
    return _UNIT_NAMES.get(name) or _UNIT_NAMES.get(name.removesuffix("s")) or name


def _repeating_fraction(match: re.Match[str]) -> str:
    """0.1\\overline{6} is (16 - 1) / 90."""
    whole, fixed, repeated = match[1] or "0", match[2], match[3]
    numerator = int(whole + fixed + repeated) - int(whole + fixed)
    return f"\\frac{{{numerator}}}{{{'9' * len(repeated)}{'0' * len(fixed)}}}"


def _values_equal(first: str, second: str) -> bool:
    from math_verify import LatexExtractionConfig, parse, verify

    parsed = []
    for text in (first, second):
        if not text.strip():
            return False
        config = [LatexExtractionConfig(boxed_match_priority=0)]
        parsed.append(parse(f"\\boxed{{{text}}}", extraction_config=config, parsing_timeout=None))
    # Gold and answer are treated differently (a gold equation may be given by its right side): equal in one direction
    # is enough. 15 digits, since an approximation is not equal.
    return any(
        bool(verify(gold, answer, float_rounding=15, timeout_seconds=None)) for gold, answer in (parsed, parsed[::-1])
    )

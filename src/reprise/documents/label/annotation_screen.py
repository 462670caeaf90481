"""The terminal of `reprise annotate`: one key press labels a document."""

import contextlib
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Generator, Sequence
from typing import TextIO

from rich.console import Console
from rich.text import Text

from reprise.documents.label.annotation import AnnotationFile
from reprise.documents.label.llm_labels import Asked
from reprise.documents.label.training_set import ListOf
from reprise.errors import UserError

QUIT, SKIP, UNDO, MORE = "q", "s", "u", "m"
TOPIC_KEYS = "1234567890" + "".join(key for key in "abcdefghijklmnopqrstuvwxyz" if key not in {QUIT, SKIP, UNDO, MORE})
"""TOPIC_KEYS[i] is the key of topic i."""

_FOOTER_LINES = 6
_SEQUENCE = re.compile(r"\x1b(?:[\[O][0-9;]*[A-Za-z~])?")
"""What an arrow or function key sends; it is ignored."""
_END = "\x04"
"""Ctrl-D."""


def read_keys(stream: TextIO) -> Generator[str]:
    """Yield each key as it is pressed; from a pipe, its characters without line ends. Ends with the stream."""
    if not stream.isatty():
        while key := stream.read(1):
            if not key.isspace():
                yield key
        return
    import termios
    import tty

    descriptor = stream.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)  # Ctrl-C remains a signal
        while data := os.read(descriptor, 32):
            for key in _SEQUENCE.sub("", data.decode("utf-8", errors="ignore")):
                if key == _END:
                    return
                yield key
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def annotate(
    sample: Sequence[Asked],
    labels: AnnotationFile,
    list_of: ListOf,
    *,
    keys: Generator[str] | None = None,
    console: Console | None = None,
) -> int:
    """Ask for the topics of documents until all are labelled or the user quits; returns how many were labelled.

    Args:
        sample: the documents; those that are already labelled are skipped.
        labels: file to which each label is written immediately.
        list_of: returns the topics of a language.
        keys: the user's key presses; None: read from the terminal.
        console: where the documents are shown; None: the terminal.

    Raises:
        UserError: a language has more topics than there are keys.
    """
    console = console or Console()
    for lang in sorted({entry.lang for entry in sample}):
        if len(list_of(lang)) > len(TOPIC_KEYS):
            raise UserError(
                f"{len(list_of(lang))} topics are more than the {len(TOPIC_KEYS)} keys",
                where=f"documents.topics.lists.{lang}",
                remedy="use a shorter list; this many topics are also too many to learn",
            )
    known = labels.labels()
    todo = [entry for entry in sample if entry.hash not in known]
    done: list[int] = []
    position = num_labelled = 0
    with contextlib.closing(keys or read_keys(sys.stdin)) as answers:
        shown, pages = -1, 1
        while position < len(todo):
            entry = todo[position]
            topics = list_of(entry.lang)
            if shown != position:
                shown, pages = position, 1
                _show(console, entry, topics, f"{len(known) + len(done) + 1} of {len(known) + len(todo)}", pages)
            key = next(answers, QUIT).lower()
            index = TOPIC_KEYS.find(key)
            if 0 <= index < len(topics):
                labels.add(entry, topics[index])
                done.append(position)
                num_labelled += 1
                position += 1
            elif key == SKIP:
                position += 1
            elif key == UNDO and done:
                labels.remove_last()
                position = done.pop()
                num_labelled -= 1
                shown = -1
            elif key == MORE:
                pages += 1
                _show(console, entry, topics, f"{len(known) + len(done) + 1} of {len(known) + len(todo)}", pages)
            elif key == QUIT:
                break
    return num_labelled


def _show(console: Console, entry: Asked, topics: Sequence[str], progress: str, pages: int) -> None:
    """Show the first pages of a document, and the keys."""
    size = shutil.get_terminal_size((100, 40))
    rows = max(5, size.lines - _FOOTER_LINES - len(topics))
    limit = max(300, rows * size.columns) * pages
    if console.is_terminal:
        console.clear()
    console.print(Text(f"{progress}   {entry.lang}/{entry.source}   {printable(entry.origin)}", style="bold"))
    console.print(Text(printable(entry.text[:limit])))
    if len(entry.text) > limit:
        console.print(Text(f"... {len(entry.text) - limit:,} more characters", style="dim"))
    console.print()
    for key, topic in zip(TOPIC_KEYS, topics, strict=False):
        console.print(Text(f"  {key}  {topic}"))
    console.print(Text(f"{SKIP} skip   {UNDO} undo   {MORE} more text   {QUIT} quit (all is saved)", style="dim"))


def printable(text: str) -> str:
    """The text with U+FFFD for every character that could move the cursor, change colours or reverse the line."""
    kept = ("\n", "\t")
    return "".join(
        char if char in kept or (unicodedata.category(char) not in ("Cc", "Cs") and char not in _BIDI) else "\ufffd"
        for char in text
    )


_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that change the direction of the text after them, including text that we print."""

"""The journal of answers: each answer is on disk before it is used.

The file has one JSON object per line (`AnswerLine`). The key is the hash of everything that determined the answer, so
the file survives any change of the recipe: a request that is unchanged is not sent again.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from typing_extensions import TypedDict

from reprise.errors import UserError
from reprise.generators.generator import Answer
from reprise.records import record
from reprise.storage import digest

FILE = "answers.jsonl"

_HELPER = "process-"
"""Prefix of the folders of other processes."""


@record
class AnswerLine(TypedDict):
    """One answer of a language model."""

    key: str
    """Hash of model, prompt and sampling settings."""
    text: str
    """Text of the answer."""
    finish: Literal["stop", "length"]
    """`length`: truncated at max_tokens."""
    prompt_tokens: int
    """Tokens of the prompt."""
    completion_tokens: int
    """Tokens of the answer."""
    checksum: str
    """Hash of the other fields, which detects damaged lines."""


class Journal:
    """An append-only file of answers, with an index in memory: key -> offset in bytes."""

    def __init__(self, folder: Path) -> None:
        """Open the journal in a folder, or create it.

        Raises:
            UserError: another process has it open.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE
        self._file = self.path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UserError(
                "another process writes to this journal", where=str(self.path), remedy="wait for it"
            ) from None
        self._offsets: dict[str, int] = {}
        self._read_index()
        for helper in sorted(folder.glob(f"{_HELPER}*")):  # left by a run whose processes were killed
            self.take_over(helper)

    def __contains__(self, key: str) -> bool:
        return key in self._offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, key: str) -> Answer:
        self._file.seek(self._offsets[key])
        line: AnswerLine = json.loads(self._file.readline())
        return _answer_of(line)

    def record(self, answers: Mapping[str, Answer]) -> None:
        """Write answers; they are on disk when this returns."""
        offset = self._file.seek(0, os.SEEK_END)
        lines: list[bytes] = []
        for key, answer in answers.items():
            line = json.dumps(_line_of(key, answer), ensure_ascii=False).encode() + b"\n"
            self._offsets[key] = offset
            offset += len(line)
            lines.append(line)
        self._file.write(b"".join(lines))
        self._file.flush()
        os.fsync(self._file.fileno())

    def take_over(self, folder: Path) -> None:
        """Record the answers in another process's journal, and remove that journal.

        Raises:
            UserError: that process still has it open.
        """
        if not folder.exists():
            return
        other = Journal(folder)
        self.record({key: other[key] for key in other._offsets if key not in self})
        other.close()
        shutil.rmtree(folder)

    def close(self) -> None:
        """Close the file, and release its lock."""
        self._file.close()

    def _read_index(self) -> None:
        """Index the complete lines, and truncate an incomplete last line. If a key occurs twice, the first answer is
        used."""
        self._file.seek(0)
        offset = 0
        while line := self._file.readline():
            if not line.endswith(b"\n"):
                self._file.truncate(offset)
                break
            key = read_key(line)
            if key is not None:
                self._offsets.setdefault(key, offset)
            offset += len(line)


def helper_folder(folder: Path, rank: int) -> Path:
    """Folder in which another process keeps its answers until the journal in `folder` takes them over."""
    return folder / f"{_HELPER}{rank}"


def _line_of(key: str, answer: Answer) -> AnswerLine:
    line: AnswerLine = {
        "key": key,
        "text": answer.text,
        "finish": answer.finish,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "checksum": "",
    }
    line["checksum"] = _checksum(line)
    return line


def _answer_of(line: AnswerLine) -> Answer:
    return Answer(
        text=line["text"],
        finish=line["finish"],
        prompt_tokens=line["prompt_tokens"],
        completion_tokens=line["completion_tokens"],
    )


def _checksum(line: AnswerLine) -> str:
    return digest({name: value for name, value in line.items() if name != "checksum"})


def read_key(line: bytes) -> str | None:
    """Key of a line that contains a complete, undamaged answer; else None, and the request is sent again."""
    try:
        written: AnswerLine = json.loads(line)
        if _checksum(written) != written["checksum"]:
            return None
        _answer_of(written)
        return str(written["key"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None

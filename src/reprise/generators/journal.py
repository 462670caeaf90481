"""The journal of answers: each is on disk before it is used.

One JSON object a line (`AnswerLine`). The key is the hash of all that made the answer, so the file outlives any change
of the recipe: what is still asked the same way is not asked again.
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
"""Begin of the names of the folders of other processes."""


@record
class AnswerLine(TypedDict):
    """One answer of a language model."""

    key: str
    """Hash of model, prompt and sampling settings."""
    text: str
    """What it answered."""
    finish: Literal["stop", "length"]
    """`length`: cut off at max_tokens."""
    prompt_tokens: int
    """Tokens of the prompt."""
    completion_tokens: int
    """Tokens of the answer."""
    checksum: str
    """Hash of the other fields."""


class Journal:
    """An append-only file of answers with an index in memory: key -> offset."""

    def __init__(self, folder: Path) -> None:
        """Open or create it.

        Raises:
            UserError: another process writes to it.
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
        for helper in sorted(folder.glob(f"{_HELPER}*")):  # of a run whose processes were killed
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
        """Write answers and return when they are on the disk."""
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
        """Record what another process has kept, and remove it there.

        Raises:
            UserError: that process still writes to it.
        """
        if not folder.exists():
            return
        other = Journal(folder)
        self.record({key: other[key] for key in other._offsets if key not in self})
        other.close()
        shutil.rmtree(folder)

    def close(self) -> None:
        """Close the file and let others have it."""
        self._file.close()

    def _read_index(self) -> None:
        """Index the whole lines; cut off what a kill left half-written. The first answer to a key stays."""
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
    """Where another process keeps its answers until the journal of a folder takes them over."""
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
    """Key of a line that holds a whole answer as it was written, else None: it is then asked for again."""
    try:
        written: AnswerLine = json.loads(line)
        if _checksum(written) != written["checksum"]:
            return None
        _answer_of(written)
        return str(written["key"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None

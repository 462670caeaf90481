"""What was recorded is there after any kill, and nothing else is."""

import json
from pathlib import Path

import pytest

from reprise.errors import UserError
from reprise.generators.generator import Answer
from reprise.generators.journal import Journal
from reprise.schemas import FORMATS


def answer(text: str) -> Answer:
    return Answer(text, "stop", 1, 2)


def test_half_a_line_is_cut_off_and_asked_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.record({"a": answer("eins"), "b": answer("zwei 二")})
    whole = journal.path.read_bytes()
    journal.record({"c": answer("drei")})
    journal.close()
    (answers,) = (one for one in FORMATS if one.name == "answers")
    for written in journal.path.read_text(encoding="utf-8").splitlines():
        answers.check(json.loads(written))
    line = journal.path.read_bytes()[len(whole) :]
    for cut in range(len(line)):
        journal.path.write_bytes(whole + line[:cut])
        again = Journal(tmp_path)
        assert len(again) == 2
        assert "c" not in again
        assert again["b"] == answer("zwei 二")
        again.record({"c": answer("neu")})
        again.close()
        assert journal.path.read_bytes().startswith(whole)
        last = Journal(tmp_path)
        assert last["c"] == answer("neu")
        last.close()


def test_a_damaged_line_is_counted_and_asked_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.record({"a": answer("eins"), "b": answer("zwei"), "c": answer("drei")})
    journal.close()
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(lines[0] + b"\x00\xff\x00{}\n" + lines[2])
    again = Journal(tmp_path)
    assert (len(again), "b" in again) == (2, False)
    assert again["c"] == answer("drei")
    again.close()


def test_two_writers_are_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(UserError, match="another process"):
        Journal(tmp_path)
    journal.close()
    Journal(tmp_path).close()

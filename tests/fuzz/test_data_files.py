"""Files of text with a fault: every document is read, refused or named."""

import random

import pytest
from tests.fuzz.data_files import records, try_file

from reprise.storage import from_printable, printable, record_input


def test_a_damaged_file_loses_nothing_in_silence(tmp_path):
    wrong = {}
    for number in random.Random(2).sample(range(100_000), 25):
        folder = tmp_path / str(number)
        folder.mkdir()
        what, fault = try_file(folder, number)
        if fault:
            wrong[number, what] = fault
    assert not wrong


@pytest.mark.parametrize("name", ["a\udcff.jsonl", "a\\xff.jsonl", "一.jsonl"])
def test_a_file_is_found_by_the_name_that_is_stored(tmp_path, name):
    path = tmp_path / name
    path.write_text("x")
    record = record_input(path)
    record["path"].encode()
    assert record_input(path, record) == record
    assert from_printable(printable(str(path))) == path


def test_two_documents_differ():
    assert len({row["text"] for row in records(random.Random(0))}) == 8

"""Wrong command lines: exit code 2 and one message."""

import random

from tests.fuzz.command_lines import Folder, try_line


def test_a_wrong_command_line_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = Folder(tmp_path)
    wrong = {}
    for number in random.Random(3).sample(range(100_000), 20):
        line, outcome = try_line(folder, number)
        if outcome.fault:
            wrong[tuple(line)] = outcome.fault, outcome.err[-300:]
    assert not wrong

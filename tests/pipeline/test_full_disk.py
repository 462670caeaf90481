"""A disk that is full at any write of the pipeline itself: one message, and the same command resumes."""

import errno
import itertools
import json
import os
from pathlib import Path

import pytest
import yaml

from reprise.errors import UserError
from reprise.pipeline import run_stages
from reprise.recipe.loading import load_recipe

CALLS = ((os, "fsync"), (Path, "mkdir"), (Path, "rename"), (Path, "replace"))
"""What begin, publish and the recipe's copy do to the disk besides the stage's own writes."""


@pytest.fixture
def recipe(tmp_path):
    rows = [{"text": f"Some words of the document {number}.", "lang": "en", "source": "web"} for number in range(4)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "name": "x", "workspace": str(tmp_path / "run"), "model": {"path": "none"}, "rows": {"seq_len": 64},
        "documents": {"inputs": [{"path": str(tmp_path / "a.jsonl")}]},
        "stages": [{"name": "one", "tokens": 128, "mixture": {"en": {"share": 1.0, "sources": {"web": 1.0}}}}],
    }  # fmt: skip
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(data))
    return tmp_path / "r.yaml"


def fail_at(patch, number, code):
    """Let the n-th call fail as the system does; gives the list that counts the calls."""
    calls = []

    def counted(owner, name):
        original = getattr(owner, name)

        def call(*arguments, **options):
            calls.append(name)
            if len(calls) == number:
                path = [str(arguments[0])] if isinstance(arguments[0], Path) else []
                raise OSError(code, os.strerror(code), *path)
            return original(*arguments, **options)

        patch.setattr(owner, name, call)

    for owner, name in CALLS:
        counted(owner, name)
    return calls


def documents(folder):
    return {path.name: path.read_bytes() for path in (folder / "read" / "documents").iterdir()}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_at_any_call_is_one_message_and_loses_nothing(recipe, tmp_path, monkeypatch, code):
    whole = tmp_path / "whole"
    run_stages(load_recipe(recipe, [f"workspace={whole}"]), until=["read"], say=lambda line: None)
    failed = set()
    for number in itertools.count(1):
        loaded = load_recipe(recipe, [f"workspace={tmp_path / str(number)}"])
        with monkeypatch.context() as patch:
            calls = fail_at(patch, number, code)
            try:
                run_stages(loaded, until=["read"], say=lambda line: None)
            except UserError as error:
                assert "disk is" in error.what or os.strerror(code) in error.what, error
                assert error.where and error.remedy
                failed.add(calls[number - 1])
        if len(calls) < number:
            break
        run_stages(loaded, until=["read"], say=lambda line: None)
        assert documents(tmp_path / str(number)) == documents(whole), number
        left = {path.name for path in (tmp_path / str(number)).iterdir()}
        assert left == {path.name for path in whole.iterdir()}, number
    assert failed == {"fsync", "mkdir", "rename", "replace"}
    assert number > 8

"""Ctrl-C at random moments of the document stages, from the first import to the end."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import reprise
from reprise.documents.table import read_table
from reprise.interrupts import MESSAGE

ATTEMPTS = int(os.environ.get("REPRISE_INTERRUPTS", "4"))
"""Interrupts of each kind of run: in this process, and with workers."""


def _passages(folder, megabytes):
    """The passages of the demo again and again, with their words in another order each time."""
    demo = Path(reprise.__file__).parent / "demo"
    both = [(demo / f"{lang}.jsonl").read_text(encoding="utf-8").splitlines() for lang in ("en", "zh")]
    passages = [json.loads(line) for pair in zip(*both, strict=False) for line in pair]
    size, index = 0, 0
    with (folder / "text.jsonl").open("w", encoding="utf-8") as file:
        while size < megabytes * 1e6:
            passage = passages[index % len(passages)]
            words = list(passage["text"]) if passage["lang"] == "zh" else passage["text"].split()
            random.Random(index).shuffle(words)
            text = ("" if passage["lang"] == "zh" else " ").join(words)
            size += file.write(json.dumps({**passage, "text": text}, ensure_ascii=False) + "\n")
            index += 1


def _command(folder):
    recipe = {
        "name": "interrupted", "workspace": str(folder / "run"), "model": {"path": str(folder / "none")},
        "documents": {"inputs": [{"path": str(folder / "text.jsonl")}], "valid_share": 0.1,
                      "clean": {"heuristics_sources": []}},
        "rows": {"seq_len": 128},
        "stages": [{"name": "one", "tokens": 2048, "schedule": {"peak_lr": 1e-3}, "mixture": {
            "zh": {"share": 0.5, "sources": {"web": 1.0}}, "en": {"share": 0.5, "sources": {"web": 1.0}}}}],
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return [sys.executable, "-m", "reprise", "deduplicate", str(folder / "recipe.yaml")]


def _documents(folder):
    return [row for batch in read_table(folder / "run" / "deduplicate" / "documents") for row in batch.to_pylist()]


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [0.1, 9.0])
def test_ctrl_c_is_one_line_and_exit_code_130_and_loses_nothing(tmp_path, megabytes):
    rng = random.Random(megabytes)
    folder = tmp_path / "a"
    folder.mkdir()
    _passages(folder, megabytes)
    command = _command(folder)
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.monotonic() - start
    expected = _documents(folder)
    stopped = 0
    for _ in range(ATTEMPTS):
        if rng.random() < 0.5:
            subprocess.run(["rm", "-rf", str(folder / "run")], check=True)
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        time.sleep(0.05 + rng.random() * seconds)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate(timeout=60)
        said = [line for line in err.splitlines() if line]
        if process.returncode == 0:  # it was done already; the machine may have been busy before
            seconds *= 0.7
            assert MESSAGE not in err
            continue
        if process.returncode == -signal.SIGINT and not said:  # before the first line of ours
            continue
        stopped += 1
        assert process.returncode == 130, (process.returncode, err)
        assert said[-1] == MESSAGE, err
        assert all(line.split(":")[0] in ("read", "clean", "deduplicate") for line in said[:-1]), err
        assert out == ""
    assert stopped
    subprocess.run(command, check=True, capture_output=True)
    assert _documents(folder) == expected

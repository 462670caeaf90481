"""`reprise study` on a tiny model: runs side by side, killed, gone on with, compared; common stages are made once."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from tests.pipeline.conftest import small_recipe
from tests.pipeline.test_run import TIMES, reprise


def one_stage_recipe(folder, model):
    data = small_recipe(folder / "unused", model)
    data["stages"] = [{**data["stages"][0], "tokens": 1024, "topics": {}}]
    data["evaluation"]["samples_per_language"] = 0
    return data


@pytest.mark.slow
def test_study_survives_a_kill_and_makes_common_stages_once(tmp_path, tiny_model):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(one_stage_recipe(tmp_path, tiny_model)))
    study = {
        "name": "orders",
        "question": "Which order?",
        "recipe": str(tmp_path / "recipe.yaml"),
        "workspace": str(tmp_path / "study"),
        "baseline": "descending",
        "variants": {name: [f"stages.0.curriculum={{zh: {{order: {name}}}}}"] for name in ("descending", "ascending")},
        "seeds": [1, 2],
        "measures": ["bits_per_byte/zh"],
        "parallel": 2,
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "reprise", "study", str(path)]
    first = subprocess.Popen(command, env={**os.environ, **TIMES}, start_new_session=True)
    deadline = time.monotonic() + 200
    while not (tmp_path / "study" / "descending-seed-1" / "evaluate").exists():
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    done = reprise("study", path)
    assert "ascending against descending: bits_per_byte/zh" in done.stdout
    result = json.loads((tmp_path / "study" / "study.json").read_text())
    assert len(result["measures"]["bits_per_byte/zh"]["differences"]["ascending"]["values"]) == 2
    logs = {log.stem: log.read_text() for log in (tmp_path / "study").glob("*.log")}
    assert sorted(logs) == [f"{name}-seed-{seed}" for name in ("ascending", "descending") for seed in (1, 2)]
    assert logs["descending-seed-1"].count("score: done") == 1
    for name in ("descending-seed-2", "ascending-seed-1", "ascending-seed-2"):
        assert "score: done" not in logs[name] and "score: the same as in" in logs[name]
        assert "train-1: done" in logs[name]
    scores = [tmp_path / "study" / name / "score" / "manifest.json" for name in logs]
    assert len({score.stat().st_ino for score in scores}) == 1


@pytest.mark.slow
def test_failed_run_is_named_with_its_log(tmp_path, tiny_model):
    data = one_stage_recipe(tmp_path, tiny_model)
    data["stages"][0]["tokens"] = 50_000_000
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data))
    arguments = ("--recipe", tmp_path / "recipe.yaml", "--workspace", tmp_path / "study", "--parallel", 2)
    done = reprise("study", "curriculum", *arguments, check=False)
    assert done.returncode == 2
    assert "random-seed-1 ended with code 2" in done.stderr and "random-seed-1.log" in done.stderr

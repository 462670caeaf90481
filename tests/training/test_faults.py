"""Kills and full disks: nothing is lost."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tests.training.conftest import SEQ_LEN, as_call, assert_same_weights, events, make_stage, make_training

from reprise.training import stage
from reprise.training.checkpoint import checkpoints_in, read_facts
from reprise.training.stage import run
from reprise.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
PYTHONPATH = os.pathsep.join([str(ROOT), str(ROOT / "src")])
SCRIPT = Path(__file__).with_name("kill_script.py")
KILLS = 20


@pytest.mark.slow
def test_killed_twenty_times_ends_as_if_never(arguments, make_work):
    every = SEQ_LEN * 4 * 2
    arguments["training"] = make_training(checkpoints={"every_tokens": every}, micro_batch_rows=4)
    arguments["stage"] = make_stage(tokens=SEQ_LEN * 4 * 120)
    whole, broken = make_work("whole"), make_work("broken")
    run(whole, **arguments)
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), as_call(arguments, broken), str(KILLS), "7"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["kills"] == KILLS
    assert found["during_save"] >= KILLS // 4
    assert found["in_a_row"] >= 2
    assert_same_weights(whole.output / "model", broken.output / "model")
    losses = {event["step"]: event["loss"] for event in events(broken, "step")}
    assert losses == {event["step"]: event["loss"] for event in events(whole, "step")}


def test_a_full_disk_during_a_save_stops_nothing_and_harms_nothing(arguments, make_work, small_disk, monkeypatch):
    arguments["training"] = make_training(checkpoints={"every_tokens": SEQ_LEN * 4 * 3})
    whole, full = make_work("whole"), make_work("full")
    run(whole, **arguments)
    original = Trainer.save
    kept = []

    def save(trainer):
        if trainer.progress.step == 6:
            small_disk(100_000)
        original(trainer)
        trainer.writer.wait()
        small_disk(resource.RLIM_INFINITY)
        if trainer.progress.step == 6:
            kept.extend(checkpoints_in(trainer.checkpoints))
            read_facts(kept[0])

    monkeypatch.setattr(Trainer, "save", save)
    run(full, **arguments)
    (guard,) = events(full, "guard")
    assert guard["guard"] == "checkpoint"
    assert re.search(r"step-00000006 cannot be written \([\d,]+ bytes are free there\): ", guard["error"])
    assert [path.name for path in kept] == ["step-00000003"]
    assert [event["name"] for event in events(full, "checkpoint")] == ["step-00000003", "step-00000009"]
    assert_same_weights(whole.output / "model", full.output / "model")


def test_a_full_disk_at_the_end_loses_nothing(arguments, make_work, small_disk, monkeypatch):
    whole, full = make_work("whole"), make_work("full")
    run(whole, **arguments)
    original = stage.write_model

    def write_model(*args, **options):
        small_disk(20_000)
        original(*args, **options)

    monkeypatch.setattr(stage, "write_model", write_model)
    with pytest.raises(OSError, match="File too large"):  # of the system, not of safetensors: it gets one message
        run(full, **arguments)
    monkeypatch.undo()
    small_disk(resource.RLIM_INFINITY)
    run(full, **arguments)
    assert_same_weights(whole.output / "model", full.output / "model")
    assert len(events(full, "step")) == 12

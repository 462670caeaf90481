"""Trackers, read back from what they wrote."""

import os
import sqlite3
import time

import pytest
from tests.training.conftest import events, make_training

from reprise.errors import UserError
from reprise.training import metrics
from reprise.training.signals import Interrupted
from reprise.training.stage import run


def test_tensorboard_has_the_numbers_of_metrics_jsonl(arguments, make_work):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    arguments["training"] = make_training(trackers=["tensorboard"])
    work = make_work()
    run(work, **arguments)
    found = accumulator.EventAccumulator(str(work.output / "tensorboard"))
    found.Reload()
    names = found.Tags()["scalars"]
    losses = [(event.step, event.value) for event in found.Scalars("train/loss")]
    assert losses == [(step["step"], pytest.approx(step["loss"])) for step in events(work, "step")]
    assert {"train/lr", "train/grad_norm", "train/tokens_per_s"} <= set(names)
    assert any(name.startswith("validation/en/book") and name.endswith("bits_per_byte") for name in names)
    assert any(name.startswith("shares/") for name in names)


class _Broken:
    name = "wandb"

    def __init__(self, *_args):
        self.given = 0

    def log(self, *_args):
        self.given += 1
        raise ConnectionError("no route to host")

    close = log


def test_a_tracker_that_fails_on_the_way_stops_nothing(arguments, make_work, monkeypatch, caplog):
    broken = _Broken()
    monkeypatch.setitem(metrics._TRACKERS, "wandb", lambda *_: broken)
    arguments["training"] = make_training(trackers=["wandb"])
    work = make_work()
    run(work, **arguments)
    assert broken.given == 1
    assert "wandb gets no more values; metrics.jsonl has all of them: no route to host" in caplog.text
    assert len(events(work, "step")) == 12


def test_a_tracker_that_does_not_start_is_one_message(arguments, make_work, monkeypatch):
    def refuse(*_):
        raise RuntimeError("no API key")

    monkeypatch.setitem(metrics._TRACKERS, "wandb", refuse)
    arguments["training"] = make_training(trackers=["wandb"])
    work = make_work()
    with pytest.raises(UserError, match=r"training.trackers: wandb does not start: no API key"):
        run(work, **arguments)
    assert not list(work.output.iterdir())


def stop_and_go_on(arguments, make_work, monkeypatch):
    """A run that is stopped once on the way; gives its work folder."""
    from reprise.training.trainer import Trainer

    work, step = make_work(), Trainer.step

    def stop_after_three(trainer):
        if trainer.progress.step == 3:
            os.kill(os.getpid(), 15)
        step(trainer)

    monkeypatch.setattr(Trainer, "step", stop_after_three)
    with pytest.raises(Interrupted):
        run(work, **arguments)
    monkeypatch.setattr(Trainer, "step", step)
    run(work, **arguments)
    return work


def test_trackio_goes_on_in_one_run(arguments, make_work, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when trackio is imported
    pytest.importorskip("trackio")
    arguments["training"] = make_training(trackers=["trackio"])
    work = stop_and_go_on(arguments, make_work, monkeypatch)
    time.sleep(1)
    (path,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(path) as database:
        rows = database.execute("select run_name, step, cast(metrics as text) from metrics").fetchall()
    names = {name for name, _, metrics in rows if "train/loss" in metrics}
    assert len(names) == 1
    assert {step for _, step, metrics in rows if "train/loss" in metrics} == {s["step"] for s in events(work, "step")}


def test_wandb_goes_on_in_one_run(arguments, make_work, monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    arguments["training"] = make_training(trackers=["wandb"])
    stop_and_go_on(arguments, make_work, monkeypatch)
    runs = [path.name.rsplit("-", 1)[1] for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert len(runs) == 2  # one folder for each start
    assert len(set(runs)) == 1

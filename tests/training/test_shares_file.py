"""Shares that the user changes while a stage trains, through the training loop."""

import dataclasses
import json
import os
import signal

import pytest
from tests.training.conftest import SEQ_LEN, events, make_stage

from reprise.mixture import sampler as sampling
from reprise.schemas import FORMATS
from reprise.training.signals import Interrupted
from reprise.training.stage import run
from reprise.training.trainer import Trainer

ROWS = 4


@pytest.fixture
def dealt(monkeypatch):
    """Buckets of every row that is trained on."""
    found, original = [], sampling.Sampler.next_batch

    def next_batch(self, *args):
        batch = original(self, *args)
        found.extend(batch.buckets)
        return batch

    monkeypatch.setattr(sampling.Sampler, "next_batch", next_batch)
    return found


@pytest.fixture
def after_step(monkeypatch):
    def install(number, action):
        original, made = Trainer.step, []

        def step(trainer):
            original(trainer)
            made.append(1)
            if len(made) == number:
                action()

        monkeypatch.setattr(Trainer, "step", step)

    return install


def test_a_file_and_a_hangup_change_the_shares_and_stop_nothing(arguments, make_work, dealt, after_step):
    arguments["stage"] = make_stage(tokens=SEQ_LEN * ROWS * 23, topics={}, max_epochs=50)
    work = make_work()

    def wish():
        (work.output / "shares.json").write_text(json.dumps({"zh": 0.25}))
        os.kill(os.getpid(), signal.SIGHUP)

    after_step(3, wish)
    run(work, **arguments)
    (event,) = events(work, "shares")
    assert (event["step"], event["cause"], event["path"]) == (3, "shares.json", "")
    assert event["old"] == {"zh": 0.5, "en": 0.5} and event["new"] == {"zh": 0.25, "en": 0.75}
    chinese = [bucket.entry == "zh" for bucket in dealt]
    assert len(chinese) == ROWS * 23
    assert sum(chinese[: 3 * ROWS]) == 6 and sum(chinese[3 * ROWS :]) == 20
    applied = json.loads((work.output / "shares-applied.json").read_text())
    assert [(entry["rows"], entry["shares"]) for entry in applied] == [(3 * ROWS, {"zh": 0.25})]
    next(one for one in FORMATS if one.name == "shares-applied").check(applied)


def test_a_changed_recipe_at_resume_changes_the_shares(arguments, make_work, dealt, after_step, monkeypatch):
    stage = make_stage(tokens=SEQ_LEN * ROWS * 23, topics={}, max_epochs=50)
    work = make_work()
    with monkeypatch.context():
        after_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            run(work, **{**arguments, "stage": stage})
    sources = {"web": 0.6, "book": 0.4}
    mixture = {"zh": {"share": 0.25, "sources": sources}, "en": {"share": 0.75, "sources": sources}}
    changed = make_stage(tokens=SEQ_LEN * ROWS * 23, topics={}, max_epochs=50, mixture=mixture)
    run(dataclasses.replace(work, adopt=True), **{**arguments, "stage": changed})
    (event,) = events(work, "shares")
    assert (event["step"], event["cause"], event["path"]) == (3, "recipe", "")
    assert event["old"] == {"zh": 0.5, "en": 0.5} and event["new"] == {"zh": 0.25, "en": 0.75}
    chinese = [bucket.entry == "zh" for bucket in dealt]
    assert sum(chinese[: 3 * ROWS]) == 6 and sum(chinese[3 * ROWS :]) == 20

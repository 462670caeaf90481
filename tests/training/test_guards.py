"""Spikes and retention: what the guards see, and what they do to a run."""

import os
import signal

import pytest
import torch
from tests.training.conftest import SEQ_LEN, assert_same_weights, events, make_stage, make_training, weights_of

from reprise.errors import UserError
from reprise.recipe.groups import find_groups
from reprise.recipe.training import Guards
from reprise.schemas import FORMATS
from reprise.tokens.store import BucketKey
from reprise.training import retention_guard
from reprise.training.guards import is_spike
from reprise.training.retention_guard import bits_per_byte, check_retention, kept_groups
from reprise.training.signals import Interrupted
from reprise.training.stage import run
from reprise.training.trainer import Trainer
from reprise.training.validation import BucketLoss

METRICS = next(one for one in FORMATS if one.name == "metrics")


def test_a_spike_is_far_over_the_window():
    settings = Guards(spike_sigmas=3, spike_window=10)
    recent = [2.0, 2.1, 1.9, 2.0, 2.1, 1.9]
    assert is_spike(2.5, recent, settings)
    assert not is_spike(2.2, recent, settings)
    assert not is_spike(1.0, recent, settings)
    assert not is_spike(100.0, recent[:4], settings)


def loss_of(language, source, topic, nll, tokens, num_bytes, documents=9):
    return BucketLoss(BucketKey(language, source, topic), nll, num_bytes, tokens, documents)


def test_a_kept_group_sums_over_its_buckets_and_its_sources_are_kept_too():
    losses = [
        loss_of("en", "web", "Law", 2.0, 100, 400),
        loss_of("en", "book", None, 4.0, 50, 100),
        loss_of("en", "mail", None, 9.0, 1, 9, documents=4),
        loss_of("zh", "web", "Law", 3.0, 10, 30),
    ]
    log2 = torch.log(torch.tensor(2.0)).item()
    groups = kept_groups(find_groups([], {"en": 0.1, "fr": 0.1}), losses)
    # A source with few documents gets no verdict in the evaluation, and no guard here.
    assert [group.path for group in groups] == ["en", "en/book", "en/web", "fr"]
    values = {group.path: bits_per_byte(losses, group) for group in groups}
    assert values["en"] == pytest.approx(409 / log2 / 509)
    assert values["en/web"] == pytest.approx(200 / log2 / 400)
    assert values["fr"] is None
    base = {"en": 1.0, "en/book": 1.0, "en/web": 1.0}
    kept = {retention.path: retention.is_lost for retention in check_retention(losses, base, groups)}
    assert kept == {"en": 409 / log2 / 509 > 1.1, "en/book": True, "en/web": False}


@pytest.fixture
def spiky(arguments, monkeypatch):
    """Steps whose batch begins at row 32 have a loss that is 100 times too high."""

    def make(action, **checkpoints):
        settings = {"spike": action, "spike_sigmas": 4, "spike_window": 10, "retention": "off"}
        arguments["training"] = make_training(guards=settings, checkpoints=checkpoints)

        class Spiky(torch.nn.Module):
            def __init__(self, inner, trainer):
                super().__init__()
                self.inner, self.trainer = inner, [trainer]

            def forward(self, *args, **inputs):
                loss = self.inner(*args, **inputs)
                factor = 100.0 if inputs.get("labels") is not None and self.trainer[0].sampler.rows_done == 36 else 1.0
                return loss * factor if factor != 1.0 else loss

            def get_output_embeddings(self):
                return self.inner.get_output_embeddings()

            @property
            def config(self):
                return self.inner.config

        train = Trainer.train

        def spiky_train(trainer):
            trainer.network.objective = Spiky(trainer.network.objective, trainer)
            train(trainer)

        monkeypatch.setattr(Trainer, "train", spiky_train)
        return arguments

    return make


@pytest.mark.parametrize("action", ["log", "skip"])
def test_a_spike_is_noted_or_left_out(spiky, make_work, action):
    work = make_work()
    run(work, **spiky(action))
    (guard,) = [event for event in events(work, "guard") if event["guard"] == "spike"]
    assert (guard["first_row"], guard["action"]) == (32, action)
    losses = [step["loss"] for step in events(work, "step")]
    assert len(losses) == 12
    assert (losses[8] is None) == (action == "skip")


def test_a_spike_sends_the_run_back_to_the_checkpoint_without_its_rows(spiky, make_work):
    work, skipped = make_work("back"), make_work("skipped")
    run(work, **spiky("rollback", every_tokens=SEQ_LEN * 4 * 3))
    steps = events(work, "step")
    assert [step["step"] for step in steps] == [*range(1, 9), *range(7, 13)]
    assert [step["loss"] for step in steps if step["step"] == 9] == [None]
    assert [event["cause"] for event in events(work, "resume")] == ["spike"]
    assert work.counts["steps_left_out"] == 1
    for event in events(work):
        METRICS.check(event)
    run(skipped, **spiky("skip"))
    assert_same_weights(work.output / "model", skipped.output / "model")


def kept_badly(arguments, action):
    """A large rate on Chinese alone ruins the English of the model."""
    stage = make_stage(
        schedule={"peak_lr": 0.03},
        mixture={
            "zh": {"share": 0.9, "sources": {"web": 1.0}},
            "en": {"share": 0.1, "sources": {"web": 1.0}},
        },
        topics={"sources": ["web"]},
        tokens=SEQ_LEN * 4 * 24,
    )
    training = make_training(guards={"retention": action}, validation={"every_tokens": SEQ_LEN * 8, "max_tokens": 1000})
    return {**arguments, "stage": stage, "training": training, "kept": find_groups([], {"en": 0.0})}


@pytest.fixture
def english_gets_worse(monkeypatch):
    """Held-out English counts as 10 % worse from the second to the fourth measurement."""
    original, calls = retention_guard.check_retention, []

    def check(losses, baseline, groups):
        calls.append(1)
        factor = 1.1 if 2 <= len(calls) <= 4 else 0.5
        whole = [group for group in groups if group.source is None]
        return original(losses, {group.path: bits_per_byte(losses, group) / factor for group in whole}, whole)

    monkeypatch.setattr(retention_guard, "check_retention", check)


def test_retention_warns(arguments, make_work, english_gets_worse):
    work = make_work()
    run(work, **kept_badly(arguments, "warn"))
    guards = events(work, "guard")
    assert [guard["action"] for guard in guards] == ["warn"] * 3
    for event in events(work):
        METRICS.check(event)
    assert not events(work, "shares")


def test_retention_stops_and_saves(arguments, make_work, english_gets_worse):
    work = make_work()
    with pytest.raises(UserError, match=r"evaluation\.tolerance.* for en"):
        run(work, **kept_badly(arguments, "stop"))
    assert events(work, "checkpoint")


def test_retention_raises_the_share_until_the_language_is_back(arguments, make_work, english_gets_worse):
    work = make_work()
    run(work, **kept_badly(arguments, "raise_share"))
    shares = [event["new"]["en"] for event in events(work, "shares")]
    assert shares == pytest.approx([0.2, 0.3, 0.4, 0.1])
    assert all(event["cause"] == "retention of en" for event in events(work, "shares"))


def test_the_state_of_the_guards_survives_a_stop(arguments, make_work, monkeypatch):
    arguments["training"] = make_training(guards={"spike": "skip", "spike_sigmas": 0.5, "spike_window": 10})
    arguments["stage"] = make_stage(tokens=SEQ_LEN * 4 * 20)
    whole, broken = make_work("whole"), make_work("broken")
    run(whole, **arguments)
    original, made = Trainer.step, []

    def step(trainer):
        made.append(1)
        if len(made) == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        original(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        with pytest.raises(Interrupted):
            run(broken, **arguments)
    run(broken, **arguments)
    assert_same_weights(whole.output / "model", broken.output / "model")
    assert [e["first_row"] for e in events(whole, "guard")] == [e["first_row"] for e in events(broken, "guard")]
    assert weights_of(whole.output / "model")

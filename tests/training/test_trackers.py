"""Trackers, read back from what they wrote."""

import pytest
from tests.training.conftest import events, make_training

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
    assert any(name.startswith("weights/") for name in names)

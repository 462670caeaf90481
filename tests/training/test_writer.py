"""Checkpoints that are written while training goes on."""

import functools
import threading
import time

import pytest
import torch
from tests.training.conftest import SEQ_LEN, assert_same_weights, events, make_training

from reprise.errors import UserError
from reprise.recipe.training import Averaging
from reprise.training import stage as stage_module
from reprise.training import writer as writer_module
from reprise.training.checkpoint import checkpoints_in
from reprise.training.export import export_checkpoint
from reprise.training.stage import run
from reprise.training.trainer import Trainer
from reprise.training.writer import CheckpointWriter

EVERY = SEQ_LEN * 4 * 3


@pytest.fixture
def saving(arguments):
    """The stage saves after steps 3, 6, 9; all of them stay."""
    arguments["training"] = make_training(checkpoints={"every_tokens": EVERY, "keep_every_tokens": EVERY})
    return arguments


@pytest.mark.parametrize("copies", [False, True])
def test_a_slow_disk_gets_the_weights_of_the_step_that_was_saved(saving, make_work, tmp_path, monkeypatch, copies):
    whole, slow = make_work("whole"), make_work("slow")
    run(whole, **saving)
    save, step = writer_module.save, Trainer.step
    went_on = threading.Event()
    waited = []

    def slow_save(*args, **options):
        if not waited:
            waited.append(went_on.wait(timeout=0.5 if not copies else 60))
        return save(*args, **options)

    def watched_step(trainer):
        if trainer.progress.step == 4:  # the second one after the save
            went_on.set()
        step(trainer)

    monkeypatch.setattr(Trainer, "step", watched_step)
    monkeypatch.setattr(writer_module, "save", slow_save)
    monkeypatch.setattr(stage_module, "CheckpointWriter", functools.partial(CheckpointWriter, copies=copies))
    run(slow, **saving)
    assert_same_weights(whole.output / "model", slow.output / "model")
    for number, (expected, actual) in enumerate(
        zip(checkpoints_in(whole.output / "checkpoints"), checkpoints_in(slow.output / "checkpoints"), strict=True)
    ):
        assert expected.name == actual.name
        folders = [tmp_path / f"{side}-{number}" for side in ("expected", "actual")]
        for checkpoint, folder in zip((expected, actual), folders, strict=True):
            export_checkpoint(checkpoint, saving["model"], folder)
        assert_same_weights(*folders)
    # With a copy training goes on; without one the optimizer waits for the disk.
    assert waited == [copies]
    stalls = [event["stall_s"] for event in events(slow, "checkpoint")]
    assert len(stalls) == 3
    assert copies or stalls[0] > 0.4


def test_pinned_copies_meet_the_mean_of_the_weights(saving, make_work, monkeypatch):
    """The first save after the mean began has names that the one before had not; as on CUDA, where copies are kept."""
    from torch.cuda import _pin_memory_utils

    pinned = []
    monkeypatch.setattr(_pin_memory_utils, "pin_memory", lambda *_args: pinned.append(1))
    monkeypatch.setattr(_pin_memory_utils, "unpin_memory", lambda *_args: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(1) or tensor)
    averaging = {"kind": "mean", "tokens": EVERY * 2}
    saving["training"] = saving["training"].model_copy(update={"averaging": Averaging(**averaging)})
    plain, copied = make_work("plain"), make_work("copied")
    run(plain, **saving)

    class PinningWriter(CheckpointWriter):
        def __init__(self, processes):
            super().__init__(processes, copies=True)
            self._pins = True

    monkeypatch.setattr(stage_module, "CheckpointWriter", PinningWriter)
    run(copied, **saving)
    assert pinned
    assert_same_weights(plain.output / "model", copied.output / "model")
    assert len(events(copied, "checkpoint")) == 3


def test_an_error_in_the_background_is_not_lost(saving, make_work, monkeypatch):
    def broken(*_args, **_options):
        raise RuntimeError("the plan makes no sense")

    monkeypatch.setattr(writer_module, "save", broken)
    with pytest.raises(RuntimeError, match="the plan makes no sense"):
        run(make_work(), **saving)


def test_a_run_that_breaks_still_publishes_the_checkpoint_that_was_begun(saving, make_work, monkeypatch):
    save, step = writer_module.save, Trainer.step

    def slow_save(*args, **options):
        time.sleep(0.3)
        return save(*args, **options)

    def break_at_four(trainer):
        if trainer.progress.step == 3:
            raise torch.OutOfMemoryError("no memory left")
        step(trainer)

    monkeypatch.setattr(writer_module, "save", slow_save)
    monkeypatch.setattr(Trainer, "step", break_at_four)
    work = make_work()
    with pytest.raises(UserError, match=r"out of memory: no memory left\n.*"):
        run(work, **saving)
    assert [path.name for path in checkpoints_in(work.output / "checkpoints")] == ["step-00000003"]


def test_a_run_made_again_gives_the_same_files_bit_for_bit(saving, make_work):
    """Else what follows the stage would be stale, though nothing that it reads has changed."""
    works = [make_work("one"), make_work("two")]
    for work in works:
        run(work, **saving)
    names = [
        sorted(str(path.relative_to(work.output)) for path in work.output.rglob("*") if path.is_file())
        for work in works
    ]
    assert names[0] == names[1]
    assert any(name.endswith(".metadata") for name in names[0])
    for name in names[0]:
        if name != "metrics.jsonl":
            assert (works[0].output / name).read_bytes() == (works[1].output / name).read_bytes(), name

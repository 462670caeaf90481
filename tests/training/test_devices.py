"""Which GPU a process takes, and the step that a stop signal interrupts; CUDA is a stand-in."""

import itertools

import pytest
import torch
from tests.training.conftest import assert_same_weights, events, make_training

from reprise.errors import UserError
from reprise.model.devices import own_device
from reprise.training import trainer
from reprise.training.signals import Interrupted, StopSignal
from reprise.training.stage import run


@pytest.mark.parametrize(
    "visible,local_rank,index",
    [(8, "0", 0), (8, "7", 7), (8, None, 0), (1, "5", 0)],
    ids=["first", "last", "no launcher", "Slurm shows each task its own"],
)
def test_each_process_takes_the_gpu_of_its_local_rank(monkeypatch, visible, local_rank, index):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert own_device() == torch.device("cuda", index)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match=r"LOCAL_RANK = 2: this machine has 2 GPUs and at least 3 processes"):
        own_device()


def test_a_long_step_is_given_up_when_a_stop_comes_and_is_done_again_later(arguments, make_work, monkeypatch):
    """The weights are in the end those of a run that was never stopped."""
    arguments["training"] = make_training(micro_batch_rows=1)
    whole, stopped = make_work("whole"), make_work("stopped")
    run(whole, **arguments)
    begin, counter = trainer.Network.begin_backward, itertools.count(1)
    stops: list[StopSignal] = []
    train = trainer.Trainer.train

    def remember(self):
        stops.append(self.stop)
        train(self)

    def stop_within_the_third_step(self, *, is_last):
        begin(self, is_last=is_last)
        if next(counter) == 2 * 4 + 2:
            stops[0].received = True

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "GIVE_UP_S", 0.0)  # any rest of a step is long
        patch.setattr(trainer.Trainer, "train", remember)
        patch.setattr(trainer.Network, "begin_backward", stop_within_the_third_step)
        with pytest.raises(Interrupted):
            run(stopped, **arguments)
    assert [event["step"] for event in events(stopped, "step")] == [1, 2]
    assert next(counter) == 2 * 4 + 3  # two of the four micro-batches of the third step
    run(stopped, **arguments)
    assert_same_weights(whole.output / "model", stopped.output / "model")

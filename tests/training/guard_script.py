"""A training stage in which one process alone sees a gradient that is not finite, and later a loss that is too high.

Started by torchrun. Arguments: the call as in train_script.py, and the rank of that process.
"""

import json
import sys

import torch.distributed as dist
from tests.training.train_script import run_call

from reprise.training import trainer as trainer_module
from reprise.training.trainer import Trainer

BAD_STEP, SPIKE_STEP = 3, 6


def main() -> None:
    odd = int(sys.argv[2])
    step, accumulate, squared_norm = Trainer.step, Trainer.accumulate, trainer_module.squared_norm
    now: list[int] = []

    def watched_step(trainer):
        now[:] = [trainer.progress.step if dist.get_rank() == odd else -1]
        step(trainer)

    def accumulate_too_much(trainer, batch, scale):
        loss_sum = accumulate(trainer, batch, scale)
        return loss_sum * 100 if now == [SPIKE_STEP] else loss_sum

    def broken_norm(gradients):
        norm = squared_norm(gradients)
        return norm * float("nan") if now == [BAD_STEP] else norm

    Trainer.step, Trainer.accumulate = watched_step, accumulate_too_much
    trainer_module.squared_norm = broken_norm
    run_call(json.loads(sys.argv[1]))


if __name__ == "__main__":
    main()

"""A training stage in which one process alone sees a gradient that is not finite, and later a spike.

Started by torchrun. Arguments: the call as in train_script.py, and the rank of that process.
"""

import json
import sys

import torch.distributed as dist
from tests.training.train_script import run_call

from reprise.training import loop

BAD_STEP, SPIKE_STEP = 3, 6


def main() -> None:
    odd = int(sys.argv[2])
    original_step, original_clip = loop.step, loop.clip_gradients
    now: list[int] = []

    def step(state, *args):
        now[:] = [state.progress.step if dist.get_rank() == odd else -1]
        return original_step(state, *args)

    def clip(*args):
        norm = original_clip(*args)
        return float("nan") if now == [BAD_STEP] else norm

    loop.step, loop.clip_gradients = step, clip
    loop.is_spike = lambda *_args: now == [SPIKE_STEP]
    run_call(json.loads(sys.argv[1]))


if __name__ == "__main__":
    main()

"""Rejects training settings that these processes and devices do not support, before anything is loaded."""

import importlib.util

import torch

from reprise.errors import UserError, missing_extra
from reprise.recipe.training import Training
from reprise.training.parallel import Processes, compute_dtype, is_sharded


def check_processes(training: Training, processes: Processes) -> None:
    """Raise if the settings cannot be trained with here.

    Raises:
        UserError: a setting needs more or fewer processes, another dtype, or a GPU.
    """
    _check_weights(training, processes)
    _check_memory(training, processes)
    if training.batch_rows % (training.micro_batch_rows * processes.world):
        raise UserError(
            f"batch_rows must be a multiple of micro_batch_rows ({training.micro_batch_rows}) times the number of "
            f"processes ({processes.world})",
            where=f"training.batch_rows = {training.batch_rows}",
            remedy="change one of the three",
        )
    if training.benchmarks_every_tokens and processes.world > 1:
        raise UserError(
            "benchmarks can run during training on one process only",
            where=f"training.benchmarks_every_tokens = {training.benchmarks_every_tokens}",
            remedy="set it to 0 and run `reprise evaluate` afterwards",
        )


def _check_weights(training: Training, processes: Processes) -> None:
    if training.master_weights == "bf16" and compute_dtype(training, processes.device) != torch.bfloat16:
        raise UserError(
            "bfloat16 weights need bfloat16 computation, which is slow on this processor",
            where="training.master_weights = bf16",
            remedy="set training.precision=bf16 to use it anyway, or training.master_weights=float32",
        )
    if training.optimizer.moments == "8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise missing_extra("bitsandbytes", "bitsandbytes", "training.optimizer.moments = 8bit")


def _check_memory(training: Training, processes: Processes) -> None:
    sharded = is_sharded(training, processes.world)
    if training.step_in_backward and sharded:
        raise UserError(
            "a step inside the backward pass is for one process that does not shard",
            where="training.step_in_backward = true",
            remedy="set it to false: on several processes each has its part of the gradients only",
        )
    if training.offload and (processes.device.type != "cuda" or not sharded):
        raise UserError(
            "weights and moments are offloaded from GPUs, by the code that shards them",
            where="training.offload = true",
            remedy="start it on GPUs (on one of them with training.shard_one_process=true), or set it to false",
        )

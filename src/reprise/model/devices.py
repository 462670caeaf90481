"""The device of this process."""

import os

import torch

from reprise.errors import UserError


def own_device() -> torch.device:
    """The GPU of this process: `LOCAL_RANK`, or the only one that is visible; the CPU if there is none.

    Raises:
        UserError: there are more processes than GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank, visible = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if visible == 1:  # Slurm may show each task its own GPU only
        return torch.device("cuda", 0)
    if local_rank >= visible:
        raise UserError(
            f"this machine has {visible} GPUs and at least {local_rank + 1} processes",
            where=f"LOCAL_RANK = {local_rank}",
            remedy="start one process per GPU (torchrun --nproc-per-node, Slurm --ntasks-per-node)",
        )
    return torch.device("cuda", local_rank)

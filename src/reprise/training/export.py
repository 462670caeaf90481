"""Sharded weights to a Hugging Face directory."""

from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from reprise.model.loading import load_tokenizer
from reprise.model.objective import Objective
from reprise.recipe.model import Model
from reprise.training.parallel import Processes


def write_model(objective: Objective, settings: Model, folder: Path, processes: Processes) -> None:
    """Gather the weights and write them, in the base model's own type, with its tokenizer.

    Args:
        objective: sharded.
        settings: the base model.
        folder: to write.
        processes: all of them call; the first writes.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: dict[str, Any] = dict(get_model_state_dict(objective.model, options=options))
    if processes.is_first:
        dtype = objective.config.dtype or torch.float32
        weights = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}
        folder.mkdir(parents=True, exist_ok=True)
        objective.model.save_pretrained(folder, state_dict=weights)
        load_tokenizer(settings).save_pretrained(folder)
    processes.wait()

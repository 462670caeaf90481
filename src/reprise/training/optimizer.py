"""AdamW, the learning rate over tokens, and clipping."""

import math
from typing import Any

import torch
from torch import nn

from reprise.recipe.training import Optimizer, Schedule


def build_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only: not on norms, biases and embeddings, tied output layer included."""
    embeddings = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in parameters if parameter.ndim >= 2 and id(parameter) not in embeddings]
    chosen = set(map(id, decayed))
    others = [parameter for parameter in parameters if id(parameter) not in chosen]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=0.0, betas=settings.betas, eps=settings.eps, fused=True
    )


def learning_rate(schedule: Schedule, tokens_done: int, total_tokens: int, last_rate: float = 0.0) -> float:
    """Rate of a step.

    Args:
        schedule: of the stage.
        tokens_done: tokens of the stage before the step.
        total_tokens: of the stage.
        last_rate: of the last step of the stage before.
    """
    if tokens_done < schedule.warmup_tokens:
        first = last_rate if schedule.initial_lr == "last" else schedule.initial_lr
        return first + (schedule.peak_lr - first) * tokens_done / schedule.warmup_tokens
    if schedule.kind == "wsd":
        left = total_tokens - tokens_done
        if left >= schedule.decay_tokens:
            return schedule.peak_lr
        return schedule.final_lr + (schedule.peak_lr - schedule.final_lr) * max(left, 0) / schedule.decay_tokens
    if schedule.kind == "cosine":
        span = max(1, total_tokens - schedule.warmup_tokens)
        progress = min(1.0, (tokens_done - schedule.warmup_tokens) / span)
        return schedule.final_lr + (schedule.peak_lr - schedule.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
    return schedule.peak_lr


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use a rate for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip_gradients(model: nn.Module, largest_norm: float) -> float:
    """Scale the gradients down to a global norm, over all processes; gives the norm before."""
    norm: Any = nn.utils.clip_grad_norm_(model.parameters(), largest_norm, foreach=True)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def optimizer_steps(optimizer: torch.optim.Optimizer) -> int:
    """Steps that the moments have seen, those of stages before included."""
    return max((int(state["step"]) for state in optimizer.state.values() if "step" in state), default=0)

"""Optimizers, learning rate schedules over tokens, and gradient norms."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from reprise.recipe.training import Schedule, Training
from reprise.training.local_parts import first_row, local_part
from reprise.training.single_adamw import SingleAdamW


class Combined:
    """Several optimizers that divide the parameters of a model, and are stepped and saved together."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[Any, Any]:
        """Parameter -> its optimizer state, from all parts."""
        return {parameter: state for part in self.parts for parameter, state in part.state.items()}

    def step(self) -> None:
        """Step all parts."""
        for part in self.parts:
            part.step()


AnyOptimizer = torch.optim.Optimizer | Combined


def parts_of(optimizer: AnyOptimizer) -> list[torch.optim.Optimizer]:
    """The torch optimizers that an optimizer consists of."""
    return list(optimizer.parts) if isinstance(optimizer, Combined) else [optimizer]


def build_optimizer(model: Any, training: Training, seed: int = 0) -> AnyOptimizer:
    """Build the optimizer of the settings: AdamW, or Muon for the matrices of the layers and AdamW for the rest.

    Only matrices have weight decay: not norms, biases, embeddings, nor a tied output layer. With an adapter, embeddings
    and output layer have a learning rate of their own.

    Args:
        model: the model to train.
        training: settings of optimizer and adapter.
        seed: random seed of the run, for the stochastic rounding of bfloat16 weights.
    """
    settings, adapter = training.optimizer, training.adapter
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
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay, "lr_scale": 1.0},
        {"params": others, "weight_decay": 0.0, "lr_scale": 1.0},
    ]
    if adapter.kind != "none":
        head = getattr(model.get_output_embeddings(), "weight", None)
        ends = embeddings | {id(head)}
        for group in [*groups]:
            whole = [one for one in group["params"] if id(one) in ends]
            group["params"] = [one for one in group["params"] if id(one) not in ends]
            groups.append({**group, "params": whole, "lr_scale": adapter.embeddings_lr_scale})
    groups = [group for group in groups if group["params"]]
    eight_bit = settings.moments == "8bit"
    if training.master_weights == "bf16" or training.step_in_backward or eight_bit:
        return SingleAdamW(groups, betas=settings.betas, eps=settings.eps, eight_bit=eight_bit, seed=seed)
    if settings.kind == "muon":
        return _muon_and_adamw(model, groups, training)
    return _with_moments(torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, eps=settings.eps, fused=True))


def _with_moments(optimizer: torch.optim.AdamW) -> torch.optim.AdamW:
    """Allocate the moments, which torch does in the first step: between gradients, with holes that nothing else fits.

    The state is the one that torch.optim.AdamW creates with `fused=True`.
    """
    for group in optimizer.param_groups:
        for weight in group["params"]:
            optimizer.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32, device=weight.device),
                "exp_avg": torch.zeros_like(weight, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(weight, memory_format=torch.preserve_format),
            }
    return optimizer


def _muon_and_adamw(model: Any, groups: list[dict[str, Any]], training: Training) -> Combined:
    """Muon for the matrices of the layers; AdamW for embeddings, output layer, norms and biases.

    Muon's updates are scaled to the RMS of AdamW's (arXiv 2502.16982), so that both can share a schedule.
    """
    settings = training.optimizer
    head = getattr(model.get_output_embeddings(), "weight", None)
    matrices = [one for one in groups[0]["params"] if one.ndim == 2 and one is not head]
    chosen = set(map(id, matrices))
    rest = [{**group, "params": [one for one in group["params"] if id(one) not in chosen]} for group in groups]
    muon = torch.optim.Muon(
        [{"params": matrices, "lr_scale": 1.0}], lr=0.0, weight_decay=settings.weight_decay,
        momentum=settings.betas[1], adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    adamw = torch.optim.AdamW(
        [group for group in rest if group["params"]], lr=0.0, betas=settings.betas, eps=settings.eps, fused=True
    )
    return Combined(muon, _with_moments(adamw))


def learning_rate(schedule: Schedule, tokens_done: int, total_tokens: int, last_rate: float = 0.0) -> float:
    """Learning rate of a step.

    Args:
        schedule: the stage's schedule.
        tokens_done: tokens trained in the stage before the step.
        total_tokens: tokens of the whole stage.
        last_rate: learning rate of the last step of the previous stage.
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


def set_learning_rate(optimizer: AnyOptimizer, rate: float) -> None:
    """Set the learning rate of the next step; groups scale it by their `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def gradients_of(model: nn.Module) -> list[Tensor]:
    """Gradients of this process; shards if the model is sharded."""
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@torch.no_grad()
def keep_new_rows(model: Any, first_id: int) -> None:
    """Zero all gradients except for the rows of embeddings and output layer from `first_id` on.

    Without weight decay, a weight whose gradient was always zero does not change, as its moments are zero.

    Args:
        model: a model with gradients, which may be sharded.
        first_id: id of the first token to train.
    """
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    rows = {id(weight) for end in ends if end is not None for weight in end.parameters()}
    for weight in model.parameters():
        if weight.grad is not None:
            gradient = local_part(weight.grad)
            old = gradient[: max(0, first_id - first_row(weight))] if id(weight) in rows else gradient
            old.zero_()


@torch.no_grad()
def squared_norm(gradients: Sequence[Tensor]) -> Tensor:
    """This process's part of the squared global norm, float64 scalar; the parts of all processes sum to it."""
    by_copies: dict[int, list[Tensor]] = {}
    for gradient in gradients:
        by_copies.setdefault(_copies(gradient), []).append(local_part(gradient))
    total = torch.zeros((), dtype=torch.float64, device=gradients[0].device)
    for copies, parts in by_copies.items():
        norms = torch.stack(torch._foreach_norm(parts, 2.0, dtype=torch.float32))
        total += norms.double().square().sum() / copies
    return total


def _copies(tensor: Tensor) -> int:
    """Number of processes that hold the same part of a tensor."""
    if not isinstance(tensor, DTensor):
        return 1
    mesh = tensor.device_mesh
    return math.prod(mesh.size(axis) for axis, placement in enumerate(tensor.placements) if placement.is_replicate())


@torch.no_grad()
def scale_gradients(gradients: Sequence[Tensor], factor: float) -> None:
    """Multiply all gradients by a factor, in place."""
    if factor != 1.0:
        torch._foreach_mul_([local_part(gradient) for gradient in gradients], factor)


def optimizer_steps(optimizer: AnyOptimizer) -> int:
    """Steps accumulated in the moments, including those of previous stages."""
    return max((int(state["step"]) for state in optimizer.state.values() if "step" in state), default=0)

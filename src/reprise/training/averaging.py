"""The mean of the weights over training, which does not depend on the last few batches."""

from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import get_model_state_dict

from reprise.model.objective import Objective
from reprise.recipe.training import Averaging
from reprise.training.adapter import frozen_names
from reprise.training.local_parts import local_part


class Average:
    """A mean over the end of a stage, or an exponential moving average; in float32, sharded like the weights.

    Averaging instead of a decaying rate keeps the gain of an easy-to-hard order (arXiv 2511.18903).
    """

    def __init__(self, objective: Objective, settings: Averaging, total_tokens: int) -> None:
        self._objective, self._settings = objective, settings
        self._start = total_tokens - settings.tokens if settings.kind == "mean" else 0
        self.count = 0
        """Samples in the mean."""
        self.weights: dict[str, torch.Tensor] = {}
        """Name -> mean; empty before the first sample."""

    @torch.no_grad()
    def update(self, step: int, tokens: int) -> None:
        """Add the weights to the mean, if it is due.

        Args:
            step: optimizer steps so far.
            tokens: tokens of the stage so far.
        """
        if self._settings.kind == "none" or tokens <= self._start or step % self._settings.every_steps:
            return
        self.count += 1
        if not self.weights:
            self.weights = self.template()
            return
        share = 1 / self.count if self._settings.kind == "mean" else 1 - self._settings.decay
        for name, value in distinct_weights(self._objective).items():
            mean = local_part(self.weights[name])
            mean.lerp_(local_part(value).to(mean.dtype), share)

    def restart(self) -> None:
        """Forget the samples."""
        self.count, self.weights = 0, {}

    def template(self) -> dict[str, torch.Tensor]:
        """A copy of the weights: the first sample, or tensors to load a saved mean into."""
        return {
            name: value.detach().to(torch.float32, copy=True)
            for name, value in distinct_weights(self._objective).items()
        }


def distinct_weights(objective: Objective, *, frozen: bool = False) -> dict[str, Any]:
    """Name -> weight; only the first name of tied weights.

    Args:
        objective: the model.
        frozen: whether to include weights that are frozen beside an adapter.
    """
    every = {name for name, _ in objective.named_parameters(remove_duplicate=False)}
    # Not by their addresses: a process that has no row of several weights would take these for one.
    left_out = every - {name for name, _ in objective.named_parameters()}
    if not frozen:
        left_out |= frozen_names(objective)
    return {name: value for name, value in get_model_state_dict(objective).items() if name not in left_out}

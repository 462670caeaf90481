"""AdamW that steps one weight at a time, and keeps bfloat16 weights without a float32 copy by rounding at random.

A step of training is far smaller than the last digit of a bfloat16 weight, so that rounding to nearest would
undo it. Rounded at random, up as often as the value is near the upper neighbour, the weight is right in the mean
(stochastic rounding, arXiv 2010.06192).
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from reprise.training.local_parts import first_row, local_part

CHUNK = 2**20
"""Numbers that are worked on at a time: what is computed in float32 stays small, and in the caches of a processor."""


class SingleAdamW(torch.optim.Optimizer):
    """AdamW as torch.optim.AdamW computes it, with moments in float32 whatever the type of the weights."""

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, betas: tuple[float, float], eps: float, seed: int = 0
    ) -> None:
        """Create the optimizer.

        Args:
            groups: parameters with `weight_decay`; `lr` is set before each step.
            betas: decay rates of the two moments.
            eps: added to the root of the second moment.
            seed: random seed of the run, for the rounding.
        """
        self._seed = seed
        super().__init__(groups, {"lr": 0.0, "betas": betas, "eps": eps, "weight_decay": 0.0})
        for weight in self.weights():  # at once: torch would do it by a step with gradients in the type of the weights
            moments = {name: torch.zeros_like(weight, dtype=torch.float32) for name in ("exp_avg", "exp_avg_sq")}
            self.state[weight] = {"step": torch.zeros((), dtype=torch.float32), **moments}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a saved state. torch would round the moments to the type of the weights."""
        super().load_state_dict(state_dict)
        saved = [name for group in state_dict["param_groups"] for name in group["params"]]
        for name, weight in zip(saved, self.weights(), strict=True):
            for part in ("exp_avg", "exp_avg_sq"):
                self.state[weight][part] = state_dict["state"][name][part].detach().clone()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Change every weight that has a gradient."""
        assert closure is None
        for weight in self.weights():
            if weight.grad is not None:
                self.step_weight(weight)

    def weights(self) -> list[Tensor]:
        """All weights, in the order of their groups."""
        return [weight for group in self.param_groups for weight in group["params"]]

    @torch.no_grad()
    def step_weight(self, weight: Tensor) -> None:
        """Change one weight by its gradient.

        What is drawn for the rounding depends on the seed, the step, the position of the weight in the model and the
        first of the rows that this process holds: nothing has to be saved, and copies of a shard stay equal.
        """
        index, group = self._group_of(weight)
        state = self.state[weight]
        state["step"] += 1
        step, (beta1, beta2) = int(state["step"]), group["betas"]
        local = local_part(weight)
        generator = torch.Generator(local.device)
        generator.manual_seed(_mix(self._seed, step, index, first_row(weight)))
        moments = [local_part(state[name]).view(-1) for name in ("exp_avg", "exp_avg_sq")]
        tensors = (local.view(-1), local_part(weight.grad).reshape(-1), *moments)
        rate, correction = float(group["lr"]), (1 - beta2**step) ** 0.5
        for part, gradient, mean, square in zip(*(torch.split(one, CHUNK) for one in tensors), strict=True):
            gradient = gradient.float()
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            values = part.float()  # of a float32 weight the part itself
            values.mul_(1 - rate * group["weight_decay"])
            denominator = square.sqrt().div_(correction).add_(group["eps"])
            values.addcdiv_(mean, denominator, value=-rate / (1 - beta1**step))
            if part.dtype == torch.bfloat16:
                part.copy_(round_at_random(values, generator))

    def _group_of(self, weight: Tensor) -> tuple[int, dict[str, Any]]:
        """Position of a weight among all, and its group."""
        index = 0
        for group in self.param_groups:
            for one in group["params"]:
                if one is weight:
                    return index, group
                index += 1
        raise KeyError("the optimizer does not train this weight")


def round_at_random(values: Tensor, generator: torch.Generator) -> Tensor:
    """Finite float32 values to bfloat16: to a neighbour, up with the probability that makes the mean right.

    bfloat16 has the upper 16 bits of float32. 16 random bits are added to the lower ones, which are then cleared.
    """
    noise = torch.randint(0, 2**16, values.shape, dtype=torch.int32, device=values.device, generator=generator)
    bits = noise.add_(values.contiguous().view(torch.int32)).bitwise_and_(-(2**16))
    return bits.view(torch.float32).to(torch.bfloat16)


def _mix(*numbers: int) -> int:
    """A 63-bit seed that depends on all arguments."""
    text = ",".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1

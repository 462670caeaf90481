"""AdamW that steps one weight at a time, for bfloat16 weights without a float32 copy and for moments in 8 bits.

A step of training is far smaller than the last digit of a bfloat16 weight, so that rounding to nearest would
undo it. Rounded at random, up as often as the value is near the upper neighbour, the weight is right in the mean
(stochastic rounding, arXiv 2010.06192).

Moments in 8 bits are quantized in blocks (arXiv 2110.02861) by bitsandbytes. A block is a part of a row, so that codes
and scales are sharded as their weight is.
"""

import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor import zeros as distributed_zeros

from reprise.training.local_parts import first_row, local_part

BLOCKS = (256, 128, 64)
"""Values that share a scale, if the length of a row is a multiple of it."""
CHUNK = 2**20
"""Numbers that are worked on at a time: what is computed in float32 stays small, and in the caches of a processor."""


MOMENTS = ("exp_avg", "exp_avg_sq")
"""Names of the two moments, as in torch.optim.AdamW."""


def block_of(shape: Sequence[int]) -> int | None:
    """Values that share a scale; None if the moments of a weight of this shape stay float32."""
    return None if len(shape) < 2 else next((block for block in BLOCKS if shape[-1] % block == 0), None)


def _zero_scales(weight: Tensor, block: int) -> Tensor:
    """float32 [..., row length / block], zeros, sharded as the weight is."""
    shape = (*weight.shape[:-1], weight.shape[-1] // block)
    if isinstance(weight, DTensor):
        mesh, placements = weight.device_mesh, weight.placements
        return distributed_zeros(*shape, dtype=torch.float32, device_mesh=mesh, placements=placements)
    return torch.zeros(shape, dtype=torch.float32, device=weight.device)


@functools.cache
def _codes(name: str, device: torch.device) -> Tensor:
    """float32 [256]: the values that the codes of a moment stand for, as shares of the scale."""
    from bitsandbytes.functional import create_dynamic_map

    codes: Tensor = create_dynamic_map(signed=name == "exp_avg").to(device)
    return codes


class _Moment:
    """A moment of one weight: its local part, read and written in chunks of `CHUNK` float32 values."""

    def __init__(self, state: dict[str, Any], name: str) -> None:
        values = local_part(state[name]).view(-1)
        self._name, self._parts = name, torch.split(values, CHUNK)
        scales = state.get(f"{name}_scale")
        self._scales: Sequence[Tensor] | None = None
        if scales is not None and values.numel():
            scales = local_part(scales).view(-1)
            self._block = values.numel() // scales.numel()
            self._scales = torch.split(scales, CHUNK // self._block)

    def read(self, chunk: int) -> Tensor:
        """The values: those of the moment itself, or dequantized copies."""
        part = self._parts[chunk]
        if self._scales is None:
            return part
        from bitsandbytes.functional import dequantize_blockwise

        codes = _codes(self._name, part.device)
        values: Tensor = dequantize_blockwise(part, absmax=self._scales[chunk], code=codes, blocksize=self._block)
        return values

    def write(self, chunk: int, values: Tensor) -> None:
        """Quantize the values; does nothing for float32, where `read` gave the moment itself."""
        if self._scales is None:
            return
        from bitsandbytes.functional import quantize_blockwise

        quantized, state = quantize_blockwise(values, code=_codes(self._name, values.device), blocksize=self._block)
        if self._name == "exp_avg_sq":
            # Code 0 is zero, and the update divides by the root: a small second moment becomes the smallest value.
            quantized.clamp_(min=1)
        self._parts[chunk].copy_(quantized)
        self._scales[chunk].copy_(state.absmax)


class SingleAdamW(torch.optim.Optimizer):
    """AdamW as torch.optim.AdamW computes it, with moments in float32 or 8 bits whatever the type of the weights."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        betas: tuple[float, float],
        eps: float,
        eight_bit: bool = False,
        seed: int = 0,
    ) -> None:
        """Create the optimizer.

        Args:
            groups: parameters with `weight_decay`; `lr` is set before each step.
            betas: decay rates of the two moments.
            eps: added to the root of the second moment.
            eight_bit: keep the moments of matrices in 8 bits.
            seed: random seed of the run, for the rounding.
        """
        self._seed = seed
        super().__init__(groups, {"lr": 0.0, "betas": betas, "eps": eps, "weight_decay": 0.0})
        for weight in self.weights():  # at once: torch would do it by a step with gradients in the type of the weights
            block = block_of(weight.shape) if eight_bit else None
            dtype = torch.float32 if block is None else torch.uint8
            moments = {name: torch.zeros_like(weight, dtype=dtype) for name in MOMENTS}
            if block is not None:
                moments |= {f"{name}_scale": _zero_scales(weight, block) for name in MOMENTS}
            self.state[weight] = {"step": torch.zeros((), dtype=torch.float32), **moments}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a saved state. torch would round the moments to the type of the weights."""
        super().load_state_dict(state_dict)
        saved = [name for group in state_dict["param_groups"] for name in group["params"]]
        for name, weight in zip(saved, self.weights(), strict=True):
            for part in self.state[weight].keys() - {"step"}:
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
        if not local.numel():  # this process has no row of it
            return
        generator = torch.Generator(local.device)
        generator.manual_seed(_mix(self._seed, step, index, first_row(weight)))
        moments = [_Moment(state, name) for name in MOMENTS]
        rate, correction = float(group["lr"]), (1 - beta2**step) ** 0.5
        tensors = (local.view(-1), local_part(weight.grad).reshape(-1))
        for chunk, (part, gradient) in enumerate(zip(*(torch.split(one, CHUNK) for one in tensors), strict=True)):
            mean, square = (moment.read(chunk) for moment in moments)
            gradient = gradient.float()
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            for moment, values in zip(moments, (mean, square), strict=True):
                moment.write(chunk, values)
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

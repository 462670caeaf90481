"""Cross-entropy of the output layer without the whole logits."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

IGNORE = -100
"""Label of a position that is not trained on."""

CHUNK_LOGITS = 2**24
"""Logits that exist at one time: 64 MB in float32, and as much again to work in."""


class HeadScaling(NamedTuple):
    """What some families do to the logits: `cap * tanh(scale * logits / cap)`."""

    scale: float = 1.0
    cap: float | None = None


PLAIN = HeadScaling()


def head_scaling(config: Any) -> HeadScaling:
    """Scaling and soft cap of the logits (Cohere, Granite; Gemma) from a model's configuration."""
    text = config.get_text_config()
    scale = float(getattr(text, "logit_scale", None) or 1.0) / float(getattr(text, "logits_scaling", None) or 1.0)
    cap = getattr(text, "final_logit_softcapping", None)
    return HeadScaling(scale, float(cap) if cap else None)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    scaling: HeadScaling = PLAIN,
    bias: Tensor | None = None,
) -> Tensor:
    """Sum of the cross-entropy of `hidden @ weight.T + bias` in nats.

    The gradient is worked out in the forward pass, chunk of tokens by chunk, so nothing of the size
    [tokens, vocabulary] outlives a chunk and nothing is computed twice.

    Args:
        hidden: float[n, d].
        weight: float[vocabulary, d], in the type of `hidden`.
        labels: int64[n], IGNORE where a position does not count.
        scaling: see `HeadScaling`.
        bias: float[vocabulary].

    Returns:
        float32 scalar. Its gradient may be taken once.
    """
    counted = labels != IGNORE
    if not bool(counted.all()):
        hidden, labels = hidden[counted], labels[counted]
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, labels, scaling, bias)  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, scaling: HeadScaling, bias: Tensor | None
    ) -> Tensor:
        rows = max(1, min(CHUNK_LOGITS // weight.shape[0], hidden.shape[0]))
        # Buffers for the largest chunk: memory of this size fresh from the system costs as much as a pass over it.
        raw = hidden.new_empty((rows, weight.shape[0]))
        wide = torch.empty((2, *raw.shape), dtype=torch.float32, device=raw.device)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight)
        d_bias = None if bias is None else torch.zeros_like(bias)
        for start in range(0, hidden.shape[0], rows):
            part = hidden[start : start + rows]
            d_logits = raw[: len(part)]
            torch.mm(part, weight.T, out=d_logits)
            if bias is not None:
                d_logits += bias
            loss += _loss_and_gradient(d_logits, wide[:, : len(part)], labels[start : start + rows], scaling)
            torch.mm(d_logits, weight, out=d_hidden[start : start + rows])
            d_weight.addmm_(d_logits.T, part)
            if d_bias is not None:
                d_bias += d_logits.sum(dim=0)
        ctx.gradients = (d_hidden, d_weight, d_bias)
        return loss

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> Any:
        d_hidden, d_weight, d_bias = ctx.gradients
        del ctx.gradients
        scaled = [None if part is None else part.mul_(d_loss.to(part.dtype)) for part in (d_hidden, d_weight, d_bias)]
        return scaled[0], scaled[1], None, None, scaled[2]


def _loss_and_gradient(logits: Tensor, wide: Tensor, labels: Tensor, scaling: HeadScaling) -> Tensor:
    """Sum of the losses; the logits are replaced by their gradient. Works in float32.

    Args:
        logits: float[n, vocabulary], before scaling.
        wide: float32[2, n, vocabulary] to work in.
        labels: int64[n].
        scaling: see `HeadScaling`.
    """
    scores, log_probabilities = wide
    scores.copy_(logits)
    if scaling.scale != 1.0:
        scores *= scaling.scale
    if scaling.cap is not None:
        scores.div_(scaling.cap).tanh_().mul_(scaling.cap)
    torch._log_softmax(scores, 1, False, out=log_probabilities)
    loss: Tensor = -log_probabilities.gather(1, labels[:, None]).sum()
    d_scores = log_probabilities.exp_()
    d_scores.scatter_add_(1, labels[:, None], torch.full_like(labels[:, None], -1.0, dtype=torch.float32))
    if scaling.cap is not None:
        d_scores *= 1.0 - (scores / scaling.cap) ** 2
    if scaling.scale != 1.0:
        d_scores *= scaling.scale
    logits.copy_(d_scores)
    return loss

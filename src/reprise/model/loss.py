"""Cross-entropy of the output layer without the whole logits."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100
"""Label of a position that is not trained on."""

CHUNK_LOGITS = 2**25
"""Logits that exist at one time: 128 MB in float32."""


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
        rows = max(1, CHUNK_LOGITS // weight.shape[0])
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight)
        d_bias = None if bias is None else torch.zeros_like(bias)
        for start in range(0, hidden.shape[0], rows):
            part = hidden[start : start + rows]
            chunk_loss, d_logits = _loss_and_gradient(
                F.linear(part, weight, bias), labels[start : start + rows], scaling
            )
            loss += chunk_loss
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


def _loss_and_gradient(raw: Tensor, labels: Tensor, scaling: HeadScaling) -> tuple[Tensor, Tensor]:
    """Sum of the losses, and its gradient by `raw` in the type of `raw`; works in float32."""
    logits = raw.float() if scaling.scale == 1.0 else raw.float() * scaling.scale
    slope = None
    if scaling.cap is not None:
        logits = torch.tanh(logits / scaling.cap)
        slope = 1.0 - logits * logits
        logits = logits * scaling.cap
    log_probabilities = torch.log_softmax(logits, dim=1)
    loss = -log_probabilities.gather(1, labels[:, None]).sum()
    d_logits = log_probabilities.exp_()
    d_logits.scatter_add_(1, labels[:, None], torch.full_like(labels[:, None], -1.0, dtype=d_logits.dtype))
    if slope is not None:
        d_logits *= slope
    if scaling.scale != 1.0:
        d_logits *= scaling.scale
    return loss, d_logits.to(raw.dtype)

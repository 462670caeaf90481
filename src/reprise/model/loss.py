"""Cross-entropy of the output layer without materializing all logits."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

IGNORE = -100
"""Label of a position that is not trained on."""

CHUNK_LOGITS = {"cpu": 2**24, "cuda": 2**27}
"""Logits that exist at one time, by device: 64 MB and 512 MB in float32, plus as much workspace. A GPU is idle in
small chunks, and has the memory; on a CPU larger ones do not fit into the caches."""

FEW_CHUNKS = 4
"""Up to this many chunks the gradient of the output layer is summed in its own dtype, above in float32: in bfloat16 the
relative error of the sum was 0.15 % for one chunk and 0.91 % for 63 (8,192 tokens, a vocabulary of 128,256)."""


class HeadScaling(NamedTuple):
    """Transformation of the logits in some families: `cap * tanh(scale * logits / cap)`."""

    scale: float = 1.0
    cap: float | None = None


PLAIN = HeadScaling()


def head_scaling(config: Any) -> HeadScaling:
    """Scaling and soft cap of the logits (Cohere, Granite; Gemma) from a model's configuration."""
    text = config.get_text_config()
    scale = float(getattr(text, "logit_scale", None) or 1.0) / float(getattr(text, "logits_scaling", None) or 1.0)
    cap = getattr(text, "final_logit_softcapping", None)
    return HeadScaling(scale, float(cap) if cap else None)


def scale_logits(logits: Tensor, scaling: HeadScaling) -> Tensor:
    """Scale and cap logits."""
    if scaling.scale != 1.0:
        logits = logits * scaling.scale
    return logits if scaling.cap is None else scaling.cap * torch.tanh(logits / scaling.cap)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    scaling: HeadScaling = PLAIN,
    bias: Tensor | None = None,
) -> Tensor:
    """Summed cross-entropy of `hidden @ weight.T + bias`, in nats.

    The gradient is computed in the forward pass, one chunk of tokens at a time, so nothing of the size
    [tokens, vocabulary] is ever stored and nothing is computed twice. Positions that do not count are computed and
    multiplied by zero: to leave them out, the host would have to wait for the device to learn how many there are.

    Args:
        hidden: float[n, d].
        weight: float[vocabulary, d], in the dtype of `hidden`.
        labels: int64[n], IGNORE if a position does not count.
        scaling: see `HeadScaling`.
        bias: float[vocabulary].

    Returns:
        float32 scalar. It supports only one backward pass.
    """
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, labels, scaling, bias)  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, scaling: HeadScaling, bias: Tensor | None
    ) -> Tensor:
        rows = chunk_rows(hidden.shape[0], weight.shape[0], hidden.device)
        # Buffers for the largest chunk: allocating this much from the system costs as much as a pass over it.
        raw = hidden.new_empty((rows, weight.shape[0]))
        wide = torch.empty((2, *raw.shape), dtype=torch.float32, device=raw.device)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        d_hidden = torch.empty_like(hidden)
        # A frozen output layer, beside an adapter, has no gradient.
        many = hidden.shape[0] > rows * FEW_CHUNKS
        d_head = _HeadGradient(weight, bias, many=many) if ctx.needs_input_grad[1] else None
        for start in range(0, hidden.shape[0], rows):
            part, part_labels = hidden[start : start + rows], labels[start : start + rows]
            d_logits = raw[: len(part)]
            counts = (part_labels != IGNORE).to(hidden.dtype)[:, None]
            torch.mm(part, weight.T, out=d_logits)
            if bias is not None:
                d_logits += bias
            losses = _losses_and_gradient(d_logits, wide[:, : len(part)], part_labels.clamp(min=0), scaling)
            loss += (losses * counts[:, 0]).sum()
            torch.mm(d_logits, weight, out=d_hidden[start : start + rows])
            d_hidden[start : start + rows] *= counts
            if d_head is not None:
                d_head.add(d_logits, part * counts, counts)
        d_weight, d_bias = (None, None) if d_head is None else d_head.sums()
        ctx.gradients = (d_hidden, d_weight, d_bias)
        return loss

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> Any:
        d_hidden, d_weight, d_bias = ctx.gradients
        del ctx.gradients
        scaled = [None if part is None else part.mul_(d_loss.to(part.dtype)) for part in (d_hidden, d_weight, d_bias)]
        return scaled[0], scaled[1], None, None, scaled[2]


def chunk_rows(tokens: int, vocabulary: int, device: torch.device) -> int:
    """Tokens whose logits exist at one time."""
    return max(1, min(CHUNK_LOGITS.get(device.type, CHUNK_LOGITS["cuda"]) // vocabulary, tokens))


class _HeadGradient:
    """Gradient of the output layer, summed over the chunks: in float32 if there are many."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, many: bool) -> None:
        self._dtype = weight.dtype
        summed = torch.float32 if many else weight.dtype
        self._weight = torch.zeros(weight.shape, dtype=summed, device=weight.device)
        self._bias = None if bias is None else torch.zeros(bias.shape, dtype=torch.float32, device=bias.device)

    def add(self, d_logits: Tensor, hidden: Tensor, counts: Tensor) -> None:
        """Add a chunk; `counts` [n, 1] is 1 if a position counts, else 0; `hidden` is multiplied by it."""
        if self._weight.dtype == d_logits.dtype:
            self._weight.addmm_(d_logits.T, hidden)
        elif d_logits.is_cuda:
            self._weight += torch.mm(d_logits.T, hidden, out_dtype=torch.float32)
        else:
            self._weight += torch.mm(d_logits.T, hidden)
        if self._bias is not None:
            self._bias += torch.mm(d_logits.T, counts)[:, 0]

    def sums(self) -> tuple[Tensor, Tensor | None]:
        """The summed gradients in the dtype of the weights."""
        return self._weight.to(self._dtype), None if self._bias is None else self._bias.to(self._dtype)


def _losses_and_gradient(logits: Tensor, wide: Tensor, labels: Tensor, scaling: HeadScaling) -> Tensor:
    """The loss of each position, float32[n]; the logits are replaced by their gradient. Works in float32.

    Args:
        logits: float[n, vocabulary], before scaling.
        wide: float32[2, n, vocabulary], workspace.
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
    losses: Tensor = -log_probabilities.gather(1, labels[:, None])[:, 0]
    d_scores = log_probabilities.exp_()
    d_scores.scatter_add_(1, labels[:, None], torch.full_like(labels[:, None], -1.0, dtype=torch.float32))
    if scaling.cap is not None:
        d_scores *= 1.0 - (scores / scaling.cap) ** 2
    if scaling.scale != 1.0:
        d_scores *= scaling.scale
    logits.copy_(d_scores)
    return losses

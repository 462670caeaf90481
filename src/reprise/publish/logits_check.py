"""Compare the logits of a quantized model with those of the model that it was made from, on held-out text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reprise.errors import UserError

CHECKED_TOKENS, DOCUMENT_TOKENS = 4096, 256
"""Maximum tokens of held-out text that are compared: in total, and per document."""


@dataclass(frozen=True)
class QuantizationCheck:
    """Result of the comparison."""

    tokens: int
    """Tokens of held-out text that were compared."""
    difference: float
    """Largest difference of a document's logits from the reference, relative to their spread."""
    divergence_nats: float
    """Mean KL divergence of the file's next-token distribution from that of the unquantized model, in nats."""
    same_choice: float
    """Share of positions with the same most probable token."""
    bits_per_token: tuple[float, float]
    """Negative log-likelihood of the text in bits per token: (of the model, of the file)."""


def check_documents(encoded: Sequence[Any], where: Path) -> list[list[int]]:
    """The first tokens of documents, as many as are compared.

    Raises:
        UserError: there are none.
    """
    documents: list[list[int]] = []
    for ids in encoded:
        room = CHECKED_TOKENS - sum(map(len, documents))
        if room < 2:
            break
        if len(ids) > 1:
            documents.append(ids[: min(room, DOCUMENT_TOKENS)].tolist())
    if not documents:
        raise UserError(
            "there is no held-out text to compare on", where=str(where), remedy="name some with --text FILE"
        )
    return documents


@torch.no_grad()
def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    """float32[tokens, vocabulary]."""
    limit = model.config.get_text_config().max_position_embeddings
    result: torch.Tensor = model(input_ids=torch.tensor([ids[:limit]])).logits[0].float()
    return result


def relative_difference(expected: torch.Tensor, actual: torch.Tensor) -> float:
    """Root mean square of the difference, relative to the spread of the logits over the vocabulary."""
    if expected.shape != actual.shape:
        return math.inf
    spread = (expected - expected.mean(dim=1, keepdim=True)).square().mean().sqrt()
    return float((actual - expected).square().mean().sqrt() / spread.clamp(min=1e-30))


def compare_logits(
    before: list[torch.Tensor],
    expected: list[torch.Tensor],
    after: list[torch.Tensor],
    documents: list[list[int]],
    *,
    limit: float,
    published: Path,
    option: str,
) -> QuantizationCheck:
    """Compare logits, one float32[tokens, vocabulary] per document.

    Args:
        before: logits of the unquantized model.
        expected: logits of the model with the dequantized weights in place of its own.
        after: logits of what was published, read back.
        documents: token ids.
        limit: largest accepted difference of `after` from `expected`, relative to their spread.
        published: the file or folder.
        option: option of `reprise export` that wrote it.

    Raises:
        UserError: the difference is larger.
    """
    difference = max(relative_difference(one, other) for one, other in zip(expected, after, strict=True))
    if not difference <= limit:
        raise UserError(
            f"what was written does not compute what its quantized weights do: logits differ by {difference:.2g} of "
            f"their spread, more than {limit:g}",
            where=str(published),
            remedy="report it with the base model's name; the folder of `reprise export` without "
            f"{option} is not touched",
        )
    return QuantizationCheck(sum(map(len, documents)), difference, *_quantization_cost(before, after, documents))


def _quantization_cost(
    before: list[torch.Tensor], after: list[torch.Tensor], documents: list[list[int]]
) -> tuple[float, float, tuple[float, float]]:
    """Loss from quantization: mean KL divergence in nats, share of equal choices, bits per token before and after."""
    divergence, same, nll, scored = 0.0, 0, [0.0, 0.0], 0
    for own, quantized, ids in zip(before, after, documents, strict=True):
        logs = [part.log_softmax(dim=1).double() for part in (own, quantized)]
        divergence += float((logs[0].exp() * (logs[0] - logs[1])).sum())
        same += int((logs[0].argmax(dim=1) == logs[1].argmax(dim=1)).sum())
        targets = torch.tensor(ids[1 : len(own)])
        scored += len(targets)
        for side, part in enumerate(logs):
            nll[side] -= float(part[: len(targets)].gather(1, targets[:, None]).sum())
    positions = sum(len(own) for own in before)
    bits = (nll[0] / scored / math.log(2), nll[1] / scored / math.log(2))
    return divergence / positions, same / positions, bits

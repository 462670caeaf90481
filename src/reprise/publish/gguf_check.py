"""Check that a GGUF file computes the model: transformers reads it, and its logits on held-out text are compared.

The reference is the model with its weights quantized and dequantized in memory, so any difference beyond rounding is a
wrong name, order, setting or constant in the file. The loss from quantization is reported, too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reprise.errors import UserError
from reprise.model.failures import explain_loading
from reprise.model.gguf import read_gguf
from reprise.model.loading import load_model
from reprise.model.tokenizer import open_tokenizer
from reprise.model.weights import compare_loaded
from reprise.publish.gguf_file import quantized_tensors
from reprise.publish.gguf_tokenizer import GgufTokenizer, read_gguf_tokenizer
from reprise.recipe.model import Model

TOLERANCE = 1e-3
"""Maximum difference of a document's logits from the reference, relative to their spread."""
CHECKED_TOKENS, DOCUMENT_TOKENS = 4096, 256
"""Maximum tokens of held-out text that are compared: in total, and per document."""


@dataclass(frozen=True)
class GgufCheck:
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


def check_gguf_file(model: Model, file: Path, quantization: str, texts: Sequence[str]) -> GgufCheck:
    """Compare a GGUF file with the model that it was written from.

    Args:
        model: the model that the file was written from.
        file: the GGUF file.
        quantization: type of the weight matrices.
        texts: held-out text.

    Raises:
        UserError: the file cannot be read, its tokenizer differs, or its logits differ by more than TOLERANCE.
    """
    own = load_model(model)
    embeddings: Any = own.get_input_embeddings()
    rows = int(embeddings.weight.shape[0])
    _compare_tokenizer(read_gguf_tokenizer(model, rows), file)
    documents = _documents(open_tokenizer(model).encode_batch(list(texts)))
    if not documents:
        raise UserError("there is no held-out text to compare on", where=str(file), remedy="name some with --text FILE")
    before = [_logits(own, ids) for ids in documents]
    with torch.no_grad():
        weights = own.state_dict()
        for name, value in quantized_tensors(model, quantization):
            weights[name].copy_(value)
    expected = [_logits(own, ids) for ids in documents]
    del own, weights
    with explain_loading(str(file), where="--gguf"):
        loaded, info = read_gguf(file)
    compare_loaded(loaded, info).refuse(file)
    after = [_logits(loaded.eval(), ids) for ids in documents]
    difference = max(_difference(one, other) for one, other in zip(expected, after, strict=True))
    if not difference <= TOLERANCE:
        raise UserError(
            f"the file does not compute what its quantized weights do: logits differ by {difference:.2g} of their "
            f"spread, more than {TOLERANCE:g}",
            where=str(file),
            remedy="report it with the base model's name; the folder of `reprise export` without --gguf is not touched",
        )
    return GgufCheck(sum(map(len, documents)), difference, *_cost(before, after, documents))


def _documents(encoded: Sequence[Any]) -> list[list[int]]:
    """Token ids of the beginnings of the documents that are compared."""
    documents: list[list[int]] = []
    for ids in encoded:
        room = CHECKED_TOKENS - sum(map(len, documents))
        if room < 2:
            break
        if len(ids) > 1:
            documents.append(ids[: min(room, DOCUMENT_TOKENS)].tolist())
    return documents


@torch.no_grad()
def _logits(model: Any, ids: list[int]) -> torch.Tensor:
    """float32[tokens, vocabulary]."""
    limit = model.config.get_text_config().max_position_embeddings
    result: torch.Tensor = model(input_ids=torch.tensor([ids[:limit]])).logits[0].float()
    return result


def _difference(expected: torch.Tensor, actual: torch.Tensor) -> float:
    """Root mean square of the difference, relative to the spread of the logits over the vocabulary."""
    if expected.shape != actual.shape:
        return math.inf
    spread = (expected - expected.mean(dim=1, keepdim=True)).square().mean().sqrt()
    return float((actual - expected).square().mean().sqrt() / spread.clamp(min=1e-30))


def _cost(
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


def _compare_tokenizer(expected: GgufTokenizer, file: Path) -> None:
    """Refuse a file whose tokenizer differs from the model's.

    Raises:
        UserError: they differ; names the field.
    """
    import gguf

    fields = gguf.GGUFReader(file).fields
    for name, value in (
        ("tokens", expected.tokens),
        ("token_type", expected.kinds),
        ("merges", expected.merges),
        ("pre", expected.pre),
        ("bos_token_id", expected.bos_id),
        ("eos_token_id", expected.eos_id),
    ):
        field = fields.get(f"tokenizer.ggml.{name}")
        written = None if field is None else field.contents()
        if isinstance(written, np.generic):
            written = written.item()
        if (written or None) != (value or None):
            raise UserError(
                f"the file's tokenizer.ggml.{name} is not the model's", where=str(file), remedy="write it again"
            )

"""Negative log-likelihood of tokens, shared by scoring, validation and evaluation.

Three things make it fast and small without changing the result:

- logits are computed in chunks of tokens, so the [tokens, vocabulary] matrix of a batch never exists;
- only scored positions are multiplied with the output layer: not the padding, not the context of a window;
- windows of similar length share a batch. Padding is on the right, where a causal model cannot see it, so no attention
  mask is needed and the fast causal kernels can be used.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from reprise.errors import UserError
from reprise.model.loss import IGNORE, head_scaling, scale_logits

_CHUNK_LOGITS = 2**24
"""Logits that exist at one time: 64 MB in float32."""

_CPU_BATCH_TOKENS = 512
"""More tokens at a time do not fit into a CPU's caches: SmolLM2-135M took 1.8 times as long with 4,096."""

Stretches = npt.NDArray[np.int32]
"""int32[n, 2]: first token and end of the parts of a document that are scored, such as answers of a conversation."""

_head_is_known: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()


class TokenScores(NamedTuple):
    """Scores that a model assigns to given tokens."""

    nll: Tensor
    """float32[...], nats; 0 if the label is IGNORE."""
    greedy: Tensor | None
    """bool[...]: whether the token is the most probable one."""


def native_dtype(device: str | torch.device = "cpu") -> torch.dtype:
    """bfloat16 if the device multiplies it in hardware, else float32."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if kind == "cpu":
        known = [
            getattr(torch.cpu, name, lambda: False) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        ]
        return torch.bfloat16 if any(test() for test in known) else torch.float32
    return torch.float32


def fit_window(config: Any, max_length: int, stride: int) -> tuple[int, int]:
    """(max_length, stride), limited to the context of the model with this configuration."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    if limit is None or max_length <= limit:
        return max_length, stride
    return limit, max(1, min(stride, limit // 2))


def fit_batch(batch_tokens: int, device: str | torch.device) -> int:
    """Tokens in one batch, limited on a CPU to what fits into its caches."""
    return min(batch_tokens, _CPU_BATCH_TOKENS) if torch.device(device).type == "cpu" else batch_tokens


@torch.no_grad()
def token_nll(
    model: Any,
    input_ids: Tensor,
    position_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    """Negative log-likelihood of each token given those before it in its row.

    Args:
        model: a causal language model of transformers; if it is wrapped in FSDP, every rank must call this function.
        input_ids: int64[B, T].
        position_ids: int64[B, T], restarting at 0 for each document in a row.
        attention_mask: whatever the model accepts; not needed for padding on the right.
        labels: int64[B, T]: `labels[:, t]` is the token to score at position t, or IGNORE. Default:
            `input_ids`.

    Returns:
        float32[B, T-1] in nats, 0 if the label is IGNORE.
    """
    labels = input_ids if labels is None else labels
    return token_scores(model, input_ids, labels, position_ids=position_ids, attention_mask=attention_mask).nll


@torch.no_grad()
def token_scores(
    model: Any, input_ids: Tensor, labels: Tensor, *, with_greedy: bool = False, **inputs: Any
) -> TokenScores:
    """Like `token_nll`, and optionally whether each token is the greedy choice.

    Args:
        model: as in `token_nll`.
        input_ids: int64[B, T].
        labels: int64[B, T].
        with_greedy: also compare with the most probable token.
        inputs: other arguments of the model's forward (`past_key_values`, `position_ids`, ...); None is skipped.
    """
    inputs = {name: value for name, value in inputs.items() if value is not None}
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORE)
    if has_known_head(model, input_ids):
        scores = _score_in_chunks(model, input_ids, targets, with_greedy, inputs)
    else:
        logits = model(input_ids=input_ids, **inputs).logits
        scores = _score_logits(logits.flatten(0, 1), targets.flatten(), with_greedy)
    shape = input_ids.shape
    greedy = None if scores.greedy is None else scores.greedy.view(shape)[:, :-1]
    return TokenScores(scores.nll.view(shape)[:, :-1], greedy)


def document_nll(
    model: Any,
    documents: Sequence[npt.NDArray[Any]],
    *,
    max_length: int,
    stride: int,
    batch_tokens: int,
    device: str | torch.device = "cpu",
    advance: Callable[[float], None] | None = None,
    stretches: Sequence[Stretches | None] | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Negative log-likelihood of whole documents, in windows if they are longer than `max_length`.

    Every token but a document's first is scored exactly once. A token beyond the first window has at least
    `max_length - stride` tokens before it.

    Args:
        model: a causal language model of transformers on `device`.
        documents: token ids, int[n] each; n may be 0.
        max_length: tokens in one window.
        stride: tokens by which the window moves, below `max_length`.
        batch_tokens: maximum tokens in one batch, including padding; less on a CPU; a window is never split.
        device: where the model is.
        advance: called with the tokens processed since the last call.
        stretches: the tokens of each document to score; None, for a document or for all: every token.

    Returns:
        nll: float64[len(documents)], nats, summed over the scored tokens.
        scored_tokens: int64[len(documents)].

    Raises:
        UserError: a likelihood is not finite.
    """
    nll = np.zeros(len(documents), dtype=np.float64)
    chosen = [None] * len(documents) if stretches is None else stretches
    scored = np.array(
        [
            sum(stop - start for start, stop in clip_stretches(one, 1, max(len(ids), 1)))
            for ids, one in zip(documents, chosen, strict=True)
        ],
        dtype=np.int64,
    )
    windows = [
        (document, *window)
        for document, ids in enumerate(documents)
        for window in cut_windows(len(ids), max_length, stride)
    ]
    for batch in _batches(windows, fit_batch(batch_tokens, device)):
        longest = max(end - begin for _, begin, end, _ in batch)
        ids = np.zeros((len(batch), longest), dtype=np.int64)
        labels = np.full((len(batch), longest), IGNORE, dtype=np.int64)
        for row, (document, begin, end, first) in enumerate(batch):
            ids[row, : end - begin] = documents[document][begin:end]
            for start, stop in clip_stretches(chosen[document], first, end):
                labels[row, start - begin : stop - begin] = documents[document][start:stop]
        scores = token_nll(model, torch.from_numpy(ids).to(device), labels=torch.from_numpy(labels).to(device))
        sums = scores.double().sum(dim=1).cpu().numpy()
        np.add.at(nll, [window[0] for window in batch], sums)
        if advance is not None:
            advance(sum(end - first for _, _, end, first in batch))
    require_finite(nll, name_of(model), "texts")
    return nll, scored


def require_finite(values: npt.ArrayLike, where: str, of_what: str) -> None:
    """Refuse likelihoods that are infinite or NaN: a verdict or an order from them would mean nothing.

    Args:
        values: float64[n].
        where: the model, for the message.
        of_what: what was scored, for the message.

    Raises:
        UserError: a likelihood is infinite or NaN.
    """
    finite = np.isfinite(values)
    if not finite.all():
        raise UserError(
            f"the model gives no finite likelihood of {finite.size - int(finite.sum())} of {finite.size} {of_what}",
            where=where,
            remedy="set evaluation.dtype or documents.perplexity.dtype to float32, in case its dtype is too "
            "small for the model; else its training broke: take an earlier checkpoint",
        )


def name_of(model: Any) -> str:
    """Name or path that a transformers model was loaded from, for messages."""
    return str(getattr(model.config, "name_or_path", "") or "model.path")


def clip_stretches(stretches: Stretches | None, first: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts (start, stop) of a document's stretches inside [first, end); None: all of it."""
    if stretches is None:
        yield first, end
        return
    for start, stop in stretches.tolist():
        if max(start, first) < min(stop, end):
            yield max(start, first), min(stop, end)


def cut_windows(length: int, max_length: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(begin, end, first scored token) of each window over a document of `length` tokens."""
    if not 1 <= stride < max_length:
        raise ValueError(f"stride must be at least 1 and below max_length={max_length}, got {stride}")
    first = 1
    for begin in range(0, length, stride):
        end = min(begin + max_length, length)
        if first < end:
            yield begin, end, first
            first = end


def _batches(windows: list[Any], batch_tokens: int) -> Iterator[list[Any]]:
    """Batch windows of similar length, longest first, so that running out of memory shows at once."""
    batch: list[Any] = []
    for window in sorted(windows, key=lambda window: window[1] - window[2]):
        longest = batch[0][2] - batch[0][1] if batch else 0
        if batch and longest * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _score_in_chunks(
    model: Any, input_ids: Tensor, targets: Tensor, with_greedy: bool, inputs: dict[str, Any]
) -> TokenScores:
    """Run the model with an output layer that returns scores instead of logits.

    The layer is replaced inside the model's own forward, because FSDP gathers its weights there.
    """
    head = model.get_output_embeddings()
    is_target = targets.flatten() != IGNORE
    nll = torch.zeros(targets.numel(), dtype=torch.float32, device=targets.device)
    greedy = torch.zeros(targets.numel(), dtype=torch.bool, device=targets.device) if with_greedy else None

    def score(hidden: Tensor) -> Tensor:
        states, labels = hidden.flatten(0, 1)[is_target], targets.flatten()[is_target]
        rows = max(1, _CHUNK_LOGITS // head.weight.shape[0])
        parts = [
            _score_logits(_logits(head, part, model.config), part_labels, with_greedy)
            for part, part_labels in zip(torch.split(states, rows), torch.split(labels, rows), strict=True)
        ]
        nll[is_target] = torch.cat([part.nll for part in parts])
        if greedy is not None:
            greedy[is_target] = torch.cat([part.greedy for part in parts if part.greedy is not None])
        return hidden[..., :1]

    with replaced_forward(head, score):
        model(input_ids=input_ids, **inputs)
    return TokenScores(nll, greedy)


def _score_logits(logits: Tensor, labels: Tensor, with_greedy: bool) -> TokenScores:
    """Scores from float[n, vocabulary] and int64[n]."""
    logits = logits.float()
    nll = F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORE)
    return TokenScores(nll, logits.argmax(dim=-1) == labels if with_greedy else None)


def _logits(head: Any, hidden: Tensor, config: Any) -> Tensor:
    """The output layer with the scaling that some families (Gemma, Granite, Cohere) apply after it."""
    return scale_logits(F.linear(hidden, head.weight, getattr(head, "bias", None)), head_scaling(config))


def has_known_head(model: Any, input_ids: Tensor) -> bool:
    """Whether `_logits` of the hidden states gives the model's logits: tested once per model, on two tokens.

    If not, the scores are computed from the model's own logits, which takes memory for all of them.
    """
    if model not in _head_is_known:
        head = model.get_output_embeddings()
        if getattr(head, "weight", None) is None:
            _head_is_known[model] = False
            return False
        seen: list[Tensor] = []

        def through(hidden: Tensor) -> Tensor:
            seen.append(_logits(head, hidden, model.config))
            return F.linear(hidden, head.weight, getattr(head, "bias", None))

        with replaced_forward(head, through):
            expected = model(input_ids=input_ids[:1, :2]).logits
        _head_is_known[model] = (
            len(seen) == 1
            and seen[0].shape == expected.shape
            and torch.allclose(seen[0].float(), expected.float(), rtol=1e-2, atol=1e-3)
        )
    return _head_is_known[model]


@contextlib.contextmanager
def replaced_forward(module: Any, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace a module's forward while the block runs."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before

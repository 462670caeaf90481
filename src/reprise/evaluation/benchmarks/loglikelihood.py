"""Log-likelihood of many continuations of few contexts: the core of multiple-choice benchmarks.

Shared tokens are computed once. Contexts with the same beginning (the examples of a few-shot prompt) share its keys and
values. The choices of a question follow one copy of it in a single row, separated by an attention mask. Rows of similar
length share a batch. The results are those of scoring each sequence separately.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from reprise.evaluation.choices import check_requests
from reprise.model.likelihood import fit_batch, name_of, require_finite, token_scores
from reprise.model.loss import IGNORE

Ids = tuple[int, ...]

MIN_SHARED = 48
"""Minimum shared tokens for which a cache of keys and values pays off."""

PIECE_TOKENS = 2**16
"""Tokens in one piece of requests, which one process scores and caches."""

_CACHED_TOKENS = 16384
"""Maximum tokens, of prefix and rows together, whose keys and values are in memory."""


@dataclass
class _Question:
    """A context with its continuations."""

    context: Ids
    branches: list[tuple[int, Ids]] = field(default_factory=list)
    """(index of the request, continuation)."""

    def row_length(self, shared: int) -> int:
        """Tokens of its row after a shared prefix, plus one for the last target."""
        return len(self.context) - 1 - shared + sum(len(ids) for _, ids in self.branches) + 1


def cut_pieces(requests: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[int]]:
    """Indices of the requests of each piece; requests of one context, and similar contexts, stay together."""
    order = sorted(range(len(requests)), key=lambda position: tuple(requests[position][0]))
    pieces: list[list[int]] = []
    room = 0
    for context, group in itertools.groupby(order, key=lambda position: requests[position][0]):
        members = list(group)
        size = len(context) + sum(len(requests[position][1]) for position in members)
        if not pieces or size > room:
            pieces.append([])
            room = PIECE_TOKENS
        pieces[-1] += members
        room -= size
    return pieces


class ContinuationScorer:
    """Scores continuations under a model; tests once whether the model supports rows with branches."""

    def __init__(
        self,
        model: Any,
        *,
        max_length: int,
        batch_tokens: int,
        device: torch.device | str = "cpu",
        takes_branches: bool | None = None,
    ) -> None:
        """Make a scorer.

        Args:
            model: a causal language model of transformers.
            max_length: maximum tokens of a sequence; longer ones are truncated on the left.
            batch_tokens: tokens in one batch.
            device: device of the model.
            takes_branches: whether the model supports rows with branches; None: test it.
        """
        self._model, self._device = model, torch.device(device)
        self._max_length, self._batch_tokens = max_length, fit_batch(batch_tokens, device)
        self._takes_branches = takes_branches

    def takes_branches(self, requests: Sequence[tuple[Sequence[int], Sequence[int]]]) -> bool:
        """Whether the model supports rows with branches; tested once, on the first requests.

        Raises:
            UserError: see `check_requests`.
        """
        check_requests(requests, self._max_length)
        if self._takes_branches is None and requests:
            self._takes_branches = self._check([(tuple(context), tuple(ids)) for context, ids in requests])
        return bool(self._takes_branches)

    def score(
        self,
        requests: Sequence[tuple[Sequence[int], Sequence[int]]],
        advance: Callable[[float], None] = lambda amount: None,
    ) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether it is the greedy continuation) of each (context, continuation), in order.

        Raises:
            UserError: as `check_requests`; or a likelihood is not finite, so that the choice would be arbitrary.
        """
        self.takes_branches(requests)
        results: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        pairs = [(tuple(context), tuple(continuation)) for context, continuation in requests]
        questions: dict[Ids, _Question] = {}
        alone: list[tuple[int, Ids, Ids]] = []
        for index, (context, continuation) in enumerate(pairs):
            if self._takes_branches and len(context) + len(continuation) <= self._max_length:
                questions.setdefault(context, _Question(context)).branches.append((index, continuation))
            else:
                alone.append((index, context, continuation))
        for group, shared in _groups(list(questions.values())):
            for index, score in self._score_group(group, shared):
                results[index] = score
                advance(1)
        for index, score in self._score_alone(alone):
            results[index] = score
            advance(1)
        require_finite([score for score, _ in results], name_of(self._model), "choices of the benchmarks")
        return results

    def _check(self, pairs: list[tuple[Ids, Ids]]) -> bool:
        """Whether rows with branches give the same results as plain sequences, for the longest request that fits.

        They do not for models whose layers do not attend to all previous tokens (sliding windows, recurrence).
        """
        fitting = [pair for pair in pairs if len(pair[0]) >= 4 and len(pair[0]) + len(pair[1]) <= self._max_length]
        if not fitting:
            return False
        context, continuation = max(fitting, key=lambda pair: len(pair[0]) + len(pair[1]))
        if len(context) + len(continuation) > _window(self._model):
            return False
        other = continuation[::-1]
        question = _Question(context, [(0, other), (1, continuation)])
        expected = dict(self._score_alone([(0, context, other), (1, context, continuation)]))
        try:
            alone = dict(self._score_group([question], len(context) // 2))
        except (TypeError, ValueError, RuntimeError, AttributeError):
            return False
        # In bfloat16 both ways differ from float32 by about 0.05 nats per token (SmolLM2-135M), and a sum of n tokens
        # by sqrt(n) times that. A layer that attends to other tokens differs by much more.
        exact = self._model.dtype in (torch.float32, torch.float64)
        relative, per_token = (1e-3, 0.0) if exact else (3e-2, 0.1)
        noise = per_token * math.sqrt(len(continuation))
        return all(
            abs(alone[key][0] - expected[key][0]) <= relative * (1 + abs(expected[key][0])) + noise for key in expected
        )

    @torch.no_grad()
    def _score_group(self, group: list[_Question], shared: int) -> Iterator[tuple[int, tuple[float, bool]]]:
        """Score questions whose contexts share their first `shared` tokens."""
        cache = None
        if shared:
            prefix = torch.tensor([group[0].context[:shared]], device=self._device)
            cache = self._model(input_ids=prefix, use_cache=True, logits_to_keep=1).past_key_values
        for batch in self._row_batches(group, shared):
            ids, labels, positions, mask = self._lay_out(batch, shared)
            scores = token_scores(
                self._model, ids, labels, with_greedy=True, position_ids=positions, attention_mask=mask,
                past_key_values=_spread(cache, len(batch)), use_cache=cache is not None,
            )  # fmt: skip
            nll, greedy = scores.nll.double().cpu().numpy(), scores.greedy
            assert greedy is not None
            chosen = greedy.cpu().numpy()
            for row, question in enumerate(batch):
                start = len(question.context) - 1 - shared
                for index, continuation in question.branches:
                    end = start + len(continuation)
                    yield index, (-float(nll[row, start:end].sum()), bool(chosen[row, start:end].all()))
                    start = end

    def _row_batches(self, group: list[_Question], shared: int) -> Iterator[list[_Question]]:
        batch: list[_Question] = []
        for question in sorted(group, key=lambda question: -question.row_length(shared)):
            length = batch[0].row_length(shared) if batch else 0
            rows = len(batch) + 1
            if batch and (rows * length > self._batch_tokens or rows * (length + shared) > _CACHED_TOKENS):
                yield batch
                batch = []
            batch.append(question)
        if batch:
            yield batch

    def _lay_out(self, batch: list[_Question], shared: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Make rows: the rest of the context without its last token, then per branch that token and its continuation.

        Returns:
            ids, labels, positions: int64[rows, length].
            mask: [rows, 1, length, shared + length], added to the attention scores.
        """
        length = batch[0].row_length(shared)
        ids = np.zeros((len(batch), length), dtype=np.int64)
        labels = np.full((len(batch), length), IGNORE, dtype=np.int64)
        positions = np.zeros((len(batch), length), dtype=np.int64)
        sees = np.zeros((len(batch), length, shared + length), dtype=bool)
        sees[:, :, :shared] = True
        for row, question in enumerate(batch):
            stem = question.context[shared:-1]
            start = len(stem)
            ids[row, :start] = stem
            positions[row, :start] = np.arange(shared, shared + start)
            sees[row, :start, shared : shared + start] = np.tri(start, dtype=bool)
            for _, continuation in question.branches:
                end = start + len(continuation)
                ids[row, start:end] = (question.context[-1], *continuation[:-1])
                labels[row, start + 1 : end + 1] = continuation
                positions[row, start:end] = np.arange(
                    len(question.context) - 1, len(question.context) - 1 + end - start
                )
                sees[row, start:end, shared : shared + len(stem)] = True
                sees[row, start:end, shared + start : shared + end] = np.tri(end - start, dtype=bool)
                start = end
            padding = np.arange(start, length)
            sees[row, padding, shared + padding] = True  # a row without any visible token would be NaN
        mask = torch.zeros(sees.shape, dtype=self._model.dtype)
        mask.masked_fill_(torch.from_numpy(~sees), torch.finfo(self._model.dtype).min)
        tensors = [torch.from_numpy(array).to(self._device) for array in (ids, labels, positions)]
        return tensors[0], tensors[1], tensors[2], mask[:, None].to(self._device)

    def _score_alone(self, requests: list[tuple[int, Ids, Ids]]) -> Iterator[tuple[int, tuple[float, bool]]]:
        """Score each sequence separately, truncated on the left if it is longer than the model's context."""
        cut = [(index, (*context, *ids)[-(self._max_length + 1) :], len(ids)) for index, context, ids in requests]
        cut.sort(key=lambda entry: -len(entry[1]))
        while cut:
            rows = max(1, self._batch_tokens // len(cut[0][1]))
            batch, cut = cut[:rows], cut[rows:]
            length = len(batch[0][1])
            ids = torch.zeros((len(batch), length), dtype=torch.int64)
            labels = torch.full((len(batch), length), IGNORE, dtype=torch.int64)
            for row, (_, sequence, count) in enumerate(batch):
                ids[row, : len(sequence)] = torch.tensor(sequence)
                labels[row, len(sequence) - count : len(sequence)] = torch.tensor(sequence[-count:])
            # The last token is only a target, so it is not an input, which would be one too many for a full context.
            inputs, targets = ids[:, :-1].to(self._device), labels.to(self._device)
            nll, greedy = _score_shifted(self._model, inputs, targets)
            for row, (index, sequence, count) in enumerate(batch):
                span = slice(len(sequence) - 1 - count, len(sequence) - 1)
                yield index, (-float(nll[row, span].double().sum()), bool(greedy[row, span].all()))


def _score_shifted(model: Any, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Scores for `labels` with one column more than `inputs`: position t predicts `labels[:, t + 1]`."""
    last = torch.zeros_like(inputs[:, :1])
    # A column of padding after the inputs carries the last label; nothing attends to it, and it predicts nothing.
    if inputs.shape[1] + 1 <= _context(model):
        scores = token_scores(model, torch.cat([inputs, last], dim=1), labels, with_greedy=True)
        assert scores.greedy is not None
        return scores.nll, scores.greedy
    with torch.no_grad():
        logits = model(input_ids=inputs).logits.float()
    targets = labels[:, 1:]
    nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=IGNORE)
    return nll, logits.argmax(dim=-1) == targets


def _context(model: Any) -> int:
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**62)


def _window(model: Any) -> int:
    """Tokens that every layer attends to; layers with sliding windows would use our mask instead of their own."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    return 2**62 if window is None or (kinds and "sliding_attention" not in kinds) else int(window)


def _groups(questions: list[_Question]) -> Iterator[tuple[list[_Question], int]]:
    """Groups of questions with a shared prefix and its length; all others form a group with 0."""
    ungrouped: list[_Question] = []
    group: list[_Question] = []
    shared = 0
    for question in [*sorted(questions, key=lambda question: question.context), None]:
        if group and question is not None:
            limit = min(len(question.context) - 1, shared)
            common = _common(group[0].context, question.context, limit)
            if common >= MIN_SHARED and common >= shared // 2:
                group.append(question)
                shared = common
                continue
        if len(group) > 1:
            yield group, shared
        else:
            ungrouped += group
        if question is not None:
            group, shared = [question], len(question.context) - 1
    if ungrouped:
        yield ungrouped, 0


def _common(first: Ids, second: Ids, limit: int) -> int:
    """Length of the common prefix, at most `limit`."""
    pairs = itertools.islice(zip(first, second, strict=False), limit)
    return next((index for index, (one, other) in enumerate(pairs) if one != other), limit)


def _spread(cache: Any, rows: int) -> Any:
    """Expand the keys and values of one sequence to a batch of rows; the cache itself is not changed."""
    if cache is None:
        return None
    spread = DynamicCache()
    for index, layer in enumerate(cache.layers):
        spread.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), index)
    return spread

"""Validations: the held-out loss of every (language, source, topic)."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from reprise.model.likelihood import clip_stretches, cut_windows, token_nll
from reprise.model.loss import IGNORE
from reprise.recipe.training import Validation
from reprise.stable_random import permutation, resamples
from reprise.tokens.store import Bucket, BucketKey
from reprise.training.events import BucketMeasurement
from reprise.training.parallel import Processes
from reprise.training.signals import StopSignal

Ids = np.ndarray[Any, Any]

DRAWS = 32
"""Bootstrap resamples of a bucket's held-out documents; they determine the standard error to about one eighth."""

MIN_BATCH_TOKENS = 512
"""Minimum tokens in a forward pass: fewer would cost as much, when a micro-batch is one short row."""


@dataclass(frozen=True)
class BucketLoss:
    """Held-out loss of a bucket."""

    key: BucketKey
    nll: float
    """Nats per token."""
    num_bytes: int
    """UTF-8 bytes of the documents."""
    tokens: int
    """Scored tokens."""
    documents: int = 1
    """Documents that were measured."""
    resampled: tuple[float, ...] = ()
    """Nats per token on bootstrap resamples of the documents. Every validation uses the same resamples, so differences
    of two validations are paired. Empty for a single document, whose noise is not known."""

    @property
    def standard_error(self) -> float | None:
        """Standard error of `nll` over the choice of documents, in nats per token; None if not known."""
        return math.sqrt(np.mean((np.array(self.resampled) - self.nll) ** 2)) if self.resampled else None

    @property
    def bits_per_byte(self) -> float:
        """Loss in bits per UTF-8 byte of text."""
        return self.nll * self.tokens / math.log(2) / max(self.num_bytes, 1)

    def to_json(self) -> BucketMeasurement:
        """The record for metrics.jsonl."""
        return {
            "language": self.key.language,
            "source": self.key.source,
            "topic": self.key.topic,
            "nll": self.nll,
            "bits_per_byte": self.bits_per_byte,
            "tokens": self.tokens,
            "num_bytes": self.num_bytes,
            "documents": self.documents,
            "nll_standard_error": self.standard_error,
            "nll_resampled": [round(nll, 6) for nll in self.resampled],
        }


@dataclass(frozen=True)
class _Window:
    document: int
    """Index of its document among all measured documents."""
    ids: Ids
    scored: list[tuple[int, int]]
    """(start, stop) in `ids` of the tokens that are scored."""


class HeldOut:
    """The held-out documents of validations: whole documents, at least one and at most `max_tokens` per bucket.

    Bits per byte are defined as in the evaluation (`reprise.evaluation.bits_per_byte`), so a guard judges the same
    quantity as the verdict: every token of the text is scored once, in overlapping windows, the first after the token
    that begins a text; EOS is not scored. In conversations only the answers are scored, over their bytes.
    """

    def __init__(
        self,
        buckets: Mapping[BucketKey, Bucket],
        settings: Validation,
        *,
        start_id: int,
        special_ids: Collection[int],
        window: tuple[int, int],
        batch_tokens: int,
    ) -> None:
        """Choose the documents and cut them into windows.

        Args:
            buckets: the held-out part of the token store.
            settings: settings of the validations.
            start_id: id of the token that begins a text.
            special_ids: BOS and EOS of the store, which surround its documents.
            window: (length, stride) of the windows, in tokens.
            batch_tokens: maximum tokens in a forward pass of a process; windows are never split.
        """
        self._keys: list[BucketKey] = []
        self._num_bytes: list[int] = []
        self._ends: list[int] = []
        """Index after the last document of each bucket."""
        windows: list[_Window] = []
        for key in sorted(buckets, key=str):
            bucket = buckets[key]
            if bucket.num_documents == 0:
                continue
            documents = _choose(bucket, settings.max_tokens)
            for index, document in enumerate(documents, start=self._ends[-1] if self._ends else 0):
                stored = bucket.tokens[bucket.offsets[document] : bucket.offsets[document + 1]]
                text, skipped = _text_of(stored, special_ids)
                ids = np.concatenate([[start_id], text])
                answers = bucket.answers(document)
                stretches = answers[:, :2] - skipped + 1 if len(answers) else None
                windows += [
                    _Window(
                        index,
                        ids[begin:end],
                        [(start - begin, stop - begin) for start, stop in clip_stretches(stretches, first, end)],
                    )
                    for begin, end, first in cut_windows(len(ids), *window)
                ]
            self._keys.append(key)
            self._ends.append((self._ends[-1] if self._ends else 0) + len(documents))
            self._num_bytes.append(int(bucket.num_bytes[documents].sum()))
        windows.sort(key=lambda window: -len(window.ids))
        self._batches = list(_batches(windows, batch_tokens))

    def measure(self, model: Any, processes: Processes, stop: StopSignal) -> list[BucketLoss] | None:
        """Measure the losses of all buckets; None if a signal asked to stop.

        Every process must call, and runs its share of the batches.
        """
        if not self._keys:  # nothing is held out
            return []
        sums = torch.zeros((2, self._ends[-1] if self._ends else 0), dtype=torch.float64, device=processes.device)
        was_training = model.training
        model.eval()
        rounds = -(-len(self._batches) // processes.world)
        for round_index in range(rounds):
            if processes.any(stop.received):
                model.train(was_training)
                return None
            index = round_index * processes.world + processes.rank
            # FSDP needs equally many forward passes in every process; one without a batch repeats the last one.
            batch = self._batches[min(index, len(self._batches) - 1)]
            nll, tokens = _run(model, batch, processes.device)
            if index < len(self._batches):
                documents = torch.tensor([window.document for window in batch], device=processes.device)
                sums[0].index_add_(0, documents, nll)
                sums[1].index_add_(0, documents, tokens)
        model.train(was_training)
        of_documents = processes.sum(sums).cpu().numpy()
        parts = np.split(of_documents, self._ends[:-1], axis=1)
        return [
            _bucket_loss(key, num_bytes, nll, tokens)
            for key, num_bytes, (nll, tokens) in zip(self._keys, self._num_bytes, parts, strict=True)
        ]


def _batches(windows: list[_Window], batch_tokens: int) -> Iterator[list[_Window]]:
    """Batches of windows with similar lengths; the longest come first, so that running out of memory shows at once."""
    batch: list[_Window] = []
    for window in windows:
        if batch and len(batch[0].ids) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _bucket_loss(key: BucketKey, num_bytes: int, nll: np.ndarray[Any, Any], tokens: np.ndarray[Any, Any]) -> BucketLoss:
    """The loss of a bucket from its documents: `nll` and `tokens` are float64 [documents], sums per document."""
    total, count = float(tokens.sum()), len(tokens)
    mean = float(nll.sum()) / max(total, 1)
    resampled: tuple[float, ...] = ()
    if count > 1:
        drawn = resamples(f"held-out/{key}", count, DRAWS).astype(np.float64)
        drawn_tokens = drawn @ tokens
        means = np.divide(drawn @ nll, drawn_tokens, out=np.full(DRAWS, mean), where=drawn_tokens > 0)
        # The bootstrap underestimates the variance by the factor (n - 1) / n.
        resampled = tuple((mean + (means - mean) * math.sqrt(count / (count - 1))).tolist())
    return BucketLoss(key, mean, num_bytes, int(total), count, resampled)


def _choose(bucket: Bucket, max_tokens: int) -> np.ndarray[Any, Any]:
    # The same documents in every run, so that losses can be compared.
    order = permutation(f"held-out/{bucket.key}", bucket.num_documents)
    lengths = np.diff(bucket.offsets)[order]
    count = max(1, int(np.searchsorted(np.cumsum(lengths), max_tokens, side="right")))
    return np.sort(order[:count])


def _text_of(ids: Ids, special_ids: Collection[int]) -> tuple[Ids, int]:
    """The tokens of a document without BOS and EOS, and how many tokens were removed before it."""
    start = int(len(ids) > 0 and int(ids[0]) in special_ids)
    end = len(ids) - int(len(ids) > start and int(ids[-1]) in special_ids)
    return ids[start:end], start


def _run(model: Any, batch: list[_Window], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of losses in nats and count of scored tokens of each window, float64 [windows] each."""
    shape = (len(batch), max(len(window.ids) for window in batch))
    ids = np.zeros(shape, dtype=np.int64)
    labels = np.full(shape, IGNORE, dtype=np.int64)
    for row, window in enumerate(batch):
        ids[row, : len(window.ids)] = window.ids
        for start, stop in window.scored:
            labels[row, start:stop] = window.ids[start:stop]
    nll = token_nll(model, torch.from_numpy(ids).to(device), labels=torch.from_numpy(labels).to(device))
    counts = [sum(stop - start for start, stop in window.scored) for window in batch]
    tokens = torch.tensor(counts, dtype=torch.float64, device=device)
    return nll.double().sum(dim=1), tokens

"""Held-out loss of every (language, source, topic)."""

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
"""Times that the held-out documents of a bucket are resampled: the standard error is then known to about an eighth."""

MIN_BATCH_TOKENS = 512
"""Fewer tokens in a forward pass cost as much as these: a micro-batch of one short row must not slow validations."""


@dataclass(frozen=True)
class BucketLoss:
    """The held-out loss of a bucket."""

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
    """Nats per token on as many documents, resampled from these with replacement: the same draws at every measurement,
    so that differences between two are paired. Empty for a single document, whose noise is not known."""

    @property
    def standard_error(self) -> float | None:
        """Of `nll`, in nats per token: how far it depends on the choice of the documents; None if not known."""
        return math.sqrt(np.mean((np.array(self.resampled) - self.nll) ** 2)) if self.resampled else None

    @property
    def bits_per_byte(self) -> float:
        """The loss per byte of text."""
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
    """Index among all documents that are measured."""
    ids: Ids
    scored: list[tuple[int, int]]
    """(start, stop) of the tokens that are scored, in `ids`."""


class HeldOut:
    """The held-out documents that are measured: whole ones, at most `max_tokens` per bucket but at least one.

    Bits per byte are those of the evaluation (`reprise.evaluation.bits_per_byte`): every token of the text is scored
    once, the first one behind the token that begins a text, in the same overlapping windows; EOS, which is no text, is
    not scored. So a guard sees the quantity that the verdict is about. Of a conversation the text of the answers is
    scored, over their bytes.
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
            settings: how many tokens are measured.
            start_id: the token that begins a text.
            special_ids: BOS and EOS of the store, which surround each of its documents.
            window: tokens in a window, and by how many it moves.
            batch_tokens: most tokens in one forward pass of a process; one window is never cut.
        """
        self._keys: list[BucketKey] = []
        self._num_bytes: list[int] = []
        self._ends: list[int] = []
        """For each bucket, the index after its last document."""
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
        """Losses of all buckets, None if a signal came before the end.

        Every process must call, each runs its share of the batches.
        """
        sums = torch.zeros((2, self._ends[-1] if self._ends else 0), dtype=torch.float64, device=processes.device)
        was_training = model.training
        model.eval()
        rounds = -(-len(self._batches) // processes.world)
        for round_index in range(rounds):
            if processes.any(stop.received):
                model.train(was_training)
                return None
            index = round_index * processes.world + processes.rank
            # FSDP needs as many forward passes of every process; one without a batch left repeats the last for nothing.
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
    """Windows of similar length together; the longest come first, so that too large a batch fails at once."""
    batch: list[_Window] = []
    for window in windows:
        if batch and len(batch[0].ids) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _bucket_loss(key: BucketKey, num_bytes: int, nll: np.ndarray[Any, Any], tokens: np.ndarray[Any, Any]) -> BucketLoss:
    """The loss of a bucket from those of its documents: sums of nats and of scored tokens, float64[documents]."""
    total, count = float(tokens.sum()), len(tokens)
    mean = float(nll.sum()) / max(total, 1)
    resampled: tuple[float, ...] = ()
    if count > 1:
        drawn = resamples(f"held-out/{key}", count, DRAWS).astype(np.float64)
        drawn_tokens = drawn @ tokens
        means = np.divide(drawn @ nll, drawn_tokens, out=np.full(DRAWS, mean), where=drawn_tokens > 0)
        # Documents drawn from themselves differ less than resampled documents: by (n - 1) / n of the variance.
        resampled = tuple((mean + (means - mean) * math.sqrt(count / (count - 1))).tolist())
    return BucketLoss(key, mean, num_bytes, int(total), count, resampled)


def _choose(bucket: Bucket, max_tokens: int) -> np.ndarray[Any, Any]:
    # The same documents in every run, or their losses could not be compared.
    order = permutation(f"held-out/{bucket.key}", bucket.num_documents)
    lengths = np.diff(bucket.offsets)[order]
    count = max(1, int(np.searchsorted(np.cumsum(lengths), max_tokens, side="right")))
    return np.sort(order[:count])


def _text_of(ids: Ids, special_ids: Collection[int]) -> tuple[Ids, int]:
    """The tokens of a document without the BOS and EOS around it, and how many of them were before it."""
    start = int(len(ids) > 0 and int(ids[0]) in special_ids)
    end = len(ids) - int(len(ids) > start and int(ids[-1]) in special_ids)
    return ids[start:end], start


def _run(model: Any, batch: list[_Window], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the losses and count of scored tokens of each window, float64[windows]."""
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

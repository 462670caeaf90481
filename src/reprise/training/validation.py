"""Held-out loss of every (language, source, topic)."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from reprise.model.likelihood import IGNORE, token_nll
from reprise.recipe.training import Validation
from reprise.tokens.store import Bucket, BucketKey
from reprise.training.events import BucketMeasurement
from reprise.training.parallel import Processes
from reprise.training.signals import StopSignal

CHOICE_SEED = 0
"""Which held-out documents are measured must not change between runs, or their losses could not be compared."""


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

    @property
    def bits_per_byte(self) -> float:
        """The loss per byte of text."""
        return self.nll * self.tokens / math.log(2) / max(self.num_bytes, 1)

    def to_json(self) -> BucketMeasurement:
        """As metrics.jsonl keeps it."""
        return {
            "language": self.key.language,
            "source": self.key.source,
            "topic": self.key.topic,
            "nll": self.nll,
            "bits_per_byte": self.bits_per_byte,
            "tokens": self.tokens,
            "num_bytes": self.num_bytes,
        }


@dataclass(frozen=True)
class _Window:
    bucket: int
    ids: np.ndarray[Any, Any]


class HeldOut:
    """The held-out documents that are measured: whole ones, at most `max_tokens` per bucket but at least one."""

    def __init__(
        self, buckets: Mapping[BucketKey, Bucket], settings: Validation, seq_len: int, batch_tokens: int
    ) -> None:
        """Choose the documents and cut them into batches.

        Args:
            buckets: all held-out text.
            settings: how much of each.
            seq_len: tokens in the longest window.
            batch_tokens: most tokens in one forward pass, padding counted; one window is never cut.
        """
        self._keys: list[BucketKey] = []
        self._num_bytes: list[int] = []
        windows: list[_Window] = []
        for key in sorted(buckets, key=str):
            bucket = buckets[key]
            if bucket.num_documents == 0:
                continue
            documents = _choose(bucket, settings.max_tokens)
            windows += [
                _Window(len(self._keys), window)
                for document in documents
                for window in _windows(bucket.tokens[bucket.offsets[document] : bucket.offsets[document + 1]], seq_len)
            ]
            self._keys.append(key)
            self._num_bytes.append(int(bucket.num_bytes[documents].sum()))
        windows.sort(key=lambda window: -len(window.ids))
        self._batches = list(_batches(windows, batch_tokens))

    def measure(self, model: Any, processes: Processes, stop: StopSignal) -> list[BucketLoss] | None:
        """Losses of all buckets, None where a signal came before the end.

        Every process must call, each runs its share of the batches.
        """
        sums = torch.zeros((2, len(self._keys)), dtype=torch.float64, device=processes.device)
        was_training = model.training
        model.eval()
        rounds = -(-len(self._batches) // processes.world)
        for number in range(rounds):
            if processes.any(stop.received):
                model.train(was_training)
                return None
            index = number * processes.world + processes.rank
            # FSDP needs as many forward passes of every process; one without a batch left repeats the last for nothing.
            batch = self._batches[min(index, len(self._batches) - 1)]
            nll, tokens = _run(model, batch, processes.device)
            if index < len(self._batches):
                buckets = torch.tensor([window.bucket for window in batch], device=processes.device)
                sums[0].index_add_(0, buckets, nll)
                sums[1].index_add_(0, buckets, tokens)
        model.train(was_training)
        nll_sums, token_sums = processes.sum(sums).tolist()
        return [
            BucketLoss(key, nll / max(tokens, 1), num_bytes, int(tokens))
            for key, num_bytes, nll, tokens in zip(self._keys, self._num_bytes, nll_sums, token_sums, strict=True)
        ]


def _batches(windows: list[_Window], batch_tokens: int) -> Iterator[list[_Window]]:
    """Windows of like length together; the longest come first, so that too large a batch fails at once."""
    batch: list[_Window] = []
    for window in windows:
        if batch and len(batch[0].ids) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _choose(bucket: Bucket, max_tokens: int) -> np.ndarray[Any, Any]:
    order = np.random.default_rng(CHOICE_SEED).permutation(bucket.num_documents)
    lengths = np.diff(bucket.offsets)[order]
    count = max(1, int(np.searchsorted(np.cumsum(lengths), max_tokens, side="right")))
    return np.sort(order[:count])


def _windows(ids: np.ndarray[Any, Any], seq_len: int) -> Iterator[np.ndarray[Any, Any]]:
    """Cut a document; each window begins with the last token of the one before, so only the very first is unscored."""
    for start in range(0, max(len(ids) - 1, 0), seq_len - 1):
        yield ids[start : start + seq_len]


def _run(model: Any, batch: list[_Window], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the losses and number of scored tokens of each window, float64[windows]."""
    shape = (len(batch), max(len(window.ids) for window in batch))
    ids = np.zeros(shape, dtype=np.int64)
    labels = np.full(shape, IGNORE, dtype=np.int64)
    for row, window in enumerate(batch):
        ids[row, : len(window.ids)] = window.ids
        labels[row, : len(window.ids)] = window.ids
    nll = token_nll(model, torch.from_numpy(ids).to(device), labels=torch.from_numpy(labels).to(device))
    tokens = torch.tensor([len(window.ids) - 1 for window in batch], dtype=torch.float64, device=device)
    return nll.double().sum(dim=1), tokens

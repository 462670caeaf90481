"""`EncoderClassifier`: a sequence classifier of transformers (BERT, TinyBERT, ...), fine-tuned on the labels."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from reprise.documents.label.classifier import DESCRIPTION
from reprise.model.failures import explain_loading
from reprise.recipe.documents import Encoder

SETTING = "documents.topics.encoder.model"
_BATCH_TOKENS = 16_384
"""Tokens per batch when the classifier is applied, including padding."""
_WARMUP_SHARE = 0.1
_CHARS_PER_TOKEN = 10
"""Longer texts are cut before they are tokenized; on average a token never has more characters than this."""


class EncoderClassifier:
    """Classifies batches of texts of similar length in one forward pass each; the loss is cross-entropy over the
    topics."""

    def __init__(self, topics: list[str], seen: list[bool], temperature: float, model: Any, tokenizer: Any) -> None:
        """`seen[i]`: whether topic i occurred among the labels; if not, it gets probability 0."""
        self.topics, self._seen, self._temperature = topics, seen, temperature
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model, self._tokenizer = model.to(self._device).eval(), tokenizer
        positions = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
        self._max_length = min(int(model.config.reprise_max_length), int(positions))

    @classmethod
    def fit(
        cls, texts: Sequence[str], labels: Sequence[str], topics: Sequence[str], *, seed: int, settings: Encoder
    ) -> "EncoderClassifier":
        """Fine-tune on labelled texts.

        Args:
            texts: the documents.
            labels: topic of each text, one of `topics`.
            topics: all topics; one without a document gets probability 0.
            seed: random seed of the new layer, the order of the texts and dropout.
            settings: which model to use, and how to train it.

        Raises:
            UserError: the model cannot be loaded.
        """
        assert settings.model is not None
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            with explain_loading(settings.model, "classifier", SETTING):
                tokenizer = AutoTokenizer.from_pretrained(settings.model)
                model = AutoModelForSequenceClassification.from_pretrained(
                    settings.model, num_labels=len(topics), ignore_mismatched_sizes=True, dtype=torch.float32
                )
            model.config.reprise_max_length = settings.max_length
            if model.config.pad_token_id is None:
                model.config.pad_token_id = tokenizer.pad_token_id
            classifier = cls(list(topics), [topic in set(labels) for topic in topics], 1.0, model, tokenizer)
            classifier._train(texts, [list(topics).index(label) for label in labels], settings)
        return classifier

    def _train(self, texts: Sequence[str], labels: Sequence[int], settings: Encoder) -> None:
        encoded = self._encode(texts)
        batches = [batch for _ in range(settings.epochs) for batch in _random_batches(encoded, settings.batch_size)]
        optimizer = torch.optim.AdamW(self._model.parameters(), lr=settings.learning_rate)
        warmup = max(1, round(_WARMUP_SHARE * len(batches)))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, (len(batches) - step) / max(1, len(batches) - warmup))
        )
        self._model.train()
        for batch in batches:
            target = torch.tensor([labels[i] for i in batch], device=self._device)
            loss = F.cross_entropy(self._logits([encoded[i] for i in batch]), target)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        self._model.eval()

    def log_probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Log-probabilities, float64[texts, topics]."""
        encoded = self._encode(texts)
        scores = np.zeros((len(texts), len(self.topics)))
        with torch.inference_mode():
            for batch in _batches_by_length(encoded):
                logits = self._logits([encoded[i] for i in batch])
                scores[batch] = logits.double().cpu().numpy()
        scores = np.where(self._seen, scores / self._temperature, -np.inf)
        scores -= scores.max(axis=1, keepdims=True)
        return np.asarray(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Probabilities, float64[texts, topics]; each row sums to 1."""
        return np.exp(self.log_probabilities(texts))

    def scale(self, temperature: float) -> None:
        """Divide the scores by a temperature: the order of the topics is unchanged, the confidence is not."""
        self._temperature *= temperature

    def save(self, folder: Path) -> None:
        """Write `classifier.json`, the model and its tokenizer."""
        self._model.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)
        description = {"kind": "encoder", "topics": self.topics, "seen": self._seen, "temperature": self._temperature}
        (folder / DESCRIPTION).write_text(json.dumps(description, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "EncoderClassifier":
        """Load the files that `save` wrote."""
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        with explain_loading(str(folder), "classifier", SETTING):
            model = AutoModelForSequenceClassification.from_pretrained(folder)
            tokenizer = AutoTokenizer.from_pretrained(folder)
        return cls(description["topics"], description["seen"], description["temperature"], model, tokenizer)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        cut = [text[: _CHARS_PER_TOKEN * self._max_length] for text in texts]
        if not cut:
            return []
        encoded = self._tokenizer(cut, truncation=True, max_length=self._max_length, return_attention_mask=False)
        return list(encoded["input_ids"])

    def _logits(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Scores before the softmax, float32[rows, topics]."""
        longest = max(1, *map(len, rows)) if rows else 1
        ids = torch.full((len(rows), longest), self._model.config.pad_token_id or 0)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for line, row in enumerate(rows):
            ids[line, : len(row)] = torch.tensor(row, dtype=torch.long)
            mask[line, : len(row)] = 1
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            logits = self._model(input_ids=ids.to(self._device), attention_mask=mask.to(self._device)).logits
        return torch.as_tensor(logits).float()


def _random_batches(rows: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Yield each row once, in random order; 50 batches at a time are sorted by length to reduce padding."""
    order = torch.randperm(len(rows)).tolist()
    for start in range(0, len(order), 50 * size):
        chunk = sorted(order[start : start + 50 * size], key=lambda i: len(rows[i]))
        batches = [chunk[begin : begin + size] for begin in range(0, len(chunk), size)]
        yield from (batches[i] for i in torch.randperm(len(batches)).tolist())


def _batches_by_length(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield each row once, the longest first, in batches of `_BATCH_TOKENS` including padding."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    while order:
        size = max(1, _BATCH_TOKENS // max(1, len(rows[order[0]])))
        yield order[:size]
        order = order[size:]

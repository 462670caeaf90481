"""A transformers model in this process that generates answers to many requests at a time.

A request that ends frees its slot for the next one, and the common beginning of similar prompts is computed once. Each
request has its own random numbers, so that its answer does not depend on the other requests (except for rounding).
"""

import copy
import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import numpy as np
import torch

from reprise.generators.generator import Answer, ModelIdentity, Outcome, Request, random_seed
from reprise.generators.local import identify, load_chat_tokenizer, prompt_ids
from reprise.generators.slots import Slots, new_cache
from reprise.model.devices import own_device
from reprise.model.likelihood import native_dtype
from reprise.model.loading import load_model
from reprise.model.tokenizer import end_ids
from reprise.recipe.generator import Generator as GeneratorSettings
from reprise.recipe.model import Model
from reprise.storage import digest

PIECE_BATCHES = 16
"""Batches of requests in one piece. Requests of a piece are processed together, so that the batches do not depend on
how many processes there are. At the end of a piece, rows that have ended leave their slots empty."""
_STOP_WINDOW = 24
"""How many of the last tokens of an answer are searched for a stop text."""
_SAME_KIND = 24
"""Prompts with this many first tokens in common are of one kind and are processed together."""


class InProcess:
    """A generator that calls `model(...)` with a key-value cache."""

    def __init__(self, settings: GeneratorSettings, model: Model, setting: str = "generator") -> None:
        """Locate the model and load its tokenizer.

        Raises:
            UserError: the model does not exist, or has no chat template.
        """
        self._opened_with = (settings, model, setting)
        self._batch_size = settings.batch_size
        self._device = _device(settings.device)
        self._dtype = native_dtype(self._device)
        self._settings = model
        self._tokenizer = load_chat_tokenizer(model, setting)
        self._identity: ModelIdentity = {**identify(model), "dtype": str(self._dtype).removeprefix("torch.")}
        self._model: Any = None

    def _load(self) -> None:
        """Load the weights: only when there is a request that the journal cannot answer."""
        self._model = load_model(self._settings, self._dtype, self._device)
        self._eos = set(end_ids(self._model, self._tokenizer))
        self._options: dict[str, Any] = {"use_cache": True}
        if "logits_to_keep" in inspect.signature(self._model.forward).parameters:
            self._options["logits_to_keep"] = 1

    @property
    def identity(self) -> ModelIdentity:
        """Hash of the model's content, and its compute type: the same model in another folder has the same identity."""
        return self._identity

    @property
    def key(self) -> str:
        """Identifies the generator in a helper process that has others, with other models or settings."""
        return digest([self._identity, self._opened_with[0].model_dump(mode="json")])

    def __reduce__(self) -> Any:
        """Pickle for a helper process, which loads the weights itself."""
        return InProcess, self._opened_with

    def pieces(self, requests: Sequence[Request]) -> list[list[int]]:
        """Indices of the requests of each piece; requests with a common beginning are neighbours."""
        order = sorted(range(len(requests)), key=lambda index: (requests[index].messages, index))
        size = PIECE_BATCHES * self._batch_size
        return [order[start : start + size] for start in range(0, len(order), size)]

    def answer(
        self, requests: Sequence[Request], keys: Sequence[str], budget: float = math.inf
    ) -> Iterator[list[tuple[int, Outcome]]]:
        """Yield the answers, piece by piece."""
        for piece in self.pieces(requests):
            for group in self.answer_piece([requests[index] for index in piece], [keys[index] for index in piece]):
                yield [(piece[index], outcome) for index, outcome in group]

    @torch.inference_mode()
    def answer_piece(self, requests: Sequence[Request], keys: Sequence[str]) -> Iterator[list[tuple[int, Answer]]]:
        """Yield the answers of one piece, kind by kind, the longest prompts first, so that neighbours have similar
        lengths."""
        if self._model is None:
            self._load()
        rows = [self._row(index, request, keys[index]) for index, request in enumerate(requests)]
        rows.sort(key=lambda row: (row.prompt[:_SAME_KIND], -len(row.prompt), row.index))
        slots: Slots[_Row] = Slots(self._model)
        for _, kind in groupby(rows, key=lambda row: row.prompt[:_SAME_KIND]):
            waiting = list(kind)
            prefix = self._read_prefix(waiting)
            while waiting:
                if slots.rows:
                    self._advance(slots)
                free = self._batch_size - len(slots.rows)
                # Refill a few slots at a time: reading one prompt alone takes longer than reading it together with
                # others.
                if not slots.rows or (slots.can_be_refilled and free >= math.ceil(self._batch_size / 4)):
                    self._join(slots, waiting[:free], *prefix)
                    del waiting[:free]
                if finished := self._leave(slots):
                    yield [(row.index, self._finish(row)) for row in finished]
        while slots.rows:
            self._advance(slots)
            if finished := self._leave(slots):
                yield [(row.index, self._finish(row)) for row in finished]

    def close(self) -> None:
        """Free the memory that the model uses."""
        self._model = None

    def _row(self, index: int, request: Request, key: str) -> "_Row":
        prompt = prompt_ids(self._tokenizer, request)
        uniforms = np.random.default_rng(random_seed(key)).random(request.max_tokens)
        return _Row(index, request, prompt, torch.from_numpy(uniforms))

    def _read_prefix(self, rows: "Sequence[_Row]") -> tuple[int, Any]:
        """Number of tokens that all prompts begin with, and the cache of these, with one row."""
        shared = _shared_prefix([row.prompt for row in rows])
        cache = new_cache(self._model)
        if shared:
            prefix = torch.tensor([rows[0].prompt[:shared]], device=self._device)
            self._model(input_ids=prefix, past_key_values=cache, **self._options)
        return shared, cache

    def _join(self, slots: "Slots[_Row]", rows: "list[_Row]", shared: int, prefix: Any) -> None:
        """Read the prompts of new rows, padded between the shared prefix and the rest of each, and give them slots."""
        longest = max(len(row.prompt) for row in rows)
        padding = [longest - len(row.prompt) for row in rows]
        ids = torch.tensor([[0] * pad + row.prompt[shared:] for pad, row in zip(padding, rows, strict=True)])
        mask = torch.ones(len(rows), longest, dtype=torch.long)
        for line, pad in enumerate(padding):
            mask[line, shared : shared + pad] = 0
        ids, mask = ids.to(self._device), mask.to(self._device)
        cache = copy.deepcopy(prefix)
        cache.batch_repeat_interleave(len(rows))
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, shared:]
        logits = self._model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, **self._options
        ).logits[:, -1]
        slots.join(rows, cache, mask, logits)

    def _advance(self, slots: "Slots[_Row]") -> None:
        """Run the model on the last token of every row."""
        ids = torch.tensor([[row.generated[-1]] for row in slots.rows], device=self._device)
        slots.logits = self._model(input_ids=ids, **slots.grow(), **self._options).logits[:, -1]

    def _leave(self, slots: "Slots[_Row]") -> "list[_Row]":
        """Sample a token for every row; remove and return the rows that have ended."""
        chosen = _sample(slots.logits.float().cpu(), slots.rows)
        finished = [row for row, token in zip(slots.rows, chosen, strict=True) if self._take(row, token)]
        if finished:
            slots.keep([line for line, row in enumerate(slots.rows) if not row.finish])
        return finished

    def _take(self, row: "_Row", token: int) -> bool:
        """Append a token to a row; returns whether the row has ended."""
        if token in self._eos:
            row.finish = "stop"
            return True
        row.generated.append(token)
        if row.request.stop:
            tail = self._tokenizer.decode(row.generated[-_STOP_WINDOW:])
            if any(stop in tail for stop in row.request.stop):
                row.finish = "stop"
                return True
        if len(row.generated) == row.request.max_tokens:
            row.finish = "length"
        return bool(row.finish)

    def _finish(self, row: "_Row") -> Answer:
        text = str(self._tokenizer.decode(row.generated, skip_special_tokens=True))
        ends = [text.find(stop) for stop in row.request.stop if stop in text]
        if ends:
            text = text[: min(ends)]
        finish: Literal["stop", "length"] = "length" if row.finish == "length" else "stop"
        return Answer(row.request.begin + text, finish, len(row.prompt), len(row.generated))


@dataclass
class _Row:
    """A request that is being answered."""

    index: int
    request: Request
    prompt: list[int]
    uniforms: torch.Tensor
    """Uniform random values in [0, 1), one per token."""
    generated: list[int] = field(default_factory=list)
    finish: str = ""


def _sample(logits: torch.Tensor, rows: Sequence[_Row]) -> list[int]:
    """Sample one token per row, by inverting the cumulative distribution at the row's next random value.

    Args:
        logits: float32 [rows, vocabulary].
        rows: one per row of `logits`, with its temperature, top_p and random values.
    """
    temperatures = torch.tensor([row.request.temperature for row in rows])
    if not temperatures.any():
        return [int(token) for token in logits.argmax(dim=-1)]
    greedy = torch.where(temperatures == 0.0, 1.0, temperatures)
    probabilities = torch.softmax(logits / greedy[:, None], dim=-1)
    nuclei = torch.tensor([row.request.top_p for row in rows])
    order = None
    if (nuclei < 1.0).any():
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = probabilities.cumsum(dim=-1) - probabilities
        before[:, 0] = 0.0
        probabilities = probabilities.masked_fill((before >= nuclei[:, None]) & (nuclei[:, None] < 1.0), 0.0)
    cumulated = probabilities.cumsum(dim=-1, dtype=torch.float64)
    uniforms = torch.stack([row.uniforms[len(row.generated)] for row in rows])
    ranks = torch.searchsorted(cumulated, (uniforms * cumulated[:, -1])[:, None], right=True)
    ranks = ranks.clamp(max=logits.shape[-1] - 1)
    tokens = (ranks if order is None else order.gather(1, ranks))[:, 0]
    return [int(token) for token in torch.where(temperatures == 0.0, logits.argmax(dim=-1), tokens)]


def _shared_prefix(prompts: Sequence[list[int]]) -> int:
    """Number of tokens that all prompts begin with; each prompt keeps at least one token. 0 for a single prompt."""
    if len(prompts) == 1:
        return 0
    first, last = min(prompts), max(prompts)
    limit = min(len(prompt) for prompt in prompts) - 1
    return next((at for at in range(limit) if first[at] != last[at]), limit)


def _device(name: str) -> torch.device:
    return own_device() if name in ("auto", "cuda") else torch.device(name)

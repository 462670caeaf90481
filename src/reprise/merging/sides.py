"""The models of a merge: the files, tensors and tokens of each, read when they are needed."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch

from reprise.errors import UserError
from reprise.model.loading import load_config, load_skeleton, load_tokenizer, open_model_weights
from reprise.model.weight_files import StoredWeights
from reprise.model.weights import tied_pairs, vocabulary_tensors
from reprise.recipe.model import Model

BLOCK_NUMBERS = 1 << 24
"""Elements of a tensor that are processed at a time; three models in float64 take 24 bytes per element."""

SAME_ARCHITECTURE = "name the chat model that was made from this base model, and that base model with --base"
"""What to do about models that do not fit each other."""


class Side:
    """One model of a merge; `role` says which: `trained`, `base` or `chat`."""

    def __init__(self, role: str, settings: Model) -> None:
        self.role, self.settings = role, settings

    @cached_property
    def config(self) -> Any:
        """The configuration, as transformers loads it."""
        return load_config(self.settings)

    @cached_property
    def stored(self) -> StoredWeights:
        """The weight files: name of each tensor -> its file."""
        return open_model_weights(self.settings)

    @cached_property
    def skeleton(self) -> Any:
        """The model on the meta device, without its weights."""
        return load_skeleton(self.settings)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, as transformers loads it."""
        return load_tokenizer(self.settings)

    @cached_property
    def tokens(self) -> dict[int, str]:
        """Token id -> token."""
        return {int(token_id): token for token, token_id in self.tokenizer.get_vocab().items()}

    @property
    def embedded_rows(self) -> int:
        """Rows of the embeddings; there may be more of them than tokens."""
        return int(self.skeleton.get_input_embeddings().weight.shape[0])

    @property
    def where(self) -> str:
        """The model's name in messages."""
        return f"{self.role} model {self.settings.path}"

    @cached_property
    def vocabulary(self) -> set[str]:
        """Names of the tensors with a row for each token: embeddings and output layer."""
        return vocabulary_tensors(self.skeleton)

    def open(self, name: str) -> Any:
        """Open a stored tensor, which is read when it is sliced. A tied tensor may be stored under its other name.

        Raises:
            UserError: the files contain no such tensor.
        """
        tied = {name} | {other for pair in tied_pairs(self.skeleton) if name in pair for other in pair}
        for candidate in sorted(tied, key=lambda one: one != name):
            if candidate in self.stored.files:
                return self.stored.read(candidate)
        raise UserError(f"it has no tensor {name}", where=self.where, remedy=SAME_ARCHITECTURE)


def blocks(tensor: Any) -> Iterator[torch.Tensor]:
    """Split a tensor into blocks of rows with about `BLOCK_NUMBERS` elements; blocks of a torch tensor are views."""
    shape = shape_of(tensor)
    if not shape:
        yield tensor[...]
        return
    step = max(1, BLOCK_NUMBERS // max(1, int(np.prod(shape[1:], dtype=np.int64))))
    for start in range(0, shape[0], step):
        yield tensor[start : start + step]


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Shape of a torch tensor, or of a slice of a safetensors file."""
    return tuple(tensor.shape if isinstance(tensor, torch.Tensor) else tensor.get_shape())

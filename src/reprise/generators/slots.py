"""Slots of a key-value cache: rows are generated together, and a finished row's slot is given to the next row.

All rows end at the same position of the cache, so that one slice contains a token of each; a shorter row begins later.
When a new row joins, the shorter rows are padded at the left.
"""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_ROOM = 64
"""Number of positions by which a layer grows at a time."""

Row = TypeVar("Row")


class RoomyLayer(DynamicLayer):
    """A cache layer that grows in steps, so that appending a token does not copy all earlier ones."""

    _view: Any = None
    _key_room: Any
    _value_room: Any

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Append the new states, [rows, heads, positions, dimensions], and return all states."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held = self.get_seq_length()
        end = held + key_states.shape[-2]
        # Selecting, cutting or joining rows replaces the views with other tensors: then the room is allocated again.
        if self._view is None or self._view is not self.keys or end > self._key_room.shape[-2]:
            self._key_room, self._value_room = (
                _make_room(old, new, held, end + _ROOM)
                for old, new in ((self.keys, key_states), (self.values, value_states))
            )
        self._key_room[..., held:end, :] = key_states
        self._value_room[..., held:end, :] = value_states
        self.keys, self.values = self._key_room[..., :end, :], self._value_room[..., :end, :]
        self._view = self.keys
        return self.keys, self.values


def _make_room(old: Any, new: torch.Tensor, held: int, positions: int) -> torch.Tensor:
    room = new.new_empty(*new.shape[:-2], positions, new.shape[-1])
    if held:
        room[..., :held, :] = old
    return room


def new_cache(model: Any) -> DynamicCache:
    """An empty cache for a model: layers that keep every position grow in steps; others (sliding windows) are
    unchanged."""
    cache = DynamicCache(config=model.config)
    if all(type(layer) is DynamicLayer for layer in cache.layers):
        cache.layers = [RoomyLayer() for _ in cache.layers]  # type: ignore[no-untyped-call]
    return cache


class Slots(Generic[Row]):
    """The active rows, their cache, and the logits after the last token that each has read, [rows, vocabulary]."""

    def __init__(self, model: Any) -> None:
        self.rows: list[Row] = []
        self.logits = torch.empty(0)
        self._cache: Any = new_cache(model)
        self._mask = torch.empty(0)
        """[rows, positions]: 1 where the row has a token, 0 for padding."""
        layers = self._cache.layers
        self.can_be_refilled = bool(layers) and all(type(layer) is RoomyLayer for layer in layers)
        """Rows can join others only if every layer keeps all positions; otherwise all rows end before others begin."""
        self._masks_itself = self.can_be_refilled and model.config._attn_implementation == "sdpa"

    def join(self, rows: Sequence[Row], cache: Any, mask: torch.Tensor, logits: torch.Tensor) -> None:
        """Add rows that have read their prompts.

        Args:
            rows: the new rows.
            cache: key-value cache of their prompts.
            mask: [rows, positions], 1 where a row has a token.
            logits: [rows, vocabulary], after the last token of each prompt.
        """
        if not self.rows:
            self.rows, self._cache, self._mask, self.logits = list(rows), cache, mask, logits
            return
        length = max(mask.shape[1], self._mask.shape[1])
        self.rows = [*self.rows, *rows]
        self._mask = torch.cat([_lengthen(part, length, 1) for part in (self._mask, mask)])
        self.logits = torch.cat([self.logits, logits])
        for layer, new in zip(self._cache.layers, cache.layers, strict=True):
            layer.keys = torch.cat([_lengthen(part, length, 2) for part in (layer.keys, new.keys)])
            layer.values = torch.cat([_lengthen(part, length, 2) for part in (layer.values, new.values)])

    def keep(self, lines: Sequence[int]) -> None:
        """Keep only these rows, and only the positions that they use."""
        self.rows = [self.rows[line] for line in lines]
        if not lines:
            return
        index = torch.tensor(lines, device=self._mask.device)
        self._mask, self.logits = self._mask[index], self.logits[index]
        self._cache.batch_select_indices(index)
        unused = int(self._mask.argmax(dim=1).min()) if self.can_be_refilled else 0
        if unused:
            self._mask = self._mask[:, unused:]
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[:, :, unused:], layer.values[:, :, unused:]

    def grow(self) -> dict[str, Any]:
        """Make room for one more token per row; returns the arguments of the model's forward pass besides the ids."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.rows), 1)], dim=1)
        mask = self._mask
        if self._masks_itself:
            # If no row is padded, transformers omits the mask, and attention with fewer key heads than query heads then
            # takes ten times as long on a CPU: so the mask is always given, in its final form.
            mask = torch.zeros(mask.shape, dtype=self.logits.dtype, device=mask.device)
            mask = mask.masked_fill(self._mask == 0, torch.finfo(mask.dtype).min)[:, None, None]
        return {
            "attention_mask": mask,
            "position_ids": self._mask.sum(dim=1, keepdim=True) - 1,
            "past_key_values": self._cache,
        }


def _lengthen(part: torch.Tensor, length: int, dim: int) -> torch.Tensor:
    """Pad with zeros on the left along a dimension, up to a length."""
    missing = length - part.shape[dim]
    if not missing:
        return part
    return torch.cat([part.new_zeros(*part.shape[:dim], missing, *part.shape[dim + 1 :]), part], dim=dim)

"""Splits a batch into the arguments of its forward passes."""

from collections.abc import Iterator
from typing import Any

import torch

from reprise.mixture.batch import Batch
from reprise.model.attention import document_inputs


def micro_batches(batch: Batch, rows: int, config: Any, device: torch.device) -> Iterator[dict[str, Any]]:
    """The arguments of each forward pass.

    Args:
        batch: the rows of this process.
        rows: rows per pass.
        config: the model's configuration, for the bounds of documents.
        device: device of the model.
    """
    for start in range(0, len(batch.ids), rows):
        part = slice(start, start + rows)
        arrays = {"input_ids": batch.ids[part], "labels": batch.labels[part]}
        inputs: dict[str, Any] = {name: torch.from_numpy(values.copy()) for name, values in arrays.items()}
        if batch.document_mask:  # positions that restart keep attention inside a document
            positions = torch.from_numpy(batch.position_ids[part].copy())
            inputs |= document_inputs(config, positions)
        yield {
            name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in inputs.items()
        }


def num_targets(batch: Batch) -> int:
    """Positions that are predicted: all positions with a label, except the first of a row."""
    return int((batch.labels[:, 1:] >= 0).sum())

"""Copies many slices of one array at once."""

from typing import Any

import numpy as np
import numpy.typing as npt

MEAN_WORTH_A_LOOP = 256
"""From this mean length on, copying slice by slice beats building an index of every element (measured)."""


def gather_slices(
    flat: npt.NDArray[Any], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> npt.NDArray[Any]:
    """Concatenate `flat[start : start + length]` in the order given.

    Args:
        flat: [n], the array to copy from.
        starts: [k], first element of each slice.
        lengths: [k], elements of each slice; all slices are inside `flat`.

    Returns:
        [lengths.sum()], of the type of `flat`.
    """
    if len(starts) == 0:
        return np.empty(0, dtype=flat.dtype)
    if lengths.mean() >= MEAN_WORTH_A_LOOP:
        pairs = zip(starts.tolist(), lengths.tolist(), strict=True)
        return np.concatenate([flat[start : start + length] for start, length in pairs])
    before = np.cumsum(lengths) - lengths
    gathered: npt.NDArray[Any] = flat[np.repeat(starts - before, lengths) + np.arange(lengths.sum())]
    return gathered

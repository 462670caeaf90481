"""Keep some copies: how many of a cluster depends on its size ("rehydration", FineWeb-2, arXiv 2506.20920).

Text that the web repeats a few times is on average better than text that occurs once, and text that it repeats a
thousand times is worse. FineWeb-2 writes the kept document several times; here that many documents of the cluster are
kept, so that documents in = documents out + dropped still holds.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from reprise.documents.deduplicate.exact import DECISIONS
from reprise.documents.deduplicate.records import Range, load_table_range


def choose_repeats(decisions: Path, repeats: Mapping[int, int]) -> NDArray[np.int64]:
    """Sorted keys of the copies that are kept. Uses 50 bytes of memory per copy.

    A cluster is a kept document with all exact and near copies that are dropped because of it. Copies that equal or
    resemble a held-out document are never kept. The choice depends only on the documents.

    Args:
        decisions: folder of the tables DECISIONS, with one row per copy.
        repeats: smallest size of a cluster -> how many of its documents are kept, including the one that is kept
            anyway.
    """
    columns = DECISIONS.names
    table = load_table_range(decisions, "key", Range(0, 0, None), DECISIONS).select(
        [name for name in columns if name not in ("reason", "detail")]
    )
    key, kept, priority, tie = (table[name].to_numpy() for name in ("key", "kept_key", "priority", "tie"))
    held_out = table["held_out"].combine_chunks().to_numpy(zero_copy_only=False)
    kept, held_out = _roots(key, kept, held_out)
    roots, cluster, sizes = np.unique(kept, return_inverse=True, return_counts=True)
    more = np.zeros(len(roots), np.int64)
    for size, stay in sorted(repeats.items()):
        more[sizes + 1 >= size] = stay - 1
    chosen = np.flatnonzero(~held_out)
    chosen = chosen[np.lexsort([key[chosen], tie[chosen], priority[chosen], cluster[chosen]])]
    of = cluster[chosen]
    starts = np.ones(len(of), bool)
    starts[1:] = of[1:] != of[:-1]
    rank = np.arange(len(of)) - np.flatnonzero(starts)[np.cumsum(starts) - 1] if len(of) else of
    return np.sort(key[chosen[rank < more[of]]])


def _roots(
    key: NDArray[np.int64], kept: NDArray[np.int64], held_out: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The kept document of each copy: the document that an exact copy equals may itself be dropped as a near copy."""
    if not len(key):
        return kept, held_out
    order = np.argsort(key)
    position = np.searchsorted(key[order], kept).clip(max=len(key) - 1)
    partner = order[position]
    goes = key[partner] == kept
    return np.where(goes, kept[partner], kept), held_out | (goes & held_out[partner])


def save_repeats(path: Path, keys: NDArray[np.int64]) -> None:
    """Write the keys for the workers."""
    np.save(path, keys)


def without_repeats(drops: pa.Table, path: Path) -> pa.Table:
    """The decisions without those on copies that are kept."""
    stays = np.isin(drops["key"].to_numpy(), np.load(path, mmap_mode="r"))
    return drops.filter(pa.array(~stays))

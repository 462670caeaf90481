"""Perplexity along the order in which the sampler reads the documents of a stage."""

import functools
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reprise.mixture.buckets import OpenBucket, open_buckets
from reprise.recipe import Recipe
from reprise.report.corpus_records import OrderCurve
from reprise.tokens.store import TokenStore
from reprise.workspace import Workspace

BINS = 40
"""Points of a curve: an epoch is divided into this many parts with equal tokens."""


def order_facts(workspace: Workspace, recipe: Recipe) -> list[OrderCurve]:
    """Median perplexity along the first epoch of every source that is ordered or filtered by perplexity.

    Raises:
        UserError: the token store is damaged, or has too few documents for a stage.
    """
    manifest = workspace.manifest("tokenize")
    assert manifest is not None, "the caller asks once there is a token store"
    return _order_facts(workspace.folder("tokenize"), manifest.fingerprint, recipe.model_dump_json())


@functools.lru_cache(maxsize=8)
def _order_facts(folder: Path, _fingerprint: str, recipe_json: str) -> list[OrderCurve]:
    recipe = Recipe.model_validate_json(recipe_json)
    store = TokenStore.open(folder)
    curves: list[OrderCurve] = []
    for index, stage in enumerate(recipe.stages):
        by_source: dict[tuple[str, str], list[OpenBucket]] = defaultdict(list)
        for opened in open_buckets(store, stage, recipe.rows, recipe.seed):
            entry, source, _ = opened.bucket
            if stage.curriculum_of(entry, source).needs_perplexity:
                by_source[entry, source].append(opened)
        for (entry, source), of_source in by_source.items():
            median = perplexity_along([_in_order(opened) for opened in of_source])
            curves.append({"stage": index + 1, "entry": entry, "source": source, "median_ppl": median})
    return curves


Ordered = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
"""(perplexity, tokens) of each document in reading order: float32 and int64 [documents]."""


def _in_order(opened: OpenBucket) -> Ordered:
    order = opened.order.of_epoch(0)
    return opened.documents.ppl[order], opened.documents.lengths[order]


def perplexity_along(buckets: list[Ordered]) -> list[float | None]:
    """Median perplexity in each of BINS equal parts of an epoch, over all topics of a source.

    A document belongs to the part that contains its middle; a part without documents is None.
    """
    values: list[list[float]] = [[] for _ in range(BINS)]
    for ppl, lengths in buckets:
        middle = np.cumsum(lengths) - lengths / 2
        parts = np.minimum((middle / lengths.sum() * BINS).astype(int), BINS - 1)
        for part, value in zip(parts, ppl, strict=True):
            if np.isfinite(value):
                values[part].append(float(value))
    return [float(np.median(part_values)) if part_values else None for part_values in values]

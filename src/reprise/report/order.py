"""The order in which training takes the documents, as the sampler itself works it out -> perplexity along the way."""

import functools
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reprise.mixture.buckets import LeafRows, open_leaves
from reprise.recipe import Recipe
from reprise.tokens.store import TokenStore
from reprise.workspace import Json, Workspace

BINS = 40
"""Points of a curve: each stands for so many equal parts of the tokens of one epoch."""


def order_facts(workspace: Workspace, recipe: Recipe) -> list[Json]:
    """Median perplexity along the first epoch of every source that is ordered or cut by perplexity.

    Raises:
        UserError: the token store is damaged, or its documents do not suffice for a stage.
    """
    manifest = workspace.manifest("tokenize")
    assert manifest is not None, "the caller asks once there is a token store"
    return _order_facts(workspace.folder("tokenize"), manifest.fingerprint, recipe.model_dump_json())


@functools.lru_cache(maxsize=8)
def _order_facts(folder: Path, _fingerprint: str, recipe_json: str) -> list[Json]:
    recipe = Recipe.model_validate_json(recipe_json)
    store = TokenStore.open(folder)
    found: list[Json] = []
    for index, stage in enumerate(recipe.stages):
        leaves = open_leaves(store, stage, recipe.rows, recipe.seed)
        by_source: dict[tuple[str, str], list[LeafRows]] = defaultdict(list)
        for entry in leaves:
            if stage.curriculum_of(entry.leaf.name, entry.leaf.source).needs_perplexity:
                by_source[entry.leaf.name, entry.leaf.source].append(entry)
        for (name, source), entries in by_source.items():
            curve = perplexity_along([_in_order(entry) for entry in entries])
            found.append({"stage": index + 1, "language": name, "source": source, "median_ppl": curve})
    return found


Ordered = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
"""Perplexity and tokens of each document, in the order of reading."""


def _in_order(entry: LeafRows) -> Ordered:
    order = entry.order.of_epoch(0)
    return entry.documents.ppl[order], entry.documents.lengths[order]


def perplexity_along(leaves: list[Ordered]) -> list[float | None]:
    """Median perplexity in each of BINS equal parts of an epoch; topics of a source go side by side.

    None where a part holds no document of its own, because one document spans it.
    """
    values: list[list[float]] = [[] for _ in range(BINS)]
    for ppl, lengths in leaves:
        middle = np.cumsum(lengths) - lengths / 2
        places = np.minimum((middle / lengths.sum() * BINS).astype(int), BINS - 1)
        for place, value in zip(places, ppl, strict=True):
            if np.isfinite(value):
                values[place].append(float(value))
    return [float(np.median(found)) if found else None for found in values]

"""The buckets of a stage: which documents each draws from, in which order, in which rows, with which first weight."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reprise.errors import UserError
from reprise.mixture.apportion import exact
from reprise.mixture.curriculum import DocumentOrder
from reprise.mixture.shares import Leaf, Weights
from reprise.recipe.mixture import Stage
from reprise.recipe.tokens import Rows
from reprise.tokens.rows import BestFitRows, ConcatRows, DocumentSet, RowStream
from reprise.tokens.store import Bucket, TokenStore
from reprise.workspace import digest

log = logging.getLogger(__name__)


@dataclass
class LeafRows:
    """A leaf with its rows."""

    leaf: Leaf
    documents: DocumentSet
    order: DocumentOrder
    stream: RowStream
    epoch_tokens: int
    """Tokens of the documents that are kept: one epoch."""
    limit_tokens: int
    """`max_epochs` times that: all it can give."""
    identity: str
    """Hash of the documents and all that decides their order: a cursor means the same wherever this is the same."""
    rows: int = 0
    """Rows that this stage took from it."""


def open_leaves(store: TokenStore, stage: Stage, rows: Rows, seed: int) -> list[LeafRows]:
    """The leaves of a stage in the order of its mixture, topics by name.

    Raises:
        UserError: a source with a share has no documents, or see `DocumentOrder`.
    """
    found = []
    for name, component in stage.mixture.items():
        for source, share in component.sources.items():
            buckets = _buckets(store, component.language or name, source)
            if not buckets and share > 0.0 and component.share > 0.0:
                raise UserError(
                    f"{name}/{source} has a share, but the token store has no training documents of it",
                    where=f"stage {stage.name!r}: mixture.{name}.sources.{source} = {share:g}",
                    remedy="add documents of this language and source, or set the share to 0",
                )
            if source in stage.topics.sources:
                _warn_of_missing_topics(store, name, component.language or name, source)
            for leaf, parts in _split(name, source, buckets, source in stage.topics.sources).items():
                found.append(_open_leaf(store, leaf, parts, stage, rows, seed))
    return found


def first_weights(leaves: list[LeafRows], stage: Stage, inherited: Mapping[str, float] | None) -> Weights:
    """Weights at the first row of a stage.

    Args:
        leaves: of the stage.
        stage: its settings.
        inherited: path -> share at the end of the stage before, for `topics.initial: inherit`.
    """
    shares: dict[str, float] = {}
    for entry in leaves:
        name, source, topic = entry.leaf
        shares[name] = stage.mixture[name].share
        shares[f"{name}/{source}"] = stage.mixture[name].sources[source]
        if topic is not None:
            siblings = [other for other in leaves if other.leaf[:2] == (name, source)]
            wanted = [_first_weight(other, stage, inherited) for other in siblings]
            if sum(wanted) <= 0.0:
                wanted = [1.0] * len(siblings)
            shares[entry.leaf.path] = wanted[siblings.index(entry)] / sum(wanted)
    return Weights([entry.leaf for entry in leaves], shares)


def _first_weight(entry: LeafRows, stage: Stage, inherited: Mapping[str, float] | None) -> float:
    if stage.topics.initial == "available":
        return float(entry.epoch_tokens)
    if stage.topics.initial == "inherit":
        if inherited is None:
            raise UserError(
                "there is no stage before it to inherit topic weights from",
                where=f"stage {stage.name!r}: topics.initial = inherit",
                remedy="set it to uniform or available",
            )
        return inherited.get(entry.leaf.path, 0.0)
    return 1.0


def _warn_of_missing_topics(store: TokenStore, name: str, language: str, source: str) -> None:
    """Topics that have held-out text but none to train on; those without any are named by `forecast`."""
    held_out, trained = (
        {key.topic for key in split if key[:2] == (language, source) and key.topic}
        for split in (store.valid, store.train)
    )
    if trained and held_out - trained:
        names = "; ".join(sorted(held_out - trained))
        log.warning("%s/%s has no text to train on about %s: the other topics get more", name, source, names)


def _buckets(store: TokenStore, language: str, source: str) -> list[Bucket]:
    """All buckets of a language and source, by topic."""
    keys = [key for key in store.train if key[:2] == (language, source)]
    return [store.train[key] for key in sorted(keys, key=lambda key: key.topic or "")]


def _split(name: str, source: str, buckets: list[Bucket], by_topic: bool) -> dict[Leaf, list[Bucket]]:
    """The leaves of a source: one for each topic, or one for all."""
    if by_topic and any(bucket.key.topic is not None for bucket in buckets):
        return {Leaf(name, source, bucket.key.topic or "(no topic)"): [bucket] for bucket in buckets}
    return {Leaf(name, source, None): buckets} if buckets else {}


def _open_leaf(store: TokenStore, leaf: Leaf, buckets: list[Bucket], stage: Stage, rows: Rows, seed: int) -> LeafRows:
    documents = DocumentSet(buckets)
    curriculum = stage.curriculum_of(leaf.name, leaf.source)
    order = DocumentOrder(documents, curriculum, seed, leaf.path)
    if order.num_unscored:
        log.warning("%s: %d documents have no perplexity and come last", leaf.path, order.num_unscored)
    epoch_tokens = int(documents.lengths[order.kept].sum())
    limit_tokens = int(exact(stage.max_epochs) * epoch_tokens)
    stream: Any
    if rows.packing == "concat":
        stream = ConcatRows(documents, order.of_epoch, epoch_tokens, rows.seq_len, limit_tokens)
    else:
        stream = BestFitRows(documents, order.of_epoch, epoch_tokens, rows.seq_len, limit_tokens, rows.max_padding)
    keys = [list(bucket.key) for bucket in buckets]
    identity = digest([store.fingerprint, keys, curriculum.model_dump(mode="json"), seed, leaf.path, rows.packing])
    return LeafRows(leaf, documents, order, stream, epoch_tokens, limit_tokens, identity)

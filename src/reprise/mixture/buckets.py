"""The buckets of a stage: which documents each reads, in which order, in which rows, with which initial share."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reprise.errors import UserError
from reprise.mixture.apportion import exact
from reprise.mixture.curriculum import DocumentOrder
from reprise.mixture.shares import MixtureBucket, Shares
from reprise.recipe.mixture import Stage
from reprise.recipe.tokens import Rows
from reprise.storage import digest
from reprise.tokens.rows import BestFitRows, ConcatRows, DocumentSet, RowStream
from reprise.tokens.store import Bucket, TokenStore

log = logging.getLogger(__name__)


@dataclass
class OpenBucket:
    """A bucket of the mixture with its documents and rows."""

    bucket: MixtureBucket
    documents: DocumentSet
    order: DocumentOrder
    stream: RowStream
    epoch_tokens: int
    """Tokens of the documents that are kept: one epoch."""
    limit_tokens: int
    """`epoch_tokens` times `max_epochs`: the most that the bucket can supply."""
    identity: str
    """Hash of the documents and everything that determines their order: a cursor is valid only for the same hash."""
    tokens: int = 0
    """Positions of the rows that this stage took from the bucket, padding included."""


def open_buckets(store: TokenStore, stage: Stage, rows: Rows, seed: int) -> list[OpenBucket]:
    """The buckets of a stage in the order of its mixture, topics by name.

    Raises:
        UserError: a source with a share has no documents, or see `DocumentOrder`.
    """
    opened = []
    for name, entry in stage.mixture.items():
        for source, share in entry.sources.items():
            store_buckets = _store_buckets(store, entry.language, source)
            if not store_buckets and share > 0.0 and entry.share > 0.0:
                raise UserError(
                    f"{name}/{source} has a share, but the token store has no training documents of it",
                    where=f"stage {stage.name!r}: mixture.{name}.sources.{source} = {share:g}",
                    remedy="add documents of this language and source, or set the share to 0",
                )
            if source in stage.topics.sources:
                _warn_of_missing_topics(store, name, entry.language, source)
            for bucket, parts in _split(name, source, store_buckets, source in stage.topics.sources).items():
                opened.append(_open_bucket(store, bucket, parts, stage, rows, seed))
    return opened


def first_shares(opened: list[OpenBucket], stage: Stage, inherited: Mapping[str, float] | None) -> Shares:
    """Shares at the first row of a stage.

    Args:
        opened: the buckets of the stage.
        stage: settings of the stage.
        inherited: path -> share at the end of the previous stage, for `topics.initial: inherit`.
    """
    shares: dict[str, float] = {}
    by_source: dict[tuple[str, str], list[OpenBucket]] = {}
    for one in opened:
        by_source.setdefault(one.bucket[:2], []).append(one)
    for (entry, source), siblings in by_source.items():
        shares[entry] = stage.mixture[entry].share
        shares[f"{entry}/{source}"] = stage.mixture[entry].sources[source]
        if siblings[0].bucket.topic is None:
            continue
        parts = [_first_part(one, stage, inherited, len(siblings)) for one in siblings]
        if sum(parts) <= 0.0:
            parts = [1.0] * len(siblings)
        shares |= {one.bucket.path: part / sum(parts) for one, part in zip(siblings, parts, strict=True)}
    return Shares([one.bucket for one in opened], shares)


def _first_part(one: OpenBucket, stage: Stage, inherited: Mapping[str, float] | None, siblings: int) -> float:
    if stage.topics.initial == "available":
        return float(one.epoch_tokens)
    if stage.topics.initial == "inherit":
        if inherited is None:
            raise UserError(
                "there is no stage before it to inherit topic shares from",
                where=f"stage {stage.name!r}: topics.initial = inherit",
                remedy="set it to uniform or available",
            )
        return inherited.get(one.bucket.path, 1 / siblings)  # a topic that the previous stage did not have
    return 1.0


def _warn_of_missing_topics(store: TokenStore, name: str, language: str, source: str) -> None:
    """Warn of topics that have held-out text but none to train on; `forecast` warns of those without any text."""
    held_out, trained = (
        {key.topic for key in split if key[:2] == (language, source) and key.topic}
        for split in (store.valid, store.train)
    )
    if trained and held_out - trained:
        names = "; ".join(sorted(held_out - trained))
        log.warning("%s/%s has no text to train on about %s: the other topics get more", name, source, names)


def _store_buckets(store: TokenStore, language: str, source: str) -> list[Bucket]:
    """All buckets of a language and source, by topic."""
    keys = [key for key in store.train if key[:2] == (language, source)]
    return [store.train[key] for key in sorted(keys, key=lambda key: key.topic or "")]


def _split(name: str, source: str, store_buckets: list[Bucket], by_topic: bool) -> dict[MixtureBucket, list[Bucket]]:
    """The buckets of a source: one for each topic, or one for all."""
    if by_topic and any(bucket.key.topic is not None for bucket in store_buckets):
        return {MixtureBucket(name, source, bucket.key.topic or "(no topic)"): [bucket] for bucket in store_buckets}
    return {MixtureBucket(name, source, None): store_buckets} if store_buckets else {}


def _open_bucket(
    store: TokenStore, bucket: MixtureBucket, store_buckets: list[Bucket], stage: Stage, rows: Rows, seed: int
) -> OpenBucket:
    documents = DocumentSet(store_buckets)
    curriculum = stage.curriculum_of(bucket.entry, bucket.source)
    order = DocumentOrder(documents, curriculum, seed, bucket.path)
    if order.num_unscored:
        log.warning("%s: %d documents have no perplexity and come last", bucket.path, order.num_unscored)
    epoch_tokens = int(documents.lengths[order.kept].sum())
    limit_tokens = int(exact(stage.max_epochs) * epoch_tokens)
    stream: Any
    if rows.packing == "concat":
        stream = ConcatRows(documents, order.of_epoch, epoch_tokens, rows.seq_len, limit_tokens)
    else:
        stream = BestFitRows(documents, order.of_epoch, epoch_tokens, rows.seq_len, limit_tokens, rows.max_padding)
    identity = digest(
        [
            [one.content for one in store_buckets],
            curriculum.model_dump(mode="json"),
            seed,
            bucket.path,
            # A cursor of `concat` counts tokens, so it is valid for rows of any length; one of `best_fit` counts rows.
            rows.packing if rows.packing == "concat" else [rows.packing, rows.seq_len, rows.max_padding],
        ]
    )
    return OpenBucket(bucket, documents, order, stream, epoch_tokens, limit_tokens, identity)

"""The only stateful data loader: decides which row comes next, for every process of a run."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from reprise.errors import UserError
from reprise.manifest import differences
from reprise.mixture import policy as policies
from reprise.mixture.batch import Batch, gather_row, mask_conversations
from reprise.mixture.buckets import OpenBucket, first_shares, open_buckets
from reprise.mixture.shares import MixtureBucket, ShareChange, Shares
from reprise.mixture.state import VERSION, BucketState, OrderSettings, PolicyState, SamplerState, path_of
from reprise.mixture.turns import Turns
from reprise.recipe.mixture import Stage
from reprise.recipe.tokens import Rows
from reprise.tokens.rows import Row
from reprise.tokens.store import TokenStore

log = logging.getLogger(__name__)

T = TypeVar("T")


class Sampler:
    """Deals the rows of a stage.

    Every process has one and makes the same calls; each gathers only its own rows. The next row depends only on the
    store, the settings, the seed and the shares so far.
    """

    def __init__(
        self,
        store: TokenStore,
        stage: Stage,
        rows: Rows,
        seed: int,
        previous: SamplerState | None = None,
    ) -> None:
        """Start at the first row of a stage.

        Args:
            store: the token store.
            stage: mixture, topics, curriculum, epochs.
            rows: length and packing.
            seed: random seed of the run.
            previous: `state()` at the end of the previous stage: topic shares for `topics.initial: inherit`, and where
                to continue in each bucket for `documents: carry`.

        Raises:
            UserError: a source with a share is empty, the documents do not suffice, or see `DocumentOrder`.
        """
        self._store, self._stage, self._rows_settings, self._seed = store, stage, rows, seed
        self.opened: list[OpenBucket] = open_buckets(store, stage, rows, seed)
        """The buckets of the stage, each with its documents and position."""
        self._shares = first_shares(self.opened, stage, None if previous is None else previous["shares"])
        self._policies: dict[str, PolicyState] = {}
        self._turns = Turns([tuple(one.bucket) for one in self.opened])
        self._rows = self._tokens = 0
        self._pending: list[ShareChange] = []
        if previous is not None and stage.documents == "carry":
            self._carry(previous)
        self._ended = frozenset(one.bucket.path for one in self.opened if one.stream.exhausted)
        self._put_in_force()
        self._check_supply()

    @property
    def buckets(self) -> list[MixtureBucket]:
        """The buckets of the stage."""
        return [one.bucket for one in self.opened]

    @property
    def rows_done(self) -> int:
        """Rows returned so far, over all processes."""
        return self._rows

    @property
    def tokens_done(self) -> int:
        """Positions of the rows returned so far, padding included; rows dealt before a change of length count with
        their own length."""
        return self._tokens

    @property
    def total_rows(self) -> int:
        """Rows of the stage: those returned so far, and those that the remaining tokens fill, rounded up."""
        left = max(0, self._stage.tokens - self._tokens)
        return self._rows - (-left // self._rows_settings.seq_len)

    @property
    def total_tokens(self) -> int:
        """Positions of the stage's rows."""
        return self._tokens + (self.total_rows - self._rows) * self._rows_settings.seq_len

    @property
    def finished(self) -> bool:
        """Whether all tokens of the stage were returned."""
        return self._tokens >= self._stage.tokens

    def shares(self) -> dict[MixtureBucket, float]:
        """Share of the stage's rows that each bucket gets from now on; they sum to 1."""
        shares = self._shares.of_buckets(self._ended)
        return dict(zip(self.buckets, shares, strict=True))

    def next_batch(self, batch_rows: int, rank: int = 0, world: int = 1) -> Batch:
        """Deal a global batch and gather the rows of one process.

        Args:
            batch_rows: rows of the global batch.
            rank: rank of this process, which gets consecutive rows.
            world: how many processes there are.

        Raises:
            UserError: the batch cannot be divided among the processes, or all documents were read `max_epochs` times.
        """
        if batch_rows % world:
            sizes = ", ".join(str(size) for size in range(1, batch_rows + 1) if batch_rows % size == 0)
            raise UserError(
                f"a global batch of {batch_rows} rows cannot be divided among {world} processes",
                where=f"training.batch_rows = {batch_rows}",
                remedy=f"use one of these numbers of processes: {sizes}",
            )
        mine = range(rank * batch_rows // world, (rank + 1) * batch_rows // world)
        chosen: list[OpenBucket] = []
        pieces: list[Row] = []
        for row in range(batch_rows):
            one, read = self._deal()
            if row in mine:
                chosen.append(one)
                pieces.append(read())
        ids = np.full((len(mine), self._rows_settings.seq_len), self._store.eos_id, dtype=np.int64)
        for row, (one, row_pieces) in enumerate(zip(chosen, pieces, strict=True)):
            gather_row(one.documents, row_pieces, ids[row])
        changes, self._pending = self._pending, []
        buckets = [one.bucket for one in chosen]
        no_loss = None
        if self._rows_settings.conversation_loss == "answers":
            no_loss = mask_conversations([one.documents for one in chosen], pieces, self._rows_settings.seq_len)
        return Batch(ids, pieces, buckets, self._rows_settings.document_mask, no_loss, changes)

    def skip(self, rows: int) -> None:
        """Deal rows without reading them, as if they had been trained on."""
        for _ in range(rows):
            self._deal()

    def _deal(self) -> tuple[OpenBucket, Callable[[], Row]]:
        """The next row of the run."""
        if len(self._ended) == len(self.opened) or self._turns.closed:
            raise UserError(
                f"all documents have been read {self._stage.max_epochs:g} times",
                where=f"stage {self._stage.name!r}: max_epochs = {self._stage.max_epochs:g}",
                remedy="add text, raise max_epochs or lower the tokens of the stage",
            )
        index = self._turns.next()
        one = self.opened[index]
        read = one.stream.take()
        one.tokens += self._rows_settings.seq_len
        self._rows += 1
        self._tokens += self._rows_settings.seq_len
        if one.stream.exhausted:
            self._end(index)
        return one, read

    def _end(self, index: int) -> None:
        """Give the share of a bucket that has no further row to its siblings."""
        path = self.opened[index].bucket.path
        old = self.shares()
        self._ended |= {path}
        new = self.shares()
        gains = [max(0.0, new[bucket] - old[bucket]) for bucket in self.buckets]
        heirs = [i for i, gain in enumerate(gains) if gain > 0.0]
        message = f"{path} has been read {self._stage.max_epochs:g} times"
        if heirs:
            self._turns.hand_over(index, heirs, [gains[i] for i in heirs])
            names = ", ".join(self.buckets[i].path for i in heirs[:12])
            log.warning("%s; its share (%.3g) goes to %s", message, old[self.buckets[index]], names)
        moved = [bucket for bucket in self.buckets if new[bucket] != old[bucket]]
        before, after = ({bucket.path: shares[bucket] for bucket in moved} for shares in (old, new))
        self._pending.append(ShareChange(self._rows, message, "", before, after))
        self._put_in_force()

    def set_shares(self, shares: Mapping[str, float], cause: str) -> list[ShareChange]:
        """Change shares from the next row on.

        Args:
            shares: path (`zh`, `zh/web`, `zh/web/Others`) -> share of its parent; siblings that are not named divide
                the rest in their old ratio.
            cause: cause of the change, for the log.

        Raises:
            UserError: see `Shares.change`; nothing is changed then.
        """
        changes = self._shares.change(shares, rows=self._rows, cause=cause)
        if changes:
            self._put_in_force()
        return changes

    def check_shares(self, shares: Mapping[str, float], cause: str) -> None:
        """Raise what `set_shares` would raise."""
        Shares(self.buckets, self._shares.shares).change(shares, rows=self._rows, cause=cause)

    def observe(
        self,
        losses: Mapping[Any, float],
        tokens: int | None = None,
        resampled: Mapping[Any, Sequence[float]] | None = None,
    ) -> list[ShareChange]:
        """Tell the policy the held-out losses; call it after each validation, with the same numbers in every process.

        Args:
            losses: (entry or language, source, topic) -> nats per token.
            tokens: tokens trained on in this stage; None: `tokens_done`.
            resampled: the same keys -> losses on resampled held-out documents, which measure the noise. None: the
                losses are exact.

        Returns:
            The changes that the policy made, used from the next row.
        """
        settings = self._stage.topics.policy
        changes: list[ShareChange] = []
        for parent in dict.fromkeys(bucket.parents[-1] for bucket in self.buckets if bucket.topic is not None):
            topics = {
                bucket.topic: bucket
                for bucket in self.buckets
                if bucket.topic is not None and bucket.parents[-1] == parent and bucket.path not in self._ended
            }
            old = {topic: self._shares.shares[bucket.path] for topic, bucket in topics.items()}
            total = sum(old.values())
            if total <= 0.0:
                continue
            shares = {topic: share / total for topic, share in old.items()}
            seen = {topic: self._of_bucket(losses, bucket) for topic, bucket in topics.items()}
            drawn = None if resampled is None else {t: self._of_bucket(resampled, b) or () for t, b in topics.items()}
            state, new = policies.update(
                settings.of_source(parent),
                self._policies.get(parent, {}),
                shares,
                {topic: float(loss) for topic, loss in seen.items() if loss is not None},
                self.tokens_done if tokens is None else tokens,
                drawn,
            )
            self._policies[parent] = state
            if new != shares:
                proposed = {f"{parent}/{topic}": share * total for topic, share in new.items()}
                changes += self._shares.change(proposed, rows=self._rows, cause=settings.name)
        if changes:
            self._put_in_force()
        return changes

    def _of_bucket(self, measured: Mapping[Any, T], bucket: MixtureBucket) -> T | None:
        """The measurement of a bucket, looked up by its entry's name or by its language."""
        language = self._stage.mixture[bucket.entry].language
        return measured.get(tuple(bucket), measured.get((language, bucket.source, bucket.topic)))

    def state(self) -> SamplerState:
        """The state of the sampler as JSON: the rows returned so far, and everything that determines the next ones."""
        return {
            "version": VERSION,
            "store": self._store.fingerprint,
            "settings": self._settings(),
            "rows": self._rows,
            "tokens": self._tokens,
            "buckets": [
                {
                    "entry": one.bucket.entry,
                    "source": one.bucket.source,
                    "topic": one.bucket.topic,
                    "tokens": one.tokens,
                    "epoch": one.stream.epoch,
                    "cursor": list(one.stream.cursor),
                    "credit": int(credit),
                    "identity": one.identity,
                }
                for one, credit in zip(self.opened, self._turns.credit, strict=True)
            ],
            "shares": dict(self._shares.shares),
            "policies": dict(self._policies),  # rules return new states and never change one in place
        }

    def load_state(self, state: SamplerState, *, adopt: bool = False) -> list[ShareChange]:
        """Restore the state of a sampler.

        Args:
            state: a state of the same stage.
            adopt: accept settings and a store that differ from the state's: buckets with the same documents and order
                continue where they were, others start again, and shares that the recipe changed take effect.

        Returns:
            The changes of shares that the new settings made.

        Raises:
            UserError: the state is of another version, store, recipe or seed, and `adopt` is not set.
        """
        if state.get("version") != VERSION:
            raise UserError(
                f"the sampler's state has version {state.get('version')}, this reprise reads {VERSION}",
                remedy="resume with the version of Reprise that wrote it, or add --restart",
            )
        old = {"store": state["store"], **state["settings"]}
        changed = differences(old, {"store": self._store.fingerprint, **self._settings()})
        if changed and not adopt:
            raise UserError(
                f"the order of the data was begun under other settings ({'; '.join(changed)})",
                where=f"stage {self._stage.name!r}",
                remedy="undo the change, or add --adopt to resume with the new settings",
            )
        fresh = Shares(self.buckets, self._shares.shares)
        self._rows, self._tokens = state["rows"], state["tokens"]
        saved_buckets = {path_of(saved): saved for saved in state["buckets"]}
        old_rows = Rows.model_validate(state["settings"]["rows"])
        self._refuse_repacking(old_rows)
        credit = np.zeros(len(self.opened), dtype=np.int64)
        paths = {one.bucket.path for one in self.opened}
        gone = [saved for path, saved in saved_buckets.items() if path not in paths]
        for index, one in enumerate(self.opened):
            saved = saved_buckets.get(one.bucket.path)
            if saved is None:
                _warn_of_another_split(one.bucket, self._stage, gone, state["settings"]["stage"])
                continue
            one.tokens = saved["tokens"]
            credit[index] = saved["credit"] * old_rows.seq_len // self._rows_settings.seq_len  # in current rows
            if saved["identity"] == one.identity:
                one.stream.cursor = saved["cursor"]
            elif saved["tokens"]:
                _warn_of_repeated_text(one.bucket.path, "its documents or their order changed", saved["tokens"])
        self._turns.credit = credit
        self._turns.balance()
        self._policies = dict(state["policies"])
        self._shares = Shares(
            self.buckets, {**fresh.shares, **{k: v for k, v in state["shares"].items() if k in fresh.shares}}
        )
        changes = self._adopt_shares(fresh, state) if changed else []
        self._ended = frozenset(one.bucket.path for one in self.opened if one.stream.exhausted)
        self._pending = []
        self._put_in_force()
        return changes

    def _refuse_repacking(self, old: Rows) -> None:
        """Raise if the rows cannot continue where those of a state ended.

        Rows of `concat` can begin at any token, whatever their length. `best_fit` packs a window of documents as a
        whole: with other settings the rest of a window would not contain exactly the documents that are still unread.

        Raises:
            UserError: the packing changed, or the length or padding of packed rows.
        """
        new = self._rows_settings
        packed = "best_fit" in (old.packing, new.packing)
        names = ("packing", "seq_len", "max_padding") if packed else ()
        changed = [name for name in names if getattr(old, name) != getattr(new, name)]
        if changed:
            raise UserError(
                "documents that were packed into rows in one way cannot be resumed in another: some would be read "
                "twice, others not at all",
                where="; ".join(f"rows.{name}: {getattr(old, name)} -> {getattr(new, name)}" for name in changed),
                remedy="undo the change, or add --restart to train the stage from its beginning",
            )

    def _adopt_shares(self, fresh: Shares, state: SamplerState) -> list[ShareChange]:
        """Apply the shares that the recipe changed, and those of new buckets."""
        stage, before = self._settings()["stage"], state["settings"]["stage"]
        changes = []
        for parent in ["", *dict.fromkeys(path for bucket in self.buckets for path in bucket.parents)]:
            new, old = (
                fresh.children(parent),
                {k: v for k, v in state["shares"].items() if k in fresh.children(parent)},
            )
            divided_by = _divided_by(stage, parent) != _divided_by(before, parent)
            if new and new != old and (divided_by or new.keys() != old.keys()):
                self._shares.shares.update(new)
                changes.append(ShareChange(self._rows, "recipe", parent, old, new))
        return changes

    def _settings(self) -> OrderSettings:
        """Everything that determines the order, besides the store."""
        decides = {"mixture", "topics", "curriculum", "documents", "max_epochs"}
        return {
            "stage": self._stage.model_dump(mode="json", include=decides),
            "rows": self._rows_settings.model_dump(mode="json", exclude={"document_mask", "conversation_loss"}),
            "seed": self._seed,
        }

    def _carry(self, previous: SamplerState) -> None:
        """Continue each bucket where the previous stage stopped, if it read the same documents in the same order."""
        saved = {bucket["identity"]: bucket["cursor"] for bucket in previous["buckets"]}
        for one in self.opened:
            if one.identity in saved:
                one.stream.cursor = saved[one.identity]

    def _put_in_force(self) -> None:
        self._turns.set_shares(self._shares.of_buckets(self._ended))

    def _check_supply(self) -> None:
        """Raise if the documents of the stage cannot supply its tokens."""
        shares = self._shares.of_buckets()
        left = sum(
            one.limit_tokens - one.stream.tokens_read
            for one, share in zip(self.opened, shares, strict=True)
            if share > 0.0
        )
        if left < self._stage.tokens:
            raise UserError(
                f"the documents give at most {left:,} tokens in {self._stage.max_epochs:g} epochs",
                where=f"stage {self._stage.name!r}: tokens = {self._stage.tokens:,}",
                remedy="add text, raise max_epochs or lower the tokens",
            )


def _warn_of_another_split(
    bucket: MixtureBucket, stage: Stage, gone: Sequence[BucketState], before: Mapping[str, Any]
) -> None:
    """Warn of a new bucket whose source was read in other buckets before: split by topic differently, or renamed.

    Args:
        bucket: the new bucket.
        stage: settings of its stage.
        gone: buckets in the state that the stage no longer has.
        before: settings of the stage in the state.
    """
    language = stage.mixture[bucket.entry].language or bucket.entry
    num_tokens = sum(
        saved["tokens"]
        for saved in gone
        if saved["source"] == bucket.source
        and (before["mixture"].get(saved["entry"], {}).get("language") or saved["entry"]) == language
    )
    if num_tokens:
        _warn_of_repeated_text(bucket.path, "its source is divided or named in another way", num_tokens)


def _warn_of_repeated_text(path: str, reason: str, num_tokens: int) -> None:
    log.warning(
        "%s begins again from its first document, as %s: text that was read (%s tokens of rows in this stage) can come "
        "a second time",
        path,
        reason,
        f"{num_tokens:,}",
    )


def _divided_by(stage: Mapping[str, Any], parent: str) -> object:
    """The settings that divide a part of the mixture among its children."""
    if parent == "":
        return {name: part["share"] for name, part in stage["mixture"].items()}
    return stage["mixture"].get(parent, {}).get("sources") if parent in stage["mixture"] else stage["topics"]["initial"]

"""The one stateful loader: which row comes when, for every process of a run."""

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from reprise.errors import UserError
from reprise.mixture import policy as policies
from reprise.mixture.buckets import LeafRows, first_weights, open_leaves
from reprise.mixture.rules import State
from reprise.mixture.shares import Leaf, WeightChange, Weights
from reprise.mixture.turns import Turns
from reprise.recipe.mixture import Stage
from reprise.recipe.tokens import Rows
from reprise.tokens.rows import DocumentSet, Row
from reprise.tokens.store import TokenStore
from reprise.workspace import Json, differences

log = logging.getLogger(__name__)

VERSION = 2
NO_LOSS = -100
"""Label of a position that is not trained on."""


@dataclass(frozen=True)
class Batch:
    """The rows of one process in one global batch."""

    ids: npt.NDArray[np.int64]
    """[rows, seq_len]; padding holds the EOS id."""
    pieces: list[Row]
    """Of each row."""
    leaves: list[Leaf]
    """Of each row."""
    document_mask: bool
    changes: list[WeightChange] = field(default_factory=list)
    """Weights that changed while the batch was dealt, because a bucket ran out."""

    @cached_property
    def documents(self) -> npt.NDArray[np.int32]:
        """[rows, seq_len]: number of the document within its row, from 0; -1 for padding."""
        found = np.full(self.ids.shape, -1, dtype=np.int32)
        for row, pieces in enumerate(self.pieces):
            at = 0
            for number, piece in enumerate(pieces):
                found[row, at : at + piece.length] = number
                at += piece.length
        return found

    @cached_property
    def starts(self) -> list[list[int]]:
        """Of each row, the positions at which its documents begin; the first is 0, even where a document goes on."""
        return [[0, *np.cumsum([piece.length for piece in pieces[:-1]]).tolist()] for pieces in self.pieces]

    @cached_property
    def position_ids(self) -> npt.NDArray[np.int64]:
        """[rows, seq_len]: position within the document's piece; with no document mask, within the row."""
        positions = np.broadcast_to(np.arange(self.ids.shape[1]), self.ids.shape).copy()
        if self.document_mask:
            for row, starts in enumerate(self.starts):
                for start in starts[1:]:
                    positions[row, start:] = np.arange(self.ids.shape[1] - start)
        return positions

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """[rows, seq_len]: the ids, NO_LOSS at padding and, under a document mask, where a document begins.

        Not shifted: transformers' models compare position i with the prediction from position i - 1, which under a mask
        belongs to another document.
        """
        found = self.ids.copy()
        found[self.documents < 0] = NO_LOSS
        if self.document_mask:
            for row, starts in enumerate(self.starts):
                found[row, starts] = NO_LOSS
        return found


class Sampler:
    """Deals the rows of a stage.

    Every process holds one and calls it alike; each gathers only its own rows. What comes next depends on the store,
    the settings, the seed and the weights that were in force, and on nothing else.
    """

    def __init__(
        self,
        store: TokenStore,
        stage: Stage,
        rows: Rows,
        seed: int,
        previous: Mapping[str, Json] | None = None,
    ) -> None:
        """Stand before the first row of a stage.

        Args:
            store: what to draw from.
            stage: mixture, topics, curriculum, epochs.
            rows: length and packing.
            seed: of the run.
            previous: `state()` at the end of the stage before: topic weights for `topics.initial: inherit`, and where
                to go on in each bucket for `documents: carry`.

        Raises:
            UserError: a source with a share is empty, the documents do not suffice, or see `DocumentOrder`.
        """
        self._store, self._stage, self._rows_settings, self._seed = store, stage, rows, seed
        self.entries: list[LeafRows] = open_leaves(store, stage, rows, seed)
        """The buckets of the stage, each with its documents and where it stands."""
        self._weights = first_weights(self.entries, stage, None if previous is None else previous["weights"])
        self._policies: dict[str, State] = {}
        self._turns = Turns([tuple(entry.leaf) for entry in self.entries])
        self._rows = 0
        self._pending: list[WeightChange] = []
        if previous is not None and stage.documents == "carry":
            self._carry(previous)
        self._ended = frozenset(entry.leaf.path for entry in self.entries if entry.stream.exhausted)
        self._put_in_force()
        self._check_supply()

    @property
    def leaves(self) -> list[Leaf]:
        """The buckets of the stage."""
        return [entry.leaf for entry in self.entries]

    @property
    def rows_done(self) -> int:
        """Rows that were handed out, over all processes."""
        return self._rows

    @property
    def tokens_done(self) -> int:
        """Positions of these rows, padding among them."""
        return self._rows * self._rows_settings.seq_len

    @property
    def total_rows(self) -> int:
        """Rows of the stage: its tokens, rounded up."""
        return -(-self._stage.tokens // self._rows_settings.seq_len)

    @property
    def finished(self) -> bool:
        """Whether the stage has had its tokens."""
        return self._rows >= self.total_rows

    def weights(self) -> dict[Leaf, float]:
        """Share of the stage's rows that each bucket gets from now on; they sum to 1."""
        shares = self._weights.of_leaves(self._ended)
        return dict(zip(self.leaves, shares, strict=True))

    def next_batch(self, batch_rows: int, rank: int = 0, world: int = 1) -> Batch:
        """Deal a global batch and gather the rows of one process.

        Args:
            batch_rows: rows of the global batch.
            rank: of this process; it gets a stretch of neighbouring rows.
            world: number of processes.

        Raises:
            UserError: the batch does not divide among the processes, or all documents were read `max_epochs` times.
        """
        if batch_rows % world:
            sizes = ", ".join(str(size) for size in range(1, batch_rows + 1) if batch_rows % size == 0)
            raise UserError(
                f"a global batch of {batch_rows} rows does not divide among {world} processes",
                where=f"training.batch_rows = {batch_rows}",
                remedy=f"use one of these numbers of processes: {sizes}",
            )
        mine = range(rank * batch_rows // world, (rank + 1) * batch_rows // world)
        chosen: list[LeafRows] = []
        pieces: list[Row] = []
        for number in range(batch_rows):
            entry, read = self._deal()
            if number in mine:
                chosen.append(entry)
                pieces.append(read())
        ids = np.full((len(mine), self._rows_settings.seq_len), self._store.eos_id, dtype=np.int64)
        for row, (entry, row_pieces) in enumerate(zip(chosen, pieces, strict=True)):
            _gather(entry.documents, row_pieces, ids[row])
        changes, self._pending = self._pending, []
        leaves = [entry.leaf for entry in chosen]
        return Batch(ids, pieces, leaves, self._rows_settings.document_mask, changes)

    def skip(self, rows: int) -> None:
        """Deal rows without reading them, as if they had been trained on."""
        for _ in range(rows):
            self._deal()

    def _deal(self) -> tuple[LeafRows, Callable[[], Row]]:
        """The next row of the run."""
        if len(self._ended) == len(self.entries) or self._turns.closed:
            raise UserError(
                f"all documents have been read {self._stage.max_epochs:g} times",
                where=f"stage {self._stage.name!r}: max_epochs = {self._stage.max_epochs:g}",
                remedy="add text, raise max_epochs or lower the tokens of the stage",
            )
        number = self._turns.next()
        entry = self.entries[number]
        read = entry.stream.take()
        entry.rows += 1
        self._rows += 1
        if entry.stream.exhausted:
            self._end(number)
        return entry, read

    def _end(self, number: int) -> None:
        """A bucket has no further row: its share goes to its siblings."""
        path = self.entries[number].leaf.path
        old = self.weights()
        self._ended |= {path}
        new = self.weights()
        gains = [max(0.0, new[leaf] - old[leaf]) for leaf in self.leaves]
        heirs = [i for i, gain in enumerate(gains) if gain > 0.0]
        message = f"{path} has been read {self._stage.max_epochs:g} times"
        if heirs:
            self._turns.hand_over(number, heirs, [gains[i] for i in heirs])
            names = ", ".join(self.leaves[i].path for i in heirs[:12])
            log.warning("%s; its share (%.3g) goes to %s", message, old[self.leaves[number]], names)
        moved = [leaf for leaf in self.leaves if new[leaf] != old[leaf]]
        before, after = ({leaf.path: shares[leaf] for leaf in moved} for shares in (old, new))
        self._pending.append(WeightChange(self._rows, message, "", before, after))
        self._put_in_force()

    def set_weights(self, wanted: Mapping[str, float], cause: str) -> list[WeightChange]:
        """Change shares from the next row on.

        Args:
            wanted: path (`zh`, `zh/web`, `zh/web/Others`) -> share of its parent; siblings that are not named share the
                rest as before.
            cause: for the log.

        Raises:
            UserError: see `Weights.change`; nothing is changed then.
        """
        changes = self._weights.change(wanted, rows=self._rows, cause=cause)
        if changes:
            self._put_in_force()
        return changes

    def check_weights(self, wanted: Mapping[str, float], cause: str) -> None:
        """Raise what `set_weights` would raise."""
        Weights(self.leaves, self._weights.shares).change(wanted, rows=self._rows, cause=cause)

    def observe(self, losses: Mapping[Any, float], tokens: int | None = None) -> list[WeightChange]:
        """Tell the policy the held-out losses; call it after each validation, with the same numbers in every process.

        Args:
            losses: (name or language, source, topic) -> nats per token.
            tokens: trained on in this stage; None: `tokens_done`.

        Returns:
            The changes that the policy made, in force from the next row on.
        """
        settings = self._stage.topics.policy
        changes: list[WeightChange] = []
        for parent in dict.fromkeys(leaf.parents[-1] for leaf in self.leaves if leaf.topic is not None):
            topics = {leaf.path: leaf for leaf in self.leaves if leaf.parents[-1] == parent and leaf.topic is not None}
            seen = {leaf.topic: loss for leaf in topics.values() if (loss := self._loss(losses, leaf)) is not None}
            old = {leaf.topic: self._weights.shares[path] for path, leaf in topics.items() if path not in self._ended}
            total = sum(old.values())
            if total <= 0.0:
                continue
            shares = {str(topic): share / total for topic, share in old.items()}
            state, new = policies.update(
                settings,
                self._policies.get(parent, {}),
                shares,
                {str(topic): loss for topic, loss in seen.items()},
                self.tokens_done if tokens is None else tokens,
            )
            self._policies[parent] = state
            if new != shares:
                wanted = {f"{parent}/{topic}": share * total for topic, share in new.items()}
                changes += self._weights.change(wanted, rows=self._rows, cause=settings.name)
        if changes:
            self._put_in_force()
        return changes

    def _loss(self, losses: Mapping[Any, float], leaf: Leaf) -> float | None:
        language = self._stage.mixture[leaf.name].language or leaf.name
        found = losses.get(tuple(leaf), losses.get((language, leaf.source, leaf.topic)))
        return None if found is None else float(found)

    def state(self) -> dict[str, Json]:
        """Where the sampler stands, as JSON: what was handed out, and all that decides what comes next."""
        return {
            "version": VERSION,
            "store": self._store.fingerprint,
            "settings": self._settings(),
            "rows": self._rows,
            "leaves": [
                {
                    "leaf": list(entry.leaf),
                    "rows": entry.rows,
                    "epoch": entry.stream.epoch,
                    "cursor": list(entry.stream.cursor),
                    "credit": int(credit),
                    "identity": entry.identity,
                }
                for entry, credit in zip(self.entries, self._turns.credit, strict=True)
            ],
            "weights": dict(self._weights.shares),
            "policies": copy.deepcopy(self._policies),
        }

    def load_state(self, state: Mapping[str, Json], *, adopt: bool = False) -> list[WeightChange]:
        """Stand where the sampler stood that gave this state.

        Args:
            state: of the same stage.
            adopt: go on with the settings and the store of today, where these differ: buckets whose documents and order
                are the same go on where they were, others begin anew, and shares that the recipe changed come into
                force.

        Returns:
            The changes of weights that the new settings made.

        Raises:
            UserError: the state is of another version, store, recipe or seed, and `adopt` is not set.
        """
        if state.get("version") != VERSION:
            raise UserError(
                f"the sampler's state has version {state.get('version')}, this reprise reads {VERSION}",
                remedy="go on with the reprise that wrote it, or add --restart",
            )
        old = {"store": state["store"], **state["settings"]}
        changed = differences(old, {"store": self._store.fingerprint, **self._settings()})
        if changed and not adopt:
            raise UserError(
                f"the order of the data was begun under other settings ({'; '.join(changed)})",
                where=f"stage {self._stage.name!r}",
                remedy="undo the change, or add --adopt to go on with the new settings",
            )
        fresh = Weights(self.leaves, self._weights.shares)
        self._rows = state["rows"]
        by_path = {"/".join(part for part in saved["leaf"] if part is not None): saved for saved in state["leaves"]}
        credit = np.zeros(len(self.entries), dtype=np.int64)
        for number, entry in enumerate(self.entries):
            saved = by_path.get(entry.leaf.path)
            if saved is None:
                continue
            entry.rows = saved["rows"]
            credit[number] = saved["credit"]
            if saved["identity"] == entry.identity:
                entry.stream.cursor = saved["cursor"]
        self._turns.credit = credit
        self._turns.balance()
        self._policies = copy.deepcopy(dict(state["policies"]))
        self._weights = Weights(
            self.leaves, {**fresh.shares, **{k: v for k, v in state["weights"].items() if k in fresh.shares}}
        )
        changes = self._adopt_weights(fresh, state) if changed else []
        self._ended = frozenset(entry.leaf.path for entry in self.entries if entry.stream.exhausted)
        self._pending = []
        self._put_in_force()
        return changes

    def _adopt_weights(self, fresh: Weights, state: Mapping[str, Json]) -> list[WeightChange]:
        """Shares that the recipe changed come into force, and those of buckets that are new."""
        stage, before = self._settings()["stage"], state["settings"]["stage"]
        changes = []
        for parent in ["", *dict.fromkeys(path for leaf in self.leaves for path in leaf.parents)]:
            new, old = (
                fresh.children(parent),
                {k: v for k, v in state["weights"].items() if k in fresh.children(parent)},
            )
            divided_by = _divided_by(stage, parent) != _divided_by(before, parent)
            if new and new != old and (divided_by or new.keys() != old.keys()):
                self._weights.shares.update(new)
                changes.append(WeightChange(self._rows, "recipe", parent, old, new))
        return changes

    def _settings(self) -> dict[str, Json]:
        """Everything that decides the order, besides the store."""
        decides = {"name", "mixture", "topics", "curriculum", "documents", "max_epochs"}
        return {
            "stage": self._stage.model_dump(mode="json", include=decides),
            "rows": self._rows_settings.model_dump(mode="json", exclude={"document_mask"}),
            "seed": self._seed,
        }

    def _carry(self, previous: Mapping[str, Json]) -> None:
        """Go on in each bucket where the stage before stopped, if it read the same documents in the same order."""
        saved = {leaf["identity"]: leaf["cursor"] for leaf in previous["leaves"]}
        for entry in self.entries:
            if entry.identity in saved:
                entry.stream.cursor = saved[entry.identity]

    def _put_in_force(self) -> None:
        self._turns.set_weights(self._weights.of_leaves(self._ended))

    def _check_supply(self) -> None:
        """Refuse a stage whose documents cannot give its tokens."""
        shares = self._weights.of_leaves()
        left = sum(
            entry.limit_tokens - entry.stream.tokens_read
            for entry, share in zip(self.entries, shares, strict=True)
            if share > 0.0
        )
        if left < self._stage.tokens:
            raise UserError(
                f"the documents give at most {left:,} tokens in {self._stage.max_epochs:g} epochs",
                where=f"stage {self._stage.name!r}: tokens = {self._stage.tokens:,}",
                remedy="add text, raise max_epochs or lower the tokens",
            )


def _gather(documents: DocumentSet, pieces: Row, out: npt.NDArray[np.int64]) -> None:
    """Copy the tokens of a row."""
    at = 0
    for piece in pieces:
        out[at : at + piece.length] = documents.tokens(piece)
        at += piece.length


def _divided_by(stage: Json, parent: str) -> Json:
    """The settings that divide a part of the mixture among its children."""
    if parent == "":
        return {name: part["share"] for name, part in stage["mixture"].items()}
    return stage["mixture"].get(parent, {}).get("sources") if parent in stage["mixture"] else stage["topics"]["initial"]

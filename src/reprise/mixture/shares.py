"""The shares of mixture entries, sources and topics at one moment of a stage."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from reprise.errors import UserError


class MixtureBucket(NamedTuple):
    """A bucket of a stage's mixture."""

    entry: str
    """Entry of the mixture: a language, or `synthetic`."""
    source: str
    topic: str | None
    """None if the stage does not split the source by topic."""

    @property
    def path(self) -> str:
        """Name of the bucket in shares, logs and the state, such as `zh/web/Others`."""
        return "/".join(part for part in self if part is not None)

    @property
    def parents(self) -> list[str]:
        """Paths of its parents, such as `zh` and `zh/web`."""
        return [self.entry] if self.topic is None else [self.entry, f"{self.entry}/{self.source}"]


@dataclass(frozen=True)
class ShareChange:
    """A change of the mixture, for the log and the report."""

    rows: int
    """Rows returned before it took effect."""
    cause: str
    """Name of the policy, `shares.json`, `recipe`, or the bucket that ran out."""
    path: str
    """Parent of the changed shares: "" for the entries of the stage, `zh` for its sources, `zh/web` for its topics."""
    old: dict[str, float]
    """Child -> share of its parent before; if a bucket ran out, bucket -> share of the stage."""
    new: dict[str, float]


class Shares:
    """A tree of shares: of the stage, of each entry, of each split source."""

    def __init__(self, buckets: Iterable[MixtureBucket], shares: Mapping[str, float]) -> None:
        """`shares` contains a share for the path of every bucket and of its parents."""
        self.buckets = list(buckets)
        self.shares = dict(shares)
        self._children: dict[str, list[str]] = {}
        for bucket in self.buckets:
            above = ""
            for path in (*bucket.parents, bucket.path):
                siblings = self._children.setdefault(above, [])
                if path not in siblings:
                    siblings.append(path)
                above = path

    def children(self, path: str) -> dict[str, float]:
        """Child path -> share of its parent; empty for a bucket or an unknown path."""
        return {child: self.shares[child] for child in self._children.get(path, [])}

    def of_buckets(self, ended: frozenset[str] = frozenset()) -> list[float]:
        """Share of the stage that each bucket gets; they sum to 1.

        Args:
            ended: paths of buckets that have no further row; their share goes to their siblings or, if all of these
                have ended, to the siblings of their source, then of their entry.
        """
        divided: dict[str, float] = {}
        self._divide("", 1.0, divided, ended)
        return [divided.get(bucket.path, 0.0) for bucket in self.buckets]

    def _divide(self, path: str, share: float, divided: dict[str, float], ended: frozenset[str]) -> None:
        alive = {child: part for child, part in self.children(path).items() if self._is_alive(child, ended)}
        total = sum(alive.values())
        for child, part in alive.items():
            if child in self._children:
                self._divide(child, share * part / total, divided, ended)
            else:
                divided[child] = share * part / total

    def _is_alive(self, path: str, ended: frozenset[str]) -> bool:
        if self.shares[path] <= 0.0 or path in ended:
            return False
        return path not in self._children or any(self._is_alive(child, ended) for child in self._children[path])

    def change(self, named_shares: Mapping[str, float], *, rows: int, cause: str) -> list[ShareChange]:
        """Set the shares of some paths; siblings that are not named divide the rest in their old ratio.

        Raises:
            UserError: a path is unknown, a share is not 0 to 1, or siblings cannot sum to 1. Nothing is changed then.
        """
        by_parent: dict[str, dict[str, float]] = {}
        parent_of = {child: parent for parent, children in self._children.items() for child in children}
        for path, share in named_shares.items():
            where = f"{cause}: {path} = {share!r}"
            if path not in parent_of:
                known = ", ".join(sorted(parent_of))
                raise UserError("this is not part of the mixture", where=where, remedy=f"name one of: {known}")
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 <= share <= 1.0:
                raise UserError("a share is between 0 and 1", where=where, remedy="correct the share")
            by_parent.setdefault(parent_of[path], {})[path] = float(share)
        changes = []
        for parent, named in by_parent.items():
            old = self.children(parent)
            new = _completed(old, named, f"{cause}: {', '.join(named)}")
            if new != old:
                changes.append(ShareChange(rows, cause, parent, old, new))
        proposed = Shares(self.buckets, {**self.shares, **{k: v for change in changes for k, v in change.new.items()}})
        if sum(proposed.of_buckets()) <= 0.0:
            raise UserError("these shares leave nothing to train on", where=cause, remedy="give some bucket a share")
        self.shares = proposed.shares
        return changes


def _completed(old: Mapping[str, float], named: Mapping[str, float], where: str) -> dict[str, float]:
    """Shares of all siblings: those named, and the others scaled to fill the rest."""
    total = math.fsum(named.values())
    others = {path: share for path, share in old.items() if path not in named}
    rest = math.fsum(others.values())
    if total > 1.0 + 1e-6 or (abs(total - 1.0) > 1e-6 and rest <= 0.0):
        raise UserError(
            f"the shares of siblings must sum to 1, these sum to {total:.6g}",
            where=where,
            remedy="correct them, or leave some siblings out: they share the rest",
        )
    if all(named[path] == old[path] for path in named):
        return dict(old)
    scale = max(0.0, 1.0 - total) / rest if rest > 0.0 else 0.0
    return {path: named[path] / max(total, 1.0) if path in named else old[path] * scale for path in old}

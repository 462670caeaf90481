"""The guard of what must be kept: acts when the held-out loss of a kept group rises by more than its tolerance."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from reprise.errors import UserError
from reprise.mixture.sampler import Sampler
from reprise.mixture.shares import ShareChange
from reprise.recipe.groups import MIN_DOCUMENTS, Group, Groups
from reprise.recipe.mixture import Stage
from reprise.recipe.training import Guards
from reprise.training.checkpoint_facts import Progress
from reprise.training.events import GuardEvent, Moment
from reprise.training.validation import BucketLoss

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retention:
    """A kept group of held-out documents, compared with the base model."""

    group: Group
    """Its `tolerance` is set."""
    before: float
    """Bits per byte of the base model."""
    now: float

    @property
    def path(self) -> str:
        """`en` or `en/code`, as in `evaluation.tolerance`."""
        return self.group.path

    @property
    def tolerance(self) -> float:
        """Largest rise that still counts as kept."""
        assert self.group.tolerance is not None
        return self.group.tolerance

    @property
    def rise(self) -> float:
        """Relative rise of the bits per byte."""
        return self.now / self.before - 1

    @property
    def is_lost(self) -> bool:
        """Whether it rose by more than the tolerance."""
        return self.rise > self.tolerance


def kept_groups(groups: Groups, losses: Sequence[BucketLoss]) -> list[Group]:
    """The groups with a tolerance and held-out documents; sources only if they have MIN_DOCUMENTS."""
    documents: Counter[tuple[str, str]] = Counter()
    for loss in losses:
        documents[loss.key.language, loss.key.source] += loss.documents
    return [
        group
        for group in groups.over(documents)
        if group.tolerance is not None
        and (group.source is None or documents[group.language, group.source] >= MIN_DOCUMENTS)
    ]


def bits_per_byte(losses: Sequence[BucketLoss], group: Group) -> float | None:
    """Loss of a group, over its buckets; None if none was measured."""
    chosen = [loss for loss in losses if group.contains(loss.key.language, loss.key.source) and loss.tokens]
    bits = sum(loss.nll * loss.tokens / math.log(2) for loss in chosen)
    num_bytes = sum(loss.num_bytes for loss in chosen)
    return bits / num_bytes if num_bytes else None


def check_retention(
    losses: Sequence[BucketLoss], baseline: Mapping[str, float], groups: Sequence[Group]
) -> list[Retention]:
    """Every kept group that was measured both now and with the base model."""
    measured = ((group, bits_per_byte(losses, group)) for group in groups)
    return [
        Retention(group, baseline[group.path], now)
        for group, now in measured
        if now is not None and group.path in baseline
    ]


def share_to_set(name: str, share: float, raised: dict[str, float], settings: Guards, *, is_lost: bool) -> float | None:
    """The share that `retention: raise_share` gives an entry of the mixture; None if it stays.

    Args:
        name: name of the entry.
        share: its current share of the stage.
        raised: entry -> its share before the guard raised it; updated.
        settings: step and cap.
        is_lost: whether some of its text is worse than its tolerance allows.
    """
    if is_lost:
        higher = min(share + settings.retention_step, settings.retention_cap)
        if higher <= share:
            return None
        raised.setdefault(name, share)
        return higher
    before = raised.get(name, share)
    if before == share:
        return None
    del raised[name]
    return before


class RetentionGuard:
    """Compares each validation with the first one of the run, and acts as `training.guards.retention` says."""

    def __init__(
        self,
        settings: Guards,
        stage: Stage,
        groups: Groups,
        sampler: Sampler,
        tell: Callable[[GuardEvent], None],
        tell_changes: Callable[[Sequence[ShareChange]], None],
        moment: Callable[[], Moment],
    ) -> None:
        """`tell` logs an event, `tell_changes` logs changes of shares, `moment` gives the current step."""
        self._settings, self._stage, self._groups, self._sampler = settings, stage, groups, sampler
        self._tell, self._tell_changes, self._moment = tell, tell_changes, moment

    def check(self, losses: Sequence[BucketLoss], progress: Progress) -> UserError | None:
        """Warn of lost groups, or raise their shares; with `retention: stop`, the error to raise after saving.

        Args:
            losses: of this validation.
            progress: its baseline is set at the first validation; its raised shares are updated.
        """
        groups = kept_groups(self._groups, losses)
        if not progress.baseline:
            measured = {group.path: bits_per_byte(losses, group) for group in groups}
            progress.baseline = {path: value for path, value in measured.items() if value is not None}
        action = self._settings.retention
        if action == "off":
            return None
        compared = check_retention(losses, progress.baseline, groups)
        if action == "raise_share":
            self._balance(compared, progress.raised)
        for kept in compared:
            if not kept.is_lost:
                continue
            message = f"{kept.path}: {kept.before:.4f} -> {kept.now:.4f} bits per byte ({kept.rise:+.1%})"
            self._tell({**self._moment(), "kind": "guard", "guard": "retention", "action": action, "path": kept.path,
                        "before": kept.before, "now": kept.now, "tolerance": kept.tolerance})  # fmt: skip
            log.warning("%s, more than the %.1f %% that is allowed", message, 100 * kept.tolerance)
            if action == "stop":
                return UserError(
                    f"{message} is more than the tolerance of {kept.tolerance:g}",
                    where=f"evaluation.tolerance, or `keep` in the mixture, for {kept.path}",
                    remedy="give it a larger share, lower the learning rate, or set training.guards.retention=warn",
                )
        return None

    def _balance(self, compared: Sequence[Retention], raised: dict[str, float]) -> None:
        """Raise the share of an entry while a kept group of its text is lost; restore its own share afterwards."""
        for name, entry in self._stage.mixture.items():
            own = [
                kept
                for kept in compared
                if any(kept.group.contains(entry.language, source) for source in entry.sources)
            ]
            if not own:
                continue
            lost = [kept for kept in own if kept.is_lost]
            share = sum(part for bucket, part in self._sampler.shares().items() if bucket.entry == name)
            new_share = share_to_set(name, share, raised, self._settings, is_lost=bool(lost))
            if new_share is not None:
                cause = f"retention of {(lost or own)[0].path}"
                self._tell_changes(self._sampler.set_shares({name: new_share}, cause=cause))

"""Loss spikes, and held-out loss of what is to be kept."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reprise.recipe.groups import MIN_DOCUMENTS, Group, Groups
from reprise.recipe.training import Guards
from reprise.training.validation import BucketLoss


def is_spike(loss: float, recent: Sequence[float], settings: Guards) -> bool:
    """Whether a loss is `spike_sigmas` standard deviations over the mean of the recent ones."""
    if len(recent) < max(2, settings.spike_window // 2):
        return False
    return loss > statistics.fmean(recent) + settings.spike_sigmas * statistics.stdev(recent)


@dataclass(frozen=True)
class Retention:
    """How a kept group of held-out documents stands against the base model."""

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
    """The groups with a tolerance of which documents are held out; sources of them only from MIN_DOCUMENTS on."""
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
    """Of a group, over its buckets; None where none was measured."""
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

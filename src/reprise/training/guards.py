"""Loss spikes, and held-out loss of the languages that are to be kept."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reprise.recipe.training import Guards
from reprise.training.validation import BucketLoss


def is_spike(loss: float, recent: Sequence[float], settings: Guards) -> bool:
    """Whether a loss is `spike_sigmas` standard deviations over the mean of the recent ones."""
    if len(recent) < max(2, settings.spike_window // 2):
        return False
    return loss > statistics.fmean(recent) + settings.spike_sigmas * statistics.stdev(recent)


@dataclass(frozen=True)
class Retention:
    """How a kept language, or a source of it, stands against the base model."""

    path: str
    """`en` or `en/code`, as in `evaluation.tolerance`."""
    before: float
    """Bits per byte of the base model."""
    now: float
    tolerance: float

    @property
    def rise(self) -> float:
        """Relative rise of the bits per byte."""
        return self.now / self.before - 1

    @property
    def is_lost(self) -> bool:
        """Whether it rose by more than the tolerance."""
        return self.rise > self.tolerance


def bits_per_byte(losses: Sequence[BucketLoss], path: str) -> float | None:
    """Of a language (`en`) or a source of it (`en/code`), over its buckets; None where none was measured."""
    wanted = path.split("/")
    chosen = [loss for loss in losses if list(loss.key[: len(wanted)]) == wanted and loss.tokens]
    bits = sum(loss.nll * loss.tokens / math.log(2) for loss in chosen)
    num_bytes = sum(loss.num_bytes for loss in chosen)
    return bits / num_bytes if num_bytes else None


def check_retention(
    losses: Sequence[BucketLoss], baseline: Mapping[str, float], tolerance: Mapping[str, float]
) -> list[Retention]:
    """Every kept path that was measured both now and with the base model."""
    found = []
    for path, allowed in tolerance.items():
        now = bits_per_byte(losses, path)
        if now is not None and path in baseline:
            found.append(Retention(path, baseline[path], now, allowed))
    return found

"""Numbers that are not finite, loss spikes, and the held-out loss of what is to be kept."""

import logging
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from reprise.errors import UserError
from reprise.recipe.groups import MIN_DOCUMENTS, Group, Groups
from reprise.recipe.training import Guards
from reprise.training.checkpoint_facts import Progress
from reprise.training.events import BatchRows, GuardEvent, Moment
from reprise.training.validation import BucketLoss

log = logging.getLogger(__name__)


def is_spike(loss: float, recent: Sequence[float], settings: Guards) -> bool:
    """Whether a loss is `spike_sigmas` standard deviations over the mean of the recent ones."""
    if len(recent) < max(2, settings.spike_window // 2):
        return False
    return loss > statistics.fmean(recent) + settings.spike_sigmas * statistics.stdev(recent)


class StepGuard:
    """Decides whether a step's gradients change the weights. It sees reduced numbers, so all processes agree."""

    def __init__(self, settings: Guards, tell: Callable[[GuardEvent], None], moment: Callable[[], Moment]) -> None:
        """`tell` logs an event, `moment` gives the present one."""
        self._settings, self._tell, self._moment = settings, tell, moment

    def decide(
        self, loss: float, grad_norm: float, progress: Progress, rows: BatchRows
    ) -> Literal["keep", "skip", "rollback"]:
        """What to do with a step.

        Args:
            loss: mean over the global batch, in nats.
            grad_norm: before clipping.
            progress: its counters of bad steps and recent losses are updated.
            rows: which rows the step trained on.

        Raises:
            UserError: too many consecutive steps were not finite.
        """
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self._leave_out(loss, grad_norm, progress, rows)
            return "skip"
        progress.bad_steps = 0
        action = self._settings.spike
        if action == "off":
            return "keep"
        recent = progress.recent_losses
        if not is_spike(loss, recent, self._settings):
            recent.append(loss)
            del recent[: -self._settings.spike_window]
            return "keep"
        mean = sum(recent) / len(recent)
        self._tell(
            {**self._moment(), "kind": "guard", "guard": "spike", "action": action, "loss": loss, "mean": mean, **rows}
        )
        log.warning("step %d: the loss jumped from about %.3f to %.3f (%s)", progress.step, mean, loss, action)
        return "keep" if action == "log" else action

    def _leave_out(self, loss: float, grad_norm: float, progress: Progress, rows: BatchRows) -> None:
        """Count and log a step that is not finite; stop after too many in a row."""
        progress.bad_steps += 1
        progress.bad_steps_total += 1
        self._tell({**self._moment(), "kind": "guard", "guard": "non_finite", "action": "skip", "loss": repr(loss),
                    "grad_norm": repr(grad_norm), "in_a_row": progress.bad_steps, **rows})  # fmt: skip
        buckets = ", ".join(rows["buckets"])
        log.warning("step %d left out: loss %r, gradient norm %r, rows of %s", progress.step, loss, grad_norm, buckets)
        if progress.bad_steps >= self._settings.max_bad_steps:
            last_row = rows["first_row"] + rows["num_rows"] - 1
            raise UserError(
                f"loss or gradient was not finite in {progress.bad_steps} steps in a row, the last on rows "
                f"{rows['first_row']} to {last_row} of {buckets}",
                where=f"training.guards.max_bad_steps = {self._settings.max_bad_steps}",
                remedy="lower the learning rate, look at these documents, or raise the limit",
            )


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
        share: its present share of the stage.
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

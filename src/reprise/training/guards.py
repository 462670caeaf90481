"""Guards of a step: what happens when a loss or gradient is not finite, or the loss jumps."""

import logging
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Literal

from reprise.errors import UserError
from reprise.recipe.training import Guards
from reprise.training.checkpoint_facts import Progress
from reprise.training.events import BatchRows, GuardEvent, Moment

log = logging.getLogger(__name__)


def is_spike(loss: float, recent: Sequence[float], settings: Guards) -> bool:
    """Whether a loss is more than `spike_sigmas` standard deviations above the mean of the recent ones."""
    if len(recent) < max(2, settings.spike_window // 2):
        return False
    return loss > statistics.fmean(recent) + settings.spike_sigmas * statistics.stdev(recent)


class StepGuard:
    """Decides whether a step's gradients change the weights. It sees reduced values, so all processes agree."""

    def __init__(self, settings: Guards, tell: Callable[[GuardEvent], None], moment: Callable[[], Moment]) -> None:
        """`tell` logs an event, `moment` returns the current step."""
        self._settings, self._tell, self._moment = settings, tell, moment

    def decide(
        self, loss: float, grad_norm: float, progress: Progress, rows: BatchRows
    ) -> Literal["keep", "skip", "rollback"]:
        """What to do with a step.

        Args:
            loss: mean over the global batch, in nats.
            grad_norm: global gradient norm before clipping.
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
        log.warning("step %d skipped: loss %r, gradient norm %r, rows of %s", progress.step, loss, grad_norm, buckets)
        if progress.bad_steps >= self._settings.max_bad_steps:
            last_row = rows["first_row"] + rows["num_rows"] - 1
            raise UserError(
                f"loss or gradient was not finite in {progress.bad_steps} steps in a row, the last on rows "
                f"{rows['first_row']} to {last_row} of {buckets}",
                where=f"training.guards.max_bad_steps = {self._settings.max_bad_steps}",
                remedy="lower the learning rate, look at these documents, or raise the limit",
            )

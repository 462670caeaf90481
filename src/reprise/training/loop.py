"""The loop: measure, save, stop, step, log."""

import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import torch

from reprise.errors import UserError
from reprise.mixture.control import CAUSE, WeightsFile
from reprise.mixture.sampler import Batch
from reprise.progress import track
from reprise.training.checkpoint import CheckpointError, checkpoint_name, newest_whole, prune, read_facts
from reprise.training.guards import Retention, bits_per_byte, check_retention, is_spike
from reprise.training.interrupt import Interrupted, StopSignal
from reprise.training.optimizer import clip_gradients, learning_rate, set_learning_rate
from reprise.training.state import Run, next_multiple
from reprise.training.validation import BucketLoss

log = logging.getLogger(__name__)


def train(state: Run, stop: StopSignal) -> None:
    """Train to the end of the stage.

    Raises:
        UserError: a guard stopped the run.
        Interrupted: a signal did; a checkpoint was saved.
    """
    training, processes, sampler = state.training, state.processes, state.sampler
    total = sampler.total_rows * state.rows.seq_len
    weights_file = WeightsFile(state.work.output)
    with track(state.work.output.name.removesuffix(".partial"), total, "tokens") as advance:
        advance(state.progress.tokens)
        while True:
            progress = state.progress
            if progress.last_validation != progress.tokens and (
                progress.tokens >= progress.next_validation or sampler.finished
            ):
                validate(state)
            if sampler.finished:
                break
            must_stop = processes.any(stop.received)
            is_saved = (must_stop or progress.tokens >= progress.next_checkpoint) and save(state)
            if must_stop and not is_saved:
                raise UserError(
                    "training was asked to stop and could not save",
                    where=str(state.checkpoints),
                    remedy="free some space; the same command goes on from the checkpoint before",
                )
            if must_stop:
                raise Interrupted(progress.step, progress.tokens, state.checkpoints / checkpoint_name(progress.step))

            wishes = weights_file.poll(sampler) if processes.is_first else []
            if processes.any(bool(wishes)):
                for wanted in processes.same(wishes):
                    log_weights(state, sampler.set_weights(wanted, CAUSE))
            start = time.perf_counter()
            first_row = sampler.rows_done
            rate = learning_rate(state.stage.schedule, progress.tokens, total)
            batch = sampler.next_batch(training.batch_rows, processes.rank, processes.world)
            went_back = False
            loss = grad_norm = None
            if first_row not in progress.left_out:
                loss, grad_norm, went_back = step(state, batch, rate, first_row)
            if went_back:
                advance(state.progress.tokens - progress.tokens)
                continue
            progress.step += 1
            progress.tokens = sampler.tokens_done
            tokens = batch.ids.size * processes.world
            state.average.update(progress.step, progress.tokens)
            log_weights(state, batch.changes)
            if progress.step % training.log_every_steps == 0 or sampler.finished:
                speed = round(tokens / (time.perf_counter() - start), 1)
                state.log("step", loss=loss, lr=rate, grad_norm=grad_norm, tokens_per_s=speed)
            advance(tokens)


def step(state: Run, batch: Batch, rate: float, first_row: int) -> tuple[float | None, float | None, bool]:
    """One optimizer step.

    Args:
        state: the run.
        batch: the rows of this process.
        rate: learning rate.
        first_row: number of the first row of the global batch in the stage.

    Returns:
        Mean loss over all processes and gradient norm, None where a guard left the step out; and whether the run went
        back to a checkpoint. All processes get the same.
    """
    training, processes, device = state.training, state.processes, state.processes.device
    # Dropout, where a model has any, depends on the step and not on what ran before: nothing to save, nothing to lose.
    torch.manual_seed((state.settings["seed"] * 1_000_003 + state.progress.step) * 4_096 + processes.rank)
    counted = processes.sum(torch.tensor(_num_targets(batch), device=device, dtype=torch.float64))
    parts = list(_micro_batches(batch, training.micro_batch_rows, device))
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    for number, inputs in enumerate(parts):
        state.network.begin_backward(is_last=number == len(parts) - 1)
        loss = state.network.objective(**inputs)
        # FSDP averages over the processes; the mean is over all tokens of the global batch.
        (loss * (processes.world / max(counted.item(), 1))).backward()
        loss_sum += loss.detach()
    state.network.end_backward()
    mean_loss = (processes.sum(loss_sum) / counted.clamp(min=1)).item()
    grad_norm = clip_gradients(state.network.weights, training.optimizer.clip_norm)
    if processes.any(not (math.isfinite(mean_loss) and math.isfinite(grad_norm))):
        state.network.drop_gradients()
        _leave_out(state, batch, mean_loss, grad_norm, first_row)
        return None, None, False
    state.progress.bad_steps = 0
    if training.guards.spike != "off" and _spikes(state, batch, mean_loss, first_row):
        state.network.drop_gradients()
        return None, None, training.guards.spike == "rollback" and _go_back(state, first_row)
    set_learning_rate(state.optimizer, rate)
    state.optimizer.step()
    state.network.refresh()
    state.network.drop_gradients()
    return mean_loss, grad_norm, False


def _num_targets(batch: Batch) -> int:
    """Positions of the rows that are predicted: all with a label but the first of a row."""
    return int((batch.labels[:, 1:] >= 0).sum())


def _micro_batches(batch: Batch, rows: int, device: torch.device) -> Iterator[dict[str, torch.Tensor]]:
    """The arguments of each forward pass."""
    for start in range(0, len(batch.ids), rows):
        part = slice(start, start + rows)
        inputs = {"input_ids": batch.ids[part], "labels": batch.labels[part]}
        if batch.document_mask:
            # Positions that restart make transformers keep attention inside a document.
            inputs["position_ids"] = batch.position_ids[part]
        yield {name: torch.from_numpy(values.copy()).to(device, non_blocking=True) for name, values in inputs.items()}


def _rows(state: Run, batch: Batch, first_row: int) -> dict[str, Any]:
    """What names the rows of a step: their numbers in the stage, and the buckets of those of the first process."""
    buckets = sorted({leaf.path for leaf in batch.leaves})
    return {"first_row": first_row, "num_rows": state.training.batch_rows, "buckets": buckets}


def _leave_out(state: Run, batch: Batch, loss: float, grad_norm: float, first_row: int) -> None:
    """Note a step whose loss or gradient was not finite; stop after too many in a row."""
    progress, limit = state.progress, state.training.guards.max_bad_steps
    progress.bad_steps += 1
    progress.bad_steps_total += 1
    rows = _rows(state, batch, first_row)
    values = {"loss": repr(loss), "grad_norm": repr(grad_norm), "in_a_row": progress.bad_steps}
    state.log("guard", guard="non_finite", action="skip", **values, **rows)
    buckets = ", ".join(rows["buckets"])
    log.warning("step %d left out: loss %r, gradient norm %r, rows of %s", progress.step, loss, grad_norm, buckets)
    if progress.bad_steps >= limit:
        raise UserError(
            f"loss or gradient was not finite in {progress.bad_steps} steps in a row, the last on rows {first_row} to "
            f"{first_row + state.training.batch_rows - 1} of {buckets}",
            where=f"training.guards.max_bad_steps = {limit}",
            remedy="lower the learning rate, look at these documents, or raise the limit",
        )


def _spikes(state: Run, batch: Batch, loss: float, first_row: int) -> bool:
    """Whether the step must be left out because its loss is far over the recent ones; notes it."""
    guards, recent = state.training.guards, state.progress.recent_losses
    if not state.processes.any(is_spike(loss, recent, guards)):
        recent.append(loss)
        del recent[: -guards.spike_window]
        return False
    mean = sum(recent) / len(recent)
    state.log("guard", guard="spike", action=guards.spike, loss=loss, mean=mean, **_rows(state, batch, first_row))
    log.warning("step %d: the loss jumped from about %.3f to %.3f (%s)", state.progress.step, mean, loss, guards.spike)
    return guards.spike != "log"


def _go_back(state: Run, first_row: int) -> bool:
    """Go on from the newest checkpoint without the batch that begins at a row; False where there is no checkpoint."""
    found = state.processes.same(newest_whole(state.checkpoints)[0] if state.processes.is_first else None)
    left_out = [*state.progress.left_out, first_row]
    if found is None:
        state.progress.left_out = left_out
        return False
    state.load_from(found, read_facts(found))
    state.progress.left_out = left_out
    state.log("resume", checkpoint=found.name, refused=[], cause="spike")
    return True


def validate(state: Run) -> None:
    """Measure the held-out losses; tell the sampler's policy and the retention guard."""
    progress = state.progress
    losses = state.held_out.measure(state.network.objective, state.processes)
    progress.last_validation = progress.tokens
    progress.next_validation = next_multiple(progress.tokens, state.training.validation.every_tokens)
    state.log("validation", validation=[loss.to_json() for loss in losses])
    # Rounded far below noise: the last digits depend on the number of processes, and the weights decide the rows.
    log_weights(state, state.sampler.observe({loss.key: round(loss.nll, 4) for loss in losses}))
    if not progress.baseline:
        found = {path: bits_per_byte(losses, path) for path in state.tolerance}
        progress.baseline = {path: value for path, value in found.items() if value is not None}
    if state.training.guards.retention != "off":
        guard_retention(state, losses)


def guard_retention(state: Run, losses: list[BucketLoss]) -> None:
    """Act on kept languages whose bits per byte rose by more than allowed, as the recipe says.

    Raises:
        UserError: `retention: stop`; a checkpoint was saved.
    """
    action = state.training.guards.retention
    for kept in check_retention(losses, state.progress.baseline, state.tolerance):
        if action == "raise_share":
            _balance(state, kept)
        if not kept.is_lost:
            continue
        message = f"{kept.path}: {kept.before:.4f} -> {kept.now:.4f} bits per byte ({kept.rise:+.1%})"
        values = {"path": kept.path, "before": kept.before, "now": kept.now, "tolerance": kept.tolerance}
        state.log("guard", guard="retention", action=action, **values)
        log.warning("%s, more than the %.1f %% that is allowed", message, 100 * kept.tolerance)
        if action == "stop":
            save(state)
            raise UserError(
                f"{message} is more than the tolerance",
                where=f"evaluation.tolerance.{kept.path} = {kept.tolerance}",
                remedy="give it a larger share, lower the learning rate, or set training.guards.retention=warn",
            )


def _balance(state: Run, kept: Retention) -> None:
    """Raise the share of a kept language while it is lost; give it its own share again when it is back."""
    guards, raised = state.training.guards, state.progress.raised
    language = kept.path.split("/")[0]
    entries = [name for name, part in state.stage.mixture.items() if (part.language or name) == language]
    for name in entries:
        share = sum(part for leaf, part in state.sampler.weights().items() if leaf.name == name)
        wanted = min(share + guards.retention_step, guards.retention_cap) if kept.is_lost else raised.get(name, share)
        if (wanted <= share and kept.is_lost) or wanted == share:
            continue
        if kept.is_lost:
            raised.setdefault(name, share)
        else:
            del raised[name]
        log_weights(state, state.sampler.set_weights({name: wanted}, cause=f"retention of {kept.path}"))


def log_weights(state: Run, changes: list[Any]) -> None:
    """One line for each change of the mixture."""
    for change in changes:
        state.log("weights", **change.to_json())


def save(state: Run) -> bool:
    """Write a checkpoint and delete old ones; False where the disk did not take it, which does not stop training."""
    start = time.perf_counter()
    settings = state.training.checkpoints
    state.progress.next_checkpoint = next_multiple(state.progress.tokens, settings.every_tokens)
    folder = state.checkpoints / checkpoint_name(state.progress.step)
    if not state.processes.same(folder.exists()):
        try:
            state.save_to(folder)
        except CheckpointError as error:
            state.log("guard", guard="checkpoint", action="go on", error=str(error))
            log.error("%s; training goes on, the checkpoints before are whole", error)
            return False
    if state.processes.is_first:
        prune(state.checkpoints, settings.keep_last, settings.keep_every_tokens)
    state.log("checkpoint", name=folder.name, stall_s=round(time.perf_counter() - start, 3))
    return True

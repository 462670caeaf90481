"""The loop: measure, save, stop, step, log."""

import logging
import math
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, NoReturn

import torch

from reprise.errors import UserError
from reprise.mixture.sampler import Batch
from reprise.mixture.shares_file import CAUSE, SharesFile
from reprise.model.attention import document_inputs
from reprise.progress import track
from reprise.training.checkpoint import checkpoint_name, newest_whole, prune
from reprise.training.guards import Retention, bits_per_byte, check_retention, is_spike, kept_groups
from reprise.training.memory import peak_memory
from reprise.training.optimizer import clip_gradients, learning_rate, set_learning_rate
from reprise.training.signals import Interrupted, StopSignal
from reprise.training.state import Run, next_multiple
from reprise.training.validation import BucketLoss
from reprise.training.writer import CheckpointError
from reprise.workspace import digest

log = logging.getLogger(__name__)


def train(state: Run, stop: StopSignal) -> None:
    """Train to the end of the stage.

    Raises:
        UserError: a guard stopped the run.
        Interrupted: a signal did; a checkpoint was saved.
    """
    training, processes, sampler = state.training, state.processes, state.sampler
    total = sampler.total_tokens
    shares_file = SharesFile(state.work.output)
    with track(
        state.work.output.name.removesuffix(".partial"), total, "tokens", logs=False
    ) as advance:  # it has a line of its own
        advance(state.progress.tokens)
        while True:
            progress = state.progress
            if progress.last_validation != progress.tokens and (
                progress.tokens >= progress.next_validation or sampler.finished
            ):
                validate(state, stop)
            if progress.tokens >= progress.next_benchmarks:
                measure_benchmarks(state)
            must_stop = processes.any(stop.received)
            if sampler.finished and not must_stop:
                break
            if state.writer.is_done:
                note_checkpoint(state)
            if must_stop or progress.tokens >= progress.next_checkpoint:
                save(state)
            if must_stop:
                leave(state)

            wishes = shares_file.poll(sampler) if processes.is_first else []
            if processes.any(bool(wishes)):
                for wanted in processes.same(wishes):
                    log_shares(state, sampler.set_shares(wanted, CAUSE))
            start = time.perf_counter()
            first_row = sampler.rows_done
            rate = learning_rate(state.stage.schedule, progress.tokens, total, progress.rate_before)
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
            log_shares(state, batch.changes)
            speed = round(tokens / (time.perf_counter() - start), 1)
            if progress.step % training.log_every_steps == 0 or sampler.finished:
                state.log("step", loss=loss, lr=rate, grad_norm=grad_norm, **speed_of(state, speed))
            state.status.say(progress.step, progress.tokens, loss, speed, state.losses, sampler.shares())
            advance(tokens)


def speed_of(state: Run, tokens_per_s: float) -> dict[str, float]:
    """What a step cost: tokens a second, largest memory of the first process in GB, and MFU where it is known."""
    mfu = state.status.mfu(tokens_per_s)
    memory = round(peak_memory(state.processes.device) / 1e9, 3)
    return {"tokens_per_s": tokens_per_s, "memory_gb": memory, **({} if mfu is None else {"mfu": round(mfu, 4)})}


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
    parts = list(_micro_batches(batch, state, device))
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    for number, inputs in enumerate(parts):
        state.network.begin_backward(is_last=number == len(parts) - 1)
        loss = state.network.objective(**inputs)
        # FSDP averages over the processes; the mean is over all tokens of the global batch.
        (loss * (processes.world / max(counted.item(), 1))).backward()
        loss_sum += loss.detach()
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
    state.progress.last_rate = rate
    state.writer.release()
    state.optimizer.step()
    state.network.refresh()
    state.network.drop_gradients()
    return mean_loss, grad_norm, False


def _num_targets(batch: Batch) -> int:
    """Positions of the rows that are predicted: all with a label but the first of a row."""
    return int((batch.labels[:, 1:] >= 0).sum())


def _micro_batches(batch: Batch, state: Run, device: torch.device) -> Iterator[dict[str, Any]]:
    """The arguments of each forward pass."""
    for start in range(0, len(batch.ids), state.training.micro_batch_rows):
        part = slice(start, start + state.training.micro_batch_rows)
        arrays = {"input_ids": batch.ids[part], "labels": batch.labels[part], "position_ids": batch.position_ids[part]}
        tensors = {name: torch.from_numpy(values.copy()) for name, values in arrays.items()}
        positions = tensors.pop("position_ids")
        # Positions that restart keep attention inside a document.
        masking = document_inputs(state.network.objective.config, positions) if batch.document_mask else {}
        yield {
            name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in (tensors | masking).items()
        }


def _rows(state: Run, batch: Batch, first_row: int) -> dict[str, Any]:
    """What names the rows of a step: their numbers in the stage, and the buckets of those of the first process."""
    buckets = sorted({bucket.path for bucket in batch.buckets})
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
    note_checkpoint(state)
    found, facts, refused = newest_whole(state.checkpoints, state.processes)
    left_out = [*state.progress.left_out, first_row]
    if found is None:
        state.progress.left_out = left_out
        return False
    state.load_from(found, facts)
    state.progress.left_out = left_out
    state.log("resume", checkpoint=found.name, refused=refused, cause="spike")
    return True


def validate(state: Run, stop: StopSignal) -> None:
    """Measure the held-out losses; tell the sampler's policy and the retention guard.

    Asked to stop, it leaves off and changes nothing: the measurement stays due.
    """
    progress = state.progress
    losses = state.held_out.measure(state.network.objective, state.processes, stop)
    if losses is None:
        return
    state.losses = losses
    progress.last_validation = progress.tokens
    progress.next_validation = next_multiple(progress.tokens, state.training.validation.every_tokens)
    state.log("validation", validation=[loss.to_json() for loss in losses])
    # Rounded far below noise: the last digits depend on the number of processes, and the shares decide the rows.
    log_shares(state, state.sampler.observe({loss.key: round(loss.nll, 4) for loss in losses}))
    if not progress.baseline:
        values = {group.path: bits_per_byte(losses, group) for group in kept_groups(state.kept, losses)}
        progress.baseline = {path: value for path, value in values.items() if value is not None}
    if state.training.guards.retention != "off":
        guard_retention(state, losses)


def measure_benchmarks(state: Run) -> None:
    """Run the benchmarks on the weights of this moment."""
    progress = state.progress
    progress.next_benchmarks = next_multiple(progress.tokens, state.training.benchmarks_every_tokens)
    assert state.benchmarks is not None
    model = state.network.objective.model
    model.eval()
    scores = state.benchmarks(model, digest([state.settings, progress.step, sorted(progress.left_out)]))
    model.train()
    state.log("benchmarks", benchmarks=scores)


def guard_retention(state: Run, losses: list[BucketLoss]) -> None:
    """Act on kept groups whose bits per byte rose by more than allowed, as the recipe says.

    Raises:
        UserError: `retention: stop`; a checkpoint was saved.
    """
    action = state.training.guards.retention
    measured = check_retention(losses, state.progress.baseline, kept_groups(state.kept, losses))
    if action == "raise_share":
        _balance(state, measured)
    for kept in measured:
        if not kept.is_lost:
            continue
        message = f"{kept.path}: {kept.before:.4f} -> {kept.now:.4f} bits per byte ({kept.rise:+.1%})"
        values = {"path": kept.path, "before": kept.before, "now": kept.now, "tolerance": kept.tolerance}
        state.log("guard", guard="retention", action=action, **values)
        log.warning("%s, more than the %.1f %% that is allowed", message, 100 * kept.tolerance)
        if action == "stop":
            save(state)
            note_checkpoint(state)
            raise UserError(
                f"{message} is more than the tolerance of {kept.tolerance:g}",
                where=f"evaluation.tolerance, or `keep` in the mixture, for {kept.path}",
                remedy="give it a larger share, lower the learning rate, or set training.guards.retention=warn",
            )


def _balance(state: Run, measured: list[Retention]) -> None:
    """Raise the share of an entry while a kept group of its text is lost; restore its own share when none is."""
    guards, raised = state.training.guards, state.progress.raised
    for name, entry in state.stage.mixture.items():
        own = [
            kept for kept in measured if any(kept.group.contains(entry.language, source) for source in entry.sources)
        ]
        if not own:
            continue
        lost = [kept for kept in own if kept.is_lost]
        share = sum(part for bucket, part in state.sampler.shares().items() if bucket.entry == name)
        target = min(share + guards.retention_step, guards.retention_cap) if lost else raised.get(name, share)
        if (target <= share and lost) or target == share:
            continue
        if lost:
            raised.setdefault(name, share)
        else:
            del raised[name]
        cause = f"retention of {(lost or own)[0].path}"
        log_shares(state, state.sampler.set_shares({name: target}, cause=cause))


def log_shares(state: Run, changes: list[Any]) -> None:
    """One line for each change of the mixture."""
    for change in changes:
        state.log("shares", **change.to_json())


def save(state: Run) -> None:
    """Begin to write a checkpoint, when the one before has its name. A full disk does not stop training."""
    note_checkpoint(state)
    settings = state.training.checkpoints
    state.progress.next_checkpoint = next_multiple(state.progress.tokens, settings.every_tokens)
    folder = state.checkpoints / checkpoint_name(state.progress.step)
    if state.processes.same(folder.exists()):
        return
    delete_old = partial(prune, state.checkpoints, settings.keep_last, settings.keep_every_tokens)
    try:
        state.save_to(folder, delete_old)
    except CheckpointError as error:
        _not_saved(state, error)


def note_checkpoint(state: Run) -> None:
    """Wait for the checkpoint that is being written, if there is one, and say in the log what became of it."""
    try:
        folder = state.writer.finish()
    except CheckpointError as error:
        _not_saved(state, error)
        return
    if folder is not None:
        state.log("checkpoint", name=folder.name, stall_s=round(state.writer.stall_s, 3))


def _not_saved(state: Run, error: CheckpointError) -> None:
    state.log("guard", guard="checkpoint", action="go on", error=str(error))
    log.error("%s; training goes on, the checkpoints before are whole", error)


def leave(state: Run) -> NoReturn:
    """Stop when the checkpoint of this step has its name.

    Raises:
        Interrupted: it has.
        UserError: it could not be written.
    """
    note_checkpoint(state)
    progress = state.progress
    folder = state.checkpoints / checkpoint_name(progress.step)
    if state.processes.same(folder.exists()):
        raise Interrupted(progress.step, progress.tokens, folder)
    raise UserError(
        "training was asked to stop and could not save",
        where=str(state.checkpoints),
        remedy="free some space; the same command goes on from the checkpoint before",
    )

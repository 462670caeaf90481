"""Stage `train-N`: the loop."""

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from reprise.errors import UserError
from reprise.mixture.sampler import Batch, Sampler
from reprise.model.attention import choose_attention
from reprise.model.loading import load_model
from reprise.model.machine import describe_machine
from reprise.model.objective import Objective
from reprise.progress import track
from reprise.recipe.mixture import Stage
from reprise.recipe.model import Model
from reprise.recipe.tokens import Rows
from reprise.recipe.training import Training
from reprise.tokens.store import TokenStore
from reprise.training.checkpoint import load_checkpoint, newest_whole, prune, read_facts, save_checkpoint
from reprise.training.export import write_model
from reprise.training.interrupt import Interrupted, StopSignal, catch_stop
from reprise.training.metrics import Metrics
from reprise.training.optimizer import (
    build_optimizer,
    clip_gradients,
    learning_rate,
    optimizer_steps,
    set_learning_rate,
)
from reprise.training.parallel import (
    Network,
    Processes,
    compute_dtype,
    open_processes,
    recompute_activations,
)
from reprise.training.validation import BucketLoss, HeldOut
from reprise.workspace import Json, Work, differences

log = logging.getLogger(__name__)

NEVER = 2**63
"""More tokens than any stage has."""


@dataclass
class Progress:
    """Counters that a checkpoint keeps."""

    step: int = 0
    tokens: int = 0
    next_validation: int = 0
    """Tokens at which the next measurement is due."""
    last_validation: int = -1
    """Tokens at the newest measurement."""
    next_checkpoint: int = 0
    bad_steps: int = 0
    """Steps in a row that were left out."""
    bad_steps_total: int = 0


@dataclass
class Run:
    """Everything that the loop works with."""

    work: Work
    stage: Stage
    rows: Rows
    training: Training
    processes: Processes
    network: Network
    optimizer: torch.optim.AdamW
    store: TokenStore
    sampler: Sampler
    held_out: HeldOut
    metrics: Metrics
    settings: Json
    """What decides the result of the stage; a checkpoint of other settings is refused."""
    progress: Progress = field(default_factory=Progress)
    losses: list[BucketLoss] = field(default_factory=list)
    """The newest measurement."""

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.work.output / "checkpoints"


def run(
    work: Work,
    *,
    stage: Stage,
    stage_index: int,
    rows: Rows,
    training: Training,
    model: Model,
    seed: int,
    tolerance: dict[str, float],
) -> None:
    """Train one stage, from its newest whole checkpoint if there is one.

    Writes `model/` (a Hugging Face directory), `state/` (the last checkpoint, for the next stage) and `metrics.jsonl`.
    Under `torchrun` every process calls this with the same folder.

    Args:
        work: inputs `tokenize` and, for a later stage, the stage before.
        stage: mixture, schedule, tokens.
        stage_index: from 0.
        rows: length and packing.
        training: batch, precision, checkpoints.
        model: the base model.
        seed: of the run.
        tolerance: language -> largest relative rise of its bits per byte.

    Raises:
        UserError: the settings do not fit the model, the store or the machine, or training diverged.
        Interrupted: SIGTERM or Ctrl-C; a checkpoint was saved.
    """
    with open_processes(training) as processes, catch_stop() as stop:
        state = build(work, stage, stage_index, rows, training, model, seed, tolerance, processes)
        try:
            train(state, stop)
            finish(state, model)
        finally:
            state.metrics.close()


def build(
    work: Work,
    stage: Stage,
    stage_index: int,
    rows: Rows,
    training: Training,
    model: Model,
    seed: int,
    tolerance: dict[str, float],
    processes: Processes,
) -> Run:
    """Open the store, load the model and stand where the newest checkpoint stood."""
    if training.batch_rows % (training.micro_batch_rows * processes.world):
        raise UserError(
            f"batch_rows must be a multiple of micro_batch_rows ({training.micro_batch_rows}) times the number of "
            f"processes ({processes.world})",
            where=f"training.batch_rows = {training.batch_rows}",
            remedy="change one of the three",
        )
    store = TokenStore.open(work.inputs["tokenize"])
    previous = work.inputs[f"train-{stage_index}"] / "state" if stage_index else None
    base: Any = load_model(model, device=processes.device)
    vocabulary = base.get_input_embeddings().weight.shape[0]
    if store.vocab_size > vocabulary:
        raise UserError(
            f"the tokenizer has {store.vocab_size:,} tokens, the model's vocabulary {vocabulary:,}",
            where=f"model.path = {model.path}",
            remedy="use the tokenizer that belongs to the model",
        )
    choose_attention(base, model.attention)
    recompute_activations(base, training)
    network = Network(Objective(base), training, processes)
    optimizer = build_optimizer(network.weights, training.optimizer)
    sampler = Sampler(store, stage, rows, seed, None if previous is None else read_facts(previous)["sampler"])
    settings = {
        "stage": stage.model_dump(mode="json"),
        "stage_index": stage_index,
        "rows": rows.model_dump(mode="json"),
        "optimizer": training.optimizer.model_dump(mode="json"),
        "batch_rows": training.batch_rows,
        "precision": str(compute_dtype(training, processes.device)),
        "model": model.model_dump(mode="json"),
        "seed": seed,
        "store": store.fingerprint,
    }
    name = f"{work.output.name.removesuffix('.partial')}: {stage.name}"
    metrics = Metrics(work.output, training.trackers, name, settings, active=processes.is_first)
    held_out = HeldOut(store.valid, training.validation, rows.seq_len, training.micro_batch_rows)
    state = Run(work, stage, rows, training, processes, network, optimizer, store, sampler, held_out, metrics, settings)
    if previous is not None:
        load_checkpoint(previous, network.weights, optimizer if stage.optimizer_state == "carry" else None)
    _go_on(state)
    network.refresh()
    return state


def _go_on(state: Run) -> None:
    """Load the newest whole checkpoint of this stage, if there is one."""
    done, refused = _newest(state)
    numbers = {"processes": state.processes.world, "total_tokens": state.stage.tokens, "settings": state.settings}
    state.metrics.write("start", 0, 0, **numbers, machine=describe_machine())
    if done is None:
        state.progress.next_checkpoint = _next(0, state.training.checkpoints.every_tokens)
        return
    facts = read_facts(done)
    if changed := differences(facts["settings"], state.settings):
        raise UserError(
            f"the checkpoint is of other settings ({'; '.join(changed)})",
            where=str(done),
            remedy="undo the change, or add --restart",
        )
    load_checkpoint(done, state.network.weights, state.optimizer)
    state.progress = Progress(**facts["progress"])
    state.sampler.load_state(facts["sampler"])
    state.metrics.write("resume", state.progress.step, state.progress.tokens, checkpoint=done.name, refused=refused)


def _newest(state: Run) -> tuple[Path | None, list[str]]:
    """All processes must choose the same checkpoint."""
    found: tuple[Path | None, list[str]] = (None, [])
    if state.processes.is_first:
        final = state.work.output / "state"
        found = (final, []) if (final / "checkpoint.json").exists() else newest_whole(state.checkpoints)
    return state.processes.same(found)  # type: ignore[no-any-return]


def train(state: Run, stop: StopSignal) -> None:
    """The loop: measure, save, stop, step, log."""
    progress, training = state.progress, state.training
    total = state.sampler.total_rows * state.rows.seq_len
    with track(state.work.output.name.removesuffix(".partial"), total, "tokens") as advance:
        advance(progress.tokens)
        while True:
            is_due = progress.tokens >= progress.next_validation or state.sampler.finished
            if is_due and progress.last_validation != progress.tokens:
                validate(state)
            if state.sampler.finished:
                break
            must_stop = state.processes.any(stop.received)
            if must_stop or progress.tokens >= progress.next_checkpoint:
                save(state)
            if must_stop:
                raise Interrupted(progress.step, progress.tokens, _name(state))
            start = time.perf_counter()
            rate = learning_rate(state.stage.schedule, progress.tokens, total)
            batch = state.sampler.next_batch(training.batch_rows, state.processes.rank, state.processes.world)
            loss, grad_norm = step(state, batch, rate)
            progress.step += 1
            progress.tokens = state.sampler.tokens_done
            seconds = time.perf_counter() - start
            _report_weights(state, batch.changes)
            if progress.step % training.log_every_steps == 0 or state.sampler.finished:
                speed = batch.ids.size * state.processes.world / seconds
                numbers = {"loss": loss, "lr": rate, "grad_norm": grad_norm, "tokens_per_s": round(speed, 1)}
                state.metrics.write("step", progress.step, progress.tokens, **numbers)
            advance(batch.ids.size * state.processes.world)


def step(state: Run, batch: Batch, rate: float) -> tuple[float | None, float | None]:
    """One optimizer step on the rows of this process; gives the mean loss over all processes and the gradient norm.

    A loss or gradient that is not finite changes nothing, in all processes alike; then both are None.
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
        (loss * (processes.world / counted.item())).backward()
        loss_sum += loss.detach()
    state.network.end_backward()
    mean_loss = (processes.sum(loss_sum) / counted).item()
    grad_norm = clip_gradients(state.network.weights, training.optimizer.clip_norm)
    if not (math.isfinite(mean_loss) and math.isfinite(grad_norm)):
        _leave_out(state, batch, mean_loss, grad_norm)
        state.network.drop_gradients()
        return None, None
    state.progress.bad_steps = 0
    set_learning_rate(state.optimizer, rate)
    state.optimizer.step()
    state.network.refresh()
    state.network.drop_gradients()
    return mean_loss, grad_norm


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


def _leave_out(state: Run, batch: Batch, loss: float, grad_norm: float) -> None:
    progress = state.progress
    progress.bad_steps += 1
    progress.bad_steps_total += 1
    rows = sorted({leaf.path for leaf in batch.leaves})
    state.metrics.write(
        "guard", progress.step, progress.tokens, guard="non_finite", action="skip", loss=repr(loss),
        grad_norm=repr(grad_norm), rows=rows, in_a_row=progress.bad_steps,
    )  # fmt: skip
    log.warning(
        "step %d left out: loss %r, gradient norm %r, rows of %s", progress.step, loss, grad_norm, ", ".join(rows)
    )
    if progress.bad_steps >= state.training.guards.max_bad_steps:
        raise UserError(
            f"loss or gradient was not finite in {progress.bad_steps} steps in a row, the last after "
            f"{progress.tokens:,} tokens, on rows of {', '.join(rows)}",
            where=f"training.guards.max_bad_steps = {state.training.guards.max_bad_steps}",
            remedy="lower the learning rate, look at these documents, or raise the limit",
        )


def validate(state: Run) -> None:
    """Measure the held-out losses and tell the sampler's policy."""
    progress = state.progress
    state.losses = state.held_out.measure(state.network.objective, state.processes)
    progress.last_validation = progress.tokens
    progress.next_validation = _next(progress.tokens, state.training.validation.every_tokens)
    entries = [loss.to_json() for loss in state.losses]
    state.metrics.write("validation", progress.step, progress.tokens, validation=entries)
    _report_weights(state, state.sampler.observe({loss.key: loss.nll for loss in state.losses}))


def _next(tokens: int, every: int) -> int:
    """The next multiple of an interval; never, where the interval is 0."""
    return (tokens // every + 1) * every if every else NEVER


def _report_weights(state: Run, changes: list[Any]) -> None:
    for change in changes:
        state.metrics.write("weights", state.progress.step, state.progress.tokens, **change.to_json())


def _name(state: Run) -> Path:
    return state.checkpoints / f"step-{state.progress.step:08d}"


def save(state: Run) -> None:
    """Write a checkpoint and delete old ones."""
    start = time.perf_counter()
    state.progress.next_checkpoint = _next(state.progress.tokens, state.training.checkpoints.every_tokens)
    if not _name(state).exists():
        save_checkpoint(_name(state), state.network.weights, state.optimizer, _facts(state), state.processes)
    if state.processes.is_first:
        prune(state.checkpoints, state.training.checkpoints.keep_last)
    stall = round(time.perf_counter() - start, 3)
    state.metrics.write("checkpoint", state.progress.step, state.progress.tokens, name=_name(state).name, stall_s=stall)


def _facts(state: Run) -> dict[str, Json]:
    """Everything that resumes besides weights and moments. Randomness is a function of seed and step."""
    return {
        "progress": vars(state.progress).copy(),
        "sampler": state.sampler.state(),
        "settings": state.settings,
        "processes": state.processes.world,
        "optimizer_steps": optimizer_steps(state.optimizer),
    }


def finish(state: Run, model: Model) -> None:
    """Write the model, the state for the next stage and the counts."""
    final = state.work.output / "state"
    if not (final / "checkpoint.json").exists():
        save_checkpoint(final, state.network.weights, state.optimizer, _facts(state), state.processes)
    write_model(state.network.weights, model, state.work.output / "model", state.processes)
    if state.processes.is_first:
        prune(state.checkpoints, 0)
    progress = state.progress
    state.metrics.write("end", progress.step, progress.tokens, bad_steps=progress.bad_steps_total)
    state.work.counts |= {
        "steps": progress.step,
        "tokens": progress.tokens,
        "bad_steps": progress.bad_steps_total,
        "spent": _spent(state),
    }


def _spent(state: Run) -> list[Json]:
    """Tokens that each bucket of the mixture gave, and how often they went over it."""
    entries = []
    for entry in state.sampler.state()["leaves"]:
        name, source, topic = entry["leaf"]
        language = state.stage.mixture[name].language or name
        available = sum(
            bucket.num_tokens
            for key, bucket in state.store.train.items()
            if key.language == language and key.source == source and topic in (None, key.topic)
        )
        spent = entry["rows"] * state.rows.seq_len
        bucket = {"language": name, "source": source, "topic": topic, "spent": spent}
        entries.append({**bucket, "available": available, "epochs": round(spent / available, 4) if available else 0.0})
    return entries

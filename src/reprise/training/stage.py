"""Stage `train-N`."""

from pathlib import Path
from typing import Any

from reprise.errors import UserError
from reprise.mixture.sampler import Sampler
from reprise.model.attention import choose_attention
from reprise.model.loading import load_model
from reprise.model.machine import describe_machine
from reprise.model.objective import Objective
from reprise.recipe.mixture import Stage
from reprise.recipe.model import Model
from reprise.recipe.tokens import Rows
from reprise.recipe.training import Training
from reprise.tokens.store import TokenStore
from reprise.training.averaging import Average
from reprise.training.checkpoint import DESCRIPTION, load_checkpoint, newest_whole, prune, read_facts
from reprise.training.export import write_model
from reprise.training.interrupt import catch_stop
from reprise.training.loop import log_weights, train
from reprise.training.metrics import Metrics
from reprise.training.optimizer import build_optimizer
from reprise.training.parallel import Network, Processes, compute_dtype, open_processes, recompute_activations
from reprise.training.state import Run, next_multiple
from reprise.training.validation import HeldOut
from reprise.workspace import Json, Work, differences


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
        "averaging": training.averaging.model_dump(mode="json"),
        "batch_rows": training.batch_rows,
        "precision": str(compute_dtype(training, processes.device)),
        "model": model.model_dump(mode="json"),
        "seed": seed,
        "store": store.fingerprint,
    }
    name = f"{work.output.name.removesuffix('.partial')}: {stage.name}"
    metrics = Metrics(work.output, training.trackers, name, settings, active=processes.is_first)
    held_out = HeldOut(store.valid, training.validation, rows.seq_len, training.micro_batch_rows)
    average = Average(network.weights, training.averaging, stage.tokens)
    state = Run(
        work,
        stage,
        rows,
        training,
        tolerance,
        processes,
        network,
        optimizer,
        store,
        sampler,
        held_out,
        metrics,
        average,
        settings,
    )
    if previous is not None:
        load_checkpoint(previous, network.weights, optimizer if stage.optimizer_state == "carry" else None)
    _go_on(state, previous)
    network.refresh()
    return state


def _go_on(state: Run, previous: Path | None) -> None:
    """Load the newest whole checkpoint of this stage, if there is one."""
    done, refused = _newest(state)
    numbers = {"processes": state.processes.world, "total_tokens": state.stage.tokens, "settings": state.settings}
    state.log("start", **numbers, machine=describe_machine())
    if done is None:
        state.progress.next_checkpoint = next_multiple(0, state.training.checkpoints.every_tokens)
        if previous is not None:
            state.progress.baseline = read_facts(previous)["progress"]["baseline"]
        return
    facts = read_facts(done)
    adopt = state.processes.same(state.work.adopt)
    changed = differences(facts["settings"], state.settings)
    if changed and not adopt:
        raise UserError(
            f"the checkpoint is of other settings ({'; '.join(changed)})",
            where=str(done),
            remedy="undo the change, or add --restart, or --adopt to go on with the new settings",
        )
    changes = state.load_from(done, facts, adopt=adopt)
    state.log("resume", checkpoint=done.name, refused=refused, adopted=changed)
    log_weights(state, changes)


def _newest(state: Run) -> tuple[Path | None, list[str]]:
    """All processes must choose the same checkpoint."""
    found: tuple[Path | None, list[str]] = (None, [])
    if state.processes.is_first:
        final = state.work.output / "state"
        found = (final, []) if (final / DESCRIPTION).exists() else newest_whole(state.checkpoints)
    return state.processes.same(found)  # type: ignore[no-any-return]


def finish(state: Run, model: Model) -> None:
    """Write the model, the state for the next stage and the counts."""
    final = state.work.output / "state"
    if not (final / DESCRIPTION).exists():
        state.save_to(final)
    write_model(state.network.weights, state.average.weights, model, state.work.output / "model", state.processes)
    if state.processes.is_first:
        prune(state.checkpoints, 0, state.training.checkpoints.keep_every_tokens)
    progress = state.progress
    state.log("end", bad_steps=progress.bad_steps_total, left_out=len(progress.left_out))
    state.work.counts |= {
        "steps": progress.step,
        "tokens": progress.tokens,
        "bad_steps": progress.bad_steps_total,
        "steps_left_out": len(progress.left_out),
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

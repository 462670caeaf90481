"""Stage `train-N`."""

from pathlib import Path
from typing import Any

from reprise.errors import UserError
from reprise.mixture.sampler import Sampler
from reprise.model.likelihood import fit_window
from reprise.model.machine import describe_machine
from reprise.model.tokenizer import open_tokenizer
from reprise.recipe.groups import Groups
from reprise.recipe.mixture import Stage
from reprise.recipe.model import Model
from reprise.recipe.tokens import Rows
from reprise.recipe.training import Training
from reprise.tokens.store import TokenStore
from reprise.training.averaging import Average
from reprise.training.checkpoint import check_content, load_checkpoint, newest_whole, prune, read_facts
from reprise.training.export import write_model
from reprise.training.loop import log_shares, note_checkpoint, train
from reprise.training.metrics import Metrics
from reprise.training.network import open_network
from reprise.training.optimizer import build_optimizer
from reprise.training.parallel import Processes, compute_dtype, open_processes
from reprise.training.signals import Interrupted, StopSignal, catch_stop
from reprise.training.state import Benchmarks, Run, next_multiple
from reprise.training.status_line import StatusLine
from reprise.training.validation import HeldOut
from reprise.training.writer import CheckpointError, CheckpointWriter
from reprise.workspace import Json, Work, differences


def run(work: Work, *, training: Training, **settings: Any) -> None:
    """Train one stage, from its newest whole checkpoint if there is one.

    Writes `model/` (a Hugging Face directory), `state/` (the last checkpoint, for the next stage) and `metrics.jsonl`.
    Under `torchrun` every process calls this with the same folder.

    Args:
        work: inputs `tokenize` and, for a later stage, the stage before.
        training: batch, precision, checkpoints.
        settings: the other arguments of `build`.

    Raises:
        UserError: the settings do not fit the model, the store or the machine, or training diverged.
        Interrupted: SIGTERM or Ctrl-C; a checkpoint was saved.
    """
    with open_processes(training) as processes, catch_stop() as stop:
        state = build(work, processes, training=training, **settings)
        try:
            train(state, stop)
            finish(state, settings["model"], stop)
        except Exception:  # not KeyboardInterrupt: a second Ctrl-C means now
            state.writer.wait()
            raise
        finally:
            if state.metrics is not None:
                state.metrics.close()


def build(
    work: Work,
    processes: Processes,
    *,
    stage: Stage,
    stage_index: int,
    rows: Rows,
    training: Training,
    model: Model,
    seed: int,
    kept: Groups,
    window: tuple[int, int],
    benchmarks: Benchmarks | None = None,
) -> Run:
    """Open the store, load the model and stand where the newest checkpoint stood.

    Args:
        work: as in `run`.
        processes: of the run.
        stage: mixture, schedule, tokens.
        stage_index: from 0.
        rows: length and packing.
        training: batch, precision, checkpoints.
        model: the base model.
        seed: of the run.
        kept: groups of held-out documents that must be kept.
        window: `max_length` and `stride` of the evaluation, for the validations.
        benchmarks: what `training.benchmarks_every_tokens` runs.
    """
    processes.first(lambda: _check(training, processes))
    store = TokenStore.open(work.inputs["tokenize"])
    previous = work.inputs[f"train-{stage_index}"] / "state" if stage_index else None
    network = open_network(model, rows, training, store.highest_id, processes)
    optimizer = build_optimizer(network.weights, training.optimizer)
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
    name = work.output.name.removesuffix(".partial")
    metrics = processes.first(lambda: Metrics(work.output, training.trackers, f"{name}: {stage.name}", settings))
    state = Run(
        work=work,
        stage=stage,
        rows=rows,
        training=training,
        kept=kept,
        processes=processes,
        network=network,
        optimizer=optimizer,
        store=store,
        sampler=Sampler(store, stage, rows, seed, None if previous is None else read_facts(previous)["sampler"]),
        held_out=HeldOut(
            store.valid,
            training.validation,
            start_id=open_tokenizer(model).start_id,
            special_ids={store.eos_id} | ({store.bos_id} if store.bos_id is not None else set()),
            window=fit_window(network.weights.config, *window),
            batch_tokens=training.micro_batch_rows * rows.seq_len,
        ),
        metrics=metrics,
        average=Average(network.weights, training.averaging, stage.tokens),
        writer=CheckpointWriter(processes),
        status=StatusLine(
            name, network.weights.config, rows.seq_len, stage.tokens, training.say_every_seconds, processes
        ),
        benchmarks=benchmarks,
        settings=settings,
    )
    _go_on(state, previous)
    network.refresh()
    return state


def _check(training: Training, processes: Processes) -> None:
    if training.batch_rows % (training.micro_batch_rows * processes.world):
        raise UserError(
            f"batch_rows must be a multiple of micro_batch_rows ({training.micro_batch_rows}) times the number of "
            f"processes ({processes.world})",
            where=f"training.batch_rows = {training.batch_rows}",
            remedy="change one of the three",
        )
    if training.benchmarks_every_tokens and processes.world > 1:
        raise UserError(
            "benchmarks can run during training on one process only",
            where=f"training.benchmarks_every_tokens = {training.benchmarks_every_tokens}",
            remedy="set it to 0 and run `reprise evaluate` afterwards",
        )


def _go_on(state: Run, previous: Path | None) -> None:
    """Load the newest whole checkpoint of this stage, or else what the stage before left.

    Raises:
        UserError: there are checkpoints and none is whole, or the newest is of other settings.
    """
    done, facts, refused = _newest(state)
    numbers = {"processes": state.processes.world, "total_tokens": state.stage.tokens, "settings": state.settings}
    state.log("start", **numbers, machine=describe_machine())
    if done is None and refused:
        raise UserError(
            f"none of the {len(refused)} checkpoints can be gone on from; the newest: {refused[0]}",
            where=str(state.checkpoints),
            remedy="add --restart to begin the stage again, or bring back a whole one",
        )
    if done is None:
        state.progress.next_checkpoint = next_multiple(0, state.training.checkpoints.every_tokens)
        state.progress.next_benchmarks = next_multiple(0, state.training.benchmarks_every_tokens)
        if previous is not None:
            before = check_content(previous, state.processes)["progress"]
            load_checkpoint(
                previous, state.network.weights, state.optimizer if state.stage.optimizer_state == "carry" else None
            )
            state.progress.baseline, state.progress.rate_before = before["baseline"], before["last_rate"]
        return
    adopt = state.processes.same(state.work.adopt)
    changed = differences(facts["settings"], state.settings)
    if changed and not adopt:
        raise UserError(
            f"the checkpoint is of other settings ({'; '.join(changed)})",
            where=str(done),
            remedy="undo the change, or delete that folder to go on from the one before, or add --restart, "
            "or --adopt to go on from it with the new settings",
        )
    changes = state.load_from(done, facts, adopt=adopt)
    if any(line.startswith(("stage.tokens:", "averaging.")) for line in changed):
        state.average.restart()  # its samples are of another stretch of the stage
    progress = state.progress
    progress.next_checkpoint = next_multiple(progress.tokens, state.training.checkpoints.every_tokens)
    progress.next_benchmarks = next_multiple(progress.tokens, state.training.benchmarks_every_tokens)
    state.log("resume", checkpoint=done.name, refused=refused, adopted=changed)
    log_shares(state, changes)


def _newest(state: Run) -> tuple[Path | None, dict[str, Json], list[str]]:
    """The state at the end where the stage got that far, else the newest whole checkpoint; with its facts."""
    final = state.work.output / "state"
    if state.processes.same(final.exists()):
        try:
            return final, check_content(final, state.processes), []
        except UserError as error:
            remedy = f"delete {final}: the same command goes on from the checkpoint before"
            raise UserError(error.what, where=error.where, remedy=remedy) from error
    return newest_whole(state.checkpoints, state.processes)


def finish(state: Run, model: Model, stop: StopSignal) -> None:
    """Write the model, the state for the next stage and the counts.

    Raises:
        UserError: the disk is full.
        Interrupted: a signal came; the state was saved.
    """
    note_checkpoint(state)
    final = state.work.output / "state"
    if not state.processes.same(final.exists()):
        try:
            state.save_to(final)
            state.writer.finish()
        except CheckpointError as error:
            raise UserError(
                str(error),
                remedy="free some space; the same command goes on from the last checkpoint",
            ) from error
    _leave_if_asked(state, stop, final)
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
    _leave_if_asked(state, stop, final)  # else the next stage would begin


def _leave_if_asked(state: Run, stop: StopSignal, final: Path) -> None:
    if state.processes.any(stop.received):
        raise Interrupted(state.progress.step, state.progress.tokens, final)


def _spent(state: Run) -> list[Json]:
    """Tokens that each bucket of the mixture gave, and how often they went over it."""
    entries = []
    for saved in state.sampler.state()["buckets"]:
        entry, source, topic = saved["bucket"]
        language = state.stage.mixture[entry].language
        available = sum(
            bucket.num_tokens
            for key, bucket in state.store.train.items()
            if key.language == language and key.source == source and topic in (None, key.topic)
        )
        spent = saved["tokens"]
        bucket = {"entry": entry, "source": source, "topic": topic, "spent": spent}
        entries.append({**bucket, "available": available, "epochs": round(spent / available, 4) if available else 0.0})
    return entries

"""Stage `train-N`: trains one stage of the recipe, or resumes it."""

import os
from pathlib import Path
from typing import Any, NotRequired

import torch
from typing_extensions import TypedDict

from reprise.errors import UserError
from reprise.manifest import differences
from reprise.mixture.sampler import Sampler
from reprise.model.likelihood import fit_batch, fit_window
from reprise.model.machine import describe_machine
from reprise.model.new_tokens import read_new_tokens
from reprise.model.tokenizer import open_tokenizer
from reprise.recipe.fields import decisive
from reprise.recipe.groups import Groups
from reprise.recipe.mixture import Stage
from reprise.recipe.model import Model
from reprise.recipe.tokens import Rows
from reprise.recipe.training import Training
from reprise.records import record
from reprise.tokens.store import TokenStore
from reprise.training.averaging import Average
from reprise.training.check_settings import check_processes
from reprise.training.checkpoint import check_content, load_checkpoint, newest_whole, prune, read_facts, step_of
from reprise.training.checkpoint_facts import CheckpointFacts, Progress, StageSettings, next_multiple
from reprise.training.export import write_model
from reprise.training.memory_plan import check_memory, explain_out_of_memory
from reprise.training.metrics import Metrics
from reprise.training.neighbours import read_core_times, say_threads
from reprise.training.network import Network, open_network
from reprise.training.optimizer import build_optimizer
from reprise.training.parallel import Processes, compute_dtype, open_processes
from reprise.training.signals import Interrupted, StopSignal, catch_stop
from reprise.training.status_line import StatusLine
from reprise.training.trainer import Benchmarks, Trainer
from reprise.training.validation import MIN_BATCH_TOKENS, HeldOut
from reprise.training.writer import CheckpointError, CheckpointWriter
from reprise.workspace import Work

SPEED_SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "PYTORCH_CUDA_ALLOC_CONF")
"""Environment variables that affect speed; logged in the `start` event."""


@record
class BucketSpent(TypedDict):
    """Tokens that a stage took from one bucket of the mixture."""

    entry: str
    """Entry of the mixture."""
    source: str
    """Source."""
    topic: str | None
    """Topic; null if the stage does not split the source."""
    spent: int
    """Tokens of its rows, including padding."""
    available: int
    """Tokens of its documents."""
    epochs: float
    """Passes over the bucket's documents."""
    answer_tokens: NotRequired[int]
    """Tokens of answers among those trained on, on average; absent without conversations."""
    text_bytes: NotRequired[int]
    """UTF-8 bytes of text in the tokens trained on, on average; absent with conversations."""


@record
class TrainCounts(TypedDict):
    """Counts of a training stage, for its manifest."""

    steps: int
    """Optimizer steps."""
    tokens: int
    """Tokens trained on, including padding."""
    bad_steps: int
    """Steps that were skipped because a loss or gradient was not finite."""
    steps_left_out: int
    """Batches that the spike guard skipped."""
    spent: list[BucketSpent]
    """Tokens of each bucket."""


def run(work: Work, *, training: Training, **settings: Any) -> None:
    """Train one stage, from its latest complete checkpoint if there is one.

    Writes `model/` (a Hugging Face directory), `state/` (the last checkpoint, for the next stage) and `metrics.jsonl`.
    Under `torchrun` every process calls this with the same folder.

    Args:
        work: reads `tokenize` and, for a later stage, the stage before.
        training: settings of batch, precision and checkpoints.
        settings: the other arguments of `build`.

    Raises:
        UserError: the settings do not fit the model, the token store or the machine, or training diverged.
        Interrupted: SIGTERM or Ctrl-C was received; a checkpoint was saved.
    """
    begun = read_core_times()
    with open_processes(training) as processes, catch_stop() as stop:
        model, rows = settings["model"], settings["rows"]
        processes.first(lambda: check_memory(model, training, rows, processes))
        trainer = build(work, processes, stop, training=training, **settings)
        if processes.is_first and processes.device.type == "cpu":
            local = int(os.environ.get("LOCAL_WORLD_SIZE", processes.world))
            say_threads(work.output.name.removesuffix(".partial"), training, torch.get_num_threads(), local, begun)
        try:
            trainer.train()
            finish(trainer, model)
        except Exception as error:  # not KeyboardInterrupt: a second Ctrl-C stops at once
            trainer.writer.wait()
            if explained := explain_out_of_memory(error, model, training, rows, processes):
                raise explained from error
            raise
        finally:
            if trainer.metrics is not None:
                trainer.metrics.close()


def build(
    work: Work,
    processes: Processes,
    stop: StopSignal,
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
) -> Trainer:
    """Open the token store, load the model and resume from the latest checkpoint.

    Args:
        work: as in `run`.
        processes: all processes, which must all call.
        stop: set by the signal handlers.
        stage: settings of the stage: mixture, schedule, tokens.
        stage_index: index of the stage, from 0.
        rows: settings of length and packing.
        training: settings of batch, precision and checkpoints.
        model: the base model.
        seed: random seed of the run.
        kept: groups of held-out documents that must be kept.
        window: `max_length` and `stride` of the evaluation, for the validations.
        benchmarks: runs the benchmarks of `training.benchmarks_every_tokens`.
    """
    processes.first(lambda: check_processes(training, processes))
    store = TokenStore.open(work.inputs["tokenize"])
    previous = work.inputs[f"train-{stage_index}"] / "state" if stage_index else None
    network = open_network(model, rows, training, store.highest_id, seed, processes)
    only_new = stage.trains == "new_tokens"
    optimizer = build_optimizer(network.weights, _without_decay(training) if only_new else training, seed)
    settings = _deciding(stage, stage_index, rows, training, model, seed, store, processes)
    name = work.output.name.removesuffix(".partial")
    metrics = processes.first(lambda: Metrics(work.output, training.trackers, f"{name}: {stage.name}", settings))
    trainer = Trainer(
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
        held_out=_held_out(store, training, rows, model, network, processes, window),
        metrics=metrics,
        average=Average(network.weights, training.averaging, stage.tokens),
        writer=CheckpointWriter(processes),
        status=StatusLine(name, network.weights.config, rows, training, stage.tokens, processes),
        stop=stop,
        benchmarks=benchmarks,
        first_trained_id=read_new_tokens(work.inputs["vocabulary"])["first_id"] if only_new else None,
        settings=settings,
    )
    _resume(trainer, previous)
    network.refresh()
    return trainer


def _without_decay(training: Training) -> Training:
    """The settings without weight decay, so that a weight with a zero gradient does not change."""
    return training.model_copy(update={"optimizer": training.optimizer.model_copy(update={"weight_decay": 0.0})})


def _deciding(
    stage: Stage,
    stage_index: int,
    rows: Rows,
    training: Training,
    model: Model,
    seed: int,
    store: TokenStore,
    processes: Processes,
) -> StageSettings:
    """Everything that determines the result of the stage: the arguments of `build` that do not only affect speed."""
    return {
        "stage": decisive(stage),
        "stage_index": stage_index,
        "rows": rows.model_dump(mode="json"),
        "optimizer": training.optimizer.model_dump(mode="json"),
        "adapter": decisive(training.adapter),
        "master_weights": training.master_weights,
        "step_in_backward": training.step_in_backward,
        "averaging": training.averaging.model_dump(mode="json"),
        "batch_rows": training.batch_rows,
        "precision": str(compute_dtype(training, processes.device)),
        "model": decisive(model),
        "seed": seed,
        "store": store.fingerprint,
    }


def _held_out(
    store: TokenStore,
    training: Training,
    rows: Rows,
    model: Model,
    network: Network,
    processes: Processes,
    window: tuple[int, int],
) -> HeldOut:
    """The held-out documents, measured in windows that fit the model."""
    return HeldOut(
        store.valid,
        training.validation,
        start_id=open_tokenizer(model).start_id,
        special_ids={store.eos_id} | ({store.bos_id} if store.bos_id is not None else set()),
        window=fit_window(network.weights.config, *window),
        batch_tokens=fit_batch(max(MIN_BATCH_TOKENS, training.micro_batch_rows * rows.seq_len), processes.device),
    )


def _resume(trainer: Trainer, previous: Path | None) -> None:
    """Load the latest complete checkpoint of this stage, else the final state of the stage before.

    Raises:
        UserError: no checkpoint is complete, or the latest has other settings.
    """
    folder, facts, refused = _newest(trainer)
    trainer.log(
        {
            **trainer.moment(),
            "kind": "start",
            "processes": trainer.processes.world,
            "total_tokens": trainer.stage.tokens,
            "settings": trainer.settings,
            "machine": describe_machine(),
            "speed_settings": {name: os.environ[name] for name in SPEED_SETTINGS if name in os.environ},
        }
    )
    if folder is None or facts is None:
        if refused:
            raise UserError(
                f"none of the {len(refused)} checkpoints can be resumed; the newest: {refused[0]}",
                where=str(trainer.checkpoints),
                remedy="add --restart to begin the stage again, or bring back a whole one",
            )
        _begin(trainer, previous)
        return
    adopt = trainer.processes.same(trainer.work.adopt)
    changed = differences(facts["settings"], trainer.settings)
    if changed and not adopt:
        raise UserError(
            f"the checkpoint is of other settings ({'; '.join(changed)})",
            where=str(folder),
            remedy="undo the change, or delete that folder to resume from the one before, or add --restart, "
            "or --adopt to resume from it with the new settings",
        )
    changes = trainer.load_from(folder, facts, adopt=adopt)
    if any(line.startswith(("stage.tokens:", "averaging.")) for line in changed):
        trainer.average.restart()  # its samples are from other steps of the stage
    _plan_next(trainer, trainer.progress)
    trainer.log({**trainer.moment(), "kind": "resume", "checkpoint": folder.name, "refused": refused,
                 "adopted": changed, "cause": None})  # fmt: skip
    trainer.log_changes(changes)


def _begin(trainer: Trainer, previous: Path | None) -> None:
    """Start at the first token, with the weights of the stage before if there is one."""
    _plan_next(trainer, trainer.progress)
    if previous is not None:
        before = check_content(previous, trainer.processes)
        # Moments of frozen weights would be meaningless, and other moments would move weights that are now frozen.
        same = before["settings"]["stage"].get("trains", "all") == trainer.stage.trains
        carried = trainer.optimizer if same and trainer.stage.optimizer_state == "carry" else None
        load_checkpoint(previous, trainer.network.weights, carried)
        progress = before["progress"]
        trainer.progress.baseline, trainer.progress.rate_before = progress.baseline, progress.last_rate


def _plan_next(trainer: Trainer, progress: Progress) -> None:
    """Set the tokens at which the next checkpoint and benchmarks are due."""
    progress.next_checkpoint = next_multiple(progress.tokens, trainer.training.checkpoints.every_tokens)
    progress.next_benchmarks = next_multiple(progress.tokens, trainer.training.benchmarks_every_tokens)


def _newest(trainer: Trainer) -> tuple[Path | None, CheckpointFacts | None, list[str]]:
    """The final state if the stage has one, else the latest complete checkpoint; with its facts, and refused ones."""
    final = trainer.work.output / "state"
    if trainer.processes.same(final.exists()):
        try:
            return final, check_content(final, trainer.processes), []
        except UserError as error:
            remedy = f"delete {final}: the same command resumes from the checkpoint before"
            raise UserError(error.what, where=error.where, remedy=remedy) from error
    folder, facts, refused = newest_whole(trainer.checkpoints, trainer.processes)
    fetched, more = trainer.processes.same(trainer.processes.first(lambda: _fetch_newer(trainer, folder)))
    if fetched is None:
        return folder, facts, [*refused, *more]
    return fetched, read_facts(fetched), [*refused, *more]


def _fetch_newer(trainer: Trainer, folder: Path | None) -> tuple[Path | None, list[str]]:
    """Download a checkpoint from the mirror if it is newer than the one on disk, else upload that one."""
    if trainer.mirror is None:
        return None, []
    fetched, refused = trainer.mirror.fetch_newer(trainer.checkpoints, -1 if folder is None else step_of(folder.name))
    if fetched is None and folder is not None:
        trainer.mirror.offer(folder)
    return fetched, refused


def finish(trainer: Trainer, model: Model) -> None:
    """Write the model, the state for the next stage and the counts.

    Raises:
        UserError: the disk is full.
        Interrupted: a signal was received; the state was saved.
    """
    trainer.finish_checkpoint()
    final = trainer.work.output / "state"
    if not trainer.processes.same(final.exists()):
        try:
            trainer.save_to(final)
            trainer.writer.finish()
        except CheckpointError as error:
            raise UserError(
                str(error),
                remedy="free some space; the same command resumes from the last checkpoint",
            ) from error
    _leave_if_asked(trainer, final)
    write_model(
        trainer.network.weights,
        trainer.average.weights,
        model,
        trainer.work.output / "model",
        trainer.processes,
        verify=trainer.training.verify_model,
    )
    if trainer.mirror is not None:
        trainer.mirror.finish()
        trainer.log_uploads()
    if trainer.processes.is_first:
        prune(trainer.checkpoints, 0, trainer.training.checkpoints.keep_every_tokens)
    progress = trainer.progress
    trainer.log(
        {**trainer.moment(), "kind": "end", "bad_steps": progress.bad_steps_total, "left_out": len(progress.left_out)}
    )
    counts: TrainCounts = {
        "steps": progress.step,
        "tokens": progress.tokens,
        "bad_steps": progress.bad_steps_total,
        "steps_left_out": len(progress.left_out),
        "spent": _spent(trainer),
    }
    trainer.work.counts.update(counts)
    _leave_if_asked(trainer, final)  # else the next stage would start


def _leave_if_asked(trainer: Trainer, final: Path) -> None:
    if trainer.processes.any(trainer.stop.received):
        raise Interrupted(trainer.progress.step, trainer.progress.tokens, final)


def _spent(trainer: Trainer) -> list[BucketSpent]:
    """Tokens taken from each bucket of the mixture, and its epochs."""
    spent: list[BucketSpent] = []
    for saved, opened in zip(trainer.sampler.state()["buckets"], trainer.sampler.opened, strict=True):
        entry, source, topic = saved["entry"], saved["source"], saved["topic"]
        language = trainer.stage.mixture[entry].language
        available = sum(
            bucket.num_tokens
            for key, bucket in trainer.store.train.items()
            if key.language == language and key.source == source and topic in (None, key.topic)
        )
        bucket: BucketSpent = {
            "entry": entry,
            "source": source,
            "topic": topic,
            "spent": saved["tokens"],
            "available": available,
            "epochs": round(saved["tokens"] / available, 4) if available else 0.0,
        }
        if (share := opened.documents.answer_share) is not None:
            bucket["answer_tokens"] = round(saved["tokens"] * share)
        if (rate := opened.documents.bytes_per_token) is not None:
            bucket["text_bytes"] = round(saved["tokens"] * rate)
        spent.append(bucket)
    return spent

"""The training loop: validate, save, stop, step, log."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import torch

from reprise.errors import UserError
from reprise.mixture.batch import Batch
from reprise.mixture.sampler import Sampler
from reprise.mixture.shares import ShareChange
from reprise.mixture.shares_file import CAUSE, SharesFile
from reprise.progress import track
from reprise.recipe.groups import Groups
from reprise.recipe.mixture import Stage
from reprise.recipe.tokens import Rows
from reprise.recipe.training import Training
from reprise.storage import digest
from reprise.tokens.store import TokenStore
from reprise.training.averaging import Average
from reprise.training.checkpoint import checkpoint_name, load_checkpoint, newest_whole, prune, tensors_of
from reprise.training.checkpoint_facts import CheckpointFacts, Progress, ResumeFacts, StageSettings, next_multiple
from reprise.training.events import BatchRows, Event, LiveScore, Moment
from reprise.training.guards import StepGuard
from reprise.training.memory import peak_memory
from reprise.training.metrics import Metrics
from reprise.training.micro_batches import micro_batches, num_targets
from reprise.training.mirrored import CheckpointMirror
from reprise.training.network import Network
from reprise.training.optimizer import (
    AnyOptimizer,
    gradients_of,
    keep_new_rows,
    learning_rate,
    optimizer_steps,
    scale_gradients,
    set_learning_rate,
    squared_norm,
)
from reprise.training.parallel import Processes
from reprise.training.retention_guard import RetentionGuard
from reprise.training.signals import Interrupted, StopSignal
from reprise.training.single_adamw import SingleAdamW
from reprise.training.status_line import StatusLine
from reprise.training.validation import BucketLoss, HeldOut
from reprise.training.writer import CheckpointError, CheckpointWriter
from reprise.workspace import Work

log = logging.getLogger(__name__)

Benchmarks = Callable[[Any, str], list[LiveScore]]
"""Runs benchmarks on a model in memory, whose weights the string identifies; provided by the evaluation."""

GIVE_UP_S = 5.0
"""After a stop signal, the current step is only finished if it takes no longer than this; torchrun kills after 30 s."""


class Update(NamedTuple):
    """Result of training on a batch, the same in all processes."""

    kind: Literal["done", "left out", "rolled back", "given up"]
    loss: float | None = None
    """Mean loss over the targets of the global batch, in nats."""
    grad_norm: float | None = None
    """Global gradient norm before clipping."""


@dataclass
class Trainer:
    """Trains one stage. Every process holds one and calls the same methods in the same order."""

    work: Work
    stage: Stage
    rows: Rows
    training: Training
    kept: Groups
    """Groups of held-out documents that must be kept."""
    processes: Processes
    network: Network
    optimizer: AnyOptimizer
    store: TokenStore
    sampler: Sampler
    held_out: HeldOut
    metrics: Metrics | None
    """None except in the first process."""
    average: Average
    writer: CheckpointWriter
    status: StatusLine
    stop: StopSignal
    benchmarks: Benchmarks | None
    first_trained_id: int | None
    """Only embeddings of tokens from this id on are trained; None: all weights."""
    settings: StageSettings
    """Settings that determine the result of the stage; checkpoints with other settings are refused."""
    progress: Progress = field(default_factory=Progress)
    losses: list[BucketLoss] = field(default_factory=list)
    """Results of the last validation."""

    def __post_init__(self) -> None:
        self.shares_file = SharesFile(self.work.output)
        self.step_guard = StepGuard(self.training.guards, self.log, self.moment)
        self.retention_guard = RetentionGuard(
            self.training.guards, self.stage, self.kept, self.sampler, self.log, self.log_changes, self.moment
        )
        mirror = self.work.mirror
        self.mirror = CheckpointMirror(mirror, self.work.output, self.training.checkpoints) if mirror else None
        self._start = time.monotonic()

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.work.output / "checkpoints"

    def train(self) -> None:
        """Train to the end of the stage.

        Raises:
            UserError: a guard stopped the run.
            Interrupted: a signal was received; a checkpoint was saved.
        """
        name = self.work.output.name.removesuffix(".partial")
        with track(
            name, self.sampler.total_tokens, "tokens", logs=False
        ) as advance:  # the status line shows the progress
            advance(self.progress.tokens)
            while True:
                if self.validation_is_due:
                    self.validate()
                if self.progress.tokens >= self.progress.next_benchmarks:
                    self.measure_benchmarks()
                must_stop = self.processes.any(self.stop.received)
                if self.sampler.finished and not must_stop:
                    break
                if self.writer.is_done:
                    self.finish_checkpoint()
                if must_stop or self.progress.tokens >= self.progress.next_checkpoint:
                    self.save()
                if must_stop:
                    self.leave()
                self.apply_share_changes()
                before = self.progress.tokens
                self.step()
                advance(self.progress.tokens - before)

    @property
    def validation_is_due(self) -> bool:
        """Whether a validation is due before the next step."""
        progress = self.progress
        due = progress.tokens >= progress.next_validation or self.sampler.finished
        return due and progress.last_validation != progress.tokens

    def step(self) -> None:
        """Train on the next batch, or skip it if a guard says so."""
        start = time.perf_counter()
        progress, sampler, training = self.progress, self.sampler, self.training
        rate = learning_rate(self.stage.schedule, progress.tokens, self.sampler.total_tokens, progress.rate_before)
        first_row, before = sampler.rows_done, sampler.state()
        batch = sampler.next_batch(training.batch_rows, self.processes.rank, self.processes.world)
        update = Update("left out") if first_row in progress.left_out else self.update(batch, rate, first_row)
        if update.kind == "given up":
            sampler.load_state(before)
        if update.kind in ("given up", "rolled back"):
            return
        progress.step += 1
        progress.tokens = sampler.tokens_done
        self.average.update(progress.step, progress.tokens)
        self.log_changes(batch.changes)
        speed = round(batch.ids.size * self.processes.world / (time.perf_counter() - start), 1)
        if progress.step % training.log_every_steps == 0 or sampler.finished:
            self.log_step(update, rate, speed)
        self.status.say(progress.step, progress.tokens, update.loss, speed, self.losses, sampler.shares())

    def update(self, batch: Batch, rate: float, first_row: int) -> Update:
        """Update the weights with one batch.

        Loss, target count and gradient norm are summed over the processes in one reduction, so that all processes
        decide alike. It is the only synchronisation with the device in a step.

        Args:
            batch: the rows of this process.
            rate: learning rate.
            first_row: index in the stage of the global batch's first row.
        """
        training, processes = self.training, self.processes
        if training.step_in_backward:
            return self.update_in_backward(batch, rate, first_row)
        self._seed_step()
        expected_targets = training.batch_rows * (self.rows.seq_len - 1)
        # FSDP averages gradients over processes; the loss is the mean over all targets of the global batch.
        loss_sum = self.accumulate(batch, processes.world / expected_targets)
        if loss_sum is None:
            self.network.drop_gradients()
            return Update("given up")
        if self.first_trained_id is not None:
            keep_new_rows(self.network.weights.model, self.first_trained_id)
        gradients = gradients_of(self.network.weights)
        targets = torch.full_like(loss_sum, num_targets(batch))
        sums = processes.sum(torch.stack([loss_sum, targets, squared_norm(gradients).to(loss_sum.device)]))
        total_loss, total_targets, squared = sums.tolist()
        loss = total_loss / max(total_targets, 1)
        to_mean = expected_targets / max(total_targets, 1)  # not 1 if padding or first tokens have no loss
        grad_norm = squared**0.5 * to_mean
        if refused := self._refuse(loss, grad_norm, batch, first_row):
            return refused
        clip_norm = training.optimizer.clip_norm
        scale_gradients(gradients, to_mean * (min(1.0, clip_norm / (grad_norm + 1e-6)) if clip_norm else 1.0))
        set_learning_rate(self.optimizer, rate)
        self.progress.last_rate = rate
        self.writer.release()
        self.optimizer.step()
        self.network.refresh()
        self.network.drop_gradients()
        return Update("done", loss, grad_norm)

    def _seed_step(self) -> None:
        """Seed dropout by the step, so that no random state must be saved."""
        torch.manual_seed((self.settings["seed"] * 1_000_003 + self.progress.step) * 4_096 + self.processes.rank)

    def _refuse(self, loss: float, grad_norm: float, batch: Batch, first_row: int) -> Update | None:
        """The result of a batch that must not change the weights; None if the batch is accepted."""
        decision = self.step_guard.decide(loss, grad_norm, self.progress, self._rows_of(batch, first_row))
        if decision == "keep":
            return None
        self.network.drop_gradients()
        rolled_back = decision == "rollback" and self._roll_back(first_row)
        return Update("rolled back" if rolled_back else "left out")

    def update_in_backward(self, batch: Batch, rate: float, first_row: int) -> Update:
        """As `update`, but each weight is stepped as soon as its gradient is ready, which is then freed.

        The guards only judge the loss, before the backward pass.

        Raises:
            UserError: a gradient is not finite, and other weights were already changed.
        """
        self._seed_step()
        (inputs,) = self._micro_batches(batch)
        loss = self.network.objective(**inputs) / max(num_targets(batch), 1)
        if refused := self._refuse(loss.item(), 0.0, batch, first_row):
            return refused
        set_learning_rate(self.optimizer, rate)
        self.progress.last_rate = rate
        self.writer.release()
        assert isinstance(self.optimizer, SingleAdamW)
        squared = self.network.step_in_backward(loss, self.optimizer)
        return Update("done", loss.item(), squared**0.5)

    def accumulate(self, batch: Batch, scale: float) -> torch.Tensor | None:
        """Run forward and backward passes of all micro-batches.

        Args:
            batch: the rows of this process.
            scale: factor of the loss in the backward pass.

        Returns:
            Sum of this process's losses, float64 scalar on the device; None if a signal asked to stop and the rest of
            the step would take too long.
        """
        start = time.perf_counter()
        num_parts = len(batch.ids) // self.training.micro_batch_rows
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.processes.device)
        for index, inputs in enumerate(self._micro_batches(batch)):
            if index:
                left_s = (time.perf_counter() - start) / index * (num_parts - index)
                if self.processes.any(self.stop.received and left_s > GIVE_UP_S):
                    return None
            self.network.begin_backward(is_last=index == num_parts - 1)
            loss = self.network.objective(**inputs)
            (loss * scale).backward()
            loss_sum += loss.detach()
        return loss_sum

    def _micro_batches(self, batch: Batch) -> Iterator[dict[str, Any]]:
        config, rows = self.network.objective.config, self.training.micro_batch_rows
        return micro_batches(batch, rows, config, self.processes.device)

    def _rows_of(self, batch: Batch, first_row: int) -> BatchRows:
        """The rows of a step, for its event."""
        buckets = sorted({bucket.path for bucket in batch.buckets})
        return {"first_row": first_row, "num_rows": self.training.batch_rows, "buckets": buckets}

    def _roll_back(self, first_row: int) -> bool:
        """Load the latest checkpoint and skip the batch that begins at a row; False if there is no checkpoint."""
        self.finish_checkpoint()
        folder, facts, refused = newest_whole(self.checkpoints, self.processes)
        left_out = [*self.progress.left_out, first_row]
        if folder is None or facts is None:
            self.progress.left_out = left_out
            return False
        self.load_from(folder, facts)
        self.progress.left_out = left_out
        self.log({**self.moment(), "kind": "resume", "checkpoint": folder.name, "refused": refused,
                  "adopted": [], "cause": "spike"})  # fmt: skip
        return True

    def validate(self) -> None:
        """Measure the held-out losses, and pass them to the sampler's policy and the retention guard.

        After a stop signal it returns early without any effect; the validation stays due.

        Raises:
            UserError: a kept group was lost under `guards.retention: stop`; a checkpoint was saved.
        """
        progress = self.progress
        with self.network.eager():  # documents have any length, so do not compile for each
            losses = self.held_out.measure(self.network.objective, self.processes, self.stop)
        if losses is None:
            return
        self.losses = losses
        progress.last_validation = progress.tokens
        progress.next_validation = next_multiple(progress.tokens, self.training.validation.every_tokens)
        self.log({**self.moment(), "kind": "validation", "validation": [loss.to_json() for loss in losses]})
        # Rounded far below noise: last digits depend on how many processes there are, and shares determine the rows.
        self.log_changes(
            self.sampler.observe(
                {loss.key: round(loss.nll, 4) for loss in losses},
                resampled={loss.key: [round(nll, 4) for nll in loss.resampled] for loss in losses},
            )
        )
        if failure := self.retention_guard.check(losses, progress):
            self.save()
            self.finish_checkpoint()
            raise failure

    def measure_benchmarks(self) -> None:
        """Run the benchmarks on the current weights."""
        progress = self.progress
        progress.next_benchmarks = next_multiple(progress.tokens, self.training.benchmarks_every_tokens)
        assert self.benchmarks is not None
        with self.network.as_loaded():
            identity = digest([self.settings, progress.step, sorted(progress.left_out)])
            scores = self.benchmarks(self.network.objective.model, identity)
        self.log({**self.moment(), "kind": "benchmarks", "benchmarks": scores})

    def apply_share_changes(self) -> None:
        """Apply shares that the user has written to `shares.json` since the last step."""
        wishes = self.shares_file.poll(self.sampler) if self.processes.is_first else []
        if self.processes.any(bool(wishes)):
            for shares in self.processes.same(wishes):
                self.log_changes(self.sampler.set_shares(shares, CAUSE))

    def moment(self) -> Moment:
        """The current step, for an event."""
        seconds = round(time.monotonic() - self._start, 3)
        return {"step": self.progress.step, "tokens": self.progress.tokens, "seconds": seconds}

    def log(self, event: Event) -> None:
        """Write one line of metrics.jsonl."""
        if self.metrics is not None:
            self.metrics.write(event)

    def log_step(self, update: Update, rate: float, tokens_per_s: float) -> None:
        """Log the `step` event."""
        memory = round(peak_memory(self.processes.device) / 1e9, 3)
        mfu = self.status.mfu(tokens_per_s)
        self.log({**self.moment(), "kind": "step", "loss": update.loss, "lr": rate, "grad_norm": update.grad_norm,
                  "tokens_per_s": tokens_per_s, "memory_gb": memory,
                  "mfu": None if mfu is None else round(mfu, 4)})  # fmt: skip

    def log_changes(self, changes: Sequence[ShareChange]) -> None:
        """Log each change of the mixture."""
        for change in changes:
            self.log({**self.moment(), "kind": "shares", "rows": change.rows, "cause": change.cause,
                      "path": change.path, "old": change.old, "new": change.new})  # fmt: skip

    def facts(self) -> ResumeFacts:
        """Everything that a checkpoint resumes besides tensors."""
        return {
            "progress": self.progress,
            "sampler": self.sampler.state(),
            "settings": self.settings,
            "processes": self.processes.world,
            "optimizer_steps": optimizer_steps(self.optimizer),
            "averaged": self.average.count,
        }

    def save(self) -> None:
        """Start to write a checkpoint, once the one before is published. A full disk does not stop training."""
        self.finish_checkpoint()
        settings = self.training.checkpoints
        self.progress.next_checkpoint = next_multiple(self.progress.tokens, settings.every_tokens)
        folder = self.checkpoints / checkpoint_name(self.progress.step)
        if self.processes.same(folder.exists()):
            return
        try:
            self.save_to(folder, partial(self._published, folder))
        except CheckpointError as error:
            self._not_saved(error)

    def _published(self, folder: Path) -> None:
        """Mirror a checkpoint and delete old ones; called in the writer's thread of the first process."""
        if self.mirror is not None:
            self.mirror.offer(folder)
        settings = self.training.checkpoints
        held = self.mirror.holds if self.mirror is not None else ()
        prune(self.checkpoints, settings.keep_last, settings.keep_every_tokens, held)

    def save_to(self, folder: Path, published: Callable[[], None] = lambda: None) -> None:
        """Start to write a checkpoint to a folder; `published` is called when it is complete.

        Raises:
            CheckpointError: the folder cannot be written, such as on a full disk.
        """
        tensors = tensors_of(self.network.weights, self.optimizer, self.average.weights)
        self.writer.begin(folder, tensors, self.facts(), published)

    def finish_checkpoint(self) -> None:
        """Wait until the checkpoint that is being written, if any, is published, and log the result."""
        try:
            folder = self.writer.finish()
        except CheckpointError as error:
            self._not_saved(error)
            return
        self.log_uploads()
        if folder is not None:
            self.log(
                {**self.moment(), "kind": "checkpoint", "name": folder.name, "stall_s": round(self.writer.stall_s, 3)}
            )

    def log_uploads(self) -> None:
        """Log the uploads of checkpoints that ended."""
        for upload in self.mirror.outcomes() if self.mirror is not None else ():
            name = upload.name.rpartition("/")[2]
            self.log({**self.moment(), "kind": "mirror", "name": name, "num_bytes": upload.num_bytes,
                      "upload_s": upload.seconds, "failures": upload.failures, "error": upload.error})  # fmt: skip

    def _not_saved(self, error: CheckpointError) -> None:
        self.log({**self.moment(), "kind": "guard", "guard": "checkpoint", "action": "continue", "error": str(error)})
        log.error("%s; training continues, earlier checkpoints are intact", error)

    def load_from(self, folder: Path, facts: CheckpointFacts, *, adopt: bool = False) -> list[ShareChange]:
        """Resume from a checkpoint; returns the changes of shares that adopted settings cause."""
        count = facts["averaged"]
        mean = self.average.template() if count else {}
        load_checkpoint(folder, self.network.weights, self.optimizer, mean)
        self.average.weights, self.average.count = mean, count
        self.network.refresh()
        self.progress = facts["progress"]
        return self.sampler.load_state(facts["sampler"], adopt=adopt)

    def leave(self) -> NoReturn:
        """Wait until the checkpoint of this step is published, then stop.

        Raises:
            Interrupted: the checkpoint was written.
            UserError: the checkpoint could not be written.
        """
        self.finish_checkpoint()
        folder = self.checkpoints / checkpoint_name(self.progress.step)
        if self.processes.same(folder.exists()):
            if self.mirror is not None:
                self.mirror.leave()
                self.log_uploads()
            self.processes.wait()  # torchrun ends all processes when the first one leaves
            raise Interrupted(self.progress.step, self.progress.tokens, folder)
        raise UserError(
            "training was asked to stop and could not save",
            where=str(self.checkpoints),
            remedy="free some space; the same command resumes from the checkpoint before",
        )

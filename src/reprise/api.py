"""`reprise.open(RUN)`: read a run from a script or a notebook."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from reprise.documents.table import DOCUMENTS, read_table
from reprise.errors import UserError
from reprise.evaluation.results import Results
from reprise.evaluation.stage import RESULTS
from reprise.manifest import read_output
from reprise.mixture.batch import Batch
from reprise.mixture.preview import PreviewRow, preview
from reprise.mixture.sampler import Sampler
from reprise.mixture.state import SamplerState
from reprise.model.loading import load_tokenizer
from reprise.recipe import Recipe
from reprise.recipe.loading import open_recipe
from reprise.report.curves import drop_repeated, read_metrics
from reprise.tokens.store import TokenStore
from reprise.training.checkpoint import read_facts
from reprise.training.events import Event
from reprise.workspace import Workspace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from reprise.plan.records import Plan


@dataclass(frozen=True)
class Run:
    """A run, finished or not. It is never written to, and data is only read when needed."""

    folder: Path
    """The workspace."""
    recipe: Recipe
    """The settings, as resolved by the last command."""

    def stages(self) -> dict[str, dict[str, object] | None]:
        """Stage -> its counts (`documents_out`, `dropped`, ...), in order; None if it is not done."""
        from reprise.stages import stages

        manifests = {stage.name: self._workspace.manifest(stage.name) for stage in stages(self.recipe)}
        return {name: None if manifest is None else manifest.counts for name, manifest in manifests.items()}

    def metrics(self, stage: str = "train-1") -> list[Event]:
        """Events of a training stage in order, also during training; steps repeated after a restart appear once.

        `kind` is the type of an event: `step` (loss, learning rate, tokens per second), `validation`, `benchmarks`,
        `checkpoint`, `shares`, `guard`; docs/formats.md lists the fields of each.

        Raises:
            UserError: there is no such stage, or it has not started.
        """
        self._index_of(stage)
        paths = [self.folder / folder / "metrics.jsonl" for folder in (stage, f"{stage}.partial")]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise _not_yet(stage, self.folder)
        return cast(list[Event], drop_repeated(read_metrics(path)[0]))

    def results(self) -> Results:
        """Measurements of both models, and the verdicts (`evaluate/results.json`).

        Raises:
            UserError: the evaluation is not finished.
        """
        path = self.folder / "evaluate" / RESULTS
        if not path.is_file():
            raise _not_yet("evaluate", self.folder)
        return cast(Results, read_output(path))

    def plan(self) -> "Plan":
        """What `reprise plan --json` prints: budgets, epochs, steps, cost, and which verdicts can be reached."""
        from reprise.plan.build import make_plan

        return make_plan(self.recipe)

    def documents(self, stage: str = "score", columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """Documents written by a stage, one at a time.

        Args:
            stage: `read`, `clean`, `deduplicate`, `decontaminate`, `label` or `score`.
            columns: such as `["id", "text", "lang", "source", "topic", "split"]`; None: all.

        Raises:
            UserError: the stage is not finished.
        """
        folder = self.folder / stage / DOCUMENTS
        if not folder.is_dir():
            raise _not_yet(stage, self.folder)
        return (row for batch in read_table(folder, columns) for row in batch.to_pylist())

    @cached_property
    def store(self) -> TokenStore:
        """The token store: `store.train` and `store.valid` map (language, source, topic) to memory-mapped arrays.

        Raises:
            UserError: the text is not tokenized.
        """
        if not (self.folder / "tokenize").is_dir():
            raise _not_yet("tokenize", self.folder)
        return TokenStore.open(self.folder / "tokenize")

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The run's tokenizer, as loaded by transformers: the base model's, or the larger one from `vocabulary`."""
        return load_tokenizer(self.recipe.start_model())

    def order(self, stage: str = "train-1") -> Iterator[PreviewRow]:
        """The order of training: step, bucket, epoch, documents, perplexity and first words of each row.

        Computed with the stage's initial shares, as in `batches`.

        Raises:
            UserError: there is no such stage, or the text is not tokenized.
        """
        index = self._index_of(stage)
        decode = self.tokenizer.decode
        return preview(
            self.recipe, self.store, lambda ids: str(decode(ids)), stage=index, previous=self._previous(index)
        )

    def batches(
        self, stage: str = "train-1", *, batch_rows: int | None = None, rank: int = 0, world: int = 1, skip: int = 0
    ) -> Iterator[Batch]:
        """The batches of a training stage, in the order of training.

        Rows, order and masks are the same as in training, as long as the shares keep their initial values: changes
        during training (by a policy, a guard or a command) are not reproduced.

        Args:
            stage: such as `train-1`.
            batch_rows: rows of a global batch; None: `training.batch_rows`.
            rank: process whose rows are returned.
            world: how many processes share a global batch.
            skip: global batches to skip; this takes almost no time.

        Yields:
            Arrays [batch_rows / world, seq_len]: `ids`, `labels`, `position_ids`, `documents`; `buckets` of the rows.

        Raises:
            UserError: there is no such stage, the text is not tokenized, or there is too little of it.
        """
        rows = batch_rows or self.recipe.training.batch_rows
        sampler = self._sampler(stage)
        _pass_over(sampler, skip * rows)
        return _deal(sampler, rows, rank, world)

    def dataset(
        self, stage: str = "train-1", *, batch_rows: int | None = None, rank: int = 0, world: int = 1
    ) -> "BatchDataset":
        """`batches` as a dataset for PyTorch: `DataLoader(run.dataset(), batch_size=None, num_workers=2)`."""
        self._index_of(stage)
        return BatchDataset(self, stage, batch_rows or self.recipe.training.batch_rows, rank, world)

    def model_folder(self, stage: str | None = None) -> Path:
        """Hugging Face folder of a trained model.

        Args:
            stage: such as `train-1`; None: the last one.

        Raises:
            UserError: there is no such stage, or it is not finished.
        """
        name = stage or f"train-{len(self.recipe.stages)}"
        self._index_of(name)
        folder = self.folder / name / "model"
        if not folder.is_dir():
            raise _not_yet(name, self.folder)
        return folder

    @property
    def _workspace(self) -> Workspace:
        return Workspace(self.folder)

    def _index_of(self, stage: str) -> int:
        """Index of a training stage, counted from 1."""
        names = [f"train-{index + 1}" for index in range(len(self.recipe.stages))]
        if stage not in names:
            remedy = f"name {' or '.join(names)}"
            raise UserError(f"there is no training stage {stage!r}", where=str(self.folder), remedy=remedy)
        return names.index(stage) + 1

    def _previous(self, index: int) -> SamplerState | None:
        """The sampler's state at the end of the previous stage, if that stage is finished."""
        state = self.folder / f"train-{index - 1}" / "state"
        return read_facts(state)["sampler"] if state.is_dir() else None

    def _sampler(self, stage: str) -> Sampler:
        index = self._index_of(stage)
        previous = self._previous(index)
        if index > 1 and previous is None:
            raise _not_yet(f"train-{index - 1}", self.folder)
        return Sampler(self.store, self.recipe.stages[index - 1], self.recipe.rows, self.recipe.seed, previous)


class BatchDataset(IterableDataset[dict[str, Tensor]]):
    """The batches of a training stage as tensors, for a `DataLoader` with `batch_size=None`.

    Each of n workers computes every n-th batch, and the loader returns them in the order of training.
    """

    def __init__(self, run: Run, stage: str, batch_rows: int, rank: int, world: int) -> None:
        self._run, self._stage, self._batch_rows = Run(run.folder, run.recipe), stage, batch_rows
        self._rank, self._world = rank, world

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """int64 [batch_rows / world, seq_len] each: `input_ids`, `labels` (-100: not trained on), `position_ids`."""
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        sampler = self._run._sampler(self._stage)
        _pass_over(sampler, first * self._batch_rows)
        while not sampler.finished:
            yield _tensors(sampler.next_batch(self._batch_rows, self._rank, self._world))
            _pass_over(sampler, (step - 1) * self._batch_rows)


def _deal(sampler: Sampler, rows: int, rank: int, world: int) -> Iterator[Batch]:
    while not sampler.finished:
        yield sampler.next_batch(rows, rank, world)


def _pass_over(sampler: Sampler, rows: int) -> None:
    """Skip rows, at most as many as the stage has left."""
    sampler.skip(min(rows, sampler.total_rows - sampler.rows_done))


def _tensors(batch: Batch) -> dict[str, Tensor]:
    arrays: dict[str, Any] = {"input_ids": batch.ids, "labels": batch.labels, "position_ids": batch.position_ids}
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def open_run(run: str | Path) -> Run:
    """Open a run by its folder or its recipe.

    Raises:
        UserError: there is no such run, or its recipe does not pass its checks.
    """
    recipe = open_recipe(Path(run), None)
    return Run(Path(recipe.workspace), recipe)


def _not_yet(stage: str, folder: Path) -> UserError:
    return UserError(f"the stage {stage} is not done", where=str(folder), remedy=f"reprise run {folder}")

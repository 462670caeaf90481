"""Forgetting over checkpoints, and gain against retention: one point per checkpoint and per merge factor.

Merges with a chat model add what instruction tuning taught that model: trained + f * (chat - its base).
A merge factor w denotes the model (1 - w) * base + w * trained, weight by weight: w = 0 is the base, 1 the trained
model. Merging back often keeps most of the gain at a fraction of the forgetting; the curve shows at which factors.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from reprise.evaluation.benchmarks.runner import BenchmarkRunner
from reprise.evaluation.bits_per_byte import Text, group_totals, measure_bits
from reprise.evaluation.model import EvaluatedModel
from reprise.evaluation.results import CurvePoint, PointName
from reprise.merging.chat_vector import add_chat_vector
from reprise.processes import Processes
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.groups import Groups
from reprise.recipe.model import Model
from reprise.storage import digest
from reprise.training.checkpoint import checkpoints_in, read_facts
from reprise.training.export import export_checkpoint, merge_with_base


class Snapshot(EvaluatedModel):
    """A model from the middle of a run, written to disk and loaded only when a measure needs it."""

    def __init__(
        self,
        base: Model,
        evaluation: Evaluation,
        identity: object,
        write: Callable[[Path], object],
        scratch: Path,
        processes: Processes | None = None,
    ) -> None:
        """Name a model that has no directory yet.

        Args:
            base: the base model, which has the same configuration and tokenizer.
            evaluation: settings of the evaluation, such as the dtype.
            identity: everything that determines the weights.
            write: writes the model to the folder that it is given, which does not exist yet.
            scratch: that folder; worker processes read it too. It is removed when the model is released.
            processes: the processes that share the work.
        """
        super().__init__(base, evaluation, processes)
        self._identity, self._write, self._scratch = identity, write, scratch

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that determines the model's results."""
        return digest([self._identity, str(self.dtype), self.device.type])

    def __getstate__(self) -> dict[str, Any]:
        """As `EvaluatedModel`; the model is written first, so that other processes can load it."""
        assert self.written
        return {name: value for name, value in super().__getstate__().items() if name != "_write"}

    @cached_property
    def written(self) -> Model:
        """The model in the scratch folder."""
        shutil.rmtree(self._scratch, ignore_errors=True)  # left by a killed evaluation
        self._write(self._scratch)
        return self.settings.model_copy(update={"path": str(self._scratch), "gguf_file": None, "revision": None})

    @property
    def weights_from(self) -> Model:
        """The written model."""
        return self.written

    def release(self) -> None:
        """Free the weights and remove the scratch folder."""
        super().release()
        if self.__dict__.pop("written", None) is not None:
            shutil.rmtree(self._scratch)


class ChatSnapshot(Snapshot):
    """A merge with a chat model, whose tokenizer and chat template are only known once it is written."""

    @property
    def tokenizer_from(self) -> Model:
        """The written model."""
        return self.written


def measure_curve(
    base: Model,
    start: Model,
    stages: Sequence[Path],
    texts: Sequence[Text],
    evaluation: Evaluation,
    *,
    groups: Groups,
    cache: Path,
    scratch: Path,
    seed: int,
    processes: Processes | None = None,
) -> list[CurvePoint]:
    """Measure the base, every kept checkpoint, the end of every stage, and merges of the last one with the base and a
    chat model.

    Args:
        base: the base model, with which every point is compared.
        start: the model that training began with, and with which the trained model is merged: the base, or the base
            with a larger vocabulary.
        stages: folders of the finished training stages, in order.
        texts: held-out documents.
        evaluation: what is measured; the benchmarks are `curve_benchmarks`.
        groups: which documents belong together.
        cache: folder of the cached results, which are not computed again.
        scratch: a folder that does not exist yet, for one written model at a time.
        seed: random seed for sampling questions.
        processes: the processes that share the work.
    """
    rows: list[CurvePoint] = []
    few = evaluation.model_copy(update={"benchmarks": evaluation.curve_benchmarks})
    for facts, evaluated in _models(base, start, stages, evaluation, scratch, processes):
        bits = measure_bits(evaluated, texts, evaluation, cache=cache / "bits", what=_words(facts))
        measured = BenchmarkRunner(evaluated, few, cache=cache / "benchmarks", seed=seed).run()
        evaluated.release()
        values = group_totals(texts, bits, groups)
        first = rows[0]["bits_per_byte"] if rows else values
        change = {path: value / first[path] - 1 for path, value in values.items()}
        scores = {one.benchmark: one.score for one in measured}
        rows.append({**facts, "bits_per_byte": values, "change": change, "scores": scores})
    return rows


def _models(
    base: Model,
    start: Model,
    stages: Sequence[Path],
    evaluation: Evaluation,
    scratch: Path,
    processes: Processes | None,
) -> Iterator[tuple[PointName, EvaluatedModel]]:
    """Each point's facts and its model, in the order of the run."""
    untrained = EvaluatedModel(base, evaluation, processes)
    yield _facts("base", tokens=0), untrained
    before, end = 0, untrained
    for index, stage in enumerate(stages, 1):
        done = read_facts(stage / "state")["progress"].tokens
        for checkpoint in reversed(checkpoints_in(stage / "checkpoints")):
            facts = read_facts(checkpoint)
            if facts["progress"].tokens < done:  # the last one is the end of the stage
                export = partial(export_checkpoint, checkpoint, start)
                snapshot = Snapshot(start, evaluation, facts["files"], export, scratch, processes)
                yield _facts("checkpoint", stage=index, tokens=before + facts["progress"].tokens), snapshot
        before += done
        end = EvaluatedModel(trained_model(start, stage), evaluation, processes)
        yield _facts("checkpoint", stage=index, tokens=before), end
    other = untrained if start == base else EvaluatedModel(start, evaluation, processes)
    for factor in evaluation.merge_factors:
        merge = partial(merge_with_base, stages[-1] / "model", start, factor)
        identity = [other.fingerprint, end.fingerprint, factor]
        yield _facts("merge", factor=factor), Snapshot(start, evaluation, identity, merge, scratch, processes)
    if (chat := evaluation.chat_merge) is not None:
        pair = [EvaluatedModel(one, evaluation, processes).fingerprint for one in (chat.base or base, chat.model)]
        for factor in chat.factors:
            trained = stages[-1] / "model"
            add = partial(add_chat_vector, trained, chat.base or base, chat.model, factor=factor)
            identity = ["chat", *pair, end.fingerprint, factor]
            # EOS is the chat model's if it names one.
            own = start.model_copy(update={"eos": chat.model.eos})
            yield _facts("chat", factor=factor), ChatSnapshot(own, evaluation, identity, add, scratch, processes)


def trained_model(base: Model, stage: Path) -> Model:
    """The model that a finished training stage wrote."""
    return base.model_copy(update={"path": str(stage / "model"), "gguf_file": None, "revision": None})


def _facts(
    kind: Literal["base", "checkpoint", "merge", "chat"],
    *,
    stage: int | None = None,
    tokens: int | None = None,
    factor: float | None = None,
) -> PointName:
    return {"kind": kind, "stage": stage, "tokens": tokens, "factor": factor}


def _words(facts: PointName) -> str:
    names = {"merge": "merge", "chat": "chat merge"}
    if facts["kind"] in names:
        return f"bits per byte, {names[facts['kind']]} {facts['factor']:g}"
    return f"after {facts['tokens']:,}"

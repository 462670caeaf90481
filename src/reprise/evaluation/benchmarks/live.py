"""Benchmarks on a model during training, in the same process."""

from pathlib import Path
from typing import Any

from reprise.evaluation.benchmarks.runner import BenchmarkRunner
from reprise.evaluation.model import EvaluatedModel
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.model import Model
from reprise.training.events import LiveScore


class LiveModel(EvaluatedModel):
    """A model that is already in memory, and whose weights change between measurements."""

    def __init__(self, model: Any, fingerprint: str, settings: Model, evaluation: Evaluation) -> None:
        super().__init__(settings, evaluation.model_copy(update={"backend": type(evaluation.backend)()}))
        # Set here, as the cached properties would load the model.
        self.__dict__ |= {"model": model, "fingerprint": fingerprint}


def measure_live(
    model: Any, fingerprint: str, *, settings: Model, evaluation: Evaluation, cache: Path, seed: int
) -> list[LiveScore]:
    """Run the benchmarks of the recipe.

    Args:
        model: transformers model in this process.
        fingerprint: identifies its weights; answers are cached under it, so that a resumed run does not repeat them.
        settings: the base model, for the tokenizer.
        evaluation: which benchmarks, how many questions of each.
        cache: folder of cached answers.
        seed: random seed for sampling questions.

    Returns:
        Scores of the benchmarks that could run.
    """
    runner = BenchmarkRunner(LiveModel(model, fingerprint, settings, evaluation), evaluation, cache=cache, seed=seed)
    return [
        {"benchmark": one.benchmark, "metric": one.metric, "score": one.score, "questions": len(one.scores)}
        for one in runner.run()
    ]

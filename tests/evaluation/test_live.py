"""Benchmarks on a model in memory."""

import pytest

from reprise.recipe.evaluation import Evaluation
from reprise.recipe.model import Model

pytest.importorskip("lm_eval")


def test_a_model_in_memory_scores_as_from_its_files(tiny_model, tmp_path):
    from reprise.evaluation.benchmarks.live import measure_live
    from reprise.evaluation.benchmarks.runner import BenchmarkRunner
    from reprise.evaluation.model import EvaluatedModel
    from reprise.model.loading import load_model

    settings = Model(path=str(tiny_model))
    evaluation = Evaluation(benchmarks=["icl-probe"], dtype="float32", limit=20)
    files = BenchmarkRunner(EvaluatedModel(settings, evaluation), evaluation, cache=tmp_path / "files", seed=3).run()
    live = measure_live(
        load_model(settings), "step 7", settings=settings, evaluation=evaluation, cache=tmp_path / "live", seed=3
    )
    assert [(one["benchmark"], one["score"], one["questions"]) for one in live] == [
        (one.benchmark, one.score, len(one.scores)) for one in files
    ]
    assert live[0]["questions"] == 20

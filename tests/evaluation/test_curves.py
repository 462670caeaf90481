"""One point per checkpoint and merge factor, of a real run of a tiny model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.evaluation.conftest import make_model, make_tokenizer
from tests.pipeline.conftest import small_recipe
from transformers import AutoModelForCausalLM

from reprise.evaluation import curves
from reprise.evaluation.bits_per_byte import Text, group_totals, measure_bits
from reprise.evaluation.curves import measure_curve
from reprise.evaluation.model import EvaluatedModel
from reprise.pipeline import run_stages
from reprise.recipe import Recipe
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.groups import find_groups
from reprise.recipe.model import Model
from reprise.training.export import export_checkpoint, merge_with_base

pytestmark = pytest.mark.slow

TEXTS = [
    Text("The river runs to the sea.", "en", "web"),
    Text("河水流向大海。", "zh", "web"),
    Text("Bread.", "en", "book"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two stages that keeps a checkpoint for every 1,024 tokens."""
    root = tmp_path_factory.mktemp("run")
    recipe = small_recipe(root / "run", make_model(root / "base", make_tokenizer()))
    for stage in recipe["stages"]:
        stage |= {"topics": {}, "curriculum": {}, "schedule": {"peak_lr": 2e-3}}
    recipe["training"] |= {"precision": "float32", "checkpoints": {"every_tokens": 1024, "keep_every_tokens": 1024}}
    recipe["evaluation"] |= {"dtype": "float32", "merge_factors": [0.5], "limit": 8}
    recipe["evaluation"] |= {"benchmarks": ["icl-probe"], "curve_benchmarks": ["icl-probe"]}
    loaded = Recipe.model_validate(recipe)
    run_stages(loaded, until=["evaluate"], say=lambda line: None)
    return loaded


GROUPS = find_groups([], {})


def totals(folder, texts, settings, cache):
    model = EvaluatedModel(Model(path=str(folder)), settings)
    return group_totals(texts, measure_bits(model, texts, settings, cache=cache, what="test"), GROUPS)


def test_curve_of_a_run_is_what_its_checkpoints_and_merges_measure(finished, tmp_path):
    root, settings = Path(finished.workspace), finished.evaluation
    results = json.loads((root / "evaluate" / "results.json").read_text())
    curve = results["curve"]
    assert [(row["kind"], row["stage"], row["tokens"], row["factor"]) for row in curve] == [
        ("base", None, 0, None),
        *(("checkpoint", 1, tokens, None) for tokens in (1024, 2048, 3072, 4096)),
        *(("checkpoint", 2, tokens, None) for tokens in (5120, 6144)),
        ("merge", None, None, 0.5),
    ]
    ends = {row["language"]: row for row in results["bits_per_byte"] if row["source"] is None}
    for side, row in (("before", curve[0]), ("after", curve[6])):
        assert row["bits_per_byte"] == pytest.approx({language: end[side] for language, end in ends.items()})
    assert curve[6]["change"] == pytest.approx({language: end["change"] for language, end in ends.items()})
    assert curve[0]["scores"]["icl-probe"] == results["benchmarks"][0]["before"]
    assert not (root / "evaluate" / "model").exists()

    from reprise.evaluation.stage import read_held_out

    texts = read_held_out(root / "score" / "documents")
    export_checkpoint(root / "train-2" / "checkpoints" / "step-00000002", finished.model, tmp_path / "checkpoint")
    merge_with_base(root / "train-2" / "model", finished.model, 0.5, tmp_path / "merged")
    for row, folder in ((curve[5], tmp_path / "checkpoint"), (curve[7], tmp_path / "merged")):
        assert row["bits_per_byte"] == pytest.approx(totals(folder, texts, settings, tmp_path), rel=1e-6)
    base, trained, merged = (
        AutoModelForCausalLM.from_pretrained(path).state_dict()
        for path in (finished.model.path, root / "train-2" / "model", tmp_path / "merged")
    )
    for name, value in merged.items():
        torch.testing.assert_close(value, 0.5 * base[name] + 0.5 * trained[name])


def test_killed_curve_goes_on_without_writing_a_model_again(finished, tmp_path, monkeypatch):
    stages = [Path(finished.workspace) / name for name in ("train-1", "train-2")]
    written = []

    def export(checkpoint, settings, folder):
        written.append(checkpoint.name)
        if len(written) == 2:
            folder.mkdir()
            raise KeyboardInterrupt
        export_checkpoint(checkpoint, settings, folder)

    monkeypatch.setattr(curves, "export_checkpoint", export)
    settings = Evaluation(max_length=64, stride=32, dtype="float32", merge_factors=[0.25])
    options = {"groups": GROUPS, "cache": tmp_path / "cache", "scratch": tmp_path / "model", "seed": 0}
    with pytest.raises(KeyboardInterrupt):
        measure_curve(finished.model, finished.model, stages, TEXTS, settings, **options)
    first = measure_curve(finished.model, finished.model, stages, TEXTS, settings, **options)
    assert written == [f"step-0000000{number}" for number in (2, 4, 4, 6, 2)]
    monkeypatch.setattr("reprise.evaluation.model.load_model", lambda *_: pytest.fail("a model was loaded again"))
    assert measure_curve(finished.model, finished.model, stages, TEXTS, settings, **options) == first
    assert not (tmp_path / "model").exists()
    shares = [row["change"]["zh"] for row in first if row["kind"] == "checkpoint"]
    assert np.argmin(shares) > 0 > shares[-1]

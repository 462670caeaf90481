"""Curves over checkpoints and merges."""

import pytest
import torch
from tests.evaluation.conftest import make_model, make_tokenizer
from transformers import AutoModelForCausalLM

from reprise.errors import UserError
from reprise.evaluation.curves import forgetting_curve, merge_models, plane
from reprise.evaluation.heldout import Text
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.model import Model

SETTINGS = Evaluation(max_length=64, stride=32, dtype="float32")
TEXTS = [
    Text("The river runs to the sea.", "en", "web"),
    Text("河水流向大海。", "zh", "web"),
    Text("Bread.", "en", "book"),
]


@pytest.fixture
def other_model(tmp_path):
    return Model(path=str(make_model(tmp_path / "other", make_tokenizer(), seed=3)))


def test_merge_is_the_weighted_mean_of_every_weight(tiny_model, other_model, tmp_path):
    merge_models(Model(path=str(tiny_model)), other_model, 0.25, tmp_path / "merged")
    loaded = [
        AutoModelForCausalLM.from_pretrained(path) for path in (tiny_model, other_model.path, tmp_path / "merged")
    ]
    for base, trained, merged in zip(*(model.parameters() for model in loaded), strict=True):
        torch.testing.assert_close(merged, 0.75 * base + 0.25 * trained)


def test_curve_is_in_the_order_of_tokens_and_merges_meet_its_ends(tiny_model, other_model, tmp_path):
    base = Model(path=str(tiny_model))
    checkpoints = [(2000, other_model), (1000, base)]
    points = forgetting_curve(
        base, checkpoints, TEXTS, SETTINGS, cache=tmp_path / "c", merge_factors=[0.5, 1.0], scratch=tmp_path
    )
    assert [point.kind for point in points] == ["base", "checkpoint", "checkpoint", "merge", "merge"]
    assert [point.tokens for point in points] == [0, 1000, 2000, None, None]
    assert points[0].bits_per_byte == points[1].bits_per_byte and set(points[0].bits_per_byte) == {"en", "zh"}
    assert points[4].bits_per_byte == pytest.approx(points[2].bits_per_byte)
    assert not list(tmp_path.glob("merge-*"))
    drawn = plane(points, ["zh"], ["en"])
    assert drawn[0]["gain"] == 0 == drawn[0]["loss"]
    first, last = points[0].bits_per_byte, points[2].bits_per_byte
    assert drawn[2]["gain"] == pytest.approx(1 - last["zh"] / first["zh"])
    assert drawn[2]["loss"] == pytest.approx(last["en"] / first["en"] - 1)


def test_models_of_other_shape_cannot_be_merged(tiny_model, tmp_path):
    longer = make_model(tmp_path / "longer", make_tokenizer(["abab abab"], 259))
    with pytest.raises(UserError, match="cannot be merged"):
        merge_models(Model(path=str(tiny_model)), Model(path=str(longer)), 0.5, tmp_path / "merged")

"""`--adopt` on stages that are finished: resume from the end, or refuse; never a second training in silence."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.pipeline.conftest import small_recipe

from reprise.errors import UserError
from reprise.pipeline import run_stages
from reprise.recipe import Recipe


@pytest.fixture(scope="module")
def make(tiny_model, tmp_path_factory):
    """A recipe in a workspace of a name; the same text and model in all."""
    root = tmp_path_factory.mktemp("adopt")

    def recipe(name, tokens, **stage):
        data = small_recipe(root / name, tiny_model)
        for one in data["stages"]:
            one["topics"] = {"sources": ["web"]}
        data["stages"][0] |= {"tokens": tokens, **stage}
        return Recipe.model_validate(data)

    return recipe


def train(recipe, *until, **options):
    said = []
    run_stages(recipe, until=until or ["train-1"], say=said.append, **options)
    return "\n".join(said)


def weights(recipe, stage="train-1"):
    return load_file(Path(recipe.workspace) / stage / "model" / "model.safetensors")


def events(recipe, stage="train-1"):
    lines = (Path(recipe.workspace) / stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_a_finished_stage_goes_on_from_its_end_to_more_tokens(make):
    train(make("short", 2048))
    first = weights(make("short", 2048))
    said = train(make("short", 4096), adopt=True)
    assert "resumes from its end at 2,048 tokens" in said
    train(make("whole", 4096))
    longer, whole = weights(make("short", 4096)), weights(make("whole", 4096))
    assert all((longer[name] == whole[name]).all() for name in whole), "as if it had never stopped"
    assert any((longer[name] != first[name]).any() for name in whole)
    (resume,) = [event for event in events(make("short", 4096)) if event["kind"] == "resume"]
    assert resume["tokens"] == 2048
    steps = [event["tokens"] for event in events(make("short", 4096)) if event["kind"] == "step"]
    assert steps == [512 * (number + 1) for number in range(8)], "each step once"
    assert "was kept" in train(make("short", 2048)), "the shorter one is not lost"
    assert all((weights(make("short", 2048))[name] == first[name]).all() for name in first)


@pytest.mark.slow
def test_a_finished_stage_with_nothing_left_to_train_is_refused(make):
    train(make("done", 2048))
    for stage in ({"tokens": 1024}, {"tokens": 2048, "schedule": {"peak_lr": 2e-3}}):
        with pytest.raises(UserError, match=r"finished .* --adopt leaves nothing to train") as refused:
            train(make("done", **stage), adopt=True)
        assert "leave --adopt out" in str(refused.value)
    assert train(make("done", 2048), adopt=True) == "", "unchanged, it is fresh"


@pytest.mark.slow
def test_the_stage_after_one_that_went_on_is_trained_from_its_beginning(make):
    train(make("two", 2048), "train-2")
    said = train(make("two", 3072), "train-2", adopt=True)
    assert "train-1: resumes from its end" in said
    assert "train-2: is trained from its beginning, as train-1, which it follows, is another" in said
    assert not [event for event in events(make("two", 3072), "train-2") if event["kind"] == "resume"]
    train(make("two-whole", 3072), "train-2")
    resumed, whole = weights(make("two", 3072), "train-2"), weights(make("two-whole", 3072), "train-2")
    assert all((resumed[name] == whole[name]).all() for name in whole)

"""A stage that trains only the rows of new tokens: every other number stays as it is, to the bit."""

import shutil

import pytest
import torch
from tests.training.conftest import SEQ_LEN, assert_same_weights, events, make_stage, make_training, weights_of
from tests.training.test_parallel import assert_close, run_together
from transformers import AutoModelForCausalLM

from reprise.model.new_tokens import write_new_tokens
from reprise.recipe.model import Model
from reprise.training.checkpoint import load_checkpoint
from reprise.training.stage import run

FIRST_ID = 300
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="module")
def untied_model(tmp_path_factory, base_model):
    folder = tmp_path_factory.mktemp("untied") / "model"
    shutil.copytree(base_model, folder)
    model = AutoModelForCausalLM.from_pretrained(base_model, tie_word_embeddings=False)
    dice = torch.Generator().manual_seed(5)  # else the model depends on the tests before
    shape = model.lm_head.weight.shape
    model.lm_head.weight = torch.nn.Parameter(0.1 * torch.randn(shape, generator=dice))
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def vocabulary(tmp_path):
    folder = tmp_path / "vocabulary"
    folder.mkdir()
    write_new_tokens(folder, {"first_id": FIRST_ID, "tokens": []})
    return folder


def only_new(arguments, model, *, steps=4, trains="new_tokens", **training):
    stage = make_stage(tokens=SEQ_LEN * 4 * steps, schedule={"peak_lr": 3e-3}, trains=trains)
    seldom = {"every_tokens": 0, "max_tokens": 64}
    settings = make_training(**{"validation": seldom, **training})
    return {**arguments, "stage": stage, "training": settings, "model": Model(path=str(model))}


def assert_only_new_rows_moved(folder, base):
    before, after = weights_of(base), weights_of(folder)
    assert before.keys() == after.keys()
    for name, value in before.items():
        if name in (EMBEDDINGS, HEAD):
            assert torch.equal(value[:FIRST_ID], after[name][:FIRST_ID]), name
            assert not torch.equal(value[FIRST_ID:], after[name][FIRST_ID:]), name
        else:
            assert torch.equal(value, after[name]), name


@pytest.mark.parametrize(
    "training",
    [
        {"optimizer": {"weight_decay": 0.5}},
        {"optimizer": {"kind": "muon", "weight_decay": 0.5}},
        {"precision": "bf16", "master_weights": "bf16"},
        {"precision": "bf16"},
        {"shard_one_process": True},
    ],
    ids=["adamw", "muon", "bf16 master weights", "bf16", "sharded"],
)
def test_every_other_number_stays(arguments, make_work, vocabulary, untied_model, training):
    base = untied_model
    if training.get("master_weights") == "bf16":  # else the difference would be that of the type
        base = vocabulary.parent / "rounded"
        shutil.copytree(untied_model, base)
        AutoModelForCausalLM.from_pretrained(untied_model, dtype=torch.bfloat16).save_pretrained(base)
    work = make_work(vocabulary=vocabulary)
    run(work, **only_new(arguments, base, **training))
    assert_only_new_rows_moved(work.output / "model", base)
    before, after = (  # not the losses of two steps, which are of different rows
        sum(one["nll"] for one in event["validation"]) for event in events(work, "validation")
    )
    assert after < before


def test_a_tied_head_is_one_weight(arguments, make_work, vocabulary, base_model):
    work = make_work(vocabulary=vocabulary)
    run(work, **only_new(arguments, base_model))
    assert_only_new_rows_moved(work.output / "model", base_model)


@pytest.mark.slow
def test_two_processes_that_hold_half_of_the_rows_each_move_only_the_new_ones(
    arguments, make_work, vocabulary, untied_model
):
    settings = only_new(arguments, untied_model, sharding="full")
    one, two = make_work("one.partial", vocabulary=vocabulary), make_work("two.partial", vocabulary=vocabulary)
    run(one, **settings)
    run_together(2, settings, two)
    assert_only_new_rows_moved(two.output / "model", untied_model)
    assert_close(one, two)


def test_stopped_and_resumed_it_has_the_same_bits(arguments, make_work, vocabulary, base_model, stop_after):
    settings = only_new(arguments, base_model)
    whole, parts = make_work("whole.partial", vocabulary=vocabulary), make_work("parts.partial", vocabulary=vocabulary)
    run(whole, **settings)
    stop_after(2, parts, settings)
    run(parts, **settings)
    assert_same_weights(whole.output / "model", parts.output / "model")


def test_moments_are_carried_only_between_stages_that_train_the_same(
    arguments, make_work, vocabulary, base_model, monkeypatch
):
    """Moments of a stage that trained all would move weights that are not to be trained."""
    taken = []

    def load(folder, model, optimizer=None, average=None):
        taken.append(optimizer is not None)
        return load_checkpoint(folder, model, optimizer, average)

    monkeypatch.setattr("reprise.training.stage.load_checkpoint", load)
    order = ("all", "new_tokens", "new_tokens", "all")
    works = [make_work("train-1.partial", vocabulary=vocabulary)]
    run(works[0], **only_new(arguments, base_model, steps=2, trains=order[0]))
    for index, trains in enumerate(order[1:], 1):
        before = {f"train-{index}": works[-1].output}
        works.append(make_work(f"train-{index + 1}.partial", vocabulary=vocabulary, **before))
        settings = only_new(arguments, base_model, steps=2, trains=trains)
        run(works[-1], **{**settings, "stage_index": index})
        if trains == "new_tokens":
            assert_only_new_rows_moved(works[-1].output / "model", works[-2].output / "model")
    assert taken == [False, True, False]

"""Checkpoints to Hugging Face directories, means of weights, mixtures with the base model."""

import resource
import shutil

import pytest
import torch
from tests.models import write_tiny_model
from tests.training.conftest import SEQ_LEN, assert_same_weights, events, make_training, weights_of

from reprise.errors import UserError
from reprise.recipe.model import Model
from reprise.training.checkpoint import checkpoints_in
from reprise.training.export import export_checkpoint, merge_with_base
from reprise.training.stage import run


def test_a_checkpoint_becomes_the_model_of_its_step(arguments, make_work, tmp_path):
    work = make_work()
    every = SEQ_LEN * 4 * 3
    arguments["training"] = make_training(checkpoints={"every_tokens": every, "keep_every_tokens": every * 2})
    run(work, **arguments)
    assert [path.name for path in checkpoints_in(work.output / "checkpoints")] == ["step-00000006"]
    export_checkpoint(work.output / "state", arguments["model"], tmp_path / "last")
    assert_same_weights(work.output / "model", tmp_path / "last")
    export_checkpoint(checkpoints_in(work.output / "checkpoints")[0], arguments["model"], tmp_path / "middle")
    middle, last = weights_of(tmp_path / "middle"), weights_of(tmp_path / "last")
    assert any(not torch.equal(middle[name], last[name]) for name in last)
    with pytest.raises(UserError, match="the folder exists"):
        export_checkpoint(work.output / "state", arguments["model"], tmp_path / "last")
    with pytest.raises(UserError, match="contains no mean"):
        export_checkpoint(work.output / "state", arguments["model"], tmp_path / "mean", averaged=True)


@pytest.fixture
def checkpoint(arguments, make_work):
    work = make_work()
    run(work, **arguments)
    return work.output / "state"


def flip(checkpoint):
    shard = checkpoint / "__0_0.distcp"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)


@pytest.mark.parametrize("damage,message", [(flip, "checksum differs"), (shutil.rmtree, r"no checkpoint: .*\n.*step-")])
def test_a_damaged_checkpoint_becomes_no_model(arguments, checkpoint, tmp_path, damage, message):
    damage(checkpoint)
    with pytest.raises(UserError, match=message):
        export_checkpoint(checkpoint, arguments["model"], tmp_path / "model")
    assert not list(tmp_path.glob("model*"))


def test_a_checkpoint_of_another_model_is_refused(checkpoint, passages, tmp_path):
    other = write_tiny_model(tmp_path / "other", [passage["text"] for passage in passages], 600)
    with pytest.raises(UserError, match=r"does not fit the model .*\[512, 32\].*\[600, 32\]"):
        export_checkpoint(checkpoint, Model(path=str(other)), tmp_path / "model")
    assert not list(tmp_path.glob("model*"))


def test_a_full_disk_leaves_no_half_of_a_model(arguments, checkpoint, base_model, tmp_path, small_disk):
    small_disk(20_000)
    with pytest.raises(UserError, match="cannot be written: File too large"):
        export_checkpoint(checkpoint, arguments["model"], tmp_path / "model")
    with pytest.raises(UserError, match="cannot be written"):
        merge_with_base(base_model, arguments["model"], 0.5, tmp_path / "model")
    small_disk(resource.RLIM_INFINITY)
    assert not list(tmp_path.glob("model*"))
    with pytest.raises(UserError, match="cannot be written"):
        export_checkpoint(checkpoint, arguments["model"], checkpoint / "checkpoint.json" / "model")


@pytest.mark.parametrize("kind", ["mean", "ema"])
def test_the_written_model_is_the_mean(arguments, make_work, tmp_path, kind, monkeypatch):
    from reprise.training.averaging import Average

    seen = []
    original = Average.update

    def update(self, step, tokens):
        seen.append({name: value.clone() for name, value in self._objective.state_dict().items()})
        original(self, step, tokens)

    monkeypatch.setattr(Average, "update", update)
    work = make_work()
    averaging = {"kind": kind, "decay": 0.5, "tokens": SEQ_LEN * 4 * 5 if kind == "mean" else 0}
    arguments["training"] = make_training(averaging=averaging)
    run(work, **arguments)
    written = weights_of(work.output / "model")
    for name, value in written.items():
        samples = [weights[f"model.{name}"] for weights in seen]
        if kind == "mean":
            expected = torch.stack(samples[-5:]).double().mean(0)
        else:
            expected = samples[0].double()
            for sample in samples[1:]:
                expected = 0.5 * expected + 0.5 * sample
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    export_checkpoint(work.output / "state", arguments["model"], tmp_path / "mean", averaged=True)
    assert_same_weights(work.output / "model", tmp_path / "mean")


def test_the_mean_survives_a_stop(arguments, make_work, stop_after):
    arguments["training"] = make_training(averaging={"kind": "ema", "decay": 0.9})
    whole, broken = make_work("whole"), make_work("broken")
    run(whole, **arguments)
    stop_after(7, broken, arguments)
    run(broken, **arguments)
    assert_same_weights(whole.output / "model", broken.output / "model")
    assert events(broken, "resume")


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0])
def test_a_mixture_lies_between_base_and_trained(arguments, make_work, base_model, tmp_path, factor):
    work = make_work()
    run(work, **arguments)
    merge_with_base(work.output / "model", arguments["model"], factor, tmp_path / "merged")
    base, trained, merged = weights_of(base_model), weights_of(work.output / "model"), weights_of(tmp_path / "merged")
    for name in base:
        torch.testing.assert_close(merged[name], (1 - factor) * base[name] + factor * trained[name])


def test_a_factor_beyond_the_models_is_refused(arguments, base_model, tmp_path):
    with pytest.raises(UserError, match=r"--factor 1\.5"):
        merge_with_base(base_model, arguments["model"], 1.5, tmp_path / "merged")

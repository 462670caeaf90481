"""Adapters: what is trained and what stays, the merged model against peft's own merge, resume, export."""

import pytest
import torch
from safetensors.torch import load_file
from tests.training.conftest import SEQ_LEN, assert_same_weights, events, make_stage, make_training, weights_of
from transformers import AutoModelForCausalLM

from reprise.errors import UserError
from reprise.training import network
from reprise.training.adapter import check_adapter
from reprise.training.checkpoint import read_tensors
from reprise.training.export import export_checkpoint, merge_with_base
from reprise.training.stage import run
from reprise.training.trainer import Trainer

peft = pytest.importorskip("peft")

RANK, ALPHA = 4, 12.0


def adapted(arguments, *, steps=6, adapter=None, **training):
    settings = {"kind": "lora", "rank": RANK, "alpha": ALPHA, **(adapter or {})}
    stage = make_stage(tokens=SEQ_LEN * 4 * steps, schedule={"peak_lr": 3e-2})
    return {**arguments, "stage": stage, "training": make_training(adapter=settings, **training)}


def held_out_loss(work, index):
    return sum(entry["nll"] for entry in events(work, "validation")[index]["validation"])


def saved_adapter(state, model):
    """The tensors of a checkpoint, under the names of a model of peft."""
    tensors = {
        f"model.{name.removeprefix('base_model.model.')}": torch.zeros_like(value)
        for name, value in model.named_parameters()
        if "lora_" in name
    }
    read_tensors(state, {"model": tensors}, alone=True)
    return {f"base_model.model.{name.removeprefix('model.')}": value for name, value in tensors.items()}


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_published_model_is_what_peft_makes_of_the_same_adapter(arguments, make_work, base_model, kind):
    work = make_work()
    run(work, **adapted(arguments, adapter={"kind": kind}))
    assert held_out_loss(work, -1) < held_out_loss(work, 0) - 0.01
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=linear, use_dora=kind == "dora")
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32), config)
    model.load_state_dict(saved_adapter(work.output / "state", model), strict=False)
    expected = model.merge_and_unload().state_dict()
    published, base = weights_of(work.output / "model"), weights_of(base_model)
    assert published.keys() == base.keys()
    for name, value in published.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)
        assert torch.equal(value, base[name]) == (".self_attn." not in name and ".mlp." not in name), name


def test_embeddings_learn_at_a_rate_of_their_own(arguments, make_work, base_model, monkeypatch):
    rates, step = [], Trainer.step

    def noted(trainer):
        step(trainer)
        rates.append({group["lr_scale"]: group["lr"] for group in trainer.optimizer.param_groups})

    monkeypatch.setattr(Trainer, "step", noted)
    work = make_work()
    adapter = {"train_embeddings": True, "embeddings_lr_scale": 0.25, "targets": ["q_proj"]}
    run(work, **adapted(arguments, adapter=adapter, precision="bf16"))
    assert rates[-1] == {1.0: pytest.approx(3e-2), 0.25: pytest.approx(7.5e-3)}
    published, base = weights_of(work.output / "model"), weights_of(base_model)
    changed = {name for name in base if not torch.allclose(published[name], base[name].bfloat16().float())}
    assert changed == {"model.embed_tokens.weight", *(f"model.layers.{i}.self_attn.q_proj.weight" for i in range(2))}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_stopped_run_resumes_exactly_and_saves_only_what_is_trained(
    arguments, make_work, stop_after, base_model, precision, tmp_path
):
    settings = adapted(
        arguments, precision=precision, averaging={"kind": "ema", "decay": 0.5}, adapter={"kind": "dora"}
    )
    whole, stopped = make_work("whole"), make_work("stopped")
    run(whole, **settings)
    stop_after(3, stopped, settings)
    run(stopped, **settings)
    assert [event["step"] for event in events(stopped, "resume")] == [3]
    assert_same_weights(whole.output / "model", stopped.output / "model")
    saved = sum(path.stat().st_size for path in (whole.output / "state").glob("*.distcp"))
    size = sum(value.nbytes for value in weights_of(whole.output / "model").values())
    assert saved < 4 * size  # weights, two moments and the mean would be that without the embeddings
    export_checkpoint(whole.output / "state", arguments["model"], tmp_path / "mean", averaged=True)
    assert_same_weights(whole.output / "model", tmp_path / "mean")
    export_checkpoint(whole.output / "state", arguments["model"], tmp_path / "last")
    assert not torch.equal(*(load_file(tmp_path / name / "model.safetensors")[Q] for name in ("mean", "last")))
    merge_with_base(whole.output / "model", arguments["model"], 0.5, tmp_path / "half")
    half, trained, base = (
        load_file(folder / "model.safetensors")[Q] for folder in (tmp_path / "half", whole.output / "model", base_model)
    )
    torch.testing.assert_close(half, (trained + base) / 2)


Q = "model.layers.0.self_attn.q_proj.weight"


def test_the_second_stage_trains_the_adapter_of_the_first_further(arguments, make_work):
    settings = adapted(arguments)
    first = make_work("train-1")
    run(first, **settings)
    second = make_work("train-2", **{"train-1": first.output})
    run(second, **{**settings, "stage_index": 1})
    start, end = (events(work, "validation")[index]["validation"] for work, index in ((second, 0), (first, -1)))
    assert [entry["nll"] for entry in start] == [entry["nll"] for entry in end]


def test_the_merged_model_answers_like_the_trained_one_in_another_process(arguments, make_work):
    run(make_work(), **adapted(arguments, steps=2, adapter={"kind": "dora"}, verify_model=True, precision="bf16"))


def test_what_cannot_be_trained_is_refused_in_one_message(arguments, make_work, monkeypatch):
    with pytest.raises(UserError, match="4-bit weights need a GPU"):
        run(make_work(), **adapted(arguments, adapter={"base": "nf4"}))
    with pytest.raises(UserError, match=r"no linear layer c_attn[\s\S]*choose from down_proj, gate_proj"):
        run(make_work("second"), **adapted(arguments, adapter={"targets": ["q_proj", "c_attn"]}))
    with pytest.raises(UserError, match="trained by one process, and there are 2"):
        training = adapted(arguments, adapter={"base": "nf4"})["training"]
        check_adapter(training.adapter, torch.device("cuda"), world=2)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"pip install 'reprise-cpt\[adapters\]'"):
        check_adapter(adapted(arguments)["training"].adapter, torch.device("cpu"), world=1)


def test_a_checkpoint_of_an_adapter_is_not_resumed_without_it(arguments, make_work, stop_after):
    work, settings = make_work(), adapted(arguments)
    stop_after(2, work, settings)
    with pytest.raises(UserError, match=r"other settings.*adapter"):
        run(work, **{**settings, "training": make_training()})


def test_four_bit_weights_are_replaced_and_merged(arguments, make_work, monkeypatch, base_model):
    """On a CPU, where bitsandbytes computes them too; what a GPU's kernels do is not shown by this."""
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(network, "check_adapter", lambda *_args, **_others: None)
    work = make_work()
    settings = adapted(arguments, adapter={"base": "nf4"}, precision="bf16")
    run(work, **{**settings, "stage": make_stage(tokens=SEQ_LEN * 8, schedule={"peak_lr": 1e-6})})
    published, base = weights_of(work.output / "model"), weights_of(base_model)
    assert published.keys() == base.keys()
    assert torch.equal(published["model.norm.weight"], base["model.norm.weight"])
    distance = (published[Q] - base[Q]).norm() / base[Q].norm()
    assert 0.02 < distance < 0.2  # what 4 bits leave out, at almost no training


@pytest.mark.parametrize("kind,precision", [("none", "float32"), ("lora", "bf16"), ("dora", "float32")])
def test_one_process_that_shards_trains_like_one_that_does_not(arguments, make_work, base_model, kind, precision):
    works = [make_work(name) for name in ("plain", "sharded")]
    for work, sharded in zip(works, (False, True), strict=True):
        adapter = {"kind": kind, "train_embeddings": kind == "lora"}
        run(work, **adapted(arguments, steps=3, adapter=adapter, precision=precision, shard_one_process=sharded))
    losses = [[event["loss"] for event in events(work, "step")] for work in works]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5 if precision == "float32" else 5e-3)
    plain, sharded, base = (weights_of(folder) for folder in (*(work.output / "model" for work in works), base_model))
    apart, moved = (
        torch.stack([(plain[name] - other[name]).norm() for name in plain]).norm() for other in (sharded, base)
    )
    assert apart < (0.01 if precision == "float32" else 0.2) * moved

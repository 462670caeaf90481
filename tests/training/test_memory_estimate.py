"""The estimate of memory: what it counts, and what it advises."""

import dataclasses

import pytest
import torch
from tests.training.conftest import make_training
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaModel, MixtralConfig

from reprise.errors import UserError
from reprise.recipe import Recipe
from reprise.recipe.training import Adapter
from reprise.training import memory_plan, stage
from reprise.training.adapter import add_adapter
from reprise.training.memory_advice import changes_that_fit
from reprise.training.memory_estimate import Setup, estimate_memory, measure_shape
from reprise.training.trainer import Trainer

CONFIG = LlamaConfig(
    vocab_size=1000, hidden_size=64, intermediate_size=128, num_hidden_layers=6, num_attention_heads=4,
    num_key_value_heads=2, tie_word_embeddings=False,
)  # fmt: skip
SETUP = Setup("cuda", 1, 1, 2, 256, 2, 4, "full", "sharded", "none", False)
LLAMA_8B = LlamaConfig(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8, tie_word_embeddings=False,
)  # fmt: skip


def test_weights_moments_and_gradients_are_those_of_the_parameters():
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(CONFIG)
    count = sum(parameter.numel() for parameter in model.parameters())
    alone = estimate_memory(measure_shape(CONFIG, SETUP), SETUP)
    assert (alone["master"], alone["working"], alone["moments"], alone["gradients"]) == (
        4 * count, 2 * count, 8 * count, 4 * count,
    )  # fmt: skip
    sharded = dataclasses.replace(SETUP, world=8, local_world=8)
    shared = estimate_memory(measure_shape(CONFIG, sharded), sharded)
    assert (shared["master"], shared["working"], shared["gradients"]) == (4 * count // 8, 0, 4 * count // 8)
    whole = dataclasses.replace(sharded, gradient_accumulation="whole")
    assert estimate_memory(measure_shape(CONFIG, whole), whole)["gradients"] > 4 * count


def kept_bytes(model):
    """Bytes that autograd keeps of a forward pass of [2, 256] ids, weights left out."""
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.base_model(torch.zeros((2, 256), dtype=torch.int64))
    return sum(storage.nbytes() for storage in kept.values())


def test_kept_activations_are_those_of_a_real_forward_pass():
    """Autograd keeps as many bytes of real tensors as of fake ones."""
    from transformers import AutoModelForCausalLM

    setup = dataclasses.replace(SETUP, device="cpu", compute_bytes=4)
    shape = measure_shape(CONFIG, setup)
    model = AutoModelForCausalLM.from_config(CONFIG, dtype=torch.float32)
    assert shape.kept == pytest.approx(kept_bytes(model), rel=0.03)


def test_llama_8b_on_eight_gpus_takes_what_the_audit_found():
    """73, 50 and 28 GB, worked out by hand and on a fake process group of 8."""
    setup = Setup("cuda", 8, 8, 2, 8192, 1, 64, "full", "sharded", "none", False)
    shape = measure_shape(LLAMA_8B, setup)
    assert shape.parameters == 8_030_261_248
    totals = [
        estimate_memory(shape, dataclasses.replace(setup, activation_checkpointing=mode))["total"] / 1e9
        for mode in ("none", "selective", "full")
    ]
    assert totals == pytest.approx([73, 50, 28], rel=0.1)


def test_advice_fits_and_names_no_more_than_it_must():
    setup = dataclasses.replace(SETUP, world=4, local_world=4, sharding="gradients", gradient_accumulation="whole")
    total = estimate_memory(measure_shape(CONFIG, setup), setup)["total"]
    changes = changes_that_fit(CONFIG, setup, total - 1)
    assert changes
    for change in changes:
        assert change.total < total
        assert not any(other is not change and other.settings.items() <= change.settings.items() for other in changes)
    assert changes_that_fit(CONFIG, setup, 1) == []


def test_a_plan_says_whether_it_fits(base_model):
    stages = [{"name": "one", "tokens": 1000, "mixture": {"en": {"share": 1.0, "sources": {"web": 1.0}}}}]
    settings = {
        "name": "x",
        "workspace": "runs/x",
        "model": {"path": str(base_model)},
        "rows": {"seq_len": 64},
        "stages": stages,
    }
    plan = memory_plan.plan_memory(Recipe(**settings, hardware={"gpu": "L4"}))
    assert plan["fits"] and plan["memory_gb"] == 24.0
    assert memory_plan.memory_lines(plan)[-1] == "fits L4 (24 GB)"
    small = memory_plan.plan_memory(Recipe(**settings, hardware={"gpu": "L4", "memory_gb": 0.5}))
    assert not small["fits"]
    assert "does not fit L4 (0.5 GB)" in memory_plan.memory_lines(small)


@pytest.mark.parametrize(
    "error", [DataDependentOutputException("aten.item"), DynamicOutputShapeException("aten.nonzero")]
)
def test_a_model_that_depends_on_its_numbers_is_not_guessed(monkeypatch, error):
    def depends(*_args, **_inputs):
        raise error

    monkeypatch.setattr(memory_plan, "load_config", lambda _model: CONFIG)
    monkeypatch.setattr(LlamaModel, "forward", depends)
    stages = [{"name": "one", "tokens": 1000, "mixture": {"en": {"share": 1.0, "sources": {"web": 1.0}}}}]
    plan = memory_plan.plan_memory(Recipe(name="x", workspace="runs/x", model={"path": "x"}, stages=stages))
    assert plan["estimate"] is None and plan["fits"] is None and plan["changes"] == []
    assert memory_plan.memory_lines(plan) == [f"memory of a GPU: not known: {plan['note']}"]
    assert "not known before it runs" in plan["note"]


def test_experts_count_in_full_though_a_token_meets_few(monkeypatch):
    """Memory holds all of them; transformers computes them in one product, so that a forward pass can be measured."""
    config = MixtralConfig(**{**CONFIG.to_dict(), "num_local_experts": 4, "num_experts_per_tok": 2})
    few, many = (
        estimate_memory(measure_shape(one, SETUP), SETUP)
        for one in (config, MixtralConfig(**{**config.to_dict(), "num_local_experts": 8}))
    )
    expert = 3 * config.hidden_size * config.intermediate_size
    router = config.hidden_size
    assert many["master"] - few["master"] == 4 * 4 * config.num_hidden_layers * (expert + router)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_is_counted_as_it_is_trained(kind):
    """Parameters, and what autograd keeps of a real forward pass."""
    pytest.importorskip("peft")
    adapter = Adapter(kind=kind, rank=8)
    setup = dataclasses.replace(SETUP, device="cpu", compute_bytes=4, adapter=adapter)
    shape = measure_shape(CONFIG, setup)
    model = AutoModelForCausalLM.from_config(CONFIG, dtype=torch.float32)
    count = sum(parameter.numel() for parameter in model.parameters())
    add_adapter(model, list(model.model.layers), adapter, torch.float32)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert (shape.parameters, shape.trained) == (count, trained)
    assert shape.kept == pytest.approx(kept_bytes(model), rel=0.1)


def test_llama_8b_with_an_adapter_fits_a_card_of_24_gb():
    pytest.importorskip("peft")
    adapter = Adapter(kind="lora")
    setup = dataclasses.replace(
        SETUP, seq_len=4096, micro_batch_rows=1, activation_checkpointing="full", adapter=adapter
    )
    estimate = estimate_memory(measure_shape(LLAMA_8B, setup), setup)
    assert estimate["frozen"] == pytest.approx(16.06e9, rel=0.001)
    assert 18e9 < estimate["total"] < memory_plan.USABLE * 24e9
    four_bit = dataclasses.replace(setup, adapter=adapter.model_copy(update={"base": "nf4"}))
    assert estimate_memory(measure_shape(LLAMA_8B, four_bit), four_bit)["frozen"] == pytest.approx(5.70e9, rel=0.01)


def test_a_run_that_cannot_fit_is_refused_before_its_first_step(arguments, make_work, monkeypatch):
    monkeypatch.setattr(memory_plan, "_device_memory", lambda _device: 1e6)
    with pytest.raises(UserError, match=r"training would take about 0\.\d GB"):
        stage.run(make_work(), **arguments)


def test_out_of_memory_is_a_message_with_settings(arguments, make_work, monkeypatch):
    def fail(_trainer):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Trainer, "step", fail)
    arguments["training"] = make_training(micro_batch_rows=4)
    estimate = []
    monkeypatch.setattr(memory_plan, "changes_that_fit", lambda *args: estimate.append(args) or [])
    with pytest.raises(UserError, match=r"out of memory: CUDA out of memory"):
        stage.run(make_work(), **arguments)
    assert estimate

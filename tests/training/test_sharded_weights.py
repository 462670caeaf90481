"""Weights go from files to shards and back without the whole model in a process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.forked_group import run_group
from tests.model.broken_models import change_weights
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from reprise.errors import UserError
from reprise.model.loading import load_model, load_skeleton, names_match, open_model_weights
from reprise.recipe.model import Model
from reprise.training import sharded_weights as streaming
from reprise.training.sharded_weights import write_shards

SCRIPT = Path(__file__).with_name("memory_script.py")
REFUSALS = Path(__file__).with_name("refusal_script.py")
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.slow
def test_no_process_ever_holds_the_whole_model(tmp_path):
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=64, **SMALL)).save_pretrained(tmp_path / "small")
    config = LlamaConfig(
        vocab_size=8_000, hidden_size=1024, intermediate_size=4096, num_hidden_layers=4, num_attention_heads=8
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "large", max_shard_size="100MB")
    size = sum(value.nbytes for value in model.state_dict().values())
    expected = model.lm_head.weight.double().sum().item()
    assert size > 300e6
    del model
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(SCRIPT), str(tmp_path)], env=environment, check=True, timeout=300)
    for rank in range(2):
        found = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert found["sum"] == pytest.approx(expected)
        # Half of the weights, a little to work in; pages of the files that are mapped count too.
        assert found["bytes"] < 0.8 * size


def test_a_skeleton_has_the_names_and_the_buffers_of_the_model(tmp_path):
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=True, **SMALL))
    model.save_pretrained(tmp_path)
    settings = Model(path=str(tmp_path))
    skeleton, whole = load_skeleton(settings), load_model(settings)
    assert {parameter.device.type for parameter in skeleton.parameters()} == {"meta"}
    assert [name for name, _ in skeleton.named_parameters()] == [name for name, _ in whole.named_parameters()]
    assert skeleton.lm_head.weight is skeleton.model.embed_tokens.weight
    for (name, expected), (_, actual) in zip(whole.named_buffers(), skeleton.named_buffers(), strict=True):
        assert torch.equal(expected, actual), name
    stored = open_model_weights(settings)
    assert names_match(skeleton, settings, stored)
    assert set(stored.files) == {name for name, _ in whole.named_parameters()}


def test_weights_that_are_converted_while_loading_are_not_taken_for_shards(tmp_path):
    MixtralForCausalLM(MixtralConfig(vocab_size=64, num_local_experts=2, **SMALL)).save_pretrained(tmp_path)
    settings = Model(path=str(tmp_path))
    assert not names_match(load_skeleton(settings), settings, open_model_weights(settings))


def test_files_are_cut_where_they_grow_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "FILE_BYTES", 4_000)
    config = LlamaConfig(vocab_size=64, **SMALL)
    model = LlamaForCausalLM(config)
    write_shards(model.state_dict(), torch.float32, tmp_path, writes=True)
    config.save_pretrained(tmp_path)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    assert all(sum(value.nbytes for value in load_file(file).values()) <= 4_096 for file in files)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


UP, NORM = "model.layers.0.mlp.up_proj.weight", "model.norm.weight"


def _damaged_models(folder):
    """Small models, each with one fault of its weights; in one of them the files do not have the model's own names."""
    faults = {
        "a whole one": lambda tensors: None,
        "missing": lambda tensors: tensors.pop(UP),
        "missing twice": lambda tensors: (tensors.pop(UP), tensors.pop(NORM)),
        "another shape": lambda tensors: tensors.update({UP: tensors[UP][:-1]}),
        "surplus": lambda tensors: tensors.update(extra=torch.ones(3)),
        "nan in the last row": lambda tensors: tensors[UP][-1].fill_(float("nan")),
        "infinite in the first row": lambda tensors: tensors[UP][0, :1].fill_(float("-inf")),
        "nan in a vector": lambda tensors: tensors[NORM][7:].fill_(float("nan")),
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **SMALL))
    for name, fault in faults.items():
        model.save_pretrained(folder / name)
        change_weights(folder / name, fault)
    mixtral = MixtralForCausalLM(
        MixtralConfig(vocab_size=64, num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1, **SMALL)
    )
    for name in ("experts, missing", "experts, nan"):
        mixtral.save_pretrained(folder / name)
    expert = next(key for key in load_file(folder / name / "model.safetensors") if ".experts.1." in key)
    change_weights(folder / "experts, missing", lambda tensors: tensors.pop(expert))
    change_weights(folder / "experts, nan", lambda tensors: tensors[expert].fill_(float("nan")))


@pytest.mark.slow
def test_damaged_weights_are_refused_the_same_in_one_process_and_in_two(tmp_path):
    """Also where only the second process would read the damaged row; the first one tells it, and none waits."""
    _damaged_models(tmp_path)
    alone = {}
    for path in sorted(tmp_path.glob("*/config.json")):
        try:
            load_model(Model(path=str(path.parent)))
            alone[path.parent.name] = None
        except UserError as error:
            alone[path.parent.name] = str(error)
    assert [name for name, message in alone.items() if message is None] == ["a whole one"]
    assert UP in alone["nan in the last row"] and NORM in alone["missing twice"]
    errors = tmp_path / "stderr.log"
    assert run_group(REFUSALS, [tmp_path], 2, errors) == [0, 0], errors.read_text(encoding="utf-8")[-3000:]
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    assert first == alone
    assert second == {name: None if message is None else 2 for name, message in alone.items()}

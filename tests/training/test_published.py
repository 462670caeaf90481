"""The published folder is, in another process and at another path, the model that was trained."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.model.broken_models import WEIGHTS, change_weights, edit, write_whole_model
from tests.training.conftest import make_training

from reprise.errors import UserError
from reprise.model.loading import load_model
from reprise.model.objective import Objective
from reprise.recipe.model import Model
from reprise.training.export import merge_with_base
from reprise.training.published import check_published, make_probe
from reprise.training.stage import run

OWN_CODE = {
    "own_parts.py": "SCALE = 2.0\n",
    "configuration_own.py": """from transformers import LlamaConfig


class OwnConfig(LlamaConfig):
    model_type = "own"
""",
    "modeling_own.py": """from transformers import LlamaForCausalLM

from .configuration_own import OwnConfig
from .own_parts import SCALE


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * SCALE
        return output
""",
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_whole_model(tmp_path / "base")


def test_a_stage_ends_with_a_model_that_another_process_reads(arguments, make_work) -> None:
    work = make_work()
    run(work, **arguments | {"training": make_training(verify_model=True, averaging={"kind": "ema", "decay": 0.5})})
    assert (work.output / "model" / "tokenizer.json").is_file()


def test_a_base_with_its_own_code(base: Path, tmp_path: Path) -> None:
    for name, content in OWN_CODE.items():
        (base / name).write_text(content)
    auto_map = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    edit(base, "config.json", model_type="own", architectures=["OwnForCausalLM"], auto_map=auto_map)
    model = Model(path=str(base), trust_remote_code=True)
    merge_with_base(base, model, 0.5, tmp_path / "merged", verify=True)
    assert (tmp_path / "merged" / "own_parts.py").read_text() == OWN_CODE["own_parts.py"]
    (tmp_path / "merged" / "own_parts.py").unlink()
    with pytest.raises(UserError, match=r"another process cannot load it: .*own_parts"):
        check_published(tmp_path / "merged", probe_of(model), model, torch.float32)


def test_a_base_in_fp8_is_published_as_what_it_is(base: Path, tmp_path: Path) -> None:
    def quantize(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "proj" in name]:
            scale = tensors[name].abs().max() / 448.0
            tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scale.reshape(1, 1).float()

    change_weights(base, quantize)
    described = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128], "fmt": "e4m3"}
    edit(base, "config.json", quantization_config=described)
    merge_with_base(base, Model(path=str(base)), 0.0, tmp_path / "merged", verify=True)
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    stored = load_file(tmp_path / "merged" / WEIGHTS)
    assert {value.dtype for value in stored.values()} <= {torch.float32, torch.bfloat16}
    assert not any("scale" in name for name in stored)


def test_eos_of_the_recipe_is_that_of_the_published_model(base: Path, tmp_path: Path) -> None:
    edit(base, "tokenizer_config.json", eos_token=None)
    model = Model(path=str(base), eos="<|begin|>")
    merge_with_base(base, model, 0.0, tmp_path / "merged", verify=True)
    assert json.loads((tmp_path / "merged" / "tokenizer_config.json").read_text())["eos_token"] == "<|begin|>"
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["eos_token_id"] == 1


def probe_of(model: Model):
    return make_probe(Objective(load_model(model)), {}, model)


def replace_a_matrix(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = torch.randn_like(tensors[name]) * tensors[name].std()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "damage,message",
    [
        (lambda folder: (folder / WEIGHTS).unlink(), "another process cannot load it"),
        (
            lambda folder: edit(folder, "config.json", tie_word_embeddings=True, rms_norm_eps=1.0),
            "its logits differ by",
        ),
        (replace_a_matrix, "its logits differ by"),
        (lambda folder: edit(folder, "tokenizer.json", pre_tokenizer=None), "its tokenizer gives"),
        (lambda folder: edit(folder, "tokenizer_config.json", eos_token="<|begin|>"), "has the EOS id 1"),
    ],
    ids=["no weights", "another configuration", "a random matrix", "another tokenizer", "another EOS"],
)
def test_another_model_is_refused(base: Path, tmp_path: Path, damage, message: str) -> None:
    model = Model(path=str(base))
    probe = probe_of(model)
    folder = Path(shutil.copytree(base, tmp_path / "published"))
    damage(folder)
    with pytest.raises(UserError, match=message):
        check_published(folder, probe, model, torch.float32)

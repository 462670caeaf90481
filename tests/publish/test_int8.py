"""8-bit weights of tiny models: read back by transformers, each weight within a quantization step."""

import pytest
import torch
from tests.publish.models import TEXTS, write_family
from transformers import AutoModelForCausalLM

from reprise.errors import UserError
from reprise.publish import int8
from reprise.publish.export import Source, export_int8
from reprise.publish.int8 import check_int8_folder, write_int8
from reprise.recipe.model import Model


def test_without_torchao_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(int8.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"torchao(?s:.)*reprise-cpt\[int8\]"):
        write_int8(Model(path=str(tmp_path)), tmp_path)


@pytest.mark.parametrize("family", ["llama", "qwen3", "llama-untied", "llama-biased"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folder_computes_its_quantized_weights(tmp_path, family, dtype):
    pytest.importorskip("torchao")
    original = write_family(family, tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(original, dtype=dtype).save_pretrained(original)
    text = tmp_path / "text.txt"
    text.write_text(" ".join(TEXTS * 8))
    result = export_int8(Source.open(original), tmp_path / "out", check=True, text=text)
    assert result.check.difference < (1e-5 if dtype is torch.float32 else 0.05)
    assert 0 < result.check.divergence_nats < 0.1
    sizes = [next(folder.glob("*.safetensors")).stat().st_size for folder in (original, tmp_path / "out")]
    assert sizes[1] < (0.6 if dtype is torch.float32 else 0.9) * sizes[0]
    assert {path.name for path in original.iterdir()} <= {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("fault", ["exchanged", "scaled", "other norm"])
def test_damage_is_more_than_quantization_and_is_refused(tmp_path, monkeypatch, fault):
    pytest.importorskip("torchao")
    original = Model(path=str(write_family("llama", tmp_path / "model")))
    (tmp_path / "out").mkdir()
    write_int8(original, tmp_path / "out")
    load = AutoModelForCausalLM.from_pretrained

    def damaged(*arguments, **options):
        model = load(*arguments, **options)
        layer = model.model.layers[0]
        with torch.no_grad():
            if fault == "exchanged":
                layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight = (
                    layer.mlp.up_proj.weight,
                    layer.mlp.gate_proj.weight,
                )
            elif fault == "scaled":
                layer.self_attn.q_proj.weight.scale.mul_(1.05)
            else:
                layer.input_layernorm.weight.mul_(1.01)
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", damaged)
    with pytest.raises(UserError, match="differs from the original by"):
        check_int8_folder(original, tmp_path / "out", TEXTS)

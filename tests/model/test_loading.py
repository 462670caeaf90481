"""The base model is what its files say, or it is refused by name."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.model.broken_models import (
    NAMES,
    WEIGHTS,
    broken,
    change_weights,
    copy_of,
    edit,
    shard,
    to_bin,
    write_whole_model,
)
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    Qwen2Config,
)

from reprise.errors import Finding, UserError, out_of_memory
from reprise.model.check import check_model
from reprise.model.files import model_folder
from reprise.model.loading import load_config, load_model, load_skeleton, names_match, open_model_weights
from reprise.model.tokenizer import open_tokenizer
from reprise.model.weights import compare
from reprise.recipe.model import Model
from reprise.training.network import check_positions

TEXT = "the cat sat on the mat 123 times"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whole_model(tmp_path_factory.mktemp("whole"))


def outcome(folder: Path) -> torch.Tensor:
    """Logits of a text: ids and weights in one."""
    model = Model(path=str(folder))
    load_config(model)
    ids = torch.tensor(open_tokenizer(model).encode_batch([TEXT])[0].tolist())[None]
    with torch.no_grad():
        return load_model(model)(input_ids=ids).logits


@pytest.fixture(scope="module")
def expected(whole: Path) -> torch.Tensor:
    return outcome(whole)


@pytest.mark.parametrize("case", list(broken()))
def test_a_broken_model_is_refused_in_one_message_or_does_not_matter(
    whole: Path, expected: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "bomb"))
    folder = copy_of(whole, tmp_path / "model")
    broken()[case](folder)
    try:
        logits = outcome(folder)
    except UserError as error:
        assert error.where
        assert error.remedy
        assert len(error.what) < 600
    else:
        assert torch.equal(logits, expected), "silently another model"
    assert not (tmp_path / "bomb").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_weight_is_named(whole: Path, tmp_path: Path, name: str) -> None:
    folder = copy_of(whole, tmp_path / "model")
    change_weights(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(UserError, match=f"1 weight of the model missing in the files: {name}"):
        load_model(Model(path=str(folder)))


def test_a_surplus_tensor_is_named_and_constants_are_none(whole: Path, tmp_path: Path) -> None:
    folder = copy_of(whole, tmp_path / "model")
    change_weights(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    load_model(Model(path=str(folder)))
    change_weights(folder, lambda t: t.update({"model.layers.1.self_attn.k_proj.bias": torch.ones(32)}))
    with pytest.raises(UserError, match=r"does not have: model.layers.1.self_attn.k_proj.bias"):
        load_model(Model(path=str(folder)))


def test_another_shape_names_both(whole: Path, tmp_path: Path) -> None:
    folder = copy_of(whole, tmp_path / "model")
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    edit(folder, "config.json", vocab_size=rows + 100)
    message = rf"lm_head.weight is \[{rows}, 32\] in the files and \[{rows + 100}, 32\] by config.json"
    with pytest.raises(UserError, match=message):
        load_model(Model(path=str(folder)))


def test_not_a_number_is_named(whole: Path, tmp_path: Path) -> None:
    folder = copy_of(whole, tmp_path / "model")
    change_weights(folder, lambda tensors: tensors[NAMES[3]].fill_(float("nan")))
    with pytest.raises(UserError, match=f"1 weights are infinite or NaN: {NAMES[3]}"):
        load_model(Model(path=str(folder)))


def test_the_index_decides(whole: Path, expected: torch.Tensor, tmp_path: Path) -> None:
    """Beside it lie a single file and a shard of another save, with other values under the same names."""
    folder = copy_of(whole, tmp_path / "model")
    shard(folder)
    stale = {name: torch.zeros_like(value) for name, value in load_file(whole / WEIGHTS).items()}
    save_file(stale, folder / WEIGHTS, metadata={"format": "pt"})
    save_file(stale, folder / "model-00003-of-00003.safetensors", metadata={"format": "pt"})
    assert torch.equal(outcome(folder), expected)
    extra = load_file(folder / "model-00001-of-00002.safetensors") | {"left.over": torch.ones(3)}
    save_file(extra, folder / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    assert torch.equal(outcome(folder), expected)


def test_torch_files_and_tied_heads_are_read(whole: Path, expected: torch.Tensor, tmp_path: Path) -> None:
    folder = copy_of(whole, tmp_path / "bin")
    to_bin(folder)
    assert torch.equal(outcome(folder), expected)
    tied = copy_of(whole, tmp_path / "tied")
    edit(tied, "config.json", tie_word_embeddings=True)
    with pytest.raises(UserError, match=r"ties, with different values in the files: lm_head.weight and model.embed"):
        load_model(Model(path=str(tied)))
    change_weights(tied, lambda t: t.update({NAMES[1]: t[NAMES[0]].clone()}))
    both = outcome(tied)
    change_weights(tied, lambda t: t.pop(NAMES[1]))
    assert torch.equal(outcome(tied), both)
    change_weights(tied, lambda t: t.update({NAMES[1]: t.pop(NAMES[0])}))
    assert torch.equal(outcome(tied), both)


@pytest.mark.parametrize(
    "case", [name for name in broken() if name.startswith(("without ", "other shape ", "also ", "stored as "))]
)
def test_many_processes_refuse_what_one_refuses(whole: Path, tmp_path: Path, case: str) -> None:
    """What several processes look at before each reads its shard: the same message."""
    folder = copy_of(whole, tmp_path / "model")
    broken()[case](folder)
    model = Model(path=str(folder))
    with pytest.raises(UserError) as alone:
        load_model(model)
    skeleton, stored = load_skeleton(model), open_model_weights(model)
    if names_match(skeleton, model, stored):
        with pytest.raises(UserError) as shared:
            compare(skeleton, stored).refuse(stored.folder)
        assert str(shared.value) == str(alone.value)


def test_quantized_weights_are_refused_by_name(whole: Path, tmp_path: Path) -> None:
    folder = copy_of(whole, tmp_path / "model")
    edit(folder, "config.json", quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128})
    with pytest.raises(UserError, match=r"quantized \(gptq\) and cannot be trained"):
        load_config(Model(path=str(folder)))


def test_fp8_weights_become_ordinary_ones(whole: Path, tmp_path: Path) -> None:
    folder = copy_of(whole, tmp_path / "model")
    original = load_file(whole / WEIGHTS)

    def quantize(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "proj" in name]:
            scale = tensors[name].abs().max() / 448.0
            tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scale.reshape(1, 1).float()

    change_weights(folder, quantize)
    described = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128], "fmt": "e4m3"}
    edit(folder, "config.json", quantization_config=described)
    model = Model(path=str(folder))
    assert not names_match(load_skeleton(model), model, open_model_weights(model))
    loaded = load_model(model)
    assert not hasattr(loaded.config, "quantization_config")
    assert not hasattr(load_config(model), "quantization_config")
    for name, value in loaded.named_parameters():
        torch.testing.assert_close(value, original[name], rtol=0.07, atol=1e-4)
    loaded.save_pretrained(tmp_path / "saved")
    shutil.rmtree(tmp_path / "saved")


SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
FAMILIES = {
    "llama": LlamaConfig(vocab_size=40, **SMALL),
    "qwen2": Qwen2Config(vocab_size=40, num_key_value_heads=2, **SMALL),
    "gemma2": Gemma2Config(vocab_size=40, head_dim=8, num_key_value_heads=2, **SMALL),
    "opt": OPTConfig(vocab_size=40, hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2),
    "mixtral": MixtralConfig(vocab_size=40, num_local_experts=2, num_key_value_heads=2, **SMALL),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_eos_that_is_also_the_padding_token_learns(tmp_path: Path, family: str) -> None:
    config = copy.deepcopy(FAMILIES[family])
    config.eos_token_id = config.pad_token_id = 5
    config.tie_word_embeddings = False
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = load_model(Model(path=str(tmp_path)))
    ids = torch.tensor([[3, 5, 7, 5, 9]])
    model(input_ids=ids, labels=ids).loss.backward()
    gradient = model.get_input_embeddings().weight.grad
    assert gradient is not None
    assert gradient[5].abs().max() > 0
    skeleton = load_skeleton(Model(path=str(tmp_path)))
    assert skeleton.get_input_embeddings().padding_idx is None


def findings(folder: Path, seq_len: int = 64, **settings: object) -> list[Finding]:
    return list(check_model(Model(path=str(folder), **settings), seq_len))


def test_a_whole_model_passes_the_check_before_the_run(whole: Path) -> None:
    assert findings(whole) == []


@pytest.mark.parametrize(
    "case",
    ["git lfs", "weights cut at 0.5", "weights gone", "weights renamed", "shard gone", "shards without an index",
     "index no JSON", "index lacks a weight", "an adapter", "config cut", "config gone", "config git lfs",
     "tokenizer.json cut", "tokenizer.json git lfs", "EOS unknown", "no EOS",
     *(name for name in broken() if "quantization_config" in name and "fp8" not in name)],
)  # fmt: skip
def test_what_small_files_tell_is_told_before_the_run(whole: Path, tmp_path: Path, case: str) -> None:
    folder = copy_of(whole, tmp_path / "model")
    broken()[case](folder)
    if case == "index lacks a weight":  # whether it is needed, only the architecture knows
        assert findings(folder) == []
    else:
        (finding,) = findings(folder)
        assert finding.severity == "error"
        assert finding.remedy


def test_a_gguf_file_that_is_not_named_is_offered(tmp_path: Path) -> None:
    (tmp_path / "small-q4.gguf").write_bytes(b"GGUF")
    for call in (model_folder, load_config):
        with pytest.raises(UserError, match=r"(?s)GGUF files.*model\.gguf_file.*small-q4\.gguf"):
            call(Model(path=str(tmp_path)))


def test_rows_longer_than_the_model(whole: Path, tmp_path: Path) -> None:
    (finding,) = findings(whole, seq_len=65)
    assert (finding.severity, finding.where) == ("warning", "rows.seq_len = 65")
    config = GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    found = [one for one in findings(tmp_path, seq_len=33) if "positions" in one.what]
    assert [one.severity for one in found] == ["error"]
    with pytest.raises(UserError, match="33 is more than the 32 positions"):
        check_positions(load_config(Model(path=str(tmp_path))), 33)
    check_positions(load_config(Model(path=str(whole))), 65)
    check_positions(load_config(Model(path=str(tmp_path))), 32)


@pytest.mark.parametrize(
    "error,said",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "on the device: CUDA out of memory"),
        (MemoryError(), "on the host"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "on the host"),
        (OSError(12, "Cannot allocate memory"), "on the host"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
    ],
)
def test_memory_that_runs_out_is_recognised(error: BaseException, said: str | None) -> None:
    message = out_of_memory(error, "lower training.micro_batch_rows")
    assert (message is None) == (said is None)
    if said is not None:
        assert said in str(message)
        assert "-> lower training.micro_batch_rows" in str(message)

"""A small whole model folder, and a hundred ways to break it."""

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.model.test_tokenizer import save_model
from transformers import LlamaConfig, LlamaForCausalLM

SHARD = "model-00001-of-00002.safetensors"
LFS = "version https://git-lfs.github.com/spec/v1"
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
NAMES = (
    "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", "model.layers.1.mlp.down_proj.weight",
    "model.layers.0.self_attn.q_proj.weight", "model.layers.0.input_layernorm.weight",
)  # fmt: skip

Break = Callable[[Path], None]


def write_whole_model(folder: Path) -> Path:
    """A Llama of two layers with a head of its own, and a tokenizer."""
    save_model(folder, eos_token="<|end|>", bos_token="<|begin|>")
    vocab_size = json.loads((folder / CONFIG).read_text())["vocab_size"]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def edit(folder: Path, file: str, **changes: Any) -> None:
    content = json.loads((folder / file).read_text()) | changes
    (folder / file).write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(
        {name: value.contiguous() for name, value in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"}
    )


def shard(folder: Path) -> dict[str, str]:
    """Two files and an index in place of one file; gives the index."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    files = {name: f"model-0000{1 + (number % 2)}-of-00002.safetensors" for number, name in enumerate(sorted(tensors))}
    for file in set(files.values()):
        part = {name: tensors[name] for name, own in files.items() if own == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    write_index(folder, files)
    return files


def write_index(folder: Path, files: Any) -> None:
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def to_bin(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


class Bomb:
    """Code in a pickle."""

    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["BOMB"],)


def cut(file: str, share: float) -> Break:
    return lambda folder: os.truncate(folder / file, int((folder / file).stat().st_size * share))


def write(file: str, content: str | bytes) -> Break:
    return lambda folder: (
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode()) and None
    )


def setting(file: str, **changes: Any) -> Break:
    return lambda folder: edit(folder, file, **changes)


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Break:
    return lambda folder: change_weights(folder, change)


def both(first: Break, second: Break) -> Break:
    def run(folder: Path) -> None:
        first(folder)
        second(folder)

    return run


def put(value: float, name: str) -> Break:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(-1)[7] = value

    return weights(change)


def broken_weights() -> Iterator[tuple[str, Break]]:
    for share in (0.0, 0.0001, 0.01, 0.3, 0.5, 0.9, 0.999):
        yield f"weights cut at {share}", cut(WEIGHTS, share)
    yield "more bytes than the header says", lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes() + b"0" * 64)
    yield "length of the header", lambda f: (f / WEIGHTS).write_bytes(b"\xff" * 8 + (f / WEIGHTS).read_bytes()[8:])
    yield "header no JSON", lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes().replace(b"{", b"(", 3))
    yield "git lfs", write(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    yield "web page", write(WEIGHTS, "<!doctype html><p>404")
    yield "weights gone", lambda f: (f / WEIGHTS).unlink()
    yield "weights renamed", lambda f: (f / WEIGHTS).rename(f / "weights.safetensors")
    yield "weights are a folder", both(lambda f: (f / WEIGHTS).unlink(), lambda f: (f / WEIGHTS).mkdir())
    for name in NAMES:
        yield f"without {name}", weights(lambda tensors, name=name: tensors.pop(name))
        yield f"other shape of {name}", weights(lambda t, name=name: t.update({name: t[name][:-1]}))
    for name in NAMES[2:5]:
        yield f"NaN in {name}", put(float("nan"), name)
        yield f"infinity in {name}", put(float("inf"), name)
    yield "minus infinity", put(float("-inf"), NAMES[0])
    yield "transposed", weights(lambda t: t.update({NAMES[3]: t[NAMES[3]].T}))
    for dtype in (torch.int8, torch.int32, torch.uint8, torch.bool, torch.int64, torch.float8_e4m3fn):
        yield f"stored as {dtype}", weights(lambda t, dtype=dtype: t.update({NAMES[3]: t[NAMES[3]].to(dtype)}))
    for name in ("model.layers.2.input_layernorm.weight", "model.layers.0.self_attn.q_proj.bias", "score.weight", "x"):
        yield f"also {name}", weights(lambda t, name=name: t.update({name: torch.ones(32)}))
    yield "names of another family", weights(lambda t: [t.update({f"gpt.{name}": t.pop(name)}) for name in list(t)])
    yield "half of a layer", weights(lambda t: [t.pop(name) for name in list(t) if "layers.1.self_attn" in name])


def broken_files() -> Iterator[tuple[str, Break]]:
    yield "shard gone", both(shard, lambda f: (f / "model-00002-of-00002.safetensors").unlink())
    yield "shard cut", both(shard, cut("model-00002-of-00002.safetensors", 0.5))
    yield "shards without an index", both(shard, lambda f: (f / f"{WEIGHTS}.index.json").unlink())
    yield "index no JSON", both(shard, write(f"{WEIGHTS}.index.json", "{"))
    yield "index a list", both(shard, write(f"{WEIGHTS}.index.json", "[]"))
    yield "index without a map", both(shard, write(f"{WEIGHTS}.index.json", "{}"))
    yield "index of numbers", both(shard, lambda f: write_index(f, {NAMES[0]: 3}))
    yield "index lacks a weight", lambda f: write_index(f, {n: o for n, o in shard(f).items() if n != NAMES[1]})
    yield (
        "index names the wrong shard",
        lambda f: write_index(f, dict.fromkeys(shard(f), SHARD)),
    )
    yield "index empty", both(shard, lambda f: write_index(f, {}))
    yield "bin cut", both(to_bin, cut("pytorch_model.bin", 0.6))
    yield "bin of text", both(lambda f: (f / WEIGHTS).unlink(), write("pytorch_model.bin", "weights"))
    yield "bin with code", both(to_bin, lambda f: (f / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Bomb()})))
    yield "bin of a trainer", both(to_bin, lambda f: torch.save({"state": {}, "step": 3}, f / "pytorch_model.bin"))
    yield "an adapter", write("adapter_config.json", '{"peft_type": "LORA", "base_model_name_or_path": "x"}')


def broken_configs() -> Iterator[tuple[str, Break]]:
    contents = {"empty": "", "cut": '{"model_type": "lla', "list": "[]", "null": "null", "word": '"x"', "git lfs": LFS}
    for name, content in {**contents, "binary": b"\xff\xfe\x00"}.items():
        yield f"config {name}", write(CONFIG, content)
    yield "config gone", lambda f: (f / CONFIG).unlink()
    for number, changes in enumerate(
        (
            {"model_type": "no-such-model"}, {"model_type": ...}, {"model_type": "bert"}, {"model_type": 7},
            {"architectures": ["LlamaForSequenceClassification"]}, {"architectures": ["BertModel"]},
            {"vocab_size": 9_000}, {"vocab_size": 0}, {"vocab_size": -1}, {"vocab_size": "many"}, {"vocab_size": None},
            {"hidden_size": 64}, {"hidden_size": "wide"}, {"hidden_size": 0}, {"num_hidden_layers": 3},
            {"num_hidden_layers": 1}, {"num_hidden_layers": 0}, {"num_attention_heads": 3}, {"num_attention_heads": 0},
            {"num_key_value_heads": 3}, {"intermediate_size": 32}, {"hidden_act": "no_such_function"},
            {"attention_bias": True}, {"tie_word_embeddings": True}, {"rope_parameters": {"rope_type": "none such"}},
            {"dtype": "float99"},
            {"auto_map": {"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"}, "model_type": "own"},
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            {"quantization_config": {"quant_method": "awq", "bits": 4}}, {"quantization_config": {"bits": 4}},
            {"quantization_config": {"quant_method": "new"}}, {"quantization_config": "fp8"},
        )
    ):  # fmt: skip
        yield f"config {number} {changes}", setting(CONFIG, **changes)


def broken_tokenizers() -> Iterator[tuple[str, Break]]:
    for file in (TOKENIZER, "tokenizer_config.json"):
        contents = {"empty": "", "cut": '{"model": {', "list": "[]", "null": "null", "git lfs": LFS}
        for name, content in {**contents, "binary": b"\xff\xfe"}.items():
            yield f"{file} {name}", write(file, content)
        yield f"{file} gone", lambda f, file=file: (f / file).unlink()
    yield "tokenizer half", cut(TOKENIZER, 0.5)
    yield "tokenizer of a new kind", setting(TOKENIZER, model={"type": "Runes", "vocab": {}})
    yield "pre-tokenizer of a new kind", setting(TOKENIZER, pre_tokenizer={"type": "Runes"})
    yield "empty vocabulary", setting(TOKENIZER, model={"type": "BPE", "vocab": {}, "merges": []}, added_tokens=[])
    yield "EOS unknown", setting("tokenizer_config.json", eos_token="</s>")
    yield "EOS a number", setting("tokenizer_config.json", eos_token=7)
    yield "no EOS", setting("tokenizer_config.json", eos_token=None)
    yield "class unknown", setting("tokenizer_config.json", tokenizer_class="RuneTokenizer")
    yield "class of another kind", setting("tokenizer_config.json", tokenizer_class="T5Tokenizer")
    yield "generation settings cut", write("generation_config.json", '{"eos_token_id": ')


def broken() -> dict[str, Break]:
    """Name -> what breaks a whole model folder."""
    return dict([*broken_weights(), *broken_files(), *broken_configs(), *broken_tokenizers()])


def copy_of(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target

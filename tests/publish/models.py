"""Tiny models of several families, and changes to their files."""

import json
from pathlib import Path

import torch
from tests.models import write_tiny_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

TEXTS = ["the river runs to the sea", "河水流向大海", "bread and salt, twice a day"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "vocab_size": 300, "eos_token_id": 0,
}  # fmt: skip
_FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True}),
    "llama-untied": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": False}),
    "llama-biased": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": False}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 128, "tie_word_embeddings": True}),
}


def write_full_model(folder: Path, texts: list[str], vocab_size: int) -> Path:
    """The tiny model with as many rows as its tokenizer has tokens, which may be fewer than were asked for."""
    write_tiny_model(folder, texts, vocab_size)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(AutoTokenizer.from_pretrained(folder)))
    model.save_pretrained(folder)
    return folder


def write_family(name: str, folder: Path) -> Path:
    """A model of a family with random weights, biases among them, and a byte-level BPE."""
    write_tiny_model(folder, TEXTS, 300)
    config_class, model_class, settings = _FAMILIES[name]
    torch.manual_seed(1)
    model = model_class(config_class(**_SIZES, **settings))
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    model.save_pretrained(folder)
    set_in_json(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    if name.startswith("qwen"):  # transformers composes text for this family, whatever the file says
        set_in_json(folder / "tokenizer.json", normalizer={"type": "NFC"})
    return folder


def set_in_json(path: Path, keys: tuple[str, ...] = (), **values: object) -> None:
    """Change values of a JSON file; with keys, the one value that they lead to."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if keys:
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = values["value"]
    else:
        content |= values
    path.write_text(json.dumps(content), encoding="utf-8")

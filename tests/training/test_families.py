"""A whole stage on small random models of several families: trained, saved, and read back by transformers alone."""

import json

import pytest
import torch
from tests.training.conftest import events, make_stage
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    MixtralConfig,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3MoeConfig,
)

from reprise.recipe.model import Model
from reprise.training.stage import run

SMALL = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
FAMILIES = {
    "qwen": Qwen3Config(**SMALL),
    "gemma": Gemma2Config(**SMALL, query_pre_attn_scalar=8, sliding_window=16),
    "mixtral": MixtralConfig(**SMALL, num_local_experts=4),
    "qwen_moe": Qwen3MoeConfig(**SMALL, **EXPERTS),
}


def plain_loss(folder, texts, tokenizer: PreTrainedTokenizerBase) -> float:
    """Mean negative log-likelihood of a token, by transformers' own loss."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    losses = []
    for text in texts:
        ids = torch.tensor(tokenizer(text)["input_ids"][:64])[None]
        with torch.no_grad():
            losses.append(float(model(input_ids=ids, labels=ids).loss))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_stage_on_a_model_of_the_family(family, tmp_path, base_model, passages, arguments, make_work):
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    torch.manual_seed(0)
    config = FAMILIES[family]
    config.eos_token_id = tokenizer.eos_token_id
    base = tmp_path / "base"
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(base)
    tokenizer.save_pretrained(base)
    work = make_work()
    stage = make_stage(schedule={"peak_lr": 1e-2})
    run(work, **arguments | {"model": Model(path=str(base)), "stage": stage})

    held_out = [passage["text"] for number, passage in enumerate(passages) if number % 6 == 0][:20]
    before, after = (plain_loss(folder, held_out, tokenizer) for folder in (base, work.output / "model"))
    assert after < before - 0.1
    first, last = (events(work, "validation")[number]["validation"] for number in (0, -1))
    assert sum(entry["nll"] for entry in last) < sum(entry["nll"] for entry in first)
    names = json.loads((base / "config.json").read_text())["architectures"]
    assert json.loads((work.output / "model" / "config.json").read_text())["architectures"] == names

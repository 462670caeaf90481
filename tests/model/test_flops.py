"""FLOPs of a token: what a model really multiplies."""

import pytest
from transformers import DeepseekV3Config, LlamaConfig, MistralConfig, Qwen3Config, Qwen3MoeConfig

from reprise.model.flops import count_parameters, training_flops_per_token
from reprise.recipe.hardware import MEMORY_GB, PEAK_BF16_TFLOPS, peak_bf16_tflops

SMALL = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip


def test_only_the_chosen_experts_count():
    """Qwen3-30B-A3B: 30.5 B parameters, 3.3 B of them active, as its makers say."""
    config = Qwen3MoeConfig(
        vocab_size=151936, hidden_size=2048, intermediate_size=6144, num_hidden_layers=48, num_attention_heads=32,
        num_key_value_heads=4, head_dim=128, moe_intermediate_size=768, num_experts=128, num_experts_per_tok=8,
        tie_word_embeddings=False,
    )  # fmt: skip
    counts = count_parameters(config)
    assert counts.total == pytest.approx(30.5e9, rel=0.01)
    assert counts.active == pytest.approx(3.3e9, rel=0.03)


def test_shared_experts_count():
    small = {**SMALL, "n_routed_experts": 4, "moe_intermediate_size": 8, "first_k_dense_replace": 1, "head_dim": 8}
    config = DeepseekV3Config(**small, num_experts_per_tok=2, n_group=1, topk_group=1)
    counts = count_parameters(config)
    routed = 3 * 4 * 3 * 32 * 8  # layers, experts, matrices
    assert counts.total - counts.active == routed // 2


def test_a_window_costs_what_it_sees():
    whole = training_flops_per_token(MistralConfig(**SMALL, sliding_window=None), 64)
    as_long = training_flops_per_token(MistralConfig(**SMALL, sliding_window=64), 64)
    narrow = training_flops_per_token(MistralConfig(**SMALL, sliding_window=8), 64)
    assert whole == as_long == training_flops_per_token(LlamaConfig(**SMALL), 64)
    pairs = sum(min(position + 1, 8) for position in range(64))  # without the diagonal's half
    assert whole - narrow == pytest.approx(12 * 4 * 32 * (64 - 2 * pairs / 64), rel=0.02)
    mixed = Qwen3Config(**SMALL, head_dim=8, use_sliding_window=True, sliding_window=8,
                        layer_types=["full_attention", "sliding_attention"] * 2)  # fmt: skip
    full = Qwen3Config(**SMALL, head_dim=8)
    saved = training_flops_per_token(full, 64) - training_flops_per_token(mixed, 64)
    assert saved == pytest.approx((whole - narrow) / 2)


@pytest.mark.parametrize(
    "name,peak",
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H20", 148.0),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A10G", 70.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA GeForce RTX 3090", 71.0),
        ("NVIDIA GeForce RTX 5090", 209.5),
        ("AMD Instinct MI300X", 1307.4),
        ("Tesla T4", None),
    ],
)
def test_the_peak_is_that_of_the_card(name, peak):
    assert peak_bf16_tflops(name) == peak


def test_every_card_with_a_peak_has_its_memory():
    assert PEAK_BF16_TFLOPS.keys() == MEMORY_GB.keys()


def test_frozen_weights_have_no_gradient():
    config = LlamaConfig(**SMALL, tie_word_embeddings=True)
    whole, frozen = (training_flops_per_token(config, 16, frozen=value) for value in (False, True))
    assert whole - frozen == 2 * count_parameters(config).total

"""The chunked loss against whole logits."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    Qwen3Config,
)

from reprise.model import loss as loss_module
from reprise.model.loss import IGNORE, HeadScaling, head_scaling, linear_cross_entropy
from reprise.model.objective import Objective

SMALL = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def naive(hidden, weight, labels, scaling, bias):
    logits = F.linear(hidden, weight, bias) * scaling.scale
    if scaling.cap is not None:
        logits = scaling.cap * torch.tanh(logits / scaling.cap)
    return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(0, 40),
    vocab=st.integers(2, 60),
    chunk=st.integers(1, 50),
    has_bias=st.booleans(),
    scale=st.sampled_from([1.0, 0.25]),
    cap=st.sampled_from([None, 3.0]),
    seed=st.integers(0, 1000),
)
def test_loss_and_gradients_equal_the_naive_ones(tokens, vocab, chunk, has_bias, scale, cap, seed):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocab, 8, generator=generator, dtype=torch.float64)
    bias = torch.randn(vocab, generator=generator, dtype=torch.float64) if has_bias else None
    labels = torch.randint(0, vocab, (tokens,), generator=generator)
    labels[torch.rand(tokens, generator=generator) < 0.3] = IGNORE
    inputs = [tensor for tensor in (hidden, weight, bias) if tensor is not None]
    results = []
    before, loss_module.CHUNK_LOGITS = loss_module.CHUNK_LOGITS, {"cpu": chunk * vocab, "cuda": 1}
    try:
        for function in (naive, linear_cross_entropy):
            leaves = [tensor.float().clone().requires_grad_() for tensor in inputs]
            value = function(leaves[0], leaves[1], labels, HeadScaling(scale, cap), leaves[2] if has_bias else None)
            (value * 0.37).backward()
            results.append([value.detach(), *(leaf.grad for leaf in leaves)])
    finally:
        loss_module.CHUNK_LOGITS = before
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_many_chunks_is_as_exact_as_of_one(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(504, 64, generator=generator)
    weight = torch.randn(256, 64, generator=generator)
    labels = torch.randint(0, 256, (504,), generator=generator)
    exact = weight.double().requires_grad_()
    naive(hidden.bfloat16().double(), exact, labels, HeadScaling(), None).backward()
    errors = []
    for rows in (504, 8):  # one chunk, 63 chunks
        monkeypatch.setattr(loss_module, "CHUNK_LOGITS", {"cpu": rows * 256, "cuda": 1})
        rounded = weight.bfloat16().requires_grad_()
        linear_cross_entropy(hidden.bfloat16(), rounded, labels).backward()
        errors.append((rounded.grad.double() - exact.grad).norm() / exact.grad.norm())
    assert errors[1] < 1.2 * errors[0]


CONFIGS = {
    "llama": LlamaConfig(**SMALL, tie_word_embeddings=False),
    "llama_tied": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "qwen": Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=8),
    "gemma": Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=8, final_logit_softcapping=5.0),
    "cohere": CohereConfig(**SMALL, logit_scale=0.3),
    "gpt2": GPT2Config(vocab_size=256, n_embd=32, n_layer=2, n_head=4),
    "mixtral": MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=4),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_family_gets_the_loss_and_gradients_of_its_own_logits(name):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    ids = torch.randint(0, 256, (2, 20))
    labels = ids.clone()
    labels[0, 5:9] = IGNORE
    logits = model(input_ids=ids).logits
    expected = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE, reduction="sum"
    )
    expected.backward()
    gradients = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
    model.zero_grad()
    loss = Objective(model)(ids, labels)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-3, atol=1e-4, msg=key)


def test_scaling_is_read_from_the_configuration():
    assert head_scaling(CONFIGS["llama"]) == HeadScaling(1.0, None)
    assert head_scaling(CONFIGS["gemma"]) == HeadScaling(1.0, 5.0)
    assert head_scaling(CONFIGS["cohere"]) == HeadScaling(0.3, None)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a moment is Linux's")
def test_the_loss_never_holds_the_logits_of_a_large_vocabulary():
    """8,192 tokens, vocabulary 128,256: the logits alone would take 4.2 GB, the gradients 0.04."""
    script = """
import pathlib, torch
from reprise.model.loss import linear_cross_entropy
from reprise.training.memory import peak_memory
torch.set_num_threads(1)
hidden = torch.randn(8192, 64, requires_grad=True)
weight = torch.randn(128256, 64).requires_grad_()
labels = torch.randint(0, 128256, (8192,))
linear_cross_entropy(hidden[:8], weight[:64], labels[:8] % 64).backward()
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak so far was that of filling the tensors
before = peak_memory(torch.device("cpu"))
linear_cross_entropy(hidden, weight, labels).backward()
print(peak_memory(torch.device("cpu")) - before)
"""
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert int(output) < 0.5e9

"""Blocked attention against a plain softmax in float64."""

import pytest
import torch
from transformers import AutoModelForCausalLM, DeepseekV3Config, Gemma2Config, LlamaConfig, MistralConfig, Qwen3Config

from reprise.model import attention
from reprise.model.attention import BLOCK, BLOCKED, blocked_attention, choose_attention


def plain(query, key, value, scale, mask):
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    causal = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).tril()
    scores = (query @ key.transpose(2, 3) * scale).masked_fill(~(causal if mask is None else mask), float("-inf"))
    return scores.softmax(-1) @ value


def document_mask(batch, length, seed):
    generator = torch.Generator().manual_seed(seed)
    documents = (torch.rand(batch, length, generator=generator) < 0.03).cumsum(1)
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return same & torch.ones(length, length, dtype=torch.bool).tril()


@pytest.mark.parametrize("heads,key_heads", [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("blocks,kept_length", [(1, 1024), (3, 1024), (3, 0)])
def test_equals_a_plain_softmax(monkeypatch, heads, key_heads, masked, blocks, kept_length):
    torch.manual_seed(1)
    monkeypatch.setattr(attention, "KEPT_LENGTH", kept_length)
    length, batch = blocks * BLOCK, 2
    shapes = [(batch, heads, length, 16), (batch, key_heads, length, 16), (batch, key_heads, length, 16)]
    mask = document_mask(batch, length, 7) if masked else None
    d_output = torch.randn(shapes[0], dtype=torch.bfloat16)
    inputs = [torch.randn(shape, dtype=torch.bfloat16) for shape in shapes]
    results = []
    for function, dtype in (
        (plain, torch.float64),
        (blocked_attention, torch.float64),
        (blocked_attention, torch.bfloat16),
    ):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in inputs]
        output = function(*leaves, 0.3, mask)
        output.backward(d_output.to(dtype))
        results.append([output.detach(), *(leaf.grad for leaf in leaves)])
    for expected, exact, rounded in zip(*results, strict=True):
        # Gradients of keys are summed in float32, hence not to float64's last digit.
        torch.testing.assert_close(exact, expected, rtol=1e-5, atol=1e-5)
        assert (rounded.double() - expected).norm() <= 0.01 * expected.norm()


@pytest.mark.parametrize("config", [LlamaConfig, MistralConfig])
@pytest.mark.parametrize("length", [128, 100])
@pytest.mark.parametrize("packed", [False, True])
def test_a_model_gives_what_it_gave_with_pytorchs_kernel(monkeypatch, config, length, packed):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    small = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    window = {"sliding_window": 40} if config is MistralConfig else {}
    model = AutoModelForCausalLM.from_config(
        config(**small, num_attention_heads=4, num_key_value_heads=2, **window), dtype=torch.bfloat16
    )
    ids = torch.randint(0, 64, (2, length))
    inputs = {"position_ids": (torch.arange(length) % 37).expand(2, -1)} if packed else {}
    called = []
    original = attention.blocked_attention
    monkeypatch.setattr(attention, "blocked_attention", lambda *args: called.append(1) or original(*args))
    expected = model(ids, **inputs, use_cache=False).logits
    assert choose_attention(model, "auto", model.device) == BLOCKED
    actual = model(ids, **inputs, use_cache=False).logits
    assert bool(called) == (length % BLOCK == 0)
    assert (actual - expected).float().norm() <= 0.02 * expected.float().norm()


def test_a_setting_is_kept():
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4)
    )
    assert choose_attention(model, "sdpa", model.device) == "sdpa"


def plain_varlen(query, key, value, bounds, _bounds, longest, _longest, *, scale, window_size, enable_gqa=False):
    """What the GPU kernel computes: causal attention within a window, one document after the other."""
    before, after = window_size
    assert after == 0
    assert longest >= bounds.diff().max()
    assert (bounds[0], bounds[-1]) == (0, len(query))
    parts = []
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        one = [states[start:end].transpose(0, 1) for states in (query, key, value)]
        seen = torch.ones(end - start, end - start, dtype=torch.bool).tril()
        if before >= 0:
            seen = seen.triu(-before)
        attended = torch.nn.functional.scaled_dot_product_attention(
            *one, attn_mask=seen, scale=scale, enable_gqa=enable_gqa
        )
        parts.append(attended.transpose(0, 1))
    return torch.cat(parts)


SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@pytest.fixture
def gpu_kernel(monkeypatch):
    """The kernel's stand-in, on a machine whose GPU would have it."""
    monkeypatch.setattr(attention, "varlen_attn", plain_varlen)
    monkeypatch.setattr(attention, "runs_varlen", lambda _device, _dtype: True)


@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SMALL, num_key_value_heads=2),
        LlamaConfig(**SMALL, num_key_value_heads=4),
        MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=7),
        Qwen3Config(
            **SMALL,
            num_key_value_heads=2,
            head_dim=8,
            use_sliding_window=True,
            sliding_window=9,
            layer_types=["full_attention", "sliding_attention"],
        ),
    ],
    ids=["grouped", "all heads", "window", "window in one layer"],
)
def test_bounds_of_documents_equal_one_forward_per_document(monkeypatch, gpu_kernel, config, grouping):
    torch.manual_seed(0)
    monkeypatch.setattr(attention, "_KERNEL_GROUPS_HEADS", grouping)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    lengths = [[10, 30, 24], [1, 63]]
    positions = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in lengths])
    ids = torch.randint(0, 64, positions.shape)
    expected = []
    for row, parts in zip(ids, lengths, strict=True):
        expected += [model(piece[None], use_cache=False).logits[0] for piece in row.split(parts)]
    assert choose_attention(model, "auto", torch.device("cuda"), document_mask=True) == attention.VARLEN
    actual = model(ids, use_cache=False, **attention.document_inputs(model.config, positions)).logits
    torch.testing.assert_close(actual.flatten(0, 1), torch.cat(expected), rtol=1e-4, atol=1e-5)
    whole = model(ids[:, :20], use_cache=False).logits  # a validation: no bounds, each row one document
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(whole, model(ids[:, :20], use_cache=False).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "capability,dtype,fits",
    [
        ((8, 0), torch.bfloat16, True),
        ((9, 0), torch.float32, False),  # training.precision=float32
        ((7, 5), torch.bfloat16, False),  # T4
    ],
)
def test_a_gpu_or_type_without_the_kernel_keeps_its_attention(monkeypatch, capability, dtype, fits):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL))
    assert (
        choose_attention(model, "auto", torch.device("cuda"), dtype=dtype) == attention.CAUSAL
    )  # needs no such kernel
    model.set_attn_implementation("sdpa")
    chosen = choose_attention(model, "auto", torch.device("cuda"), document_mask=True, dtype=dtype)
    assert chosen == (attention.VARLEN if fits else "sdpa")


@pytest.mark.parametrize("config", [LlamaConfig(**SMALL), Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=8)])
def test_attention_without_masks_equals_that_of_transformers(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    ids = torch.randint(0, 64, (2, 40))
    model.set_attn_implementation("sdpa")
    expected = model(ids, use_cache=False).logits
    assert choose_attention(model, "auto", torch.device("cuda")) == attention.CAUSAL
    torch.testing.assert_close(model(ids, use_cache=False).logits, expected)


@pytest.mark.parametrize(
    "config,fits",
    [
        (LlamaConfig(), True),
        (MistralConfig(sliding_window=40), True),
        (Gemma2Config(), False),
        (Qwen3Config(), True),
        (LlamaConfig(attention_dropout=0.1), False),
        (DeepseekV3Config(), False),  # values of another size than keys
        (LlamaConfig(head_dim=512), False),
    ],
)
def test_only_plain_attention_goes_to_the_kernel_for_bounds(config, fits):
    assert attention.fits_varlen(config) == fits

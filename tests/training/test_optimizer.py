"""Learning rate over tokens; which weights decay."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from reprise.recipe.training import Schedule, Training
from reprise.training.checkpoint import tensors_of
from reprise.training.optimizer import build_optimizer, learning_rate, optimizer_steps


def test_the_papers_schedule():
    paper = Schedule(kind="constant", initial_lr=1e-7, peak_lr=1e-5, warmup_tokens="10B")
    total = 92_500_000_000
    assert learning_rate(paper, 0, total) == 1e-7
    assert learning_rate(paper, 5_000_000_000, total) == pytest.approx(5.05e-6)
    assert learning_rate(paper, 10_000_000_000, total) == learning_rate(paper, total - 1, total) == 1e-5


def test_wsd_decays_at_the_end_only():
    schedule = Schedule(kind="wsd", initial_lr=0, peak_lr=1.0, final_lr=0.1, warmup_tokens=100, decay_tokens=200)
    rates = [learning_rate(schedule, tokens, 1000) for tokens in (0, 50, 100, 799, 800, 900, 1000)]
    assert rates == pytest.approx([0, 0.5, 1, 1, 1, 0.55, 0.1])


def test_cosine():
    schedule = Schedule(kind="cosine", initial_lr=0, peak_lr=1.0, final_lr=0.0, warmup_tokens=0)
    assert [learning_rate(schedule, tokens, 100) for tokens in (0, 50, 100)] == pytest.approx([1, 0.5, 0])


@given(
    kind=st.sampled_from(["constant", "wsd", "cosine"]),
    warmup=st.integers(0, 2000),
    decay=st.integers(0, 2000),
    tokens=st.integers(0, 1000),
)
def test_the_rate_stays_between_the_given_ones(kind, warmup, decay, tokens):
    schedule = Schedule(kind=kind, initial_lr=0.1, peak_lr=1.0, final_lr=0.05, warmup_tokens=warmup, decay_tokens=decay)
    assert 0.05 <= learning_rate(schedule, tokens, 1000) <= 1.0


@pytest.mark.parametrize("tied", [True, False])
def test_only_matrices_decay(tied):
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        attention_bias=True, tie_word_embeddings=tied,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    optimizer = build_optimizer(model, Training())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {name for name, p in model.named_parameters() if p.ndim == 2 and "embed_tokens" not in name}
    assert ("lm_head.weight" in decayed) == (not tied)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    assert all(isinstance(p, torch.Tensor) for group in optimizer.param_groups for p in group["params"])


@pytest.mark.parametrize("settings", [{}, {"optimizer": {"kind": "muon"}}, {"master_weights": "bf16"}])
def test_a_checkpoint_before_the_first_step_changes_nothing(settings):
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    results = []
    for is_saved in (False, True):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(torch.bfloat16 if "master_weights" in settings else torch.float32)
        optimizer = build_optimizer(model, Training(**settings))
        if is_saved:
            tensors_of(model, optimizer, {})
            assert optimizer_steps(optimizer) == 0
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        for _ in range(3):
            model(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
            optimizer.step()
            model.zero_grad()
        results.append([weight.detach().clone() for weight in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_moments_that_are_there_from_the_start_are_those_of_torch():
    results = []
    for ours in (True, False):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 4))
        model.get_output_embeddings = lambda: None
        optimizer = build_optimizer(model, Training())
        if not ours:
            optimizer = torch.optim.AdamW(optimizer.param_groups, betas=(0.9, 0.95), eps=1e-8, fused=True)
        assert (len(optimizer.state) == 4) == ours
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        for _ in range(3):
            model(torch.randn(7, 6)).square().sum().backward()
            optimizer.step()
            model.zero_grad()
        results.append([*model.parameters(), *(optimizer.state[one]["exp_avg_sq"] for one in model.parameters())])
        assert {one.dtype for state in optimizer.state.values() for one in state.values()} == {torch.float32}
        assert optimizer_steps(optimizer) == 3
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))

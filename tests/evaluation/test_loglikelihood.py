"""Shared beginnings and branches against one sequence at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tests.evaluation.conftest import make_tokenizer
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, LlamaConfig, MambaConfig, MistralConfig

from reprise.errors import UserError
from reprise.evaluation.benchmarks import loglikelihood as branches
from reprise.evaluation.benchmarks.harness import BatchedLM
from reprise.evaluation.benchmarks.loglikelihood import ContinuationScorer

SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def make(config):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8.0)
    return model


@pytest.fixture(scope="module")
def llama():
    return make(LlamaConfig(**SMALL, max_position_embeddings=96))


def plain(model, context, continuation, max_length=96):
    """The way of the harness: drop what is too long on the left, drop the last token, look at the last logits."""
    tokens = [*context, *continuation][-(max_length + 1) :]
    with torch.no_grad():
        logs = model(torch.tensor([tokens[:-1]])).logits[0].double().log_softmax(-1)[-len(continuation) :]
    picked = logs.gather(1, torch.tensor(continuation)[:, None])
    return float(picked.sum()), logs.argmax(-1).tolist() == list(continuation)


def agree(model, requests, **options):
    scorer = ContinuationScorer(model, **{"max_length": 96, "batch_tokens": 128} | options)
    found = scorer.score(requests)
    for (context, continuation), (nll, greedy) in zip(requests, found, strict=True):
        expected, expected_greedy = plain(model, context, continuation, options.get("max_length", 96))
        assert nll == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert greedy == expected_greedy
    return scorer


def few_shot_requests(seed=0):
    random = np.random.default_rng(seed)
    ids = lambda count: random.integers(0, 64, count).tolist()  # noqa: E731
    requests = []
    for _ in range(3):  # subjects with a prompt of their own
        prompt = ids(55)
        for _ in range(4):
            context = prompt + ids(int(random.integers(1, 20)))
            requests += [(context, ids(int(random.integers(1, 6)))) for _ in range(4)]
    for _ in range(5):  # questions without examples
        context = ids(int(random.integers(1, 30)))
        requests += [(context, [choice]) for choice in ids(3)]
    requests.append((ids(90), ids(30)))  # longer than the context
    requests.append((ids(60), ids(37)))  # longer by exactly one
    return requests


def test_equals_one_sequence_at_a_time(llama):
    scorer = agree(llama, few_shot_requests())
    assert scorer._takes_branches


def test_shared_beginnings_are_met_once(llama, monkeypatch):
    seen = []
    forward = llama.forward

    def counted(*args, **kwargs):
        seen.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    requests = [request for request in few_shot_requests() if len(request[0]) + len(request[1]) <= 96]
    scorer = agree(llama, requests)
    monkeypatch.setattr(llama, "forward", counted)
    scorer.score(requests)
    each_alone = sum(len(context) + len(continuation) for context, continuation in requests)
    assert sum(seen) < each_alone / 3


def test_greedy_continuation_is_recognised(llama):
    context = [5, 9, 2, 7, 7]
    tokens = list(context)
    for _ in range(3):
        with torch.no_grad():
            tokens.append(int(llama(torch.tensor([tokens])).logits[0, -1].argmax()))
    other = [*tokens[5:7], (tokens[7] + 1) % 64]
    scores = ContinuationScorer(llama, max_length=96, batch_tokens=64).score([(context, tokens[5:]), (context, other)])
    assert [greedy for _, greedy in scores] == [True, False]


@pytest.mark.parametrize(
    ("config", "takes_branches"),
    [
        (GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=96), True),
        (MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=8, max_position_embeddings=96), False),
        (Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=8, sliding_window=8, max_position_embeddings=96), False),
        (MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4), False),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_models_that_cannot_branch_are_found_out_and_scored_all_the_same(config, takes_branches):
    model = make(config)
    requests = [request for request in few_shot_requests(1) if len(request[0]) + len(request[1]) <= 96]
    assert agree(model, requests)._takes_branches == takes_branches


@pytest.mark.parametrize(("error", "takes_branches"), [(0.3, True), (2.5, False)])
def test_the_noise_of_bfloat16_is_no_other_answer(monkeypatch, error, takes_branches):
    """As SmolLM2-135M answers choices of 16 tokens: -3.87 alone, -4.04 as a branch, -4.015 in float32."""
    model = make(LlamaConfig(**SMALL, num_key_value_heads=2, max_position_embeddings=96)).to(torch.bfloat16)
    scorer = ContinuationScorer(model, max_length=96, batch_tokens=64)
    score_alone = scorer._score_alone

    def off(requests):
        for number, (value, greedy) in score_alone(requests):
            yield number, (value / 16 + error, greedy)

    def branch(group, shared):
        whole = [(number, question.context, ids) for question in group for number, ids in question.branches]
        for number, (value, greedy) in score_alone(whole):
            yield number, (value / 16, greedy)

    monkeypatch.setattr(scorer, "_score_alone", off)
    monkeypatch.setattr(scorer, "_score_group", branch)
    assert scorer._check([(tuple(range(1, 40)), tuple(range(5, 21)))]) == takes_branches


@pytest.mark.parametrize("kind", [MistralConfig, Gemma2Config])
def test_a_sliding_window_counts_in_any_number_format(kind):
    heads = {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 96}
    for window, takes_branches in ((8, False), (64, True)):
        model = make(kind(**SMALL, **heads, sliding_window=window)).to(torch.bfloat16)
        scorer = ContinuationScorer(model, max_length=96, batch_tokens=64)
        assert scorer._check([(tuple(range(1, 40)), (5, 6, 7))]) == takes_branches


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), batch_tokens=st.integers(1, 300), min_shared=st.integers(1, 60))
def test_any_batching_gives_the_same_scores(llama, seed, batch_tokens, min_shared):
    before, branches.MIN_SHARED = branches.MIN_SHARED, min_shared
    try:
        agree(llama, few_shot_requests(seed)[::5], batch_tokens=batch_tokens)
    finally:
        branches.MIN_SHARED = before


def test_one_token_context_and_empty_list(llama):
    agree(llama, [([3], [4]), ([3], [5, 6])])
    assert ContinuationScorer(llama, max_length=96, batch_tokens=64).score([]) == []


REFUSED = {"no token": ([5, 6], []), "no context": ([], [5]), "too long": ([5, 6], [7] * 97)}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_the_harness_refuses_is_refused(llama, kind):
    """A choice without a token would have the log-likelihood 0 and win."""
    reference = HFLM(pretrained=llama, tokenizer=make_tokenizer(), backend="causal", batch_size=1, max_length=96)
    requests = [([5, 6], [7, 8]), REFUSED[kind]]
    with pytest.raises(AssertionError):
        reference._loglikelihood_tokens([(("", ""), *request) for request in requests], disable_tqdm=True)
    with pytest.raises(UserError, match="choice 1 of the 2"):
        ContinuationScorer(llama, max_length=96, batch_tokens=128).score(requests)


@pytest.mark.parametrize("context,choice", [("a question", ""), ("", ""), ("", "<s>")])
def test_a_choice_without_a_token_never_wins(tiny_model, context, choice):
    lm = BatchedLM(AutoModelForCausalLM.from_pretrained(tiny_model), make_tokenizer(), batch_tokens=64)
    request = Instance(request_type="loglikelihood", doc={}, arguments=(context, choice), idx=0)
    with pytest.raises(UserError, match="has no token of its own"):
        lm.loglikelihood([request])

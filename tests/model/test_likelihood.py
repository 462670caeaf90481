"""The fast likelihood against a plain loop over one document at a time."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GPT2Config, GraniteConfig, LlamaConfig

from reprise.errors import UserError
from reprise.model import likelihood
from reprise.model.likelihood import IGNORE, document_nll, token_nll, token_scores

VOCAB = 256
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def make_model(config):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # the default initialisation gives probabilities so even that a wrong scale would not show
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(12.0)
    return model


@pytest.fixture(scope="module")
def llama():
    return make_model(LlamaConfig(**SMALL, max_position_embeddings=512))


def plain_nll(model, ids):
    """float64[n - 1] from the model's own logits."""
    with torch.no_grad():
        logits = model(torch.tensor(ids)[None]).logits[0].double()
    return -logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0]


def plain_document_nll(model, ids, max_length, stride):
    """The sum over sliding windows, in the most literal way: one window and one position at a time."""
    total, scored, first = 0.0, 0, 1
    for begin in range(0, len(ids), stride):
        window = ids[begin : begin + max_length]
        if len(window) < 2:
            continue
        nll = plain_nll(model, window)
        for position in range(1, len(window)):
            if begin + position >= first:
                total += float(nll[position - 1])
                scored += 1
                first = begin + position + 1
    return total, scored


def random_documents(lengths, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(0, VOCAB, n) for n in lengths]


FAMILIES = [
    LlamaConfig(**SMALL),
    LlamaConfig(**SMALL, tie_word_embeddings=True),
    GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=128),
    Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=8, final_logit_softcapping=3.0),
    GraniteConfig(**SMALL, logits_scaling=3.0),
    CohereConfig(**SMALL, logit_scale=0.2, pad_token_id=0),
]


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.model_type)
def test_every_family_gives_its_own_logits_likelihood(config):
    model = make_model(config)
    ids = torch.randint(0, VOCAB, (3, 40), generator=torch.Generator().manual_seed(1))
    expected = torch.stack([plain_nll(model, row.tolist()) for row in ids])
    torch.testing.assert_close(token_nll(model, ids).double(), expected, rtol=1e-4, atol=1e-4)
    assert likelihood.has_known_head(model, ids)


def test_unknown_output_layer_falls_back_to_the_models_own_logits():
    model = make_model(LlamaConfig(**SMALL))
    forward = model.forward

    def shifted(*args, **kwargs):
        output = forward(*args, **kwargs)
        if output.logits.shape[-1] == VOCAB:
            output.logits = output.logits * 1.7 + torch.arange(VOCAB)
        return output

    model.forward = shifted
    ids = torch.randint(0, VOCAB, (2, 30), generator=torch.Generator().manual_seed(1))
    expected = torch.stack([plain_nll(model, row.tolist()) for row in ids])
    assert not likelihood.has_known_head(model, ids)
    torch.testing.assert_close(token_nll(model, ids).double(), expected, rtol=1e-4, atol=1e-4)


def test_logits_of_a_batch_never_exist_at_once(llama, monkeypatch):
    monkeypatch.setattr(likelihood, "_CHUNK_LOGITS", 7 * VOCAB)
    seen = []
    score = likelihood._score_logits
    monkeypatch.setattr(
        likelihood, "_score_logits", lambda logits, *rest: seen.append(logits.shape) or score(logits, *rest)
    )
    ids = torch.randint(0, VOCAB, (4, 33), generator=torch.Generator().manual_seed(2))
    chunked = token_nll(llama, ids)
    assert max(shape[0] for shape in seen) == 7
    assert sum(shape[0] for shape in seen) == 4 * 32
    monkeypatch.undo()
    torch.testing.assert_close(chunked, token_nll(llama, ids), rtol=1e-5, atol=1e-5)


def test_labels_choose_positions_and_greedy_marks_the_most_probable(llama):
    ids = torch.randint(0, VOCAB, (2, 20), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        best = llama(ids).logits.argmax(-1)
    ids[0, 8] = best[0, 7]
    with torch.no_grad():
        best = llama(ids).logits.argmax(-1)
    labels = torch.full_like(ids, IGNORE)
    labels[0, 5:10] = ids[0, 5:10]
    scores = token_scores(llama, ids, labels, with_greedy=True)
    full = token_nll(llama, ids)
    torch.testing.assert_close(scores.nll[0, 4:9], full[0, 4:9])
    assert scores.nll[1].abs().sum() == 0 and scores.nll[0, :4].abs().sum() == 0
    expected = (ids[0, 5:10] == best[0, 4:9]).tolist()
    assert scores.greedy[0, 4:9].tolist() == expected and expected[3]


def test_model_is_left_as_it_was(llama):
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = llama(ids).logits
        token_nll(llama, ids)
        assert torch.equal(before, llama(ids).logits)


def test_packed_row_with_restarting_positions_equals_separate_documents(llama):
    first, second = random_documents([13, 9])
    row = torch.from_numpy(np.concatenate([first, second]))[None]
    positions = torch.cat([torch.arange(13), torch.arange(9)])[None]
    same_document = torch.block_diag(torch.ones(13, 13), torch.ones(9, 9)).bool()
    mask = (same_document & torch.ones(22, 22).bool().tril())[None, None]
    nll = token_nll(llama, row, positions, mask)[0].double()
    torch.testing.assert_close(nll[:12], plain_nll(llama, first), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(nll[13:], plain_nll(llama, second), rtol=1e-4, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 90), max_size=12),
    max_length=st.integers(2, 50),
    stride_share=st.floats(0.01, 0.99),
    batch_tokens=st.integers(1, 200),
)
def test_documents_equal_the_plain_loop(llama, lengths, max_length, stride_share, batch_tokens):
    stride = max(1, int(max_length * stride_share))
    documents = random_documents(lengths)
    advanced = []
    settings_ = {"max_length": max_length, "stride": stride, "batch_tokens": batch_tokens}
    nll, scored = document_nll(llama, documents, **settings_, advance=advanced.append)
    assert sum(advanced) == scored.sum()
    for ids, total, count in zip(documents, nll, scored, strict=True):
        expected, expected_count = plain_document_nll(llama, ids, max_length, stride)
        assert count == expected_count == max(len(ids) - 1, 0)
        assert total == pytest.approx(expected, rel=1e-4)


def test_every_window_but_the_first_keeps_its_context():
    windows = list(likelihood.cut_windows(1000, 100, 40))
    assert [first for *_, first in windows[:2]] == [1, 100]
    assert all(first - begin >= 60 for begin, _, first in windows[1:])
    assert windows[-1][1] == 1000


@pytest.mark.parametrize("stride", [0, 16, 20])
def test_stride_that_would_skip_tokens_is_refused(llama, stride):
    with pytest.raises(ValueError, match="stride"):
        document_nll(llama, random_documents([30]), max_length=16, stride=stride, batch_tokens=64)


def test_bfloat16_is_near_float32(llama):
    documents = random_documents([60, 5, 33, 2, 80])
    full, _ = document_nll(llama, documents, max_length=64, stride=32, batch_tokens=256)
    half_model = make_model(LlamaConfig(**SMALL, max_position_embeddings=512)).to(torch.bfloat16)
    half, _ = document_nll(half_model, documents, max_length=64, stride=32, batch_tokens=256)
    np.testing.assert_allclose(half, full, rtol=0.05)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_likelihoods_that_are_not_finite_are_refused(llama, value):
    """Weights of 3e38 are finite, what the model computes from them is not."""
    broken = copy.deepcopy(llama)
    with torch.no_grad():
        broken.model.layers[0].mlp.down_proj.weight.fill_(value)
    documents = [np.arange(1, 9), np.arange(3, 20)]
    with pytest.raises(UserError, match="no finite likelihood of 2 of 2 texts"):
        document_nll(broken, documents, max_length=16, stride=8, batch_tokens=64)

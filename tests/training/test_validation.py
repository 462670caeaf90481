"""The noise of a held-out loss, from its documents."""

import math

import numpy as np

from reprise.tokens.store import BucketKey
from reprise.training.validation import DRAWS, _bucket_loss

KEY = BucketKey("zh", "web", "Law")


def losses(rng, documents):
    tokens = rng.integers(20, 400, documents).astype(float)
    return rng.normal(2.5, 0.5, documents) * tokens, tokens


def test_standard_error_is_that_of_a_ratio_of_sums():
    """Against the formula of the ratio estimator (Cochran, Sampling Techniques, 1977, section 2.11)."""
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(200):
        nll, tokens = losses(rng, 40)
        found = _bucket_loss(KEY, 1, nll, tokens)
        mean = nll.sum() / tokens.sum()
        formula = math.sqrt(((nll - mean * tokens) ** 2).sum() / 39 / 40) / tokens.mean()
        assert found.nll == mean and (found.documents, found.tokens) == (40, int(tokens.sum()))
        ratios.append(found.standard_error / formula)
    assert len(found.resampled) == DRAWS
    assert abs(np.mean(ratios) - 1) < 0.05
    assert np.std(ratios) < 0.2


def test_documents_are_drawn_alike_at_every_validation():
    """All documents become easier by the same: the level is uncertain, the change is not."""
    nll, tokens = losses(np.random.default_rng(1), 30)
    before, after = _bucket_loss(KEY, 1, nll, tokens), _bucket_loss(KEY, 1, nll - 0.1 * tokens, tokens)
    assert before.standard_error > 0.05
    assert np.allclose(np.array(before.resampled) - np.array(after.resampled), 0.1)


def test_the_noise_of_one_document_is_not_known():
    found = _bucket_loss(KEY, 1, np.array([30.0]), np.array([10.0]))
    assert (found.nll, found.resampled, found.standard_error) == (3.0, (), None)
    assert found.to_json()["nll_standard_error"] is None


def test_documents_without_a_scored_token_do_no_harm():
    found = _bucket_loss(KEY, 1, np.zeros(3), np.zeros(3))
    assert found.nll == 0.0 and set(found.resampled) == {0.0}

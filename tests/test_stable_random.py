"""Choices that must be the same on every machine and with every version of NumPy."""

import numpy as np

from reprise.stable_random import permutation, resamples


def test_the_choices_themselves() -> None:
    """Pinned, so that no change of them passes unseen; test_curriculum.py has SplitMix64 in Python's whole numbers."""
    assert permutation("17/zh/web/0/0", 8).tolist() == [2, 5, 3, 0, 7, 6, 4, 1]
    assert resamples("b", 5, 3).tolist() == [[2, 1, 0, 0, 2], [0, 3, 1, 1, 0], [2, 1, 0, 0, 2]]


def test_documents_are_drawn_with_replacement_and_alike() -> None:
    counts = resamples("held-out/zh/web", 50, 4000)
    assert (counts.sum(axis=1) == 50).all()
    assert np.abs(counts.mean(axis=0) - 1).max() < 0.08  # a mean of 4000 draws is within 5 of its standard errors
    assert abs(counts.var() - (1 - 1 / 50)) < 0.03  # of a binomial of 50 draws and probability 1 / 50

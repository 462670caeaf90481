from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprise.mixture.schedule import UNITS, Turns

weights_of = st.lists(st.integers(0, 1000), min_size=1, max_size=14).filter(any)


def deal(weights: list[float], rows: int) -> list[int]:
    turns = Turns(len(weights))
    turns.set_weights(weights)
    return [turns.next() for _ in range(rows)]


@settings(max_examples=100, deadline=None)
@given(weights_of)
def test_every_prefix_is_within_a_row_of_its_share(weights: list[int]) -> None:
    """The bound of the chairman assignment, recomputed from the weights alone in fractions."""
    whole, open_buckets = sum(weights), sum(weight > 0 for weight in weights)
    bound = 1 - Fraction(1, 2 * open_buckets - 2) if open_buckets > 1 else Fraction(0)
    counts = [0] * len(weights)
    for row, bucket in enumerate(deal([float(weight) for weight in weights], 300), start=1):
        counts[bucket] += 1
        for weight, count in zip(weights, counts, strict=True):
            # Weights are kept to 2^-40 of a row: 300 rows are off by less than 300 * 2^-40.
            assert abs(count - Fraction(row * weight, whole)) <= bound + Fraction(300, UNITS)


@pytest.mark.parametrize("num_buckets", [1, 2, 3, 40, 400])
def test_long_runs_stay_within_a_row(num_buckets: int) -> None:
    rng = np.random.default_rng(num_buckets)
    for concentration in (0.2, 1.0, 20.0):
        turns = Turns(num_buckets)
        turns.set_weights(rng.dirichlet([concentration] * num_buckets).tolist())
        worst = 0
        for _ in range(3000):
            turns.next()
            worst = max(worst, int(np.abs(turns.credit).max()))
        assert worst < UNITS
        assert int(turns.credit.sum()) == 0


def test_the_obvious_rule_breaks_the_bound() -> None:
    """Why rows are not simply given to the largest credit."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(20):
        weights = rng.dirichlet([0.3] * 10)
        credit = np.zeros(10)
        for _ in range(2000):
            credit += weights
            credit[np.argmax(credit)] -= 1
            worst = max(worst, float(np.abs(credit).max()))
    assert worst > 1.0


def test_by_hand() -> None:
    """Shares 1/2, 1/4, 1/4: every four rows hold 2, 1, 1."""
    rows = deal([0.5, 0.25, 0.25], 12)
    for start in range(0, 12, 4):
        assert sorted(rows[start : start + 4]) == [0, 0, 1, 2]
    assert deal([0.0, 1.0], 3) == [1, 1, 1]


def test_small_changes_of_the_weights_keep_within_a_row() -> None:
    """As a policy makes them: at most 3 % at a time, here at every 50 rows."""
    rng = np.random.default_rng(0)
    for num_buckets in (3, 11, 40):
        weights = rng.dirichlet([1.0] * num_buckets)
        turns = Turns(num_buckets)
        worst = 0
        for _ in range(60):
            weights = np.clip(weights + rng.uniform(-0.03, 0.03, num_buckets), 0.001, None)
            weights /= weights.sum()
            turns.set_weights(weights.tolist())
            for _ in range(50):
                turns.next()
                worst = max(worst, int(np.abs(turns.credit).max()))
        assert worst < UNITS


def test_credit_of_a_bucket_that_ended_is_handed_over_whole() -> None:
    turns = Turns(4)
    turns.set_weights([0.4, 0.3, 0.2, 0.1])
    for _ in range(7):
        turns.next()
    turns.hand_over(0, [1, 3], [0.5, 0.25])
    assert turns.credit[0] == 0
    assert int(turns.credit.sum()) == 0

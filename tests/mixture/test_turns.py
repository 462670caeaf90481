from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reprise.mixture.turns import UNITS, Turns

shares_of = st.lists(st.integers(0, 1000), min_size=1, max_size=14).filter(any)


def flat(num_buckets: int) -> list[tuple[str, int, None]]:
    """Buckets of one language, without topics."""
    return [("en", number, None) for number in range(num_buckets)]


def deal(shares: list[float], rows: int) -> list[int]:
    turns = Turns(flat(len(shares)))
    turns.set_shares(shares)
    return [turns.next() for _ in range(rows)]


@settings(max_examples=100, deadline=None)
@given(shares_of)
def test_every_prefix_is_within_a_row_of_its_share(shares: list[int]) -> None:
    """Recomputed from the shares alone in fractions."""
    whole = sum(shares)
    counts = [0] * len(shares)
    for row, bucket in enumerate(deal([float(share) for share in shares], 300), start=1):
        counts[bucket] += 1
        for share, count in zip(shares, counts, strict=True):
            # Shares are kept to 2^-40 of a row: 300 rows are off by less than 300 * 2^-40.
            assert abs(count - Fraction(row * share, whole)) <= 1 + Fraction(300, UNITS)


@pytest.mark.parametrize("num_buckets", [1, 2, 3, 40, 400])
def test_long_runs_stay_within_a_row(num_buckets: int) -> None:
    rng = np.random.default_rng(num_buckets)
    for concentration in (0.2, 1.0, 20.0):
        turns = Turns(flat(num_buckets))
        turns.set_shares(rng.dirichlet([concentration] * num_buckets).tolist())
        worst = 0
        for _ in range(3000):
            turns.next()
            worst = max(worst, int(np.abs(turns.credit).max()))
        assert worst < UNITS
        assert int(turns.credit.sum()) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(-6, 6)), min_size=2, max_size=12))
@example([(1, -3), (20, 6)])
def test_buckets_that_are_owed_many_rows_get_them_and_come_back_within_one(parts: list[tuple[int, int]]) -> None:
    """As after rows of half the length, or another mixture: several deadlines are past at once."""
    paths = [("en" if number % 3 else "zh", number % 2, number) for number in range(len(parts))]
    turns = Turns(paths)
    turns.set_shares([share / sum(share for share, _ in parts) for share, _ in parts])
    turns.credit = np.array([owed * UNITS for _, owed in parts], dtype=np.int64)
    turns.balance()
    # A bucket that got 12 rows too many is on ratio again once 12 rows were its due: at most 12 * (1 + 11 * 20) rows.
    for _ in range(3000):
        turns.next()
    assert int(turns.credit.sum()) == 0
    assert int(turns.credit.max()) < UNITS


def random_tree(rng: np.random.Generator) -> tuple[list[tuple[int, int, int]], list[float]]:
    """Up to 5 languages of up to 8 sources of 1 to 20 topics, with even to very uneven shares."""
    paths, shares = [], []

    def parts(count: int) -> np.ndarray:
        drawn = rng.gamma(rng.choice([0.2, 0.5, 1.0, 5.0, 100.0]), size=count) + 1e-4
        return drawn / drawn.sum()

    for language, of_language in enumerate(parts(rng.integers(1, 6))):
        for source, of_source in enumerate(parts(rng.integers(1, 9))):
            for topic, of_topic in enumerate(parts(rng.choice([1, 1, 2, 5, 11, 20]))):
                paths.append((language, source, topic))
                shares.append(float(of_language * of_source * of_topic))
    return paths, shares


def worst_of(paths: list[tuple[int, int, int]], shares: list[float], rows: int) -> list[float]:
    """Rows by which a language, a source and a bucket are off their shares at most, counted from the rows dealt."""
    turns = Turns(paths)
    turns.set_shares(shares)
    worst = []
    dealt = np.array([turns.next() for _ in range(rows)])
    for depth in (1, 2, 3):
        names = [path[:depth] for path in paths]
        numbers = [sorted(set(names)).index(name) for name in names]
        share = np.bincount(numbers, weights=shares) / sum(shares)
        got = np.cumsum(np.eye(len(share))[np.array(numbers)[dealt]], axis=0)
        worst.append(float(np.abs(got - np.arange(1, rows + 1)[:, None] * share).max()))
    return worst


def test_languages_and_sources_are_on_ratio_too() -> None:
    rng = np.random.default_rng(1)
    worst = np.array([worst_of(*random_tree(rng), rows=300) for _ in range(60)])
    assert worst[:, 2].max() < 1.0
    assert worst[:, :2].max() < 1.1
    assert np.mean(worst[:, :2].max(axis=1) > 1.0) < 0.05


def test_no_bucket_of_an_uneven_tree_is_more_than_a_row_off() -> None:
    """Shares of one in a million beside halves, where preferring languages without looking ahead goes wrong."""
    rng = np.random.default_rng(3)
    for _ in range(40):
        paths, shares = [], []
        for language, of_language in enumerate(uneven(rng, rng.integers(1, 6))):
            for source, of_source in enumerate(uneven(rng, rng.integers(1, 9))):
                for topic, of_topic in enumerate(uneven(rng, rng.choice([1, 1, 2, 5, 11, 20]))):
                    paths.append((language, source, topic))
                    shares.append(float(of_language * of_source * of_topic))
        turns = Turns(paths)
        turns.set_shares(shares)
        worst = 0
        for _ in range(600):
            turns.next()
            worst = max(worst, int(np.abs(turns.credit).max()))
        assert worst < UNITS


def test_thousands_of_buckets_from_halves_to_a_millionth_stay_within_a_row() -> None:
    rng = np.random.default_rng(5)
    for concentration in (0.05, 1.0, 100.0):
        shares = np.maximum(rng.dirichlet([concentration] * 3000), 1e-6)
        turns = Turns([(number % 3, number % 40, number) for number in range(3000)])
        turns.set_shares(shares.tolist())
        share = np.array(turns._due)
        got = np.zeros(3000, dtype=np.int64)
        for row in range(1, 2001):
            got[turns.next()] += 1
            assert np.abs(row * share - got * UNITS).max() < UNITS


def test_a_row_follows_from_the_credits_alone() -> None:
    """Wherever a plan begins (after a resume, a change that changes nothing), the same rows come."""
    rng = np.random.default_rng(7)
    for _ in range(5):
        paths, shares = random_tree(rng)
        whole, broken = Turns(paths), Turns(paths)
        for turns in (whole, broken):
            turns.set_shares(shares)
        for _ in range(700):
            if rng.random() < 0.03:
                broken.credit = broken.credit.copy()
            assert whole.next() == broken.next()


def test_after_any_change_of_shares_buckets_come_back_within_a_row() -> None:
    """No rule keeps the bound through every change (docs/order.md); this one is back under it after some rows."""
    rng = np.random.default_rng(11)
    for _ in range(10):
        count = int(rng.integers(2, 30))
        turns = Turns(flat(count))
        for _ in range(10):
            turns.set_shares(rng.dirichlet([0.3] * count).tolist())
            for _ in range(int(rng.integers(1, 40))):
                turns.next()
        turns.set_shares(rng.dirichlet([5.0] * count).tolist())
        for _ in range(60 * count):
            turns.next()
        assert np.abs(turns.credit).max() < UNITS


def uneven(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.maximum(rng.dirichlet(np.ones(count) * rng.choice([0.1, 0.5, 1.0, 5.0, 100.0])), 1e-6)


def test_the_papers_mixture_is_on_ratio_on_every_level() -> None:
    """26 web topics and 9 other sources; dealt bucket by bucket alone, a language would be rows off."""
    topics, zh, en = 11, (0.70, 0.05, 0.20, 0.05), (0.40, 0.05, 0.15, 0.05, 0.10, 0.10, 0.15)
    paths, shares = [], []
    for language, share, sources in (("zh", 0.2, zh), ("en", 0.8, en)):
        for source, of_language in enumerate(sources):
            count = topics if source == 0 else 1
            paths += [(language, source, topic) for topic in range(count)]
            shares += [share * of_language / count] * count
    assert max(worst_of(paths, shares, rows=2000)) < 1.0


def test_the_obvious_rule_breaks_the_bound() -> None:
    """Why rows are not simply given to the largest credit."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(20):
        shares = rng.dirichlet([0.3] * 10)
        credit = np.zeros(10)
        for _ in range(2000):
            credit += shares
            credit[np.argmax(credit)] -= 1
            worst = max(worst, float(np.abs(credit).max()))
    assert worst > 1.0


def test_by_hand() -> None:
    """Shares 1/2, 1/4, 1/4: every four rows hold 2, 1, 1."""
    rows = deal([0.5, 0.25, 0.25], 12)
    for start in range(0, 12, 4):
        assert sorted(rows[start : start + 4]) == [0, 0, 1, 2]
    assert deal([0.0, 1.0], 3) == [1, 1, 1]


def test_small_changes_of_the_shares_keep_within_a_row() -> None:
    """As a policy makes them: at most 3 % at a time, here at every 50 rows."""
    rng = np.random.default_rng(0)
    for num_buckets in (3, 11, 40):
        shares = rng.dirichlet([1.0] * num_buckets)
        turns = Turns(flat(num_buckets))
        worst = 0
        for _ in range(60):
            shares = np.clip(shares + rng.uniform(-0.03, 0.03, num_buckets), 0.001, None)
            shares /= shares.sum()
            turns.set_shares(shares.tolist())
            for _ in range(50):
                turns.next()
                worst = max(worst, int(np.abs(turns.credit).max()))
        assert worst < UNITS


def test_credit_of_a_bucket_that_ended_is_handed_over_whole() -> None:
    turns = Turns(flat(4))
    turns.set_shares([0.4, 0.3, 0.2, 0.1])
    for _ in range(7):
        turns.next()
    turns.hand_over(0, [1, 3], [0.5, 0.25])
    assert turns.credit[0] == 0
    assert int(turns.credit.sum()) == 0

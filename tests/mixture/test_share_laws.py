"""A planted best share is found, from as many runs as the study makes."""

import numpy as np
import pytest

from reprise.mixture.share_laws import FIRST_SHARES, GRID, Laws, best_share, next_shares

MAX_RUNS = 16
NOISE = 0.001
"""Relative standard deviation of a loss between seeds (docs/lab/2026-11-26-two-studies.md: 0.05 to 0.12 %)."""


def power_law(a, b, gamma, offset):
    return lambda p: a + b * (p + offset) ** -gamma


PLANTED = {
    "power laws, tight tolerance": (power_law(0.9, 0.05, 0.4, 0.05), power_law(1.2, 0.4, 0.3, 0.02), 1.010),
    "power laws, wide tolerance": (power_law(0.9, 0.05, 0.4, 0.05), power_law(1.2, 0.4, 0.3, 0.02), 1.04),
    "logarithms": (lambda p: 1.0 - 0.04 * np.log(p + 0.05), lambda p: 1.6 - 0.15 * np.log(p + 0.05), 1.03),
    "exponentials": (lambda p: 0.98 + 0.12 * np.exp(-4 * p), lambda p: 1.5 + 0.5 * np.exp(-3 * p), 1.02),
    "new text that is repeated": (
        lambda p: 0.99 + 0.02 * (1 - p),
        lambda p: 1.7 - 0.6 * p + 0.5 * p**2 * 1.2,
        1.05,
    ),
}


def planted(kept, new, limit):
    """The best share by the laws themselves."""
    allowed = kept(1 - GRID) <= limit
    return float(GRID[np.argmin(np.where(allowed, new(GRID), np.inf))])


def search(kept, new, limit, seed):
    """As `reprise study ratio` does, with runs that are drawn from laws with noise."""
    rng = np.random.default_rng(seed)
    shares, kept_losses, new_losses = [], [], []

    def run(some):
        for share in some:
            shares.append(share)
            kept_losses.append(kept(1 - share) * (1 + NOISE * rng.normal()))
            new_losses.append(new(share) * (1 + NOISE * rng.normal()))

    run(FIRST_SHARES)
    number = 0
    while len(shares) < MAX_RUNS:
        best = best_share(shares, kept_losses, new_losses, limit, draws=0)
        run(next_shares(best.share, number, MAX_RUNS - len(shares)))
        number += 1
    assert len(shares) <= MAX_RUNS
    return best_share(shares, kept_losses, new_losses, limit)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_best_share_is_found_within_three_hundredths(name):
    truth = planted(*PLANTED[name])
    found = [search(*PLANTED[name], seed) for seed in range(8)]
    off = [abs(one.share - truth) for one in found]
    assert max(off) <= 0.03, (truth, off)
    inside = [one.low - 0.005 <= truth <= one.high + 0.005 for one in found]
    assert np.mean(inside) >= 0.7
    assert np.mean([one.high - one.low for one in found]) < 0.1


def test_what_bounds_the_share_is_said():
    shares = np.linspace(0.1, 0.9, 9)
    kept, new = 1 + 0.1 * shares, 2 - shares
    assert best_share(shares, kept, new, 1.05).bounded_by == "kept"
    assert best_share(shares, kept, new, 1.05).share == pytest.approx(0.5, abs=0.002)
    dip = (shares - 0.4) ** 2
    assert best_share(shares, kept, dip, 1.2).bounded_by == "gain"
    assert best_share(shares, kept, new, 0.9).share == 0.0, "no share keeps it"


def test_the_law_is_chosen_by_what_it_predicts():
    shares = np.array(FIRST_SHARES * 3)
    noise = 1e-4 * np.random.default_rng(0).normal(size=15)
    straight = Laws(lambda x: x, shares).fit(2 - 0.5 * shares + noise)
    assert np.abs(straight.values - (2 - 0.5 * GRID)).max() < 0.002
    curved = Laws(lambda x: x, shares).fit(1 + 0.2 * (shares + 0.1) ** -0.5 + noise)
    assert np.abs(curved.values - (1 + 0.2 * (GRID + 0.1) ** -0.5))[100:].max() < 0.002
    with pytest.raises(ValueError, match="too few"):
        Laws(lambda x: x, np.array([0.5, 0.5, 0.5]))


def seeded_search(kept, new, limit, seed, *, told):
    """Runs of three seeds in turn, each of which is off by half a per cent in all of its runs."""
    rng = np.random.default_rng(seed)
    off = 0.005 * rng.normal(size=(2, 3))
    off -= off.mean(axis=1, keepdims=True)
    shares, losses, seeds = [], ([], []), []

    def best(**more):
        return best_share(shares, *losses, limit, seeds=seeds if told else None, **more)

    due, number = FIRST_SHARES, 0
    while True:
        for share in due:
            of = len(shares) % 3
            shares.append(share)
            seeds.append(of)
            for row, own in enumerate((kept(1 - share), new(share))):
                losses[row].append(own * (1 + off[row, of] + 0.0005 * rng.normal()))
        if len(shares) >= MAX_RUNS:
            return best()
        due = next_shares(best(draws=0).share, number, MAX_RUNS - len(shares))
        number += 1


def test_what_is_off_with_the_seed_does_not_move_the_share():
    kept, new, limit = PLANTED["logarithms"]
    truth = planted(kept, new, limit)
    told, untold = (
        [abs(seeded_search(kept, new, limit, seed, told=told).share - truth) for seed in range(12)]
        for told in (True, False)
    )
    assert max(told) <= 0.03
    assert np.mean(told) < 0.6 * np.mean(untold), "independent runs would be a worse model of these"


def test_the_interval_holds_what_other_seeds_would_have_said():
    rng = np.random.default_rng(3)
    shares = np.tile(np.linspace(0.1, 0.9, 5), 3)
    seeds = np.repeat([1, 2, 3], 5)
    inside = 0
    for _ in range(60):
        off = 0.01 * rng.normal(size=3)
        kept = 1 + 0.1 * shares + off[seeds - 1] + 0.0005 * rng.normal(size=15)
        found = best_share(shares, kept, 2 - shares + 0.0005 * rng.normal(size=15), 1.05, seeds=list(seeds))
        inside += found.low <= 0.5 <= found.high
    assert inside / 60 > 0.85

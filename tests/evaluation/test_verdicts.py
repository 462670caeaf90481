"""Verdicts follow from intervals, and the intervals cover the truth."""

import numpy as np
import pytest

from reprise.evaluation.verdicts import MIN_ITEMS, compare_rates, compare_scores, has_loss, headline, judge


@pytest.mark.parametrize(
    ("ci", "tolerance", "verdict"),
    [
        ((-0.10, -0.01), None, "gained"),
        ((-0.10, -0.01), 0.02, "gained"),
        ((-0.01, 0.01), 0.02, "kept"),
        ((0.001, 0.02), 0.02, "kept"),
        ((0.001, 0.02), None, "lost"),
        ((0.021, 0.05), 0.02, "lost"),
        ((0.01, 0.03), 0.02, "undecided"),
        ((-0.01, 0.03), 0.02, "undecided"),
        ((-0.01, 0.01), None, "undecided"),
        (None, 0.02, "undecided"),
    ],
)
def test_verdict_needs_the_whole_interval(ci, tolerance, verdict):
    assert judge(ci, tolerance, better="lower") == verdict
    mirrored = None if ci is None else (-ci[1], -ci[0])
    assert judge(mirrored, tolerance, better="higher") == verdict


def test_rates_are_ratios_of_sums_not_means_of_ratios():
    before, after, size = (
        np.array([10.0, 100, 30, 40, 50]),
        np.array([9.0, 80, 30, 41, 50]),
        np.array([5.0, 200, 10, 10, 20]),
    )
    change = compare_rates(before, after, size, tolerance=None, samples=100, seed=0)
    assert change.before == pytest.approx(230 / 245)
    assert change.after == pytest.approx(210 / 245)
    assert change.change == pytest.approx(210 / 230 - 1)


def test_interval_equals_a_literal_bootstrap():
    random = np.random.default_rng(1)
    before = random.gamma(3, 20, 40)
    after = before * random.normal(0.95, 0.05, 40)
    change = compare_rates(before, after, before, tolerance=None, samples=4000, seed=2)
    ratios = []
    for _ in range(4000):
        chosen = [int(random.integers(40)) for _ in range(40)]
        ratios.append(sum(after[i] for i in chosen) / sum(before[i] for i in chosen) - 1)
    assert change.ci == pytest.approx(np.quantile(ratios, [0.025, 0.975]), abs=0.002)


def test_interval_covers_the_truth_about_95_times_in_100():
    random = np.random.default_rng(3)
    hits = 0
    for trial in range(300):
        size = random.gamma(4, 100, 60)
        before = size * random.normal(1.0, 0.2, 60)
        after = before * random.normal(0.97, 0.04, 60)
        low, high = compare_rates(before, after, size, tolerance=None, samples=400, seed=trial).ci
        hits += low <= -0.03 <= high
    assert 0.90 <= hits / 300 <= 0.985


def test_memory_does_not_grow_with_the_resamples(monkeypatch):
    from reprise.evaluation import verdicts as retention

    values = np.random.default_rng(0).normal(size=(1000, 2))
    monkeypatch.setattr(retention, "_RESAMPLED_AT_ONCE", 5000)
    assert retention._resampled_sums(values, 333, 0).shape == (333, 2)


def test_pairing_finds_a_small_change_between_unlike_documents():
    random = np.random.default_rng(4)
    before = random.gamma(1, 1000, 100)
    change = compare_rates(before, before * 0.99, np.ones(100), tolerance=None, samples=200, seed=0)
    assert change.verdict == "gained" and change.change == pytest.approx(-0.01)


def test_too_few_documents_stay_undecided():
    few = np.ones(MIN_ITEMS - 1)
    change = compare_rates(few, few * 2, few, tolerance=0.02, samples=100, seed=0)
    assert change.ci is None and change.verdict == "undecided"


def test_scores_change_by_a_difference():
    before, after = np.array([0.0, 0, 1, 1] * 50), np.array([1.0, 0, 1, 1] * 50)
    change = compare_scores(before, after, tolerance=None, samples=500, seed=0)
    assert (change.before, change.after, change.change) == (0.5, 0.75, 0.25)
    assert change.verdict == "gained" and change.ci[0] < 0.25 < change.ci[1]


@pytest.mark.parametrize("count", [8, 40, 150])
def test_a_small_sample_in_which_nothing_moved_proves_nothing(count):
    right = np.array([1.0, 0.0] * (count // 2))
    assert compare_scores(right, right, tolerance=0.01, samples=500, seed=0).verdict == "undecided"
    many = np.tile(right, 2000 // count)
    assert compare_scores(many, many, tolerance=0.01, samples=500, seed=0).verdict == "kept"


@pytest.mark.parametrize("count", [8, 40, 150, 600])
def test_a_model_that_lost_points_is_seldom_called_kept(count):
    """One question in thirty is lost, three times the tolerance; a plain bootstrap is wrong in 3 of 4 samples of 8."""
    random = np.random.default_rng(count)
    wrong = 0
    for trial in range(200):
        lost = random.random(count) < 1 / 30
        before = np.where(lost, 1.0, random.random(count) < 0.5)
        change = compare_scores(before, np.where(lost, 0.0, before), tolerance=0.01, samples=200, seed=trial)
        wrong += change.verdict in ("kept", "gained")
    assert wrong / 200 <= 0.05


def entry(measure, verdict, change, tolerance=None, unit="relative"):
    return {"measure": measure, "verdict": verdict, "change": change, "tolerance": tolerance, "unit": unit}


def test_headline_names_every_measure_under_its_verdict():
    entries = [
        entry("zh bits per byte", "gained", -0.1234),
        entry("en bits per byte", "kept", 0.004, 0.02),
        entry("GSM8K", "undecided", 0.013, unit="difference"),
    ]
    assert headline(entries) == (
        "gained zh bits per byte (-12.3 %); kept en bits per byte (+0.4 %, tolerance 2 %); "
        "lost nothing; undecided GSM8K (+1.3 points)"
    )
    assert not has_loss(entries)
    lost = [*entries, entry("MMLU", "lost", -0.05, 0.01, "difference")]
    assert "lost MMLU (-5.0 points, tolerance 1 point)" in headline(lost)
    assert has_loss(lost)

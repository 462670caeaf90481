"""Estimates of a change and their intervals."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reprise.evaluation.intervals import estimate_rate, estimate_score
from reprise.evaluation.verdicts import judge_all


def verdict(estimate, tolerance):
    return judge_all([(estimate, tolerance)])[0].verdict


def test_rates_are_ratios_of_sums_not_means_of_ratios():
    before, after, size = (
        np.array([10.0, 100, 30, 40, 50]),
        np.array([9.0, 80, 30, 41, 50]),
        np.array([5.0, 200, 10, 10, 20]),
    )
    estimate = estimate_rate(before, after, size)
    assert estimate.before == pytest.approx(230 / 245)
    assert estimate.after == pytest.approx(210 / 245)
    assert estimate.change == pytest.approx(210 / 230 - 1)


@pytest.mark.parametrize("count", [5, 13, 60])
def test_documents_of_equal_size_have_students_interval(count):
    noise = np.sort(np.random.default_rng(count).normal(0.0, 0.05, count))
    changes = -0.03 + (noise - noise[::-1]) / 2  # as many above the mean as below it, as far away
    before = np.full(count, 700.0)
    estimate = estimate_rate(before, before * (1 + changes), before)
    assert estimate.stretch == pytest.approx(1.0) and estimate.skewness == pytest.approx(0.0)
    expected = stats.ttest_1samp(changes, 0.0).confidence_interval(0.95)
    assert estimate.degrees == pytest.approx(count - 1)
    assert estimate.interval() == pytest.approx(tuple(expected))
    assert estimate.error_at(0.0) == pytest.approx(stats.ttest_1samp(changes, 0.0).pvalue)


@pytest.mark.parametrize("count", [13, 60])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_interval_reaches_further_to_the_side_of_the_tail(count, sign):
    changes = -sign * 0.05 * np.log1p(-(np.arange(count) + 0.5) / count)  # quantiles of an exponential distribution
    before = np.full(count, 700.0)
    estimate = estimate_rate(before, before * (1 + changes), before)
    skewness = stats.skew(changes, bias=False)
    jackknife = [stats.skew(np.delete(changes, i), bias=False) for i in range(count)]
    squared_error = (count - 1) * np.var(jackknife)
    assert estimate.skewness == pytest.approx(skewness**3 / (skewness**2 + squared_error) / np.sqrt(count))
    low, high = estimate.interval(0.2)
    student = dataclasses.replace(estimate, skewness=0.0, stretch=1.0).interval(0.2)
    assert ((high - student[1]) + (low - student[0])) * sign > 0
    assert estimate.skewness * sign > 0 and (estimate.center - estimate.change) * sign > 0


@settings(max_examples=200, deadline=None)
@given(st.integers(5, 40), st.integers(0, 10**6), st.sampled_from([0.5, 0.2, 0.05, 0.01, 0.00125, 1e-6]))
def test_an_interval_ends_where_its_error_is(count, seed, error):
    random = np.random.default_rng(seed)
    before = random.lognormal(6, 1, count)
    estimate = estimate_rate(before, before * (1 + random.choice([-1, 1]) * random.lognormal(-3, 1, count)), before)
    if estimate.problem is not None:
        return
    low, high = estimate.interval(error)
    assert low < estimate.center < high
    assert estimate.error_at(low) == pytest.approx(error, rel=1e-6)
    assert estimate.error_at(high) == pytest.approx(error, rel=1e-6)
    assert estimate.error_at(estimate.center) == pytest.approx(1.0)


@settings(max_examples=300, deadline=None)
@given(st.integers(6, 30), st.integers(0, 10**6))
def test_no_verdict_hangs_on_one_document(count, seed):
    """Whatever document is left out, the change of the others is on the same side of the bound."""
    random = np.random.default_rng(seed)
    before = random.lognormal(6, 1.5, count)
    changes = random.normal(0, 0.01, count) + random.choice([0.0, 0.05, -0.05]) * random.exponential(1, count)
    changes[0] += random.choice([0.0, 0.3, -0.3])  # one document that moves far
    after = before * (1 + changes)
    for tolerance in (None, 0.02):
        word = verdict(estimate_rate(before, after, before), tolerance)
        for i in range(count):
            rest = np.delete(after, i).sum() / np.delete(before, i).sum() - 1
            assert {
                "gained": rest <= 1e-12,
                "kept": rest <= (tolerance or 0.0) + 1e-12,
                "lost": rest > (tolerance or 0.0) - 1e-12,
                "undecided": True,
            }[word]


def test_a_verdict_that_one_document_decides_is_not_given():
    before = np.array([100.0, 100.0, 100.0, 100.0, 100.0, 500.0])
    estimate = estimate_rate(before, before * np.array([1.001, 1.001, 1.001, 1.001, 1.001, 0.99]), before)
    sure = dataclasses.replace(estimate, standard_error=1e-6, skewness=0.0, stretch=1.0)
    alone = judge_all([(sure, None)])[0]
    assert alone.verdict == "undecided" and alone.reason is not None
    assert alone.reason == "it hangs on one of 6 documents: of the others the change is +0.1 %"
    assert judge_all([(sure, 0.02)])[0].verdict == "kept", "whichever is left out, the rest is within the tolerance"
    assert judge_all([(dataclasses.replace(sure, without_one=(-0.01, -0.001)), None)])[0].verdict == "gained"


@pytest.mark.parametrize("count", [13, 40])
def test_intervals_hold_where_changes_are_skewed(count):
    """Student's hold 0.88 to 0.90 there, and miss ten times as often as they should where they decide."""
    random = np.random.default_rng(6)
    held, surely = [], []
    for _ in range(800):
        before = random.lognormal(6, 1, count)
        estimate = estimate_rate(before, before * (0.97 + 0.03 * random.exponential(1, count)), before)
        if estimate.problem is None:
            held.append(estimate.error_at(0.0) >= 0.05)
            surely.append(estimate.error_at(0.0) >= 0.05 / 40)
    assert 0.92 <= np.mean(held) <= 0.98 and np.mean(surely) >= 0.99


def test_a_change_that_is_the_same_in_all_documents_has_an_interval_without_length():
    before = np.array([100.0, 200.0, 300.0, 50.0, 70.0])
    estimate = estimate_rate(before, before.copy(), before)
    assert estimate.interval() == (0.0, 0.0) and estimate.stretch == 1.0


def test_the_variance_and_degrees_of_freedom_are_those_of_the_regression_through_the_origin():
    """HC2 and Bell-McCaffrey from their matrices: after = ratio * before, the variance of a document as its bits."""
    random = np.random.default_rng(2)
    before = random.lognormal(6, 1, 12)
    after = before * random.normal(0.97, 0.05, 12)
    estimate = estimate_rate(before, after, before)
    root = np.sqrt(before)  # weighted least squares with weights 1 / before is the ratio estimator
    design, response = root[:, None], after / root
    inverse = np.linalg.inv(design.T @ design)
    hat = design @ inverse @ design.T
    residuals = response - hat @ response
    leverage = np.diag(hat)
    variance = (inverse @ design.T @ np.diag(residuals**2 / (1 - leverage)) @ design @ inverse).item()
    assert estimate.standard_error == pytest.approx(np.sqrt(variance))
    gaps = (np.eye(12) - hat) * (design @ inverse)[:, 0] / np.sqrt(1 - leverage)
    gram = gaps.T @ gaps
    assert estimate.degrees == pytest.approx(np.trace(gram) ** 2 / np.trace(gram @ gram))


@pytest.mark.parametrize("count", [5, 13, 60])
def test_interval_covers_the_truth_about_95_times_in_100(count):
    random = np.random.default_rng(3)
    intervals = []
    for _ in range(600):
        before = random.lognormal(6, 1, count)
        after = before * (1 - 0.03 + 0.03 * random.standard_t(5, count))
        intervals.append(estimate_rate(before, after, before).interval())
    given = [ci for ci in intervals if ci is not None]
    assert len(given) >= 580
    assert 0.925 <= sum(low <= -0.03 <= high for low, high in given) / len(given) <= 0.98


def test_pairing_finds_a_small_change_between_unlike_documents():
    before = np.random.default_rng(4).gamma(1, 1000, 100)
    estimate = estimate_rate(before, before * 0.99, np.ones(100))
    assert verdict(estimate, None) == "gained" and estimate.change == pytest.approx(-0.01)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_too_few_documents_have_no_interval(count):
    few = np.ones(count)
    estimate = estimate_rate(few, few * 2, few)
    assert estimate.interval() is None and verdict(estimate, 0.02) == "undecided"


def test_one_document_that_is_nearly_all_of_the_text_decides_nothing():
    changes = np.array([0.9, 1.1, 1.2, 1.0, 0.8, 1.1])
    for large, decided in ((1e6, False), (1.0, True)):
        before = np.array([large, *np.ones(5)]) * 100
        estimate = estimate_rate(before, before * changes, before)
        assert (estimate.interval() is not None) == decided
    assert (
        estimate_rate(before * [1e6, 1, 1, 1, 1, 1], before, before).problem
        == "one of 6 documents has 100 % of the text"
    )


def test_scores_change_by_a_difference():
    before, after = np.array([0.0, 0, 1, 1] * 50), np.array([1.0, 0, 1, 1] * 50)
    estimate = estimate_score(before, after)
    assert (estimate.before, estimate.after, estimate.change) == (0.5, 0.75, 0.25)
    low, high = estimate.interval()
    assert verdict(estimate, None) == "gained" and low < 0.25 < high


@pytest.mark.parametrize("count", [8, 40, 150])
def test_a_small_sample_in_which_nothing_moved_proves_nothing(count):
    right = np.array([1.0, 0.0] * (count // 2))
    assert verdict(estimate_score(right, right), 0.01) == "undecided"
    many = np.tile(right, 2000 // count)
    assert verdict(estimate_score(many, many), 0.01) == "kept"


@pytest.mark.parametrize("count", [8, 40, 150, 600])
def test_a_model_that_lost_points_is_seldom_called_kept(count):
    """One question in thirty is lost, three times the tolerance; a plain bootstrap is wrong in 3 of 4 samples of 8."""
    random = np.random.default_rng(count)
    wrong = 0
    for _ in range(200):
        lost = random.random(count) < 1 / 30
        before = np.where(lost, 1.0, random.random(count) < 0.5)
        wrong += verdict(estimate_score(before, np.where(lost, 0.0, before)), 0.01) in ("kept", "gained")
    assert wrong / 200 <= 0.05

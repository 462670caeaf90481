"""The rivals of the paper's rule, each against an example worked by hand or by independent code."""

import json
import math

import numpy as np
import pytest

from reprise.mixture.policy import update
from reprise.mixture.rules import RULES, fit_power_law
from reprise.recipe.mixture import Policy

FREE = {"floor": 0.0, "cap": 1.0, "max_step": 1.0}
START = {"A": 0.5, "B": 0.3, "C": 0.2}


def run(
    policy: Policy, observations: list[dict[str, float]], start: dict[str, float] = START
) -> list[dict[str, float]]:
    """Shares after each observation, 1000 tokens apart; the state goes through JSON in between."""
    state, shares, seen = {}, start, []
    for number, losses in enumerate(observations):
        state, shares = update(policy, json.loads(json.dumps(state)), shares, losses, 1000 * number)
        seen.append(shares)
    return seen


def test_velocity_by_hand() -> None:
    """Targets 2, 2, 2.7 (0.9 of the first loss). Remaining: A 0.5 / 1, B 1 (it rose), C 0: it went under its target.

    0.5 e^0.5 = 0.82436, 0.3 e = 0.81548, 0.2; the sum is 1.83985.
    """
    policy = Policy(name="velocity", targets={"A": 2.0, "B": 2.0}, target_ratio=0.9, **FREE)
    first, second = run(policy, [{"A": 3.0, "B": 4.0, "C": 3.0}, {"A": 2.5, "B": 4.2, "C": 2.6}])
    assert first == START
    assert second == pytest.approx({"A": 0.82436 / 1.83985, "B": 0.81548 / 1.83985, "C": 0.2 / 1.83985}, abs=1e-5)


def test_velocity_measures_from_the_first_loss() -> None:
    policy = Policy(name="velocity", targets={"A": 2.0, "B": 2.0, "C": 2.0}, **FREE)
    losses = {"A": 3.0, "B": 3.0, "C": 3.0}
    shares = run(policy, [losses, {**losses, "A": 2.5}, {**losses, "A": 2.5}])[2]
    factor = math.exp(0.5 + 0.5), math.exp(2.0)
    total = 0.5 * factor[0] + 0.5 * factor[1]
    assert shares["A"] == pytest.approx(0.5 * factor[0] / total)


def test_bandit_by_hand() -> None:
    """Two topics of 0.5, losses 4 and 2: rewards 1 and 0.5, over p K = 1; eta 0.3: gains e^0.3, e^0.15.

    e^0.3 / (e^0.3 + e^0.15) = 1 / (1 + e^-0.15) = 0.537430; 0.9 of that and 0.1 / 2 give 0.533687.
    """
    policy = Policy(name="bandit", exploration=0.1, rate=0.3, **FREE)
    first, second = run(policy, [{"A": 4.0, "B": 2.0}] * 2, {"A": 0.5, "B": 0.5})
    assert first["A"] == pytest.approx(0.533687, abs=1e-6)
    # Then p = 0.533687 and 0.466313: gains 0.15 + 0.3 / (2 p_A) - 0.15 / (2 p_B) = 0.270228; 0.9 sigmoid + 0.05.
    assert second["A"] == pytest.approx(0.9 / (1 + math.exp(-0.270228)) + 0.05, abs=1e-6)


def test_bandit_is_exp3_of_an_independent_program() -> None:
    """Plain products, as the algorithm is printed, against the sums of logarithms of the rule."""
    rng = np.random.default_rng(0)
    observations = [dict(zip("ABC", rng.uniform(1, 5, 3).tolist(), strict=True)) for _ in range(20)]
    gains, shares = np.array([0.5, 0.3, 0.2]), np.array([0.5, 0.3, 0.2])
    for losses in observations:
        rewards = np.array(list(losses.values())) / max(losses.values())
        gains = gains * np.exp(0.3 * rewards / (shares * 3))
        shares = 0.9 * gains / gains.sum() + 0.1 / 3
    got = run(Policy(name="bandit", exploration=0.1, rate=0.3, **FREE), observations)[-1]
    assert list(got.values()) == pytest.approx(shares.tolist())


@pytest.mark.parametrize(("floor", "scale", "exponent"), [(2.0, 5.0, 0.3), (0.5, 100.0, 0.5), (3.0, 1.0, 0.05)])
def test_scaling_law_is_found_again(floor: float, scale: float, exponent: float) -> None:
    tokens = np.array([1e6, 2e6, 4e6, 7e6, 1.1e7, 2e7])
    found, factor = fit_power_law(tokens, floor + scale * tokens**-exponent)
    slope = found * factor * tokens[-1] ** -found
    assert slope == pytest.approx(exponent * scale * tokens[-1] ** -exponent, rel=0.02)


def test_scaling_law_agrees_with_a_general_optimizer_on_noisy_losses() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(1)
    tokens = np.arange(1, 13) * 1e6
    losses = 2.5 + 8.0 * tokens**-0.2 + rng.normal(0, 0.002, len(tokens))

    def error(parameters: np.ndarray) -> float:
        return float(((parameters[0] + parameters[1] * (tokens / 1e6) ** -parameters[2] - losses) ** 2).sum())

    best = min(
        (
            optimize.minimize(error, [2.0, 0.5, start], method="Nelder-Mead", options={"maxiter": 5000})
            for start in (0.1, 0.4)
        ),
        key=lambda result: result.fun,
    )
    exponent, scale = fit_power_law(tokens, losses)
    fitted = scale * tokens**-exponent
    ours = ((losses - losses.mean() - (fitted - fitted.mean())) ** 2).sum()
    assert ours <= best.fun * 1.01


def test_scaling_law_of_a_rising_loss_is_flat() -> None:
    assert fit_power_law(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.0, 4.0]))[1] == 0.0


def test_ado_by_independent_code() -> None:
    """Losses that follow scaling laws exactly; the paper's equations in plain steps beside the rule."""
    laws = {"A": (2.0, 30.0, 0.2), "B": (2.0, 200.0, 0.4), "C": (1.0, 10.0, 0.1)}
    policy = Policy(name="ado", credit_power=0.5, credit_smoothing=0.1, preference_smoothing=0.1, **FREE)

    def losses_at(tokens: int) -> dict[str, float]:
        return {topic: e + b * tokens**-a for topic, (e, b, a) in laws.items()}

    state, shares = {}, dict(START)
    prior, credit, mean = (np.array(list(START.values())) for _ in range(3))
    expected, updates = prior, 0
    for step in range(10):
        tokens = 100_000 * step
        observed = losses_at(tokens) if tokens else dict.fromkeys(laws, 5.0)
        state, shares = update(policy, json.loads(json.dumps(state)), shares, observed, tokens)
        credit = 0.1 * expected + 0.9 * credit
        if step < 4:  # the observation at token 0 does not count
            assert shares == START
            continue
        fall = np.array([a * b * tokens**-a for _, b, a in laws.values()])
        preference = prior * np.sqrt(credit) * fall
        preference /= preference.sum()
        updates += 1
        expected = 0.1 * preference + 0.9 * mean
        mean = mean + (preference - mean) / (updates + 1)
        assert list(shares.values()) == pytest.approx(expected.tolist(), rel=0.01)
    assert max(abs(expected - prior)) > 0.05


def test_ado_keeps_its_state_small() -> None:
    policy = Policy(name="ado")
    state, shares = {}, dict(START)
    for step in range(400):
        losses = dict.fromkeys(START, 2 + (step + 1) ** (-0.3))
        state, shares = update(policy, state, shares, losses, 1000 * step)
    assert len(json.dumps(state)) < 10_000
    assert state["rule"]["history"][-1][0] == 399_000


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_policy_keeps_the_bounds_and_bears_missing_losses(name: str) -> None:
    """Noise, losses that are missing or not finite, and a topic that drops out."""
    rng = np.random.default_rng(2)
    policy = Policy(name=name, floor=0.05, cap=0.6, max_step=0.03)
    state, shares = {}, dict(START)
    for step in range(60):
        losses = {topic: float(rng.uniform(1, 6)) for topic in shares}
        if step % 7 == 0:
            losses[str(rng.choice(list(shares)))] = math.nan
        if step % 11 == 0:
            losses = {}
        if step == 40:
            rest = shares["A"] + shares["B"]
            shares = {topic: shares[topic] / rest for topic in "AB"}
        before = shares
        state, shares = update(policy, json.loads(json.dumps(state)), shares, losses, step * 1000)
        assert sum(shares.values()) == pytest.approx(1.0)
        assert all(abs(shares[topic] - before[topic]) <= 0.03 + 1e-9 for topic in shares)
        if name != "static" and step < 40:
            assert all(0.05 - 1e-9 <= share <= 0.6 + 1e-9 for share in shares.values())

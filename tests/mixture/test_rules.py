"""The rivals of the paper's rule, each against an example worked by hand or by independent code."""

import json
import math

import numpy as np
import pytest

from reprise.mixture.policy import update
from reprise.mixture.rules import FIRST_UPDATE, RULES, fit_power_law
from reprise.recipe.mixture import Policy
from reprise.stable_random import resamples

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
    """Two topics of 0.5, losses 4 and 2: rewards 1 and 0.5, eta 0.3: gains e^0.3, e^0.15, then e^0.6, e^0.3.

    0.9 / (1 + e^-0.15) + 0.05 = 0.533687, 0.9 / (1 + e^-0.3) + 0.05 = 0.566998.
    """
    policy = Policy(name="bandit", exploration=0.1, rate=0.3, **FREE)
    first, second = run(policy, [{"A": 4.0, "B": 2.0}] * 2, {"A": 0.5, "B": 0.5})
    assert first["A"] == pytest.approx(0.533687, abs=1e-6)
    assert second["A"] == pytest.approx(0.566998, abs=1e-6)


def test_bandit_ends_where_exp3_ends() -> None:
    """Exp3 as it is printed (Auer et al. 2002, section 3), drawing one arm a round, on losses 3.0 and 2.4.

    With gamma = 0.1 the arm of the higher reward ends at 0.95, the other at 0.05.
    """
    gamma, rewards, rng = 0.1, np.array([3.0, 2.4]) / 3.0, np.random.default_rng(0)
    weights, tail = np.ones(2), []
    for number in range(6000):
        probability = (1 - gamma) * weights / weights.sum() + gamma / 2
        arm = int(rng.random() < probability[1])
        weights[arm] *= math.exp(gamma * rewards[arm] / probability[arm] / 2)
        weights /= weights.max()
        tail += [probability[0]] if number >= 4000 else []
    ours = run(Policy(name="bandit", **FREE), [{"A": 3.0, "B": 2.4}] * 200, {"A": 0.5, "B": 0.5})[-1]
    assert np.mean(tail) == pytest.approx(0.95, abs=0.01)
    assert ours["A"] == pytest.approx(0.95, abs=0.001)
    assert ours["A"] == pytest.approx(np.mean(tail), abs=0.01)


def test_bandit_is_hedge_of_an_independent_program() -> None:
    """Plain products, as the algorithm is printed, against the sums of logarithms of the rule."""
    rng = np.random.default_rng(0)
    observations = [dict(zip("ABC", rng.uniform(1, 5, 3).tolist(), strict=True)) for _ in range(20)]
    gains = np.array([0.5, 0.3, 0.2])
    for losses in observations:
        gains = gains * np.exp(0.3 * np.array(list(losses.values())) / max(losses.values()))
    got = run(Policy(name="bandit", exploration=0.1, rate=0.3, **FREE), observations)[-1]
    assert list(got.values()) == pytest.approx((0.9 * gains / gains.sum() + 0.1 / 3).tolist())


@pytest.mark.parametrize(("floor", "scale", "exponent"), [(2.0, 5.0, 0.3), (0.5, 100.0, 0.5), (3.0, 1.0, 0.05)])
def test_scaling_law_is_found_again(floor: float, scale: float, exponent: float) -> None:
    tokens = np.array([1e6, 2e6, 4e6, 7e6, 1.1e7, 2e7])
    law = fit_power_law(tokens, floor + scale * tokens**-exponent)
    slope = law.exponent * law.scale * tokens[-1] ** -law.exponent
    assert slope == pytest.approx(law.exponent * law.reducible)
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
    law = fit_power_law(tokens, losses)
    fitted = law.scale * tokens**-law.exponent
    ours = ((losses - losses.mean() - (fitted - fitted.mean())) ** 2).sum()
    assert ours <= best.fun * 1.01
    assert law.squared_error == pytest.approx(ours)


def test_scaling_law_of_a_rising_loss_is_flat() -> None:
    assert fit_power_law(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.0, 4.0])).scale == 0.0


def test_ado_by_independent_code() -> None:
    """Losses that follow scaling laws exactly; the authors' equations in plain steps beside the rule."""
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
        preference = prior * np.sqrt(credit * (1 - credit)) * fall
        preference = np.maximum(preference / preference.sum(), 0.01)
        preference /= preference.sum()
        updates += 1
        expected = 0.1 * preference + 0.9 * mean
        mean = mean + (preference - mean) / (updates + 1)
        assert list(shares.values()) == pytest.approx(expected.tolist(), rel=0.01)
    assert max(abs(expected - prior)) > 0.03


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


MOVING = sorted(set(RULES) - {"static"})


def held_out(rng: np.random.Generator, documents: int, topics: str) -> dict[str, np.ndarray]:
    """Losses of the documents of each topic at the beginning."""
    return {topic: rng.normal(2.5, 0.5, documents) for topic in topics}


def simulate(
    policy: Policy, topics: str, steps: int, falls: dict[str, float], *, seed: int = 0, documents: int = 60
) -> tuple[list[dict[str, float]], dict]:
    """Shares after each validation of documents whose losses fall by a power law, each document in its own measure.

    Args:
        falls: topic -> loss that it loses until the end, on average.
    """
    rng = np.random.default_rng(seed)
    start = held_out(rng, documents, topics)
    speed = {topic: rng.normal(1.0, 0.5, documents) for topic in topics}
    draws = resamples("test", documents, 32)
    state, shares, seen = {}, dict.fromkeys(topics, 1 / len(topics)), []
    for step in range(steps):
        progress = 1 - (1 + step) ** -0.3
        losses = {topic: start[topic] - falls[topic] * speed[topic] * progress for topic in topics}
        means = {topic: float(values.mean()) for topic, values in losses.items()}
        drawn = {topic: (draws @ values / documents).tolist() for topic, values in losses.items()}
        state = json.loads(json.dumps(state))
        state, shares = update(policy, state, shares, means, 1000 * step, drawn)
        seen.append(shares)
    return seen, state


@pytest.mark.parametrize("name", sorted(set(MOVING) - {"bandit"}))
def test_a_rule_acts_on_what_is_more_than_noise_alone(name: str) -> None:
    """Topics that all learn alike: shares move as the documents happen to fall, unless noise is left out."""
    falls = dict.fromkeys("ABCDEFGH", 0.3)
    off = {"A": 0.0, "B": 0.0}
    for seed in range(5):
        for key, noise in (("A", 0.0), ("B", 3.0)):
            moved, _ = simulate(Policy(name=name, noise=noise, **FREE), "ABCDEFGH", 20, falls, seed=seed)
            off[key] += max(abs(share - 1 / 8) for share in moved[-1].values()) / 5
    assert off["B"] < 0.4 * off["A"], off


@pytest.mark.parametrize("name", sorted(set(MOVING) - {"bandit"}))
def test_a_rule_still_acts_on_what_is_more_than_noise(name: str) -> None:
    """One topic learns four times as fast as the others: the rule moves it as it would without noise."""
    falls = {**dict.fromkeys("BCDEFGH", 0.2), "A": 0.8}
    exact, gated = (simulate(Policy(name=name, noise=noise, **FREE), "ABCDEFGH", 20, falls)[0] for noise in (0.0, 3.0))
    direct = exact[-1]["A"] - 1 / 8
    assert abs(direct) > 0.005
    assert 0.6 < (gated[-1]["A"] - 1 / 8) / direct < 1.6


def test_bandit_tells_a_hard_topic_from_a_sample_that_happens_to_be_hard() -> None:
    """The level of a loss is its reward, and with 60 documents levels differ by chance."""
    noisy, _ = simulate(Policy(name="bandit", noise=0.0, **FREE), "ABCD", 60, dict.fromkeys("ABCD", 0.1), seed=4)
    gated, _ = simulate(Policy(name="bandit", noise=3.0, **FREE), "ABCD", 60, dict.fromkeys("ABCD", 0.1), seed=4)
    assert max(abs(share - 0.25) for share in gated[-1].values()) < max(abs(s - 0.25) for s in noisy[-1].values()) / 2


def test_a_slow_change_adds_up_until_it_is_more_than_noise() -> None:
    """Each step is far under the noise; the paper's rule counts from the last perplexities at which it acted."""
    policy = Policy(name="topic_perplexity", noise=3.0, **FREE)
    state, shares, moved = {}, {"A": 0.5, "B": 0.5}, []
    wobble = np.linspace(-0.01, 0.01, 32)
    for step in range(40):
        losses = {"A": 2.0 + 0.001 * step, "B": 2.0}
        # Documents drawn anew: how far the change reaches differs by a hundredth.
        drawn = {topic: (loss + wobble * (step % 7)).tolist() for topic, loss in losses.items()}
        state, shares = update(policy, json.loads(json.dumps(state)), shares, losses, step * 1000, drawn)
        moved.append(shares["A"])
    assert moved[3] == 0.5 < moved[-1]
    assert moved[-1] == pytest.approx(0.5 + 0.25 * 0.039, abs=0.005), "the whole change was counted, once"


def test_a_topic_of_one_document_never_moves_by_itself() -> None:
    policy = Policy(name="topic_perplexity", noise=3.0, **FREE)
    state, shares = {}, dict(START)
    tight = np.linspace(-1e-5, 1e-5, 32)
    for step, a in enumerate((3.0, 3.5)):
        losses = {"A": a, "B": 3.0, "C": 3.0 + 0.1 * step}
        drawn = {"A": [], "B": (losses["B"] + tight).tolist(), "C": (losses["C"] + tight).tolist()}
        state, shares = update(policy, state, shares, losses, 1000 * step, drawn)
    assert shares["C"] > 0.2 and shares["B"] < 0.3
    assert shares["A"] == pytest.approx(0.5, abs=0.02), "it counts as the mean, though it rose most"


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_a_topic_without_held_out_text_keeps_its_share(name: str, floor: float) -> None:
    """So does one that was measured too seldom for a law; and one that the user set to 0 stays there."""
    rng = np.random.default_rng(3)
    policy = Policy(name=name, floor=floor, cap=0.9, max_step=0.1)
    state, shares = {}, {"A": 0.4, "B": 0.3, "none": 0.2, "off": 0.0, "late": 0.1}
    for step in range(30):
        losses = {"A": 3 * (1 + step) ** -0.1, "B": 3 - 0.001 * step, "off": float(rng.uniform(1, 5))}
        if step >= 28:
            losses["late"] = 5.0
        state, shares = update(policy, json.loads(json.dumps(state)), shares, losses, step * 1000)
        assert shares["none"] == pytest.approx(0.2, abs=1e-9)
        assert shares["off"] == 0.0
        if step < 28:
            assert shares["late"] == pytest.approx(0.1, abs=1e-9)
    assert shares["late"] > 0.05
    assert abs(shares["A"] - 0.4) > 0.005


def test_settings_of_a_topic_can_name_its_path() -> None:
    policy = Policy(
        name="velocity",
        targets={"Law": 2.0, "zh/web/Law": 1.5, "en/book/Law": 9.0},
        topic_weights={"en/web/Arts": 0.0, "zh/web/Arts": 3.0},
    )
    assert policy.of_source("zh/web").targets == {"Law": 1.5}
    assert policy.of_source("en/web").targets == {"Law": 2.0}
    assert policy.of_source("zh/web").topic_weights == {"Arts": 3.0}
    assert policy.of_source("en/web").topic_weights == {"Arts": 0.0}
    assert policy.of_source("fr/web").topic_weights == {}


@pytest.mark.parametrize("name", MOVING)
def test_the_first_update_comes_when_the_table_says(name: str) -> None:
    """`FIRST_UPDATE` is what the check before a run goes by."""
    observations = [{"A": 4.0 * (1 + step) ** -0.3, "B": 3.0 - 0.01 * step, "C": 2.0 - 0.1 * step} for step in range(8)]
    shares = run(Policy(name=name, **FREE), observations)
    moved = [step for step, now in enumerate(shares) if now != START]
    assert moved[0] == FIRST_UPDATE[name]

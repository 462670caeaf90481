"""The rules by which policies move shares; `policy.update` calls them and keeps the bounds.

A rule gets the settings, its own state ({} at first), the shares in force, the held-out losses that are known (nats
per token) and the tokens trained on. It gives back its next state and shares, which need not sum to 1; None leaves the
shares as they are.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from reprise.recipe.mixture import Policy

State = dict[str, Any]
Shares = dict[str, float]
Losses = Mapping[str, float]
Rule = Callable[[Policy, State, Shares, Losses, int], tuple[State, Shares | None]]

FIT_POINTS = 4
"""Observations that a scaling law is fitted to at the least."""
MAX_POINTS = 64
"""Observations that are kept; then every second one is forgotten, so that the state stays small."""
EXPONENTS = np.geomspace(0.01, 0.8, 200)
"""Exponents of the scaling law that are tried."""


def _static(policy: Policy, state: State, shares: Shares, losses: Losses, tokens: int) -> tuple[State, Shares | None]:
    """Shares stay."""
    return state, None


def _topic_perplexity(
    policy: Policy, state: State, shares: Shares, losses: Losses, tokens: int
) -> tuple[State, Shares | None]:
    """More of a topic whose held-out perplexity rose (Llama-3-SynE, arXiv 2407.18743).

    r_i(t) = r_i(t-1) f_i / sum_j r_j(t-1) f_j with f_i = 1 + alpha delta_i w_i, where delta_i is the normalised change
    of the perplexity p_i. The sign is the paper's. Ours, since the paper does not give them: alpha, w_i
    (`topic_weights`), the interval (`every_tokens`), the bounds, and the normaliser: delta_i is
    (p_i(t) - p_i(t-1)) / p_i(t-1) or, with `normaliser: largest`, that over the largest such change of any topic.
    A topic whose perplexity was not measured keeps its share, and the sum is over the others.
    """
    ppl = {topic: math.exp(loss) for topic, loss in losses.items()}
    before = state.get("ppl", {})
    change = {topic: (ppl[topic] - before[topic]) / before[topic] for topic in ppl if topic in before}
    if policy.normaliser == "largest":
        largest = max(map(abs, change.values()), default=0.0)
        change = {topic: delta / largest if largest else 0.0 for topic, delta in change.items()}
    factors = {
        topic: max(0.0, 1 + policy.alpha * delta * policy.topic_weights.get(topic, 1.0))
        for topic, delta in change.items()
        if topic in shares
    }
    old_sum = sum(shares[topic] for topic in factors)
    new_sum = sum(shares[topic] * factor for topic, factor in factors.items())
    wanted = None
    if new_sum > 0:
        wanted = {**shares, **{topic: shares[topic] * f * old_sum / new_sum for topic, f in factors.items()}}
    return {"ppl": {**before, **ppl}}, wanted


def _velocity(policy: Policy, state: State, shares: Shares, losses: Losses, tokens: int) -> tuple[State, Shares | None]:
    """More of a topic that has come less far from its first loss to its target (Velocitune, arXiv 2411.14318).

    w_i(t) = w_i(t-1) exp(V_i) / sum_j w_j(t-1) exp(V_j) with V_i = (l_i - target_i) / (first_i - target_i), kept within
    0 and 1. The paper predicts the targets by a scaling law from small runs; here they are the setting `targets`, and
    where a topic has none, `target_ratio` times its first loss (ours).
    """
    first = {**losses, **state.get("first", {})}
    if not state:
        return {"first": first}, None
    wanted = {}
    for topic, share in shares.items():
        remaining = 0.0
        if topic in losses:
            target = policy.targets.get(topic, policy.target_ratio * first[topic])
            distance = first[topic] - target
            remaining = min(1.0, max(0.0, (losses[topic] - target) / distance)) if distance > 0 else 0.0
        wanted[topic] = share * math.exp(remaining)
    return {"first": first}, wanted


def _bandit(policy: Policy, state: State, shares: Shares, losses: Losses, tokens: int) -> tuple[State, Shares | None]:
    """Exp3 (Auer et al., SIAM J. Comput. 32, 2002); as in Online Data Mixing (arXiv 2312.02406) the reward is the loss.

    g_i <- g_i exp(eta x_i / (p_i K)) and p_i = (1 - gamma) g_i / sum_j g_j + gamma / K, where p_i is the share in
    force, K the number of topics and x_i the loss over the largest loss of any topic. Every topic is drawn in every
    interval, so each has its reward. gamma and eta are the settings `exploration` and `rate`.
    """
    if not losses:
        return state, None
    before: dict[str, float] = state.get("log_gain", {})
    largest, count = max(losses.values()), len(shares)
    gain = {}
    for topic, share in shares.items():
        start = before.get(topic, math.log(max(share, 1e-12)))
        reward = losses.get(topic, 0.0) / largest if largest > 0 else 0.0
        gain[topic] = start + policy.rate * reward / (max(share, 1e-12) * count)
    top = max(gain.values())
    gain = {topic: value - top for topic, value in gain.items()}
    total = sum(map(math.exp, gain.values()))
    wanted = {
        topic: (1 - policy.exploration) * math.exp(value) / total + policy.exploration / count
        for topic, value in gain.items()
    }
    return {"log_gain": gain}, wanted


def _ado(policy: Policy, state: State, shares: Shares, losses: Losses, tokens: int) -> tuple[State, Shares | None]:
    """More of a topic whose loss still falls fast by its scaling law (Adaptive Data Optimization, arXiv 2410.11820).

    L_i(n) = e_i + b_i n^-a_i is fitted to the losses seen so far; with mu the first shares and h the smoothed shares
    in force, rho_i is proportional to mu_i h_i^s a_i b_i n^-a_i (the fall per token; 1/n is common to all), and the new
    shares are gamma_2 rho + (1 - gamma_2) times the mean of the rho so far, mu being the first. Ours: the losses are
    the held-out ones of the validations, n is the tokens of the stage for every topic (the paper, too, counts all
    tokens for each), and the fit is least squares over a grid of exponents. s, gamma_1, gamma_2: `credit_power`,
    `credit_smoothing`, `preference_smoothing`. It takes part from the fourth validation after the first token on.
    """
    prior: Shares = {**shares, **state.get("prior", {})}
    recent: Shares = {**prior, **state.get("credit", {})}
    mean: Shares = {**prior, **state.get("mean", {})}
    credit = {
        topic: policy.credit_smoothing * share + (1 - policy.credit_smoothing) * recent[topic]
        for topic, share in shares.items()
    }
    history = [*state.get("history", []), *([[tokens, dict(losses)]] if tokens > 0 else [])]
    if len(history) > MAX_POINTS:
        history = [*history[:-1:2], history[-1]]
    count = int(state.get("count", 1))
    next_state = {"prior": prior, "credit": credit, "history": history, "mean": mean, "count": count}
    if len(history) < FIT_POINTS:
        return next_state, None
    fall = {topic: _fall(history, topic) for topic in shares}
    preference = {topic: prior[topic] * credit[topic] ** policy.credit_power * fall[topic] for topic in shares}
    total = sum(preference.values())
    if total <= 0.0:
        return next_state, None
    preference = {topic: value / total for topic, value in preference.items()}
    smoothing = policy.preference_smoothing
    wanted = {topic: smoothing * preference[topic] + (1 - smoothing) * mean[topic] for topic in shares}
    next_state["mean"] = {topic: (mean[topic] * count + preference[topic]) / (count + 1) for topic in shares}
    next_state["count"] = count + 1
    return next_state, wanted


def _fall(history: list[Any], topic: str) -> float:
    """-n dL/dn at the last observation by the fitted law; 0 where the topic was not observed often enough."""
    points = [(tokens, losses[topic]) for tokens, losses in history if topic in losses]
    if len(points) < FIT_POINTS:
        return 0.0
    exponent, scale = fit_power_law(np.array([float(n) for n, _ in points]), np.array([loss for _, loss in points]))
    return exponent * scale * math.pow(points[-1][0], -exponent)


def fit_power_law(tokens: npt.NDArray[np.float64], losses: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Exponent a and scale b of L(n) = e + b n^-a, with b at least 0; least squares.

    Args:
        tokens: [k], above 0.
        losses: [k].
    """
    # Powers relative to the last point, so that no exponent makes the columns vanish.
    powers = (tokens[None, :] / tokens[-1]) ** -EXPONENTS[:, None]
    centred, fallen = powers - powers.mean(axis=1, keepdims=True), losses - losses.mean()
    spread = (centred**2).sum(axis=1)
    scale = np.maximum(0.0, np.divide(centred @ fallen, spread, out=np.zeros_like(spread), where=spread > 0))
    errors = ((fallen[None, :] - scale[:, None] * centred) ** 2).sum(axis=1)
    best = int(np.argmin(errors))
    return float(EXPONENTS[best]), float(scale[best] * tokens[-1] ** EXPONENTS[best])


RULES: dict[str, Rule] = {
    "static": _static,
    "topic_perplexity": _topic_perplexity,
    "velocity": _velocity,
    "bandit": _bandit,
    "ado": _ado,
}
"""Name in the recipe -> rule."""

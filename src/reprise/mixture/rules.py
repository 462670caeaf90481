"""The rules by which policies change the shares of topics; `policy.update` calls them and applies the bounds.

A rule gets the settings, its own state ({} at first), the current shares of the topics whose held-out loss is known,
and these losses. It returns its next state and the proposed shares, which need not sum to 1: None leaves all shares
unchanged, and a topic that is missing keeps its share.

Noise. Each rule compares one statistic of its topics: the change of the perplexity, the distance to the target, the
reward, or the slope of the loss. Its standard error, from the choice of held-out documents, is estimated by resampling
them (`Observation.resampled`): the same samples at every validation, so that what all validations have in common
cancels out. A topic that differs from the mean of its source by less than `noise` standard errors is treated as the
mean.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from reprise.mixture.state import RuleState
from reprise.recipe.mixture import Policy

TopicShares = dict[str, float]
Proposal = tuple[RuleState, TopicShares | None]
"""Next state, and the proposed shares; None leaves all shares unchanged."""
Floats = npt.NDArray[np.float64]

FIT_POINTS = 4
"""Fewest observations to which a scaling law is fitted."""
MAX_POINTS = 64
"""Most observations that are kept; beyond it every second one is dropped, so that the state stays small."""
EXPONENTS = np.geomspace(0.01, 0.8, 200)
"""Exponents of the scaling law that are tried."""
LEAST_EXPONENT = 0.05
"""`ado`: a smaller exponent counts as this one (the authors' code)."""
LEAST_PREFERENCE = 0.01
"""`ado`: no preference is smaller (the authors' code)."""


@dataclass(frozen=True)
class Observation:
    """One validation, of the topics of one source."""

    tokens: int
    """Tokens trained on in this stage."""
    losses: Mapping[str, float]
    """Topic -> held-out loss in nats per token."""
    resampled: Mapping[str, Sequence[float]] | None = None
    """Topic -> its losses on resampled held-out documents, the same draws each time; empty if the noise is unknown,
    as for a single document. None: the losses are taken as exact."""

    def draws(self, topic: str) -> Floats:
        """float64 [draws]; empty if the noise is not known."""
        return np.array([] if self.resampled is None else self.resampled.get(topic, ()), dtype=np.float64)


Rule = Callable[[Policy, RuleState, TopicShares, Observation], Proposal]


@dataclass
class Compared:
    """The statistic that a rule compares, per topic, and its variance; None if unknown."""

    values: dict[str, float] = field(default_factory=dict)
    variances: dict[str, float | None] = field(default_factory=dict)

    def add(self, topic: str, value: float, draws: Floats | None = None) -> None:
        """Add a topic's statistic, and the same statistic on resampled documents, float64 [draws]."""
        self.values[topic] = value
        self.variances[topic] = None if draws is None or len(draws) < 2 else float(np.mean((draws - value) ** 2))

    def beyond_noise(self, shares: TopicShares, limit: float) -> dict[str, float] | None:
        """Topic -> its statistic, replaced by the mean if it is within noise; None if all are.

        The variance of a difference from the mean weights the topics by their shares and assumes independence.

        Args:
            shares: weights of the mean.
            limit: noise threshold in standard errors; 0 replaces nothing.
        """
        if limit <= 0.0:
            return self.values
        known = {topic: variance for topic, variance in self.variances.items() if variance is not None}
        total = sum(shares[topic] for topic in known)
        if not known or total <= 0.0:
            return None
        part = {topic: shares[topic] / total for topic in known}
        mean = sum(part[topic] * self.values[topic] for topic in known)
        common = sum(part[topic] ** 2 * variance for topic, variance in known.items())
        values = dict.fromkeys(self.values, mean)
        for topic, variance in known.items():
            error = math.sqrt(max(0.0, variance * (1 - 2 * part[topic]) + common))
            if abs(self.values[topic] - mean) > limit * error:
                values[topic] = self.values[topic]
        return None if all(value == mean for value in values.values()) else values


def _limit(policy: Policy, seen: Observation) -> float:
    """Standard errors that count as noise; 0 if losses are exact."""
    return 0.0 if seen.resampled is None else policy.noise


def _static(policy: Policy, state: RuleState, shares: TopicShares, seen: Observation) -> Proposal:
    """Keep the shares."""
    return state, None


def _topic_perplexity(policy: Policy, state: RuleState, shares: TopicShares, seen: Observation) -> Proposal:
    """More of a topic whose held-out perplexity rose (Llama-3-SynE, arXiv 2407.18743).

    r_i(t) = r_i(t-1) f_i / sum_j r_j(t-1) f_j with f_i = 1 + alpha delta_i w_i, where delta_i is the normalised change
    of the perplexity p_i. The sign is the paper's. Ours, since the paper does not give them: alpha, w_i
    (`topic_weights`), the interval (`every_tokens`), the bounds, and the normaliser: delta_i is
    (p_i(t) - p_i(t-1)) / p_i(t-1) or, with `normaliser: largest`, that over the largest such change of any topic.
    If no topic changed by more than noise, the shares stay, and the next change is measured from the same
    perplexities, so that a slow one accumulates. A topic whose perplexity was not measured keeps its share.
    """
    ppl = {topic: math.exp(loss) for topic, loss in seen.losses.items()}
    before, draws_before = state.get("ppl", {}), state.get("resampled", {})
    change = Compared()
    for topic in [topic for topic in ppl if topic in before]:
        draws, old_draws = seen.draws(topic), np.array(draws_before.get(topic, ()))
        paired = np.exp(draws - old_draws) - 1 if len(draws) and draws.shape == old_draws.shape else None
        change.add(topic, (ppl[topic] - before[topic]) / before[topic], paired)
    draws_now = _lists(seen)
    now: RuleState = {"ppl": {**before, **ppl}, "resampled": {**draws_before, **draws_now}}
    if not change.values:
        return now, None
    deltas = change.beyond_noise(shares, _limit(policy, seen))
    if deltas is None:
        return {"ppl": {**ppl, **before}, "resampled": {**draws_now, **draws_before}}, None
    if policy.normaliser == "largest":
        largest = max(map(abs, deltas.values()))
        deltas = {topic: delta / largest if largest else 0.0 for topic, delta in deltas.items()}
    proposed = {
        topic: shares[topic] * max(0.0, 1 + policy.alpha * delta * policy.topic_weights.get(topic, 1.0))
        for topic, delta in deltas.items()
    }
    return now, proposed if sum(proposed.values()) > 0 else None


def _velocity(policy: Policy, state: RuleState, shares: TopicShares, seen: Observation) -> Proposal:
    """More of a topic that has come less far from its first loss to its target (Velocitune, arXiv 2411.14318).

    w_i(t) = w_i(t-1) exp(V_i) / sum_j w_j(t-1) exp(V_j) with V_i = (l_i - target_i) / (first_i - target_i), kept within
    0 and 1. The paper predicts the targets by a scaling law from small runs; here they are the setting `targets`, or,
    for a topic without one, `target_ratio` times its first loss (ours).
    """
    first = {**seen.losses, **state.get("first", {})}
    first_draws = {**_lists(seen), **state.get("first_resampled", {})}
    remaining = Compared()
    for topic in shares if state else ():
        draws, start_draws = seen.draws(topic), np.array(first_draws.get(topic, ()))
        way = _remaining(policy, topic, seen.losses[topic], first[topic])
        paired = None
        if len(draws) and draws.shape == start_draws.shape:
            pairs = zip(draws.tolist(), start_draws.tolist(), strict=True)
            paired = np.array([_remaining(policy, topic, now, start) for now, start in pairs])
        remaining.add(topic, way, paired)
    ways = remaining.beyond_noise(shares, _limit(policy, seen)) if remaining.values else None
    proposed = None if ways is None else {topic: shares[topic] * math.exp(way) for topic, way in ways.items()}
    return {"first": first, "first_resampled": first_draws}, proposed


def _remaining(policy: Policy, topic: str, loss: float, first: float) -> float:
    """Remaining fraction of the distance from the first loss to the target, 0 to 1."""
    target = policy.targets.get(topic, policy.target_ratio * first)
    distance = first - target
    return min(1.0, max(0.0, (loss - target) / distance)) if distance > 0 else 0.0


def _bandit(policy: Policy, state: RuleState, shares: TopicShares, seen: Observation) -> Proposal:
    """Exp3 where every arm is seen: Hedge (Auer et al., SIAM J. Comput. 32, 2002), with the loss as reward.

    g_i <- g_i exp(eta x_i) and p_i = (1 - gamma) g_i / sum_j g_j + gamma / K, where K counts the topics and x_i
    the loss over the largest loss of any topic. Exp3 draws one arm a round and divides its reward by the probability of
    the draw, so that the mean of what it adds to each arm is x_i; here every topic is trained on in every interval, so
    each has its own x_i, undivided. That the reward is the loss is from Online Data Mixing (arXiv 2312.02406). gamma
    and eta are the settings `exploration` and `rate`.
    """
    largest = max(seen.losses.values())
    reward = Compared()
    for topic, loss in seen.losses.items():
        reward.add(topic, loss / largest if largest > 0 else 0.0, seen.draws(topic) / largest if largest > 0 else None)
    rewards = reward.beyond_noise(shares, _limit(policy, seen))
    before: dict[str, float] = state.get("log_gain", {})
    gain = {topic: before.get(topic, math.log(max(share, 1e-12))) for topic, share in shares.items()}
    if rewards is None:
        return state, None
    gain = {topic: value + policy.rate * rewards[topic] for topic, value in gain.items()}
    top = max(gain.values())
    gain = {topic: value - top for topic, value in gain.items()}
    total = sum(map(math.exp, gain.values()))
    proposed = {
        topic: (1 - policy.exploration) * math.exp(value) / total + policy.exploration / len(gain)
        for topic, value in gain.items()
    }
    return {"log_gain": {**before, **gain}}, proposed


def _ado(policy: Policy, state: RuleState, shares: TopicShares, seen: Observation) -> Proposal:
    """More of a topic whose loss still falls fast by its scaling law (Adaptive Data Optimization, arXiv 2410.11820).

    L_i(n) = e_i + b_i n^-a_i is fitted to the losses seen so far. With mu the first shares and h the smoothed
    current shares, the preference rho_i is proportional to mu_i (h_i (1 - h_i))^s a_i b_i n^-a_i (the fall per token;
    1/n is common to all), no less than 0.01; the new shares are gamma_2 rho + (1 - gamma_2) times the mean of the rho
    so far, mu being the first. These are the equations of the authors' code (github.com/yidingjiang/ado), with its
    least exponent of 0.05, all tokens as n for every topic, and s = 0.5. Different, each for a reason:

    - The losses are those of validations, not of every batch: shares then follow held-out text, and no batch lacks a
      topic. The authors' code has this too, as an option.
    - h smooths the current shares, one sample for each validation, not the drawn counts of each batch: the sampler
      deals exactly these shares.
    - The mean of the rho counts updates from 2 on. The code counts optimizer steps from 1,000 on, so that mu weighs as
      much as 1,000 updates; with tens of validations the shares would never leave it.
    - The fit is least squares over a grid of exponents, not L-BFGS on a Huber loss of logarithms from 512 starts: there
      are tens of points without outliers, and every process must get the same bits.

    s, gamma_1, gamma_2: `credit_power`, `credit_smoothing`, `preference_smoothing`. It acts from the fourth validation
    after the first token on.
    """
    prior: TopicShares = {**shares, **state.get("prior", {})}
    recent: TopicShares = {**prior, **state.get("credit", {})}
    mean: TopicShares = {**prior, **state.get("mean", {})}
    smoothing = policy.credit_smoothing
    credit = {
        **recent,
        **{topic: smoothing * share + (1 - smoothing) * recent[topic] for topic, share in shares.items()},
    }
    history = state.get("history", [])
    first_draws = state.get("first_resampled", {})
    if seen.tokens > 0:
        history = [*history, (seen.tokens, dict(seen.losses))]
        first_draws = {**_lists(seen), **first_draws}
    if len(history) > MAX_POINTS:
        history = [*history[:-1:2], history[-1]]
    count = state.get("count", 1)
    next_state: RuleState = {
        "prior": prior,
        "credit": credit,
        "history": history,
        "first_resampled": first_draws,
        "mean": mean,
        "count": count,
    }
    falls = _falls(history, shares, seen, first_draws).beyond_noise(shares, _limit(policy, seen))
    if not falls or sum(falls.values()) <= 0.0:
        return next_state, None
    preference = {
        topic: prior[topic] * (credit[topic] * (1 - credit[topic])) ** policy.credit_power * max(fall, 0.0)
        for topic, fall in falls.items()
    }
    preference = _at_least(preference, LEAST_PREFERENCE)
    of_these = sum(mean[topic] for topic in preference)
    proposed = {
        topic: policy.preference_smoothing * part + (1 - policy.preference_smoothing) * mean[topic] / of_these
        for topic, part in preference.items()
    }
    new_mean = {topic: (mean[topic] * count + of_these * part) / (count + 1) for topic, part in preference.items()}
    return {**next_state, "mean": {**mean, **new_mean}, "count": count + 1}, proposed


def _at_least(parts: TopicShares, least: float) -> TopicShares:
    """`parts` normalised to 1, each raised to `least`, and normalised again."""
    total = sum(parts.values())
    if total <= 0.0:
        return {topic: 1 / len(parts) for topic in parts}
    raised = {topic: max(part / total, least) for topic, part in parts.items()}
    total = sum(raised.values())
    return {topic: part / total for topic, part in raised.items()}


def _falls(
    history: Sequence[tuple[int, Mapping[str, float]]],
    shares: TopicShares,
    seen: Observation,
    first_draws: Mapping[str, Sequence[float]],
) -> Compared:
    """-n dL/dn at the last observation by the fitted law, for the topics that were observed often enough.

    The variance has two parts: that of the fit, from what the law leaves unexplained in all topics together, and that
    of the held-out documents: the whole fall so far, computed on resampled documents.
    """
    fits: dict[str, PowerLaw] = {}
    whole: dict[str, tuple[float, float]] = {}
    for topic in shares:
        points = [(float(tokens), losses[topic]) for tokens, losses in history if topic in losses]
        if len(points) >= FIT_POINTS:
            tokens, losses = np.array(points).T
            fits[topic] = fit_power_law(tokens, losses)
            whole[topic] = losses[0] - losses[-1], len(points)
    freedom = sum(points - 3 for _, points in whole.values())
    scatter = sum(fit.squared_error for fit in fits.values()) / freedom if freedom else 0.0
    falls = Compared()
    for topic, fit in fits.items():
        exponent = max(fit.exponent, LEAST_EXPONENT)
        falls.values[topic] = exponent * fit.reducible
        draws, start = seen.draws(topic), np.array(first_draws.get(topic, ()))
        falls.variances[topic] = None
        if len(draws) and draws.shape == start.shape:
            fallen = whole[topic][0]
            of_documents = float(np.mean((start - draws - fallen) ** 2))
            # A law fitted to other documents has about the same shape: its fall scales with the whole fall.
            relative = of_documents / fallen**2 if fallen else math.inf
            own = falls.values[topic] ** 2 * relative if falls.values[topic] else exponent**2 * of_documents
            falls.variances[topic] = own + exponent**2 * scatter / fit.spread if fit.spread > 0 else None
    return falls


@dataclass(frozen=True)
class PowerLaw:
    """L(n) = e + b n^-a, fitted."""

    exponent: float
    """a."""
    scale: float
    """b, 0 or above."""
    reducible: float
    """b n^-a at the last point."""
    squared_error: float
    """Sum of the squared errors over the points."""
    spread: float
    """Sum of squares of n^-a about their mean, in units of n^-a at the last point."""


def fit_power_law(tokens: Floats, losses: Floats) -> PowerLaw:
    """Least squares over a grid of exponents.

    Args:
        tokens: [k], tokens trained on at each observation, above 0.
        losses: [k], loss at each observation.
    """
    # Powers relative to the last point, so that the columns do not underflow for any exponent.
    powers = (tokens[None, :] / tokens[-1]) ** -EXPONENTS[:, None]
    centred, fallen = powers - powers.mean(axis=1, keepdims=True), losses - losses.mean()
    spread = (centred**2).sum(axis=1)
    scale = np.maximum(0.0, np.divide(centred @ fallen, spread, out=np.zeros_like(spread), where=spread > 0))
    errors = ((fallen[None, :] - scale[:, None] * centred) ** 2).sum(axis=1)
    best = int(np.argmin(errors))
    exponent, reducible = float(EXPONENTS[best]), float(scale[best])
    factor = float(tokens[-1] ** exponent)
    return PowerLaw(exponent, reducible * factor, reducible, float(errors[best]), float(spread[best]))


def _lists(seen: Observation) -> dict[str, list[float]]:
    """The draws to store in the state, as JSON."""
    return {topic: seen.draws(topic).tolist() for topic in seen.losses} if seen.resampled is not None else {}


RULES: dict[str, Rule] = {
    "static": _static,
    "topic_perplexity": _topic_perplexity,
    "velocity": _velocity,
    "bandit": _bandit,
    "ado": _ado,
}
"""Name in the recipe -> rule."""

FIRST_UPDATE = {"static": 0, "topic_perplexity": 1, "velocity": 1, "bandit": 0, "ado": FIT_POINTS}
"""Rule -> validations of a stage, including the one at its first token, before the one at which it can first act."""

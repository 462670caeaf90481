"""How topic weights change while training: state and observed losses in, weights out.

A policy is a pure function of its settings, its state (a JSON object, {} before the first observation), the weights in
force, the held-out losses and the tokens trained on so far. It gives back the next state and the weights that it wants;
`update` then keeps these within the floor, the cap and the largest step. Given the same observations, every process of
a run and every resumed run gets the same weights.
"""

import math
from collections.abc import Mapping

from reprise.mixture.rules import RULES, State, Weights
from reprise.recipe.mixture import Policy


def update(
    policy: Policy, state: State, weights: Weights, losses: Mapping[str, float], tokens: int
) -> tuple[State, Weights]:
    """One observation.

    Args:
        policy: settings.
        state: what this function gave back at the last observation, {} at first.
        weights: topic -> share of its source; they sum to 1.
        losses: topic -> held-out loss in nats per token; a topic without one counts as unchanged.
        tokens: trained on in this stage so far.

    Returns:
        The next state, and the weights from now on.
    """
    if len(weights) < 2:
        return state, weights
    if state and tokens - state["tokens"] < policy.every_tokens:
        return state, weights
    known = {topic: float(losses[topic]) for topic in weights if math.isfinite(losses.get(topic, math.nan))}
    inner, wanted = RULES[policy.name](policy, state.get("rule", {}), weights, known, tokens)
    if wanted is None:
        return {"tokens": tokens, "rule": inner}, weights
    return {"tokens": tokens, "rule": inner}, bounded(weights, wanted, policy.floor, policy.cap, policy.max_step)


def bounded(old: Weights, wanted: Mapping[str, float], floor: float, cap: float, max_step: float) -> Weights:
    """Weights in the ratio that is wanted, as far as the bounds allow; they sum to 1.

    Args:
        old: weights in force.
        wanted: 0 or above, not all 0.
        floor: no weight falls below this; at most an equal share.
        cap: no weight rises above this; at least an equal share.
        max_step: largest change of one weight; a weight outside of floor and cap moves towards them by at most this.
    """
    equal = 1 / len(old)
    floor, cap = min(floor, equal), max(cap, equal)
    low = {topic: min(max(floor, share - max_step), share + max_step) for topic, share in old.items()}
    high = {topic: min(max(cap, share - max_step), share + max_step) for topic, share in old.items()}
    total = sum(wanted.values())
    shares = {topic: max(wanted[topic] / total, 1e-12) for topic in old}

    def scaled(factor: float) -> Weights:
        return {topic: min(max(share * factor, low[topic]), high[topic]) for topic, share in shares.items()}

    # The sum rises with the factor: find where it is 1.
    below, above = 0.0, 1.0
    while sum(scaled(above).values()) < 1.0 and above < 1e30:
        above *= 2
    for _ in range(200):
        middle = (below + above) / 2
        if sum(scaled(middle).values()) < 1.0:
            below = middle
        else:
            above = middle
    found = scaled(above)
    total = sum(found.values())
    return {topic: share / total for topic, share in found.items()}

"""How topic shares change during training: state and observed losses in, shares out.

A policy is a pure function of its settings, its state (a JSON object, {} before the first observation), the current
shares, the held-out losses and the tokens trained on so far. It returns the next state and proposed shares; `update`
then applies the floor, the cap and the largest step. Given the same observations, every process of a run and every
resumed run gets the same shares.

A topic without a held-out loss keeps its share under every rule; so does one whose share is 0, as the user set it.
"""

import math
from collections.abc import Collection, Mapping, Sequence

from reprise.mixture.rules import RULES, Observation, TopicShares
from reprise.mixture.state import PolicyState
from reprise.recipe.mixture import Policy


def update(
    policy: Policy,
    state: PolicyState,
    shares: TopicShares,
    losses: Mapping[str, float],
    tokens: int,
    resampled: Mapping[str, Sequence[float]] | None = None,
) -> tuple[PolicyState, TopicShares]:
    """Apply one observation.

    Args:
        policy: settings; `targets` and `topic_weights` are keyed by topic.
        state: what this function returned at the last observation, {} at first.
        shares: topic -> share of its source; they sum to 1.
        losses: topic -> held-out loss in nats per token.
        tokens: tokens trained on in this stage so far.
        resampled: see `Observation`.

    Returns:
        The next state, and the shares from now on.
    """
    if state and tokens - state["tokens"] < policy.every_tokens:
        return state, shares
    known = {
        topic: float(losses[topic])
        for topic, share in shares.items()
        if share > 0.0 and math.isfinite(losses.get(topic, math.nan))
    }
    if len(shares) < 2 or not known:
        return state, shares
    total = sum(shares[topic] for topic in known)
    of_known = {topic: shares[topic] / total for topic in known}
    inner, proposed = RULES[policy.name](policy, state.get("rule", {}), of_known, Observation(tokens, known, resampled))
    if proposed is None:
        return {"tokens": tokens, "rule": inner}, shares
    scale = sum(shares[topic] for topic in proposed) / sum(proposed.values())
    moved = shares | {topic: share * scale for topic, share in proposed.items()}
    kept = shares.keys() - proposed.keys()
    return {"tokens": tokens, "rule": inner}, bounded(
        shares, moved, policy.floor, policy.cap, policy.max_step, kept=kept
    )


def bounded(
    old: TopicShares,
    proposed: Mapping[str, float],
    floor: float,
    cap: float,
    max_step: float,
    *,
    kept: Collection[str] = (),
) -> TopicShares:
    """Shares in the proposed ratio, as far as the bounds allow; they sum to 1.

    Args:
        old: topic -> current share.
        proposed: topic -> proposed share, 0 or above, not all 0; they need not sum to 1.
        floor: no share falls below this; at most an equal share.
        cap: no share rises above this; at least an equal share.
        max_step: largest change of one share; a share outside of floor and cap moves towards them by at most this.
        kept: topics whose share does not change.
    """
    equal = 1 / max(1, sum(share > 0.0 for share in old.values()))
    floor, cap = min(floor, equal), max(cap, equal)
    low = {topic: min(max(floor, share - max_step), share + max_step) for topic, share in old.items()}
    high = {topic: min(max(cap, share - max_step), share + max_step) for topic, share in old.items()}
    for topic in kept:
        low[topic] = high[topic] = old[topic]
    total = sum(proposed.values())
    shares = {topic: max(proposed[topic] / total, 1e-12) for topic in old}

    def scaled(factor: float) -> TopicShares:
        return {topic: min(max(share * factor, low[topic]), high[topic]) for topic, share in shares.items()}

    # The sum increases with the factor: find the factor at which it is 1.
    below, above = 0.0, 1.0
    while sum(scaled(above).values()) < 1.0 and above < 1e30:
        above *= 2
    for _ in range(200):
        middle = (below + above) / 2
        if sum(scaled(middle).values()) < 1.0:
            below = middle
        else:
            above = middle
    within = scaled(above)
    total = sum(within.values())
    return {topic: share / total for topic, share in within.items()}

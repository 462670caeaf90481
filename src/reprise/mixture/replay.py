"""What each policy would have done with the validations that a run recorded, and how much of it is chance."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from reprise.mixture.policy import update
from reprise.mixture.rules import RULES, TopicShares
from reprise.mixture.state import PolicyState
from reprise.recipe.mixture import Policy, Stage


class Replayed(TypedDict):
    """Final shares of one policy on one split source."""

    path: str
    """Path of the source, such as `zh/web`."""
    policy: str
    shares: dict[str, float]
    """Topic -> its final share of the source."""
    low: dict[str, float]
    high: dict[str, float]
    """95 % band of the share over resampled held-out documents; the same as `shares` if none were recorded."""
    moved: float
    """Largest difference between a final and an initial share."""
    beyond_chance: bool
    """Whether `moved` exceeds, for 95 % of the draws, the draw's largest difference from `shares` over all topics."""


Measured = Mapping[str, Any]
"""A row of a validation event: language, source, topic, nll, nll_resampled."""


def replay(stage: Stage, validations: Iterable[tuple[int, Sequence[Measured]]]) -> list[Replayed]:
    """Run all policies, from equal shares.

    The recorded losses are used as they are, although the policy would have changed them.

    Args:
        stage: the training stage; its policy supplies all settings except the name.
        validations: (tokens of the stage, rows of the validation) in order.
    """
    recorded = list(validations)
    replayed: list[Replayed] = []
    for name, entry in stage.mixture.items():
        for source in entry.sources:
            topics = {
                row["topic"]
                for _, rows in recorded
                for row in rows
                if (row["language"], row["source"]) == (entry.language, source) and row["topic"] is not None
            }
            if source not in stage.topics.sources or len(topics) < 2:
                continue
            series = [
                (
                    tokens,
                    {row["topic"]: row for row in rows if (row["language"], row["source"]) == (entry.language, source)},
                )
                for tokens, rows in recorded
            ]
            for rule in RULES:
                policy = stage.topics.policy.model_copy(update={"name": rule}).of_source(f"{name}/{source}")
                replayed.append(_replay_one(f"{name}/{source}", policy, sorted(topics), series))
    return replayed


Series = list[tuple[int, dict[str, Measured]]]


def _replay_one(path: str, policy: Policy, topics: list[str], series: Series) -> Replayed:
    shares = _final(policy, topics, series, None)
    draws = min((len(row["nll_resampled"]) for _, rows in series for row in rows.values()), default=0)
    drawn: dict[str, list[float]] = defaultdict(list)
    for draw in range(draws):
        for topic, share in _final(policy, topics, series, draw).items():
            drawn[topic].append(share)
    ends = {topic: np.quantile(drawn[topic] or [shares[topic]], [0.025, 0.975]).tolist() for topic in topics}
    start = 1 / len(topics)
    moved = max(abs(share - start) for share in shares.values())
    # The largest difference of each draw from the recorded shares over all topics: a band for all topics jointly.
    apart = [max(abs(drawn[topic][draw] - shares[topic]) for topic in topics) for draw in range(draws)]
    return {
        "path": path,
        "policy": policy.name,
        "shares": shares,
        "low": {topic: low for topic, (low, _) in ends.items()},
        "high": {topic: high for topic, (_, high) in ends.items()},
        "moved": moved,
        "beyond_chance": draws > 0 and moved > float(np.quantile(apart, 0.95)),
    }


def _final(policy: Policy, topics: list[str], series: Series, draw: int | None) -> TopicShares:
    """Shares after the last validation, on the recorded losses or on one set of resampled documents."""
    state: PolicyState = {}
    shares = dict.fromkeys(topics, 1 / len(topics))
    for tokens, rows in series:
        losses = {t: row["nll"] if draw is None else row["nll_resampled"][draw] for t, row in rows.items()}
        # The draws are assumed to spread around one draw as they do around the mean.
        around = {
            topic: [value + losses[topic] - row["nll"] for value in row["nll_resampled"]] for topic, row in rows.items()
        }
        state, shares = update(policy, state, shares, losses, tokens, around if any(around.values()) else None)
    return shares


def say_replay(rows: list[Replayed]) -> list[str]:
    """A sentence for each policy and source."""
    return [
        f"{row['path']}, {row['policy']}: the largest move of a share is {row['moved']:.4f}; "
        + (
            "more than the choice of the held-out documents explains"
            if row["beyond_chance"]
            else "no more than the choice of the held-out documents explains"
        )
        for row in rows
        if row["policy"] != "static"
    ]

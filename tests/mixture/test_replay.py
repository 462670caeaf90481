"""Policies on recorded validations."""

import numpy as np

from reprise.mixture.replay import replay, say_replay
from reprise.mixture.rules import RULES
from reprise.recipe.mixture import Stage
from reprise.stable_random import resamples

STAGE = Stage.model_validate(
    {
        "name": "one",
        "tokens": 1000,
        "mixture": {"zh": {"share": 1.0, "sources": {"web": 1.0}}},
        "topics": {"sources": ["web"], "policy": {"noise": 0.0}},
    }
)


def recorded(fast: float, seed: int = 0) -> list:
    """12 validations of 4 topics of 50 documents that fall by 0.2, one of them by `fast`."""
    rng = np.random.default_rng(seed)
    start, speed = rng.normal(2.5, 0.5, (4, 50)), rng.normal(1.0, 0.5, (4, 50))
    speed *= np.array([fast, 0.2, 0.2, 0.2])[:, None]
    draws = resamples("replay", 50, 32) / 50
    events = []
    for step in range(12):
        losses = start - speed * (1 - (1 + step) ** -0.5)
        rows = [
            {"language": "zh", "source": "web", "topic": f"t{i}", "nll": float(one.mean()),
             "nll_resampled": (draws @ one).tolist()}
            for i, one in enumerate(losses)
        ]  # fmt: skip
        events.append((step * 1000, rows))
    return events


def test_every_policy_is_replayed_with_its_band() -> None:
    rows = replay(STAGE, recorded(fast=1.0))
    assert [row["policy"] for row in rows] == list(RULES)
    by_name = {row["policy"]: row for row in rows}
    assert by_name["static"]["moved"] == 0.0 and not by_name["static"]["beyond_chance"]
    for name in ("topic_perplexity", "velocity", "ado"):
        row = by_name[name]
        assert row["beyond_chance"], "one topic falls five times as fast"
        assert row["low"]["t0"] <= row["shares"]["t0"] <= row["high"]["t0"]
    assert by_name["ado"]["shares"]["t0"] > 0.25 > by_name["topic_perplexity"]["shares"]["t0"]
    assert "more than the choice of the held-out documents explains" in "\n".join(say_replay(rows))


def test_topics_that_learn_alike_are_told_from_those_that_do_not() -> None:
    """Bands are those of 95 %, and a source has 4 topics: most replays of chance alone are told as that."""
    told = [
        row["beyond_chance"]
        for seed in range(6)
        for row in replay(STAGE, recorded(fast=0.2, seed=seed))
        if row["policy"] == "topic_perplexity"
    ]
    assert np.mean(told) <= 0.5

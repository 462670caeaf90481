"""Settings that would change nothing are told before the work."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprise.mixture.idle_settings import check_idle_settings, count_updates
from reprise.mixture.policy import update
from reprise.mixture.rules import RULES
from reprise.recipe import Recipe
from reprise.recipe.mixture import Policy

SOURCES = {"web": 1.0}
FREE = {"floor": 0.0, "cap": 1.0, "max_step": 1.0}


def findings(stage: dict, training: dict | None = None, **recipe: object) -> list:
    """Of a stage of 100,000 tokens, 25 steps of 4,096."""
    data = {
        "name": "idle",
        "workspace": "run",
        "model": {"path": "model"},
        "rows": {"seq_len": 512},
        "stages": [{"name": "one", "tokens": 100_000, "mixture": {"en": {"share": 1.0, "sources": SOURCES}}, **stage}],
        "training": {"batch_rows": 8, **(training or {})},
        **recipe,
    }
    return list(check_idle_settings(Recipe.model_validate(data)))


POLICY = {"topics": {"sources": ["web"], "policy": {"name": "topic_perplexity"}}}
EVERY = {"validation": {"every_tokens": 10_000}}


@pytest.mark.parametrize(
    ("stage", "training", "what", "severity"),
    [
        (POLICY, {}, "`static` under another name", "warning"),
        (POLICY, {"validation": {"every_tokens": 98_304}}, None, None),
        (POLICY, {"validation": {"every_tokens": 98_305}}, "`static` under another name", "warning"),
        ({"topics": {"sources": ["web"], "policy": {"name": "ado"}}}, EVERY, None, None),
        (
            {"topics": {"sources": ["web"], "policy": {"name": "ado", "every_tokens": 40_000}}},
            EVERY,
            "`static` under another name",
            "warning",
        ),
        ({"topics": {"policy": {"name": "ado"}}}, EVERY, "no source is split by topic", "warning"),
        ({"schedule": {"kind": "wsd"}}, {}, "never decays", "error"),
        ({"schedule": {"kind": "wsd", "decay_tokens": 10_000}}, {}, None, None),
        ({"schedule": {"kind": "wsd", "decay_tokens": 60_000, "warmup_tokens": 50_000}}, {}, "its peak", "warning"),
        ({"schedule": {"decay_tokens": 10_000}}, {}, "`constant` does not use decay_tokens", "error"),
        ({"schedule": {"kind": "cosine", "decay_tokens": 10_000}}, {}, "`cosine` does not use decay_tokens", "error"),
        ({"schedule": {"final_lr": 1e-7}}, {}, "`constant` does not use final_lr", "error"),
        ({"schedule": {"kind": "cosine", "final_lr": 1e-7}}, {}, None, None),
        ({"schedule": {"kind": "cosine", "final_lr": 1e-3}}, {}, "rises to final_lr", "warning"),
        ({"schedule": {"initial_lr": 1e-3, "warmup_tokens": 10_000}}, {}, "the warm-up falls", "warning"),
        ({"schedule": {"warmup_tokens": 100_000}}, {}, "its peak", "warning"),
        ({"schedule": {"kind": "cosine", "warmup_tokens": 200_000}}, {}, "its peak", "warning"),
        ({"schedule": {"warmup_tokens": 99_999}}, {}, None, None),
        ({}, {"averaging": {"kind": "mean", "tokens": 10_000, "every_steps": 30}}, "nothing is averaged", "warning"),
        ({}, {"averaging": {"kind": "mean", "tokens": 100}}, None, None),
        ({}, {"averaging": {"kind": "ema", "every_steps": 26}}, "nothing is averaged", "warning"),
        ({}, {"averaging": {"kind": "ema", "every_steps": 25}}, None, None),
        ({}, {"benchmarks_every_tokens": 200_000}, "no stage has so many tokens", "warning"),
        ({}, {"validation": {"every_tokens": 200_000}}, "no stage has so many tokens", "warning"),
        ({}, {"checkpoints": {"keep_every_tokens": 50_000}}, "there is none to keep", "warning"),
        ({}, {"guards": {"retention": "raise_share"}}, "acts after the last row", "warning"),
        ({}, {}, None, None),
    ],
)
def test_each_kind_is_told(stage: dict, training: dict, what: str | None, severity: str | None) -> None:
    found = findings(stage, training, evaluation={"tolerance": {"en": 0.02}})
    assert [finding.severity for finding in found] == ([] if severity is None else [severity]), found
    if what is not None:
        assert what in found[0].what and found[0].where and found[0].remedy


KEPT = {"mixture": {"law": {"share": 1.0, "language": "en", "sources": SOURCES, "keep": True}}}


@pytest.mark.parametrize(
    ("stage", "evaluation", "what"),
    [
        (KEPT, {}, "acts after the last row"),
        ({}, {}, "acts after the last row"),  # English is kept where nothing is named
        ({}, {"tolerance": {}}, "nothing to keep"),
    ],
)
@pytest.mark.parametrize("action", ["stop", "raise_share"])
def test_a_guard_without_anything_to_see_is_told(stage: dict, evaluation: dict, what: str, action: str) -> None:
    (found,) = findings(stage, {"guards": {"retention": action}}, evaluation=evaluation)
    assert what in found.what and found.severity == "warning"
    validated = findings(stage, {"guards": {"retention": action}, **EVERY}, evaluation=evaluation)
    assert len(validated) == (what == "nothing to keep")
    assert not findings(stage, {"guards": {"retention": "warn"}}, evaluation=evaluation)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(sorted(set(RULES) - {"static"})),
    steps=st.integers(1, 30),
    short=st.integers(0, 99),
    validate_every=st.integers(0, 900),
    policy_every=st.integers(0, 900),
)
def test_updates_are_counted_as_training_makes_them(
    name: str, steps: int, short: int, validate_every: int, policy_every: int
) -> None:
    """Against the loop: validate when it is due, tell the policy, count what moved before the last row."""
    tokens, policy = steps * 100 - short, Policy(name=name, every_tokens=policy_every, **FREE)
    done, due, state, moved = 0, 0, {}, 0
    shares = {"A": 0.5, "B": 0.3, "C": 0.2}
    while done < tokens:
        if done >= due:
            due = (done // validate_every + 1) * validate_every if validate_every else 10**9
            losses = {"A": 4.0 * (1 + done) ** -0.1, "B": 3.0 - 1e-5 * done, "C": 2.0 - 1e-4 * done}
            state, new = update(policy, state, shares, losses, done)
            moved, shares = moved + (new != shares), new
        done += 100
    assert count_updates(policy, tokens, 100, validate_every) == moved

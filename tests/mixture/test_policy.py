import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprise.mixture.policy import bounded, update
from reprise.recipe.mixture import Policy

FREE = {"floor": 0.0, "cap": 1.0, "max_step": 1.0}
START = {"A": 0.5, "B": 0.3, "C": 0.2}


def ppl(**values: float) -> dict[str, float]:
    return {topic: math.log(value) for topic, value in values.items()}


def test_static_never_moves() -> None:
    state, shares = update(Policy(), {}, START, ppl(A=10, B=20, C=40), 0)
    assert update(Policy(), state, shares, ppl(A=99, B=1, C=40), 10)[1] == START


def test_topic_perplexity_by_hand() -> None:
    """A rises by 10 %, C falls by 10 %: f = 1.2, 1, 0.8 with alpha 2; r f = 0.6, 0.3, 0.16, over their sum 1.06."""
    policy = Policy(name="topic_perplexity", alpha=2.0, **FREE)
    state, shares = update(policy, {}, START, ppl(A=10, B=20, C=40), 0)
    assert shares == START, "there is no change to go by yet"
    state, shares = update(policy, json.loads(json.dumps(state)), shares, ppl(A=11, B=20, C=36), 1000)
    assert shares == pytest.approx({"A": 0.6 / 1.06, "B": 0.3 / 1.06, "C": 0.16 / 1.06})
    # Then nothing changes, so the shares stay.
    assert update(policy, state, shares, ppl(A=11, B=20, C=36), 2000)[1] == pytest.approx(shares)


def test_topic_perplexity_by_hand_within_bounds() -> None:
    """The same with steps of at most 0.03: A stops at 0.53, C at 0.17, B gets the rest, 0.30."""
    policy = Policy(name="topic_perplexity", alpha=2.0, floor=0.0, cap=1.0, max_step=0.03)
    state, shares = update(policy, {}, START, ppl(A=10, B=20, C=40), 0)
    assert update(policy, state, shares, ppl(A=11, B=20, C=36), 1)[1] == pytest.approx({"A": 0.53, "B": 0.3, "C": 0.17})


def test_topic_perplexity_by_hand_with_its_other_constants() -> None:
    """Largest change 10 %: delta = 1, 0, -1; alpha 0.5, w_C 0.4: f = 1.5, 1, 0.8; r f = 0.75, 0.3, 0.16; sum 1.21."""
    policy = Policy(name="topic_perplexity", alpha=0.5, normaliser="largest", topic_weights={"C": 0.4}, **FREE)
    state, shares = update(policy, {}, START, ppl(A=10, B=20, C=40), 0)
    got = update(policy, state, shares, ppl(A=11, B=20, C=36), 1)[1]
    assert got == pytest.approx({"A": 0.75 / 1.21, "B": 0.3 / 1.21, "C": 0.16 / 1.21})


def test_a_topic_without_a_loss_keeps_its_share() -> None:
    """C was never measured: A and B share their 0.8 anew, r f = 0.6, 0.3 over 0.9. Then B has no loss: A is alone."""
    policy = Policy(name="topic_perplexity", alpha=2.0, **FREE)
    state, shares = update(policy, {}, START, ppl(A=10, B=20), 0)
    state, shares = update(policy, state, shares, ppl(A=11, B=20), 1)
    assert shares == pytest.approx({"A": 0.6 * 0.8 / 0.9, "B": 0.3 * 0.8 / 0.9, "C": 0.2})
    state, after = update(policy, state, shares, {**ppl(A=12), "B": math.nan}, 2)
    assert after == pytest.approx(shares)
    assert state["rule"]["ppl"] == pytest.approx({"A": 12, "B": 20})


def test_updates_wait_for_their_interval() -> None:
    policy = Policy(name="topic_perplexity", alpha=2.0, every_tokens=1000, **FREE)
    state, shares = update(policy, {}, START, ppl(A=10, B=20, C=40), 0)
    same_state, same = update(policy, state, shares, ppl(A=12, B=20, C=40), 999)
    assert (same_state, same) == (state, START)
    assert update(policy, state, shares, ppl(A=12, B=20, C=40), 1000)[1] != START


def test_one_topic_alone_keeps_its_share() -> None:
    policy = Policy(name="topic_perplexity", alpha=2.0)
    assert update(policy, {}, {"A": 1.0}, ppl(A=10), 0) == ({}, {"A": 1.0})


shares = st.lists(st.floats(0.01, 1.0), min_size=2, max_size=12)


@given(shares, st.data(), st.floats(0, 0.2), st.floats(0.3, 1.0), st.floats(0.001, 0.3))
def test_bounds_hold(values: list[float], data: st.DataObject, floor: float, cap: float, max_step: float) -> None:
    """From shares inside the bounds, every result is inside them, sums to 1 and moves by at most the largest step."""
    n = len(values)
    floor, cap = min(floor, 1 / n), max(cap, 1 / n)
    old = bounded({str(i): 1 / n for i in range(n)}, {str(i): v for i, v in enumerate(values)}, floor, cap, 1.0)
    wanted = {str(i): data.draw(st.floats(0, 100)) for i in range(n)}
    if sum(wanted.values()) <= 0:
        return
    new = bounded(old, wanted, floor, cap, max_step)
    assert sum(new.values()) == pytest.approx(1.0, abs=1e-9)
    for topic, share in new.items():
        assert floor - 1e-9 <= share <= cap + 1e-9
        assert abs(share - old[topic]) <= max_step + 1e-9


def test_bounds_by_hand() -> None:
    """Wanted 0.8, 0.1, 0.1 with a cap of 0.5: the others share the rest alike."""
    equal = {"A": 1 / 3, "B": 1 / 3, "C": 1 / 3}
    assert bounded(equal, {"A": 8, "B": 1, "C": 1}, 0.0, 0.5, 1.0) == pytest.approx({"A": 0.5, "B": 0.25, "C": 0.25})
    assert bounded(equal, {"A": 1, "B": 1, "C": 0}, 0.1, 1.0, 1.0) == pytest.approx({"A": 0.45, "B": 0.45, "C": 0.1})
    # A share that is over the cap comes back by at most the largest step.
    far = bounded({"A": 0.9, "B": 0.1}, {"A": 1, "B": 0}, 0.0, 0.5, 0.03)
    assert far == pytest.approx({"A": 0.87, "B": 0.13})

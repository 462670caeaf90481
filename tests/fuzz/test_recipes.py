"""Wrong recipes: each is told before the work, in one message."""

import random

import pytest
from tests.fuzz.recipes import rng_of, try_recipe
from tests.pipeline.conftest import small_recipe

from reprise.errors import UserError
from reprise.recipe.loading import apply_override, parse_recipe


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from tests.models import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("model"), ["a few words", "那一天他来了"], 300)


def test_a_wrong_recipe_is_told(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = small_recipe(tmp_path / "run", model)
    wrong = {}
    for number in random.Random(1).sample(range(100_000), 25):
        what, outcome = try_recipe(data, tmp_path, rng_of(number))
        if outcome.fault:
            wrong[number, what] = outcome.fault
    assert not wrong


@pytest.mark.parametrize(
    "text",
    ["seed: 2026-02-31\n", f"seed: {'9' * 5000}\n", f"name: {'[' * 5000}\n", "name: x\nmodel: {path: ''}\n",
     'name: x\nmodel: {path: "a\\0b"}\n'],
    ids=["date", "long number", "deep", "empty path", "NUL"],
)  # fmt: skip
def test_a_value_that_no_library_takes_is_refused(text):
    with pytest.raises(UserError):
        parse_recipe(text)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000])
def test_an_override_that_no_library_takes_is_refused(value):
    with pytest.raises(UserError):
        apply_override({}, f"seed={value}")

"""Words stay words: Norwegian is `no`, a switch is `off`, a time is no number."""

import math

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from reprise.recipe.loading import parse_recipe
from reprise.yaml_text import format_yaml, read_yaml

WORDS = ["no", "No", "off", "on", "yes", "y", "n", "12:30", "1:2:3", "2024-01-01", "0x1f", "0o17", "1.2.3", "e5", "-"]


def test_only_what_yaml_1_2_calls_so_is_a_boolean_a_number_or_nothing():
    for word in WORDS[:-1]:
        assert read_yaml(f"a: {word}") == {"a": word}
        assert read_yaml(f"{word}: 1") == {word: 1}
    assert read_yaml("[true, False, null, ~, 010, 1_000, 1e-4, -2.5E3, .5, 1., .inf, -.Inf]") == [
        True, False, None, None, 10, 1000, 1e-4, -2500.0, 0.5, 1.0, math.inf, -math.inf,
    ]  # fmt: skip
    assert math.isnan(read_yaml(".nan")) and read_yaml("a:") == {"a": None} and read_yaml("") is None
    assert type(read_yaml("1e-4")) is float and type(read_yaml("10")) is int


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.sampled_from(WORDS)
    | st.from_regex(r"[-+]?[0-9._:xoe]{1,8}", fullmatch=True),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@example({"\x85": None, "a": "\u2028", "b": ["x\u2029y", "\ufeff", "\x85\n "]})
@given(values)
def test_what_is_written_is_read_back_here_and_by_others(data):
    text = format_yaml(data)
    assert read_yaml(text) == data
    assert yaml.safe_load(text) == data


RECIPE = """
name: 1e-4 warm
workspace: runs/x
model: {path: somewhere}
stages:
  - {name: one, tokens: 1k, mixture: {no: {share: 1.0, sources: {web: 1.0}}}}
training: {guards: {retention: off, spike: off}}
"""


def test_a_recipe_in_norwegian_with_guards_off():
    recipe = parse_recipe(RECIPE, ["stages.0.name=on", "training.guards.spike=off"])
    (stage,) = recipe.stages
    assert stage.name == "on" and [entry.language for entry in stage.mixture.values()] in (["no"], ["nb"], ["nor"])
    assert recipe.training.guards.retention == recipe.training.guards.spike == "off"


def test_a_tag_and_a_key_given_twice_are_refused():
    for text in ("!!python/object:os.system {}", "a: 1\na: 2"):
        with pytest.raises(yaml.YAMLError):
            read_yaml(text)

"""Folders that this machine does not have: homes, caches."""

import os

import pytest

from reprise.errors import UserError
from reprise.recipe.loading import parse_recipe
from reprise.storage import cache_folder

RECIPE = """
name: x
workspace: {workspace}
model: {{path: {model}}}
documents: {{inputs: [{{path: {input}}}], language_packs: {packs}}}
synthesis: {{prompts: {prompts}}}
stages: [{{name: one, tokens: 128, mixture: {{en: {{share: 1.0, sources: {{web: 1.0}}}}}}}}]
"""
GOOD = {"workspace": "runs/x", "model": "none", "input": "none", "packs": "null", "prompts": "null"}


@pytest.mark.parametrize("setting", GOOD)
@pytest.mark.parametrize("path", ["~nobody-has-this-name/x", '""', '" "', '"a\\0b"'])
def test_a_path_that_cannot_be_is_refused_by_its_setting(setting, path):
    name = {"packs": "language_packs", "input": "inputs.0.path"}.get(setting, setting)
    with pytest.raises(UserError) as refused:
        parse_recipe(RECIPE.format(**{**GOOD, setting: path}))
    assert name in str(refused.value) or (setting == "packs" and "documents" in str(refused.value))


def test_a_workspace_in_the_home_folder_is_there(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_recipe(RECIPE.format(**{**GOOD, "workspace": "~/runs/x"})).workspace == f"{tmp_path}/runs/x"


@pytest.mark.parametrize("shared", ["", "relative/cache", None])
def test_the_cache_is_in_the_home_folder_where_xdg_says_nothing_usable(monkeypatch, tmp_path, shared):
    monkeypatch.delenv("REPRISE_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if shared is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", shared)
    assert cache_folder() == tmp_path / ".cache" / "reprise"
    monkeypatch.setenv("REPRISE_CACHE", str(tmp_path / "other"))
    assert cache_folder() == tmp_path / "other"


@pytest.mark.parametrize("home", ["/dev/null", "/proc/self/none", None])
def test_a_home_that_cannot_be_written_is_one_message_with_the_remedy(monkeypatch, home):
    for name in ("REPRISE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    else:  # a user that the machine does not know, as in a container
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(PermissionError, match="set REPRISE_CACHE"):
        cache_folder()

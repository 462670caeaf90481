"""`documents.keep_text: false`: text that was read is removed, and made again only by a stage that must read it."""

import shutil

import pytest

from reprise.freshness import statuses
from reprise.pipeline import run_stages
from reprise.recipe.loading import load_recipe
from reprise.workspace import Workspace

REMOVED = ("read", "clean", "deduplicate", "decontaminate", "label")


def quiet(line):
    pass


@pytest.fixture
def load(recipe_data, write_recipe):
    def load(**documents):
        recipe_data["documents"] |= documents
        return load_recipe(write_recipe(recipe_data))

    return load


def contents(workspace):
    return {name: workspace.manifest(name).content for name in (*REMOVED, "score", "tokenize")}


def has_text(workspace):
    return [name for name in (*REMOVED, "score") if (workspace.folder(name) / "documents").exists()]


def test_text_is_removed_once_it_was_read_and_comes_back_where_it_is_needed(load):
    recipe = load()
    workspace = Workspace(recipe.workspace)
    run_stages(recipe, until=["tokenize"], say=quiet)
    before = contents(workspace)
    assert has_text(workspace) == [*REMOVED, "score"]

    lean = load(keep_text=False)
    assert run_stages(lean, until=["tokenize"], say=quiet) == 0
    assert has_text(workspace) == ["score"]
    assert {status.state for name, status in statuses(lean, workspace) if name in before} == {"fresh"}
    assert run_stages(lean, until=["tokenize"], say=quiet) == 0
    manifest = workspace.manifest("clean")
    assert manifest.removed
    assert all(name.startswith("documents/") for name in manifest.removed)

    lines = []
    changed = load(clean={"enabled": False})  # needs the text of `read`, which is gone
    run_stages(changed, until=["tokenize"], say=lines.append)
    assert any("read: its text was removed" in line and "made again" in line for line in lines)
    assert has_text(workspace) == ["score"]

    run_stages(load(clean={"enabled": True}), until=["tokenize"], say=quiet)
    assert contents(workspace) == before


def test_a_stage_that_failed_in_the_middle_is_read_again_from_the_inputs(load):
    lean = load(keep_text=False)
    workspace = Workspace(lean.workspace)
    run_stages(lean, until=["deduplicate"], say=quiet)
    assert has_text(workspace) == ["deduplicate"]  # nothing has read it yet
    assert run_stages(lean, until=["tokenize"], say=quiet) > 0
    assert has_text(workspace) == ["score"]


def test_a_kill_between_the_manifest_and_the_removal_leaves_no_text_that_is_read(load, monkeypatch):
    lean = load(keep_text=False)
    workspace = Workspace(lean.workspace)

    def killed(folder, **options):
        if folder.name == "documents":
            raise KeyboardInterrupt
        return rmtree(folder, **options)

    rmtree = shutil.rmtree
    monkeypatch.setattr("reprise.workspace.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        run_stages(lean, until=["tokenize"], say=quiet)
    monkeypatch.undo()
    assert workspace.compare("read")[1] == ["its text was removed to save disk space"]
    run_stages(lean, until=["tokenize"], say=quiet)
    assert has_text(workspace) == ["score"]

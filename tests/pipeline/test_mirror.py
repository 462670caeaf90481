"""A whole run in a mirror: an empty disk gets the finished stages back."""

import shutil

import pytest

from reprise import object_store
from reprise.errors import UserError
from reprise.pipeline import run_stages
from reprise.recipe.loading import load_recipe
from reprise.workspace import Workspace


def contents(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".") and "cache" not in path.parts
    }


def run(recipe, *, restart=False):
    lines = []
    count = run_stages(recipe, say=lines.append, restart=restart)
    return count, lines


@pytest.mark.slow
def test_an_empty_disk_gets_every_finished_stage_back(recipe_data, write_recipe, bucket, tmp_path):
    recipe_data["mirror"] = "s3://bucket/whole"
    recipe_data["documents"]["keep_text"] = False
    recipe_data["stages"] = [recipe_data["stages"][0] | {"tokens": 1024}]
    recipe = load_recipe(write_recipe(recipe_data))
    workspace = Workspace(recipe.workspace)
    stages, _ = run(recipe)
    before = contents(workspace.root)
    complete = set(bucket.complete("whole", tmp_path))
    assert {"read", "label", "score", "tokenize", "train-1", "evaluate", "report"} <= complete
    assert {"whole/report.html", "whole/recipe.yaml"} <= set(bucket.names("whole"))
    assert not bucket.names("whole/train-1.partial")
    assert not bucket.names("whole/read/documents")  # the text was removed, as on disk

    shutil.rmtree(workspace.root)
    count, lines = run(recipe)
    assert count == 1
    assert sum("downloaded from s3://bucket/whole" in line for line in lines) == stages - 1
    after = contents(workspace.root)
    for name in before.keys() | after.keys():
        if not name.startswith("report"):
            assert before[name] == after[name], name

    shutil.rmtree(workspace.root / "train-1")
    name = next(name for name in bucket.names("whole/train-1/model") if name.endswith(".safetensors"))
    bucket.put(name, bucket.content(name)[:-1])
    count, lines = run(recipe)
    assert any("train-1 is not taken from the mirror" in line for line in lines)
    assert (workspace.root / "train-1/model/model.safetensors").read_bytes() == before[
        "train-1/model/model.safetensors"
    ]
    assert "train-1" in bucket.complete("whole", tmp_path)  # the damaged one was replaced


def test_a_mirror_that_cannot_be_written_is_refused_before_the_work(recipe_data, write_recipe, bucket):
    recipe_data["mirror"] = "s3://nothing/run"
    recipe = load_recipe(write_recipe(recipe_data))
    with pytest.raises(UserError, match="the mirror cannot be written") as error:
        run(recipe)
    assert "mirror=s3://nothing/run" in str(error.value)
    assert not (Workspace(recipe.workspace).root / "read").exists()


def test_a_store_that_fails_costs_no_stage(recipe_data, write_recipe, bucket, monkeypatch):
    monkeypatch.setattr(object_store, "FIRST_PAUSE_S", 0.01)
    recipe_data["mirror"] = "s3://bucket/failing"
    recipe = load_recipe(write_recipe(recipe_data))
    lines = []

    def say(line):
        lines.append(line)
        bucket.faults(status=500, count=10_000)

    assert run_stages(recipe, until=["clean"], say=say) == 2
    assert [line for line in lines if "warning: read is not in the mirror" in line]
    bucket.faults()
    assert run_stages(recipe, until=["clean"], say=lines.append) == 0
    assert bucket.names("failing/read/manifest.json")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("/mnt/bucket", "write s3://bucket/folder"),
        ("https://bucket/run", "write s3://bucket/folder"),
        ("s3://bucket", "name a folder of this run"),
        ("s3://key:secret@bucket/run", "carries no password"),
        ("s3://bucket/a/../b", "without empty parts"),
    ],
)
def test_urls_that_are_not_mirrors(recipe_data, write_recipe, value, why):
    recipe_data["mirror"] = value
    with pytest.raises(UserError, match=why) as error:
        load_recipe(write_recipe(recipe_data))
    assert "secret" not in str(error.value)

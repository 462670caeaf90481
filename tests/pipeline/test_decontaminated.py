"""Scoring and training refuse text that was not checked against the benchmarks, unless the recipe says so."""

import json
from dataclasses import replace

import pytest
import yaml

from reprise.errors import UserError
from reprise.manifest import read_manifest, write_manifest
from reprise.pipeline import run_stages
from reprise.recipe.loading import load_recipe


@pytest.fixture
def loaded(recipe_data, write_recipe):
    def load(**decontaminate):
        recipe_data["documents"]["decontaminate"] = decontaminate
        return load_recipe(write_recipe(recipe_data))

    return load


def quiet(line):
    pass


def test_documents_that_were_not_checked_are_refused(loaded, tmp_path):
    recipe = loaded()
    run_stages(recipe, until=["label"], say=quiet)
    folder = tmp_path / "run" / "decontaminate"
    manifest = read_manifest(folder / "manifest.json")
    assert manifest.counts["decontaminated"] is True
    for counts in ({**manifest.counts, "decontaminated": False}, {"documents_in": 1}):
        write_manifest(folder, replace(manifest, counts=counts))
        for stage in ("score", "train-1"):
            with pytest.raises(UserError, match="not checked against the benchmarks") as error:
                run_stages(recipe, until=[stage], say=quiet)
            assert error.value.where == str(tmp_path / "run" / "decontaminate")
    assert not (tmp_path / "run" / "score").exists()
    write_manifest(folder, manifest)
    run_stages(recipe, until=["score"], say=quiet)


def test_the_recipe_may_want_them_as_they_are(loaded, tmp_path):
    recipe = loaded(enabled=False)
    run_stages(recipe, until=["score"], say=quiet)
    counts = json.loads((tmp_path / "run" / "decontaminate" / "manifest.json").read_text(encoding="utf-8"))["counts"]
    assert counts["decontaminated"] is False
    with pytest.raises(UserError, match="no folder with the questions"):
        changed = yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json")))
        changed["documents"]["decontaminate"]["enabled"] = True
        changed["evaluation"]["benchmarks"] = ["sciq"]
        run_stages(type(recipe).model_validate(changed), until=["score"], say=quiet)

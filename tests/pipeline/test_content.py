"""What is published is checked when it is read, and only a change of content makes later stages stale."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml
from tests.pipeline.conftest import small_recipe

import reprise
from reprise.errors import UserError
from reprise.freshness import statuses
from reprise.pipeline import run_stages
from reprise.publish.export import Source
from reprise.recipe.loading import load_recipe
from reprise.report.facts import gather
from reprise.study import read_results
from reprise.workspace import Workspace


def quiet(line):
    pass


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model):
    """The data of a recipe with its files in a folder of its own, and its finished run."""
    root = tmp_path_factory.mktemp("content")
    data = small_recipe(root / "run", tiny_model)
    import importlib.resources

    (root / "text").mkdir()
    for lang in ("en", "zh"):
        shutil.copy(str(importlib.resources.files("reprise") / "demo" / f"{lang}.jsonl"), root / "text")
    data["documents"]["inputs"] = [{"path": str(root / "text")}]
    recipe = root / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    run_stages(load_recipe(recipe), say=quiet)
    return data, root


@pytest.fixture
def copied(made, tmp_path):
    """A copy of the finished run, to change."""
    data, root = made
    shutil.copytree(root / "run", tmp_path / "run")
    return json.loads(json.dumps(data)) | {"workspace": str(tmp_path / "run")}, tmp_path


def load(data, folder):
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    return load_recipe(path)


def stale(recipe):
    return {name for name, status in statuses(recipe, Workspace(recipe.workspace)) if status.state != "fresh"}


@pytest.mark.slow
def test_the_same_files_in_another_place_make_nothing_stale(copied, made):
    data, folder = copied
    shutil.copytree(made[1] / "text", folder / "elsewhere")
    shutil.copytree(data["model"]["path"], folder / "model")
    data["documents"]["inputs"] = [{"path": str(folder / "elsewhere")}]
    data["model"]["path"] = str(folder / "model")
    assert stale(load(data, folder)) == set()
    text = folder / "elsewhere" / "en.jsonl"
    text.write_text(text.read_text(encoding="utf-8").replace("the", "The", 1), encoding="utf-8")
    assert "read" in stale(load(data, folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda r: r["stages"][0].update(name="renamed"), set()),
        (lambda r: r["documents"].update(max_reject_share=0.5), set()),
        (lambda r: r["training"].update(guards={"retention": "off"}), set()),
        (lambda r: r["evaluation"].update(tolerance={"zh": 0.1}), {"evaluate"}),
        (
            lambda r: [
                r["evaluation"].update(tolerance={"zh": 0.1}),
                r["training"].update(guards={"retention": "stop"}),
            ],
            {"train-1", "train-2", "evaluate"},
        ),
    ],
)
def test_a_setting_makes_stale_only_what_it_can_change(copied, change, expected):
    data, folder = copied
    change(data)
    assert stale(load(data, folder)) - {"report"} == expected


@pytest.mark.slow
def test_a_limit_that_the_published_stage_breaks_makes_it_stale(made, tmp_path, tiny_model):
    data = json.loads(json.dumps(made[0])) | {"workspace": str(tmp_path / "run")}
    shutil.copytree(made[1] / "text", tmp_path / "text")
    with (tmp_path / "text" / "en.jsonl").open("a", encoding="utf-8") as lines:
        lines.write("not JSON\n")
    data["documents"] |= {"inputs": [{"path": str(tmp_path / "text")}], "max_reject_share": 0.5}
    run_stages(load(data, tmp_path), until=["read"], say=quiet)
    data["documents"]["max_reject_share"] = 0.4
    assert "read" not in stale(load(data, tmp_path))
    data["documents"]["max_reject_share"] = 0.0
    assert "read" in stale(load(data, tmp_path))


@pytest.mark.slow
def test_a_stage_made_again_with_equal_output_leaves_the_rest_fresh(copied):
    data, folder = copied
    shutil.rmtree(folder / "run" / "clean")
    assert "train-1" in stale(load(data, folder))  # nobody knows yet
    told = []
    run_stages(load(data, folder), until=["evaluate"], say=told.append)
    done = [line.split(":")[0] for line in told if "done" in line]
    assert done == ["clean"]
    assert stale(load(data, folder)) <= {"report"}


@pytest.mark.slow
def test_a_damaged_file_that_is_read_is_made_again(copied):
    data, folder = copied
    victim = next((folder / "run" / "deduplicate" / "documents").glob("*.parquet"))
    flip(victim, victim.stat().st_size // 2)
    shutil.rmtree(folder / "run" / "decontaminate")
    told = []
    run_stages(load(data, folder), until=["evaluate"], say=told.append)
    assert any(str(victim) in line and "made again" in line for line in told)
    assert [line.split(":")[0] for line in told if "done" in line] == ["deduplicate", "decontaminate"]


@pytest.mark.slow
def test_a_damaged_trained_model_is_named_and_kept(copied):
    data, folder = copied
    victim = folder / "run" / "train-2" / "model" / "model.safetensors"
    flip(victim, victim.stat().st_size // 2)
    shutil.rmtree(folder / "run" / "evaluate")
    recipe = load(data, folder)
    done = subprocess.run(
        [sys.executable, "-m", "reprise", "evaluate", folder / "changed.yaml"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert str(victim) in done.stderr
    assert "Traceback" not in done.stderr
    assert victim.exists()
    assert not (folder / "run" / "evaluate").exists()
    assert stale(recipe) >= {"evaluate"}


@pytest.mark.slow
def test_what_is_read_outside_of_the_stages_is_compared_too(copied):
    """Exports, uploads and merges read a trained model; studies, the report and Python read results."""
    data, folder = copied
    recipe = load(data, folder)
    model = folder / "run" / "train-2" / "model"
    assert Source.open(folder / "changed.yaml").model == model
    flip(model / "model.safetensors", (model / "model.safetensors").stat().st_size - 9)
    for path in (folder / "changed.yaml", model):
        with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
            Source.open(path)
    results = folder / "run" / "evaluate" / "results.json"
    assert read_results(folder / "run") == json.loads(results.read_text())
    flip(results, results.read_text().index('"before"') + 12, 0)
    for read in (
        lambda: read_results(folder / "run"),
        lambda: reprise.open(folder / "changed.yaml").results(),
        lambda: gather(Workspace(recipe.workspace), recipe),
    ):
        with pytest.raises(UserError, match=r"results\.json is damaged"):
            read()


def flip(path, offset, bit=3):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(bytes(data))

"""verify names what is damaged, doctor what would be dropped; prune removes what is kept; no flip is silent."""

import json
import os
import random
import shutil
import subprocess
import sys

import pytest
import yaml
from tests.pipeline.conftest import small_recipe

from reprise.errors import UserError
from reprise.pipeline import run_stages
from reprise.recipe.loading import load_recipe
from reprise.verification import damage_of
from reprise.verify import verify_run

FLIPS = int(os.environ.get("REPRISE_FLIPS", "40"))


def quiet(line):
    pass


def reprise(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "reprise", *map(str, arguments)], capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model):
    root = tmp_path_factory.mktemp("whole")
    data = small_recipe(root / "run", tiny_model)
    data["training"]["checkpoints"] = {"every_tokens": 1024, "keep_every_tokens": 1024}
    recipe = root / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    run_stages(load_recipe(recipe), say=quiet)
    return recipe, root / "run"


@pytest.mark.slow
def test_a_whole_run_verifies(made):
    recipe, root = made
    result = verify_run(load_recipe(recipe))
    assert damage_of(result) == []
    names = {part["what"] for part in result["parts"]}
    assert {"read", "tokenize", "train-1", "train-2", "evaluate", "report", "cache/evaluate", "inputs"} <= names
    assert sum(part["files"] for part in result["parts"]) > 30
    ran = []
    for _ in range(2):
        run_stages(load_recipe(recipe), say=ran.append)
    assert len(ran) == 2, ran  # the report is stale once, and written once
    assert ran[0] == f"report: `reprise verify` ran at {result['when']}"
    facts = json.loads((root / "report.json").read_text(encoding="utf-8"))
    assert facts["integrity"]["when"] == result["when"]
    assert {part["verified"] for part in facts["integrity"]["parts"]} == {"as written"}


@pytest.mark.slow
def test_every_flipped_byte_is_named_or_harmless(made):
    """A bit of a random published file, cache entry or manifest: `verify` names the file, whichever it is."""
    recipe, root = made
    loaded = load_recipe(recipe)
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.stat().st_size]
    files = [path for path in files if path.name not in ("recipe.yaml", "verified.json", ".lock")]
    rng = random.Random(11)
    silent = []
    for _ in range(FLIPS):
        path = rng.choice(files)
        before = path.read_bytes()
        position = rng.randrange(len(before))
        changed = bytearray(before)
        changed[position] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(changed))
        try:
            damage = damage_of(verify_run(loaded))
            if not any(str(path) in sentence for sentence in damage):
                silent.append((str(path), position))
        finally:
            path.write_bytes(before)
    assert silent == []


@pytest.mark.slow
def test_a_run_after_a_flip_repairs_it_or_names_it(made, tmp_path):
    """The next stage that reads a damaged stage never takes it as it is: in the end the evaluation is the same."""
    recipe, root = made
    data = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    expected = json.loads((root / "evaluate" / "results.json").read_text(encoding="utf-8"))["bits_per_byte"]
    rng = random.Random(5)
    for trial in range(max(3, FLIPS // 10)):
        copy = tmp_path / f"run-{trial}"
        shutil.copytree(root, copy)
        stage = rng.choice(["read", "clean", "label", "score", "tokenize", "train-1", "train-2", "cache"])
        files = [path for path in sorted((copy / stage).rglob("*")) if path.is_file() and path.stat().st_size]
        path = rng.choice(files)
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(content))
        for name in {"tokenize", "evaluate", "report"} - {stage}:  # these read all others
            shutil.rmtree(copy / name)
        data["workspace"] = str(copy)
        changed = tmp_path / f"{trial}.yaml"
        changed.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
        try:
            run_stages(load_recipe(changed), say=quiet)
        except UserError as error:
            assert stage.startswith("train") or "manifest" in str(error), (path, error)
            assert str(copy / stage) in str(error), (path, error)
            continue
        results = json.loads((copy / "evaluate" / "results.json").read_text(encoding="utf-8"))
        assert results["bits_per_byte"] == expected, path


@pytest.mark.slow
def test_prune_says_what_is_kept_and_removes_it(made, tmp_path):
    _recipe, root = made
    copy = tmp_path / "run"
    shutil.copytree(root, copy)
    shutil.copytree(copy / "train-2", copy / "train-2.kept-0123456789ab")
    told = json.loads(reprise("prune", copy, "--json").stdout)
    kept = [entry for entry in told if entry["kind"] == "kept"]
    size = sum(path.stat().st_size for path in (copy / "train-2").rglob("*") if path.is_file())
    assert [entry["bytes"] for entry in kept] == [size]
    assert any(entry["kind"] == "cache" for entry in told)
    done = reprise("prune", copy, "--kept")
    assert done.returncode == 0, done.stderr
    assert not (copy / "train-2.kept-0123456789ab").exists()
    assert (copy / "cache").exists()
    assert reprise("status", copy).stdout.count("fresh") >= 8


def test_doctor_gives_the_share_that_each_rule_drops(recipe_data, write_recipe, tmp_path):
    lines = [{"text": "word " * 60 + f"and number {i}.", "lang": "en", "source": "web"} for i in range(30)]
    lines += [{"text": "short", "lang": "en", "source": "web"} for _ in range(10)]
    text = tmp_path / "text.jsonl"
    text.write_text("\n".join([*map(json.dumps, lines), "not JSON"]) + "\n", encoding="utf-8")
    recipe_data["documents"] = {"inputs": [{"path": str(text)}]}
    recipe = write_recipe(recipe_data)
    done = reprise("doctor", recipe, "--json")
    facts = json.loads(done.stdout)
    assert facts["inputs"][0]["documents"] == 40
    assert sum(facts["inputs"][0]["rejects"].values()) == 1
    (bucket,) = facts["buckets"]
    assert (bucket["language"], bucket["source"], bucket["documents"]) == ("en", "web", 40)
    assert bucket["dropped"]["too_short"] == 10
    assert not (tmp_path / "run").exists()
    assert "25%" in reprise("doctor", recipe).stdout


def test_doctor_names_every_file_that_would_end_the_run_and_samples_the_others(recipe_data, write_recipe, tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for name in ("a.jsonl.gz", "c.jsonl.gz"):
        (folder / name).write_bytes(b"not gzip")
    line = {"text": "word " * 60 + "end.", "lang": "en", "source": "web"}
    (folder / "b.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    recipe_data["documents"] = {"inputs": [{"path": str(folder)}]}
    recipe = write_recipe(recipe_data)
    done = reprise("doctor", recipe)
    assert done.returncode == 2 and "no problem found" not in done.stdout
    assert "a.jsonl.gz" in done.stderr and "c.jsonl.gz" in done.stderr
    facts = json.loads(reprise("doctor", recipe, "--json").stdout)
    assert facts["inputs"][0]["documents"] == 1 and len(facts["inputs"][0]["errors"]) == 2


def test_an_empty_list_of_rejects_says_why(made, recipe_data, write_recipe):
    assert "no stage has finished" in reprise("rejects", write_recipe(recipe_data)).stderr
    done = reprise("rejects", made[0], "--reason", "no_such_reason")
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing was rejected or dropped for no_such_reason by: read, clean" in done.stderr

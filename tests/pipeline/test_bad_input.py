"""Each mistake of a user is one message that names the place and the remedy, exit code 2 and no traceback."""

import json
import os
import shutil
import subprocess
import sys

import pytest


def refuse(recipe, *arguments, command="run", env=None):
    done = subprocess.run(
        [sys.executable, "-m", "reprise", command, str(recipe), *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
    return done.stderr


@pytest.fixture
def with_lines(recipe_data, write_recipe, tmp_path, passages):
    """Make a recipe whose only input is a file of the given raw lines, after some good ones."""

    def make(*lines: bytes, good=60, **documents):
        some = [json.dumps(entry, ensure_ascii=False).encode() for part in passages.values() for entry in part]
        text = tmp_path / "text.jsonl"
        text.write_bytes(b"\n".join([*some[:good], *lines]) + b"\n")
        recipe_data["documents"] = {"inputs": [{"path": str(text)}], **documents}
        return write_recipe(recipe_data), text

    return make


def test_missing_file(recipe_data, write_recipe, tmp_path):
    recipe_data["documents"]["inputs"] = [{"path": str(tmp_path / "none.jsonl")}]
    told = refuse(write_recipe(recipe_data), command="read")
    assert "none.jsonl" in told
    assert "documents.inputs.0" in told


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut off', "JSON"),
        (b'{"text": "\xff\xfe", "lang": "en", "source": "web"}', "UTF-8"),
        (b'{"text": "", "lang": "en", "source": "web"}', "empty"),
        (b'{"lang": "en", "source": "web"}', "text"),
        (b'{"text": "a long enough text", "lang": "en"}', "source"),
    ],
)
def test_unreadable_line_is_rejected_counted_and_over_the_limit_stops(with_lines, line, reason):
    recipe, text = with_lines(line, good=60)
    told = refuse(recipe, command="read")
    assert f"{text}:61" in told
    assert reason.lower() in told.lower()
    assert "max_reject_share" in told
    done = subprocess.run(
        [sys.executable, "-m", "reprise", "read", str(recipe), "documents.max_reject_share=0.1"], capture_output=True
    )
    assert done.returncode == 0, done.stderr
    workspace = recipe.parent / "run"
    rejects = [json.loads(entry) for entry in (workspace / "read" / "rejects.jsonl").read_text().splitlines()]
    assert [(entry["file"], entry["line"]) for entry in rejects] == [(str(text), 61)]
    counts = json.loads((workspace / "read" / "manifest.json").read_text())["counts"]
    assert counts["documents_out"] == 60
    assert counts["rejects"] == 1


def test_empty_bucket_with_a_ratio_above_zero(recipe_data, write_recipe):
    recipe_data["stages"][0]["mixture"]["en"]["sources"] = {"web": 0.5, "poetry": 0.5}
    told = refuse(write_recipe(recipe_data), command="clean")
    assert "stages.0.mixture.en.sources.poetry = 0.5" in told
    assert "en/web" in told


def test_ratios_that_do_not_sum(recipe_data, write_recipe):
    told = refuse(write_recipe(recipe_data), "stages.0.mixture.en.share=0.5")
    assert "sum to 1.1" in told


def test_vocabulary_that_does_not_fit_the_model(recipe_data, write_recipe, tmp_path, tiny_model):
    folder = tmp_path / "mismatch"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    recipe_data["model"]["path"] = str(folder)
    recipe_data["stages"] = [{**stage, "curriculum": {}} for stage in recipe_data["stages"]]
    told = refuse(write_recipe(recipe_data), command="tokenize")
    assert "300" in told
    assert "599" in told
    assert "model.path" in told


def test_model_that_is_not_causal(recipe_data, write_recipe, tmp_path, tiny_model):
    from transformers import BertConfig, BertModel

    folder = tmp_path / "bert"
    BertModel(BertConfig(vocab_size=600, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(
        folder
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model / name, folder)
    recipe_data["model"]["path"] = str(folder)
    told = refuse(write_recipe(recipe_data), command="score")
    assert "not a causal language model" in told
    assert "model.path" in told


def test_missing_model_folder(recipe_data, write_recipe, tmp_path):
    recipe_data["model"]["path"] = str(tmp_path / "no-model")
    assert "model.path" in refuse(write_recipe(recipe_data))


def test_full_disk(recipe_data, write_recipe, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        recipe_data["workspace"] = str(disk / "run")
        told = refuse(write_recipe(recipe_data))
        assert "disk is full" in told
        assert str(disk) in told
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_debug_shows_the_traceback(recipe_data, write_recipe):
    done = subprocess.run(
        [sys.executable, "-m", "reprise", "run", str(write_recipe(recipe_data)), "name=[", "--debug"],
        capture_output=True,
        text=True,
    )
    assert "Traceback" in done.stderr


def test_input_files_are_never_changed(with_lines):
    recipe, text = with_lines(good=None)
    before = (text.read_bytes(), text.stat().st_mtime_ns)
    subprocess.run([sys.executable, "-m", "reprise", "label", str(recipe)], capture_output=True, check=True)
    assert (text.read_bytes(), text.stat().st_mtime_ns) == before

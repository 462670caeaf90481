"""The whole pipeline on a tiny random model: from text to the report, again, and after a change."""

import ast
import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from torch.utils.data import DataLoader

from reprise import open as open_run
from reprise.api import Run
from reprise.errors import UserError
from reprise.mixture.preview import WORD_TOKENS
from reprise.schemas import FORMATS
from reprise.workspace import Workspace

ROOT = Path(__file__).parents[2]
TIMES = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def reprise(*arguments, check=True, **options):
    done = subprocess.run(
        [sys.executable, "-m", "reprise", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **TIMES},
        timeout=400,
        **options,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model):
    """A finished run: (recipe, workspace)."""
    from tests.pipeline.conftest import small_recipe

    folder = tmp_path_factory.mktemp("whole")
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(small_recipe(folder / "run", tiny_model), allow_unicode=True), encoding="utf-8")
    done = reprise("run", recipe)
    assert "train-2: done" in done.stderr
    return recipe, folder / "run"


@pytest.mark.slow
def test_run_leaves_model_and_report(run):
    from transformers import AutoModelForCausalLM

    _, workspace = run
    report = json.loads((workspace / "report.json").read_text(encoding="utf-8"))
    rows = report["bits_per_byte"]
    assert {row["language"] for row in rows} == {"en", "zh"}
    totals = [row for row in rows if row["source"] is None]
    assert {row["language"] for row in totals} == {"en", "zh"}
    assert all(row["before"] > 0 and row["after"] > 0 for row in rows)
    assert all(row["after"] < row["before"] for row in totals)  # a random model can only get better
    assert "<html" in (workspace / "report.html").read_text(encoding="utf-8")
    model = AutoModelForCausalLM.from_pretrained(workspace / "train-2" / "model")
    assert model.config.hidden_size == 32


@pytest.mark.slow
def test_metrics_tell_what_happened(run):
    _, workspace = run
    events = [json.loads(line) for line in (workspace / "train-1" / "metrics.jsonl").read_text().splitlines()]
    kinds = {event["kind"] for event in events}
    assert {"start", "step", "validation", "shares", "end"} <= kinds
    first = next(event for event in events if event["kind"] == "validation")
    assert first["tokens"] == 0
    last = [event for event in events if event["kind"] == "step"][-1]
    assert last["tokens"] == 4096


@pytest.mark.slow
def test_every_record_on_disk_is_of_its_format(run):
    _, workspace = run
    formats = {one.name: one for one in FORMATS}
    files = {
        "manifest": "*/manifest.json",
        "counts": "*/manifest.json",
        "store": "tokenize/store.json",
        "checkpoint": "train-*/state/checkpoint.json",
        "topics": "label/report.json",
        "results": "evaluate/results.json",
        "report": "report.json",
    }
    for name, pattern in files.items():
        paths = sorted(workspace.glob(pattern))
        assert paths, pattern
        for path in paths:
            value = json.loads(path.read_text(encoding="utf-8"))
            formats[name].check(value["counts"] if name == "counts" else value)
    for path in workspace.glob("train-*/metrics.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            formats["metrics"].check(json.loads(line))


@pytest.mark.slow
def test_second_run_does_nothing_in_under_three_seconds(run):
    recipe, _ = run
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = reprise("run", recipe)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "nothing to do" in done.stderr
    # Processor time: other programs on a shared machine must not decide.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "stale"),
    [
        ("stages.1.tokens=1024", {"train-2", "evaluate", "report"}),
        ("rows.seq_len=64", {"train-1", "train-2", "evaluate", "report"}),
        ("evaluation.benchmark_tolerance=0.03", {"evaluate", "report"}),
        ("hardware.utilisation=0.5", {"report"}),
        ("documents.engine=ray", {"report"}),
        ("documents.perplexity.batch_tokens=4096", None),
        ("documents.deduplicate.threshold=0.7", None),
    ],
)
def test_a_changed_setting_makes_exactly_its_stages_stale(run, override, stale):
    recipe, _ = run
    states = {entry["stage"]: entry for entry in json.loads(reprise("status", recipe, override, "--json").stdout)}
    order = list(states)
    if stale is None:  # the stage of the setting, and all that follows
        first = {"perplexity": "score", "deduplicate": "deduplicate"}[override.split(".")[1]]
        stale = set(order[order.index(first) :])
    assert {name for name, entry in states.items() if entry["state"] != "fresh"} == stale
    name = override.split("=")[0].split(".")[-1]
    assert any(name in entry["reason"] for entry in states.values())


@pytest.mark.slow
def test_a_trained_model_outlives_a_change_of_mind(run, tmp_path):
    recipe, workspace = run
    shutil.copytree(workspace, tmp_path / "run")
    model = tmp_path / "run" / "train-2" / "model" / "model.safetensors"
    first = model.read_bytes()
    where = f"workspace={tmp_path / 'run'}"
    assert "train-2: done" in reprise("train", recipe, where, "stages.1.tokens=1024").stderr
    assert model.read_bytes() != first
    done = reprise("train", recipe, where)
    assert "train-2: was made from these settings before" in done.stderr
    assert "train-2: done" not in done.stderr
    assert model.read_bytes() == first


@pytest.mark.slow
@pytest.mark.parametrize("changed", [(), ("stages.0.schedule.peak_lr=2e-3", "--adopt")])
def test_sigterm_saves_and_the_same_command_goes_on(tmp_path, tiny_model, changed):
    from tests.pipeline.conftest import small_recipe

    recipe = tmp_path / "recipe.yaml"
    data = small_recipe(tmp_path / "run", tiny_model)
    data["stages"][0]["tokens"] = 20_000
    recipe.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    child = subprocess.Popen(
        [sys.executable, "-m", "reprise", "train", str(recipe)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **TIMES},
    )
    metrics = tmp_path / "run" / "train-1.partial" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count('"step"') > 20):
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    _, told = child.communicate(timeout=60)
    assert child.returncode == 75, told
    assert "same command" in told
    if changed:
        refused = reprise("train", recipe, changed[0], check=False)
        assert refused.returncode == 2
        assert "stage.schedule.peak_lr: 0.001 -> 0.002" in refused.stderr
        assert "--adopt" in refused.stderr
    done = reprise("train", recipe, *changed)
    assert "train-2: done" in done.stderr
    events = [json.loads(line) for line in (tmp_path / "run" / "train-1" / "metrics.jsonl").read_text().splitlines()]
    assert any(event["kind"] == "resume" and event["tokens"] > 0 for event in events)


@pytest.mark.slow
def test_two_processes_under_torchrun(tmp_path, tiny_model):
    from tests.pipeline.conftest import small_recipe

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(small_recipe(tmp_path / "run", tiny_model), allow_unicode=True), encoding="utf-8")
    reprise("tokenize", recipe)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "reprise", "train", recipe]
    options = {"env": {**os.environ, **TIMES}, "timeout": 300, "text": True, "stderr": subprocess.PIPE}

    left = tmp_path / "run" / "train-1.partial"
    left.mkdir()
    (left / "begun.json").write_text('{"fingerprint": "another", "settings": {}}')
    (left / "metrics.jsonl").touch()
    refused = subprocess.run([*launcher, "stages.0.schedule.peak_lr=0.5"], **options)
    assert refused.returncode != 0
    assert refused.stderr.count("is unfinished with other settings") == 1
    assert "[rank1]" not in refused.stderr  # the other process leaves without a word of its own
    with Workspace(tmp_path / "run").locked():
        locked = subprocess.run(launcher, **options)
    assert locked.stderr.count("another reprise runs") == 1
    assert "[rank1]" not in locked.stderr
    (left / "metrics.jsonl").unlink()  # nothing but the note that it was begun: nothing to lose

    subprocess.run(launcher, check=True, **options)
    assert (tmp_path / "run" / "train-2" / "model" / "config.json").exists()
    assert "nothing to do" in reprise("train", recipe).stderr


def load_tour():
    spec = importlib.util.spec_from_file_location("tour", ROOT / "docs" / "tour.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_tour_follows_a_document_through_every_stage(run):
    module = load_tour()
    page = module.tour(run[1])
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == list(module.HAND_OVERS)
    assert "loss" in page and "verdict" in page
    published = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    hand_overs = [line.split("`. ")[0] for line in page.splitlines() if line.startswith("`")]
    assert [line.split("`. ")[0] for line in published.splitlines() if line.startswith("`")] == hand_overs


def test_the_functions_that_the_tour_names_exist():
    for file, function in load_tour().HAND_OVERS.values():
        tree = ast.parse((ROOT / "src" / "reprise" / file).read_text(encoding="utf-8"))
        assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, file


@pytest.mark.slow
def test_a_run_can_be_opened_and_read(run):
    recipe, workspace = run
    opened = open_run(workspace)
    assert open_run(recipe).recipe.stages == opened.recipe.stages
    assert next(iter(opened.stages())) == "read" and opened.stages()["tokenize"]["documents"] > 0
    steps = [record for record in opened.metrics("train-1") if record["kind"] == "step"]
    assert steps[-1]["tokens"] == 4096
    assert opened.results() == json.loads((workspace / "evaluate" / "results.json").read_text(encoding="utf-8"))
    assert opened.plan()["totals"]["tokens"] == 4096 + 2048
    documents = {row["id"]: row for row in opened.documents(columns=["id", "text", "split"])}
    batches = list(opened.batches("train-1"))
    order = list(opened.order("train-1"))
    assert [row.bucket for row in order] == [bucket.path for batch in batches for bucket in batch.buckets]
    assert {one for row in order for one in row.documents} <= {
        name for name, row in documents.items() if row["split"] == "train"
    }
    for row, ids in zip(order, (ids for batch in batches for ids in batch.ids), strict=True):
        assert " ".join(opened.tokenizer.decode(ids[:WORD_TOKENS]).split()) == row.words
    later = list(opened.batches("train-1", skip=2))
    assert len(later) == len(batches) - 2 and (later[0].ids == batches[2].ids).all()
    halves = [list(opened.batches("train-2", rank=rank, world=2)) for rank in (0, 1)]
    for whole, *parts in zip(opened.batches("train-2"), *halves, strict=True):
        assert (whole.ids == np.concatenate([part.ids for part in parts])).all()
    assert opened.model_folder().parent.name == "train-2"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_a_dataset_of_pytorch_in_the_order_of_training(run, workers):
    opened = open_run(run[1])
    loader = DataLoader(opened.dataset("train-1"), batch_size=None, num_workers=workers)
    for given, batch in zip(loader, opened.batches("train-1"), strict=True):
        assert (given["input_ids"].numpy() == batch.ids).all()
        assert (given["labels"].numpy() == batch.labels).all()
        assert (given["position_ids"].numpy() == batch.position_ids).all()


@pytest.mark.slow
def test_what_is_not_there_is_said(run, tmp_path):
    opened = open_run(run[1])
    for ask in (lambda: opened.metrics("train-3"), lambda: opened.dataset("evaluate"), lambda: open_run(tmp_path)):
        with pytest.raises(UserError):
            ask()
    with pytest.raises(UserError, match="not done"):
        next(iter(Run(tmp_path, opened.recipe).documents()))


@pytest.mark.slow
def test_the_notebook_runs(run, monkeypatch):
    """Its cells in one namespace: that needs no kernel, which takes ten seconds to start and three packages."""
    monkeypatch.setenv("RUN", str(run[1]))
    notebook = json.loads((ROOT / "examples" / "open_a_run.ipynb").read_text(encoding="utf-8"))
    names = {}
    for cell in notebook["cells"]:
        assert not cell.get("outputs"), "a notebook in the repository holds no outputs"
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "open_a_run.ipynb", "exec"), names)
    assert names["figure"].data and len(names["rows"]) == 10

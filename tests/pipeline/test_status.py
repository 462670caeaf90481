"""`status`, `report` and `watch` of a run from another folder, and of a study's folder."""

import json

import pytest
import yaml
from tests.fuzz.calling import call
from typer.testing import CliRunner

from reprise.cli import app
from reprise.errors import UserError


def reprise(*arguments):
    """What a command prints, in this process."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None:
        raise done.exception
    return done.stdout


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder `runs` with two runs that have read their text, by paths relative to the folder above."""
    root = tmp_path_factory.mktemp("study")
    (root / "text").mkdir()
    rows = [{"text": f"Some words of the document {number}.", "lang": "en", "source": "web"} for number in range(8)]
    (root / "text" / "a [1].jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (root / "questions").mkdir()
    (root / "questions" / "own.jsonl").write_text('{"question": "What?", "choices": ["a", "b"], "answer": "A"}\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for seed in (1, 2):
            recipe = {
                "name": "run", "workspace": f"runs/base-seed-{seed}", "seed": seed, "model": {"path": "none"},
                "documents": {"inputs": [{"path": "text/*.jsonl"}]},
                "rows": {"seq_len": 64}, "evaluation": {"benchmarks": ["questions/own.jsonl"]},
                "stages": [{"name": "one", "tokens": 128, "mixture": {"en": {"share": 1.0, "sources": {"web": 1.0}}}}],
            }  # fmt: skip
            (root / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
            reprise("read", "recipe.yaml")
    return root


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_run_is_opened_from_any_folder(study, tmp_path, monkeypatch, elsewhere):
    monkeypatch.chdir(tmp_path if elsewhere else study)
    stages = json.loads(reprise("status", study / "runs" / "base-seed-1", "--json"))
    assert stages[0] == {"stage": "read", "state": "fresh", "reason": ""}
    assert all(stage["state"] == "missing" for stage in stages[1:])
    assert "read" in reprise("status", study / "runs" / "base-seed-1")
    reprise("report", study / "runs" / "base-seed-2", "--output", tmp_path / "r.html")
    assert "Some words" not in (tmp_path / "r.json").read_text()


def test_the_folder_of_a_study_shows_its_runs(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = json.loads(reprise("status", study / "runs", "--json"))
    assert [(run["run"], run["fresh"], run["next"]) for run in runs] == [
        ("base-seed-1", 1, "clean"), ("base-seed-2", 1, "clean")
    ]  # fmt: skip
    assert "base-seed-2" in reprise("status", study / "runs")
    (study / "runs" / "base-seed-2" / "read" / "manifest.json").rename(study / "runs" / "kept")
    assert json.loads(reprise("status", study / "runs", "--json"))[1]["next"] == "read"
    (study / "runs" / "kept").rename(study / "runs" / "base-seed-2" / "read" / "manifest.json")
    reprise("report", study / "runs")
    compared = json.loads((study / "runs" / "comparison.json").read_text(encoding="utf-8"))
    assert len(compared["runs"]) == 2
    for command in ("watch", "plan"):
        with pytest.raises(UserError, match=r"holds 2 runs") as refused:
            reprise(command, study / "runs")
        assert "base-seed-1, base-seed-2" in refused.value.remedy


@pytest.mark.parametrize("width", [60, 80])
def test_no_number_and_no_name_is_cut_on_a_narrow_terminal(study, monkeypatch, width):
    """The words of each table are those of a wide terminal."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = study / "runs" / "base-seed-1"
    for line in (("status", run), ("status", study / "runs"), ("plan", run, "--topics"), ("clean", run, "--measure")):
        monkeypatch.setenv("COLUMNS", "1000")
        wide = [row.replace("┃", "│") for row in reprise(*line).splitlines() if row.startswith(("│", "┃"))]
        monkeypatch.setenv("COLUMNS", str(width))
        narrow = reprise(*line)
        assert wide and "…" not in narrow, line
        assert all(len(row) <= width for row in narrow.splitlines() if row.startswith(("│", "┃"))), line
        shown = set(narrow.replace("┃", " ").replace("│", " ").replace(":", " ").split())
        words = {word.rstrip(":") for row in wide for word in row.replace("│", " ").split() if len(word) <= 24}
        assert words <= shown, (line, words - shown)


def test_a_folder_without_runs_is_refused(tmp_path):
    for command in ("status", "watch", "report"):
        with pytest.raises(UserError, match="this folder is no run"):
            reprise(command, tmp_path)


@pytest.mark.parametrize(
    "line",
    [("order", "x.yaml", "--rows", "-1"), ("watch", "x.yaml", "--port", "99999"), ("watch", "x.yaml", "--port=-1"),
     ("evaluate", "x.yaml", "--limit", "-1")],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(line):
    outcome = call(*line)
    assert (outcome.code, outcome.fault) == (2, "")
    assert f"Invalid value for '{line[2].partition('=')[0]}'" in outcome.err


@pytest.mark.parametrize(
    "line",
    [("init", "n.yaml", "--model", "~nobody-here/m", "--data", "x"), ("init", "n.yaml", "--model", "", "--data", "x"),
     ("init", "n.yaml", "--model", "m", "--data", "~nobody-here"),
     ("init", "n.yaml", "--model", "m", "--data", "https://user:hidden-word@host/x.jsonl"),
     ("init", "n.yaml", "--model", "m", "--data", "https://host/x.jsonl?X-Amz-Signature=hidden-word")],
)  # fmt: skip
def test_a_path_on_the_command_line_is_checked_like_one_in_a_recipe(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        reprise(*line)
    assert "hidden-word" not in str(refused.value)

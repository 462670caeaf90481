"""What is knowable is said before the work, all of it in one message."""

import importlib.util
import json
import subprocess
import sys

import pytest

from reprise.errors import Finding, UserError
from reprise.preflight import disk
from reprise.preflight.checks import inspect
from reprise.recipe.loading import parse_recipe


def findings_of(data, stages=None):
    return inspect(parse_recipe(json.dumps(data)), stages)


def texts(findings):
    return "\n".join(str(finding) for finding in findings)


def test_a_good_recipe_has_no_finding(recipe_data):
    assert findings_of(recipe_data) == []


def synthesis(**settings):
    """A change of the recipe: these settings of synthesis, which is enabled but asks for nothing."""
    return lambda recipe: recipe.update(synthesis={"enabled": True, **settings})


@pytest.mark.parametrize(
    ("change", "setting", "remedy"),
    [
        (lambda r: r["stages"][0].update(curriculum={"zh/wbe": {"order": "ascending"}}), "curriculum.zh/wbe", "`web`"),
        (lambda r: r["stages"][0].update(curriculum={"zhh": {"order": "ascending"}}), "curriculum.zhh", "`zh`"),
        (lambda r: r["stages"][0].update(topics={"sources": ["wbe"]}), "stages.0.topics.sources", "`web`"),
        (lambda r: r["evaluation"].update(tolerance={"enm": 0.1}), "evaluation.tolerance", "`en`"),
        (lambda r: r["evaluation"].update(tolerance={"en/wbe": 0.1}), "evaluation.tolerance", "`web`"),
        (lambda r: r["evaluation"].update(sample_prompts={"zhh": ["x"]}), "evaluation.sample_prompts", "`zh`"),
        (lambda r: r["documents"].update(clean={"heuristics": {"zhd": {}}}), "clean.heuristics", "`zh`"),
        (lambda r: r["documents"].update(clean={"heuristics_sources": ["wep"]}), "heuristics_sources", "`web`"),
        (lambda r: r["documents"].update(topics={"lists": {"enm": ["a"]}}), "documents.topics.lists", "`en`"),
        (
            lambda r: r["stages"][0]["topics"].update(policy={"topic_weights": {"Law and Polici": 2}}),
            "topic_weights",
            "`Law and Policy`",
        ),
        (
            lambda r: r["stages"][0]["topics"].update(policy={"name": "velocity", "targets": {"Othrs": 2}}),
            "targets",
            "`Others`",
        ),
        (lambda r: r["documents"].update(clean={"personal_data": {"enm": {}}}), "clean.personal_data", "`en`"),
        (lambda r: r["documents"].update(topics={"prompts": {"enm": {}}}), "documents.topics.prompts", "`en`"),
        (synthesis(checks={"final_answer": ["mathmatics"]}), "synthesis.checks.final_answer", "`mathematics`"),
        (synthesis(passages={"terms": {"phisics": {"en": ["x"]}}}), "synthesis.passages.terms", "`physics`"),
        (synthesis(passages={"topics": {"bioloy": ["Law"]}}), "synthesis.passages.topics", "`biology`"),
        (
            synthesis(passages={"topics": {"biology": ["Law and Polici"]}}),
            "passages.topics.biology",
            "`Law and Policy`",
        ),
        (synthesis(passages={"sources": ["wbe"]}), "synthesis.passages.sources", "`web`"),
        (synthesis(templates={"enm": ["{question} {answer}"]}), "synthesis.templates", "`en`"),
    ],
)
def test_a_misspelt_name_is_an_error_that_knows_the_right_one(recipe_data, change, setting, remedy):
    change(recipe_data)
    found = [finding for finding in findings_of(recipe_data) if finding.severity == "error"]
    assert len(found) >= 1
    assert any(setting in finding.where and f"did you mean {remedy}" in finding.remedy for finding in found)


def test_all_findings_are_one_message(recipe_data, write_recipe, tmp_path):
    recipe_data["documents"]["inputs"].append({"path": str(tmp_path / "none.jsonl")})
    recipe_data["model"]["path"] = str(tmp_path / "no-model")
    recipe_data["evaluation"]["tolerance"] = {"enm": 0.1}
    recipe = write_recipe(recipe_data)
    done = subprocess.run([sys.executable, "-m", "reprise", "run", recipe], capture_output=True, text=True)
    assert done.returncode == 2
    for part in ("3 things", "none.jsonl", "no-model", "did you mean `en`"):
        assert part in done.stderr
    assert not (tmp_path / "run" / "read.partial").exists()


def test_plan_refuses_errors_and_tells_what_is_missing(recipe_data, write_recipe, tmp_path):
    recipe_data["documents"]["inputs"] = [{"path": str(tmp_path / "none.jsonl")}]
    recipe_data["hardware"] = {"parameters": "1M"}

    def plan(*arguments):
        command = [sys.executable, "-m", "reprise", "plan", write_recipe(recipe_data), *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    done = plan("--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["findings"]
    assert any("none.jsonl" in entry["where"] and entry["severity"] == "missing" for entry in found)
    assert "none.jsonl" in plan().stdout
    recipe_data["evaluation"]["tolerance"] = {"enm": 0.1}
    refused = plan()
    assert refused.returncode == 2
    assert "did you mean `en`" in refused.stderr


@pytest.mark.parametrize(
    ("path", "workspace", "refused"),
    [("", "runs/x", True), ("*", "runs/x", True), ("**/*.jsonl", "runs/x", True), ("text", "runs/x", False),
     ("", "../x", False), ("", ".runs/x", False), ("t*", "runs/x", False), ("link", "runs/x", True)],
)  # fmt: skip
def test_a_workspace_inside_an_input_is_refused(recipe_data, tmp_path, path, workspace, refused):
    root = tmp_path / "home"
    (root / "text").mkdir(parents=True)
    (root / "runs").mkdir()
    (root / "link").symlink_to(root)
    (root / "text" / "a.jsonl").write_text('{"text": "x", "lang": "en", "source": "web"}\n')
    recipe_data["documents"]["inputs"].append({"path": str(root / path)})
    recipe_data["workspace"] = str(root / workspace)
    told = [one for one in findings_of(recipe_data, ["read"]) if "would read its own output" in one.what]
    assert bool(told) == refused
    assert not refused or told[0].where.startswith("documents.inputs.2.path")


def test_a_package_that_is_not_installed_is_named_with_its_extra(recipe_data, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "daft" else find(name))
    (found,) = findings_of(recipe_data, ["read"])
    assert "daft" in found.what
    assert found.remedy == "pip install 'reprise-cpt[documents]'"


def test_a_disk_that_is_too_small_is_told(recipe_data, monkeypatch):
    monkeypatch.setattr(disk, "workspace_bytes", lambda recipe: 10**18)
    assert any("GB" in finding.what for finding in findings_of(recipe_data))


def test_one_finding_reads_like_one_error():
    finding = Finding("it is wrong", "x = 1", "put it right")
    assert str(UserError.of([finding])) == str(UserError("it is wrong", where="x = 1", remedy="put it right"))
    assert "2 things" in str(UserError.of([finding, finding]))


def test_a_server_that_does_not_answer_is_told_before_the_work(recipe_data):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    generator = {"kind": "openai", "base_url": f"http://127.0.0.1:{port}/v1", "model": "m"}
    recipe_data["synthesis"] = {"enabled": True, "requests": 1, "generator": generator}
    (found,) = [one for one in findings_of(recipe_data, ["synthesize"]) if "does not answer" in one.what]
    assert found.where == f"synthesis.generator.base_url=http://127.0.0.1:{port}/v1"

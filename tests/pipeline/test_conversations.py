"""Conversations through a whole run: refused without a template, counted in plan and report, and evaluated."""

import json

import pytest
from tests.chats import CHATML, write_chat_model

from reprise import preflight
from reprise.pipeline import run_stages
from reprise.plan.build import make_plan
from reprise.recipe.loading import parse_recipe
from reprise.workspace import Workspace


@pytest.fixture
def chats(tmp_path, passages):
    """A file of conversations made of the demo's passages."""
    path = tmp_path / "chats.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number, passage in enumerate(passages["en"][:60]):
            question, answer = passage["text"][:40].strip(), passage["text"][40:200].strip()
            messages = [{"from": "human", "value": f"{question}?"}, {"from": "gpt", "value": answer}]
            file.write(json.dumps({"conversations": messages, "id": f"chat-{number}"}) + "\n")
    return path


@pytest.fixture
def with_chats(recipe_data, chats):
    """The small recipe with one training stage, a third of it conversations."""
    recipe_data["documents"]["inputs"].append(
        {"path": str(chats), "constants": {"lang": "en", "source": "chat", "topic": "Others"}}
    )
    stage = recipe_data["stages"][0]
    stage["mixture"]["en"]["sources"] = {"web": 0.5, "book": 0.2, "chat": 0.3}
    stage["max_epochs"] = 100.0
    stage["curriculum"]["en/chat"] = {"order": "ascending"}
    recipe_data["stages"] = [stage]
    return recipe_data


def test_a_model_without_a_template_is_refused_before_the_work(with_chats):
    recipe = parse_recipe(json.dumps(with_chats))
    (finding,) = [one for one in preflight.inspect(recipe) if one.severity == "error"]
    assert "no chat template" in finding.what
    assert "instruct model" in finding.remedy


@pytest.mark.slow
def test_a_run_on_conversations(with_chats, tmp_path, passages):
    texts = [passage["text"] for part in passages.values() for passage in part]
    model = write_chat_model(tmp_path / "chat-model", texts, 600, CHATML)
    with_chats["model"]["path"] = str(model)
    recipe = parse_recipe(json.dumps(with_chats))
    assert preflight.inspect(recipe) == []
    said = []
    run_stages(recipe, say=said.append)
    workspace = Workspace(recipe.workspace)
    assert workspace.manifest("read").counts["conversations"] == 60
    counts = workspace.manifest("tokenize").counts
    assert counts["conversations"] == 60
    assert 0 < counts["answer_tokens"] < counts["tokens"]
    plan = make_plan(recipe)
    of_chats = [bucket for bucket in plan["buckets"] if bucket["source"] == "chat"]
    assert of_chats
    assert all(0 < bucket["answer_tokens"] < bucket["tokens"] for bucket in of_chats)
    assert {bucket["answer_tokens"] for bucket in plan["buckets"] if bucket["source"] != "chat"} == {None}
    report = json.loads((workspace.root / "report.json").read_text(encoding="utf-8"))
    spent = [row for row in report["training"][0]["spent"] if row["source"] == "chat"]
    assert sum(row["answer_tokens"] for row in spent) > 0
    assert "answers of conversations" in (workspace.root / "report.html").read_text(encoding="utf-8")
    results = json.loads((workspace.folder("evaluate") / "results.json").read_text(encoding="utf-8"))
    assert [row for row in results["bits_per_byte"] if row["path"] == "en/chat" and row["num_bytes"] > 0]

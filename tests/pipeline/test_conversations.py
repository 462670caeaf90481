"""Conversations through a whole run: refused without a template, counted in plan and report, and evaluated."""

import json

import pytest
from tests.chats import CHATML, write_chat_model

from reprise.documents.rejects import read_rejects
from reprise.documents.table import read_table
from reprise.errors import UserError
from reprise.evaluation.stage import read_held_out
from reprise.pipeline import run_stages
from reprise.plan.build import make_plan
from reprise.preflight.checks import inspect
from reprise.recipe.loading import parse_recipe
from reprise.report.corpus import corpus_facts
from reprise.schemas import FORMATS
from reprise.tokens.store import TokenStore
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
    (finding,) = [one for one in inspect(recipe) if one.severity == "error"]
    assert "no chat template" in finding.what
    assert "instruct model" in finding.remedy


@pytest.mark.slow
def test_a_run_on_conversations(with_chats, tmp_path, passages):
    texts = [passage["text"] for part in passages.values() for passage in part]
    model = write_chat_model(tmp_path / "chat-model", texts, 600, CHATML)
    with_chats["model"]["path"] = str(model)
    recipe = parse_recipe(json.dumps(with_chats))
    assert inspect(recipe) == []
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


def refusing(word):
    """ChatML that refuses a conversation with a word in it."""
    condition = "{% if '" + word + "' in message['content'] %}{{ raise_exception('not this one') }}{% endif %}"
    return CHATML.jinja().replace("{% for message in messages %}", "{% for message in messages %}" + condition)


def test_conversations_that_the_template_refuses_are_dropped_counted_and_shown(with_chats, chats, tmp_path, passages):
    lines = [json.loads(line) for line in chats.read_text(encoding="utf-8").splitlines()]
    for line in lines[10:20]:
        line["conversations"][0]["value"] += " FORBIDDEN"
    chats.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    texts = [passage["text"] for part in passages.values() for passage in part]
    with_chats["model"]["path"] = str(write_chat_model(tmp_path / "chat-model", texts, 600, refusing("FORBIDDEN")))
    recipe = parse_recipe(json.dumps(with_chats))
    assert inspect(recipe) == []
    run_stages(recipe, until=["tokenize"], say=lambda line: None)
    workspace = Workspace(recipe.workspace)
    counts = workspace.manifest("tokenize").counts
    next(one for one in FORMATS if one.name == "counts").check(counts)
    assert (counts["conversations"], counts["dropped"]) == (50, 10)
    assert sum(flow["dropped"]["chat_template"] for flow in counts["drops"]) == 10
    assert sum(flow["documents_in"] for flow in counts["drops"]) == 60
    shown = list(read_rejects(workspace.root, "tokenize"))
    assert len(shown) == 10
    assert {(one["reason"], one["source"], one["detail"]) for one in shown} == {
        ("chat_template", "chat", "it raises: not this one")
    }
    assert all("FORBIDDEN" in one["text"] and one["origin"] for one in shown)
    store = TokenStore.open(workspace.folder("tokenize"))
    names = {name for split in (store.train, store.valid) for bucket in split.values() for name in bucket.doc_ids}
    dropped = {row["id"] for batch in read_table(workspace.folder("tokenize") / "dropped") for row in batch.to_pylist()}
    assert len(dropped) == 10 and not dropped & names
    held_out = read_held_out(workspace.folder("score") / "documents", workspace.folder("tokenize") / "dropped")
    assert held_out and not any("FORBIDDEN" in text.text for text in held_out)
    drops = corpus_facts(workspace)["drops"]
    assert [one["documents"] for one in drops if one["stage"] == "tokenize"] == [10]
    strict = parse_recipe(json.dumps(with_chats), ["documents.max_drop_share=0.01", "tokens.tokenizer=tokenizers"])
    with pytest.raises(UserError, match=r"tokenize drops .*chat_template"):
        run_stages(strict, until=["tokenize"], say=lambda line: None)


def test_a_template_that_refuses_every_conversation_is_told_before_the_work(with_chats, tmp_path, passages):
    texts = [passage["text"] for part in passages.values() for passage in part]
    model = write_chat_model(tmp_path / "chat-model", texts, 600, CHATML.jinja())
    tokenizer = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    template = "{% if messages | length == 2 %}{{ raise_exception('two turns at least') }}{% endif %}" + CHATML.jinja()
    (model / "chat_template.jinja").write_text(template, encoding="utf-8")
    assert "chat_template" not in tokenizer
    with_chats["model"]["path"] = str(model)
    (finding,) = inspect(parse_recipe(json.dumps(with_chats)))
    assert "each of the first 50 conversations: it raises: two turns at least" in finding.what
    assert "documents.inputs.2" in finding.where and finding.severity == "error"

"""Model cards of a real run of a tiny model, and their upload to a Hub on this machine."""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from tests.models import write_tiny_model
from tests.pipeline.conftest import small_recipe
from tests.publish.models import CHATML
from transformers import AutoModelForCausalLM

from reprise.errors import UserError
from reprise.manifest import read_manifest, write_manifest
from reprise.pipeline import run_stages
from reprise.publish.card import _hub_dataset
from reprise.publish.export import Source, export_folder, export_gguf
from reprise.publish.hub import push_folder
from reprise.recipe import Recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a finished run of one short stage."""
    root = tmp_path_factory.mktemp("run")
    texts = ["the river runs to the sea", "河水流向大海"]
    recipe = small_recipe(root / "run", write_tiny_model(root / "base", texts, 400))
    recipe["stages"] = [recipe["stages"][0] | {"tokens": 1024, "topics": {}, "curriculum": {}}]
    recipe["evaluation"] |= {"samples_per_language": 0}
    recipe["hardware"] = {"watts": 65}
    recipe["documents"]["inputs"][0]["constants"] = {"licence": "CC-BY-4.0 | mine"}
    (root / "base" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    run_stages(Recipe.model_validate(recipe), until=["evaluate"], say=lambda line: None)
    return root / "run"


def test_the_card_says_the_facts_of_the_run_and_the_hub_can_read_it(run, tmp_path):
    folder = export_folder(Source.open(run), tmp_path / "model")
    card = ModelCard.load(folder / "README.md")
    results = json.loads((run / "evaluate" / "results.json").read_text())
    assert card.data.license == "apache-2.0" and card.data.language == ["zh", "en"]
    measured = {result.dataset_args["language"]: result.metric_value for result in card.data.eval_results}
    expected = {row["language"]: row["after"] for row in results["bits_per_byte"] if row["source"] is None}
    assert measured == pytest.approx(expected, abs=1e-6)
    assert results["headline"] in card.text and "1,024 tokens" in card.text and "kWh (65 W" in card.text
    read = json.loads((run / "read" / "manifest.json").read_text())["counts"]
    for source, licences in read["licences"].items():
        assert f"| {source} | CC-BY-4.0 \\| mine | {licences['CC-BY-4.0 | mine']:,} |" in card.text
    assert "| web | none named | " in card.text, "the Chinese pages name none"
    settings = yaml.safe_load(card.text.split("```yaml\n")[1].split("```")[0])
    assert settings["stages"][0]["tokens"] == 1024 and settings["model"]["path"] == "base"
    assert str(run.parent) not in card.text, "a path of this machine"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.num_parameters() == AutoModelForCausalLM.from_pretrained(run / "train-1" / "model").num_parameters()


def test_names_of_data_sets_on_the_hub():
    assert _hub_dataset("hf://datasets/owner/name@main/data/*.parquet") == "owner/name"
    assert _hub_dataset("hf://datasets/owner/name/x.jsonl") == "owner/name"
    assert _hub_dataset("data/x.jsonl") is None


def test_a_run_becomes_a_checked_gguf_file_with_a_card(run, tmp_path):
    result = export_gguf(Source.open(run), tmp_path / "out", "q8_0", check=True, text=None)
    assert result.check is not None and result.check.difference < 1e-5
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["Modelfile", "README.md", "tiny-q8_0.gguf"]
    assert "quantized to q8_0" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_from_a_run_to_a_chat_model_in_a_gguf_file_by_the_commands(run, tmp_path):
    """The path of docs/guides/assistant.md."""
    chat = tmp_path / "chat"
    model = AutoModelForCausalLM.from_pretrained(run.parent / "base")
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1.5)
    shutil.copytree(run.parent / "base", chat)
    model.save_pretrained(chat)
    (chat / "chat_template.jinja").write_text(CHATML)
    merged, handed = run / "exports" / "chat-1", run / "exports" / "chat-1-q8_0"
    call("merge", str(run), "--chat", str(chat))
    assert (merged / "chat_template.jinja").read_text() == CHATML
    said = call("export", str(merged), "--gguf", "q8_0")
    assert "checked on" in said and "ollama run tiny" in said
    modelfile = (handed / "Modelfile").read_text()
    assert modelfile.startswith("FROM ./tiny-q8_0.gguf\nTEMPLATE") and "<|im_start|>user" in modelfile
    settings = ("vocabulary.tokens=40", "vocabulary.min_count=3", "vocabulary.languages=[zh]")
    said = call("extend", str(run), *settings)
    assert "bytes per token on held-out text" in said
    assert (run / "vocabulary" / "model" / "config.json").is_file()
    # The run that was trained without it is still what its folder says.
    assert Source.open(run).recipe.vocabulary is None


def call(*arguments):
    done = subprocess.run([sys.executable, "-m", "reprise", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


class Hub(ThreadingHTTPServer):
    """As much of the Hub as an upload needs, in memory."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.files: dict[str, str] = {}
        self.created: dict = {}
        self.tokens: set[str | None] = set()
        self.uploads = 0
        self.fails_after: int | None = None


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args):
        pass

    def answer(self, value, status=200):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self.answer({"sha": "0" * 40, "siblings": [{"rfilename": name} for name in self.server.files], "id": "me/tiny"})

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.fails_after is not None and self.server.uploads >= self.server.fails_after:
            self.answer({"error": "out of order"}, 400)
            return
        self.server.uploads += 1
        self.server.objects[self.path.rpartition("/")[2]] = content
        self.answer({})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.tokens.add(self.headers["Authorization"])
        here = f"http://127.0.0.1:{self.server.server_port}"
        if self.path == "/api/repos/create":
            self.server.created = json.loads(body)
            self.answer({"url": f"{here}/me/tiny", "id": "me/tiny"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            large = (".safetensors", ".gguf")
            self.answer({"files": [
                {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(large) else "regular",
                 "shouldIgnore": False} for one in files]})  # fmt: skip
        elif self.path.endswith("/objects/batch"):
            objects = json.loads(body)["objects"]
            self.answer({"transfer": "basic", "objects": [
                one if one["oid"] in self.server.objects else
                one | {"actions": {"upload": {"href": f"{here}/objects/{one['oid']}", "header": {}}}}
                for one in objects]})  # fmt: skip
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "lfsFile":
                    self.server.files[value["path"]] = value["oid"]
                elif line["key"] == "file":
                    content = base64.b64decode(value["content"])
                    self.server.files[value["path"]] = hashlib.sha256(content).hexdigest()
            self.answer({"commitUrl": f"{here}/me/tiny/commit/1", "commitOid": "1" * 40, "success": True})
        else:
            self.answer({"message": "", "errors": [], "warnings": []})


@pytest.fixture
def hub(monkeypatch):
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    yield server
    server.shutdown()


def hashes(folder: Path):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_is_uploaded_is_the_model_of_today(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    first = Source.open(copy).upload_folder
    assert Source.open(copy).upload_folder == first and first.parent == copy / "exports"
    manifest = read_manifest(copy / "train-1" / "manifest.json")
    write_manifest(copy / "train-1", replace(manifest, content="another" * 4))
    assert Source.open(copy).upload_folder != first, "trained again"
    model = export_folder(Source.open(copy), first)
    assert Source.open(model).upload_folder == model


def test_an_upload_that_broke_is_resumed_and_the_hub_has_every_file(run, tmp_path, hub):
    folder = export_folder(Source.open(run), tmp_path / "model")
    hub.fails_after = 0
    with pytest.raises(UserError, match="the same command") as refused:
        push_folder(folder, "me/tiny")
    assert "hf_secret" not in str(refused.value) and not hub.files
    hub.fails_after = None
    assert push_folder(folder, "me/tiny").endswith("/commit/1")
    assert hub.files == hashes(folder) and hub.uploads == 1
    push_folder(folder, "me/tiny")
    assert hub.uploads == 1, "a weight file was sent again"
    assert hub.created.get("private") is True or hub.created.get("visibility") == "private"
    assert hub.tokens == {"Bearer hf_secret"}


def test_without_a_token_or_a_card_nothing_is_sent(tmp_path, monkeypatch, hub):
    with pytest.raises(UserError, match="no model card"):
        push_folder(tmp_path, "me/tiny")
    (tmp_path / "README.md").write_text("# Tiny\n")
    with pytest.raises(UserError, match="no name of a repository"):
        push_folder(tmp_path, "a/b/c")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="HF_TOKEN"):
        push_folder(tmp_path, "me/tiny")
    assert not hub.files

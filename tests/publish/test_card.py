"""Model cards of a real run of a tiny model, and their upload to a Hub on this machine."""

import base64
import hashlib
import json
import shutil
import socket
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
from typer.testing import CliRunner

from reprise.cli import app
from reprise.errors import UserError
from reprise.manifest import read_manifest, write_manifest
from reprise.pipeline import run_stages
from reprise.publish.card import _hub_dataset, metadata
from reprise.publish.export import Source, export_folder, export_gguf
from reprise.publish.hub import push_folder
from reprise.publish.origin import NamedModel, name_model, trained_origin
from reprise.recipe import Recipe
from reprise.recipe.model import Model
from reprise.report.facts import gather
from reprise.schemas import FORMATS
from reprise.workspace import Workspace


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


@pytest.fixture(scope="module")
def chat(run, tmp_path_factory):
    """A chat model of the run's base model, with a licence of its own."""
    folder = tmp_path_factory.mktemp("models") / "instruct"
    model = AutoModelForCausalLM.from_pretrained(run.parent / "base")
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1.5)
    shutil.copytree(run.parent / "base", folder)
    model.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHATML)
    licence = "license: other\nlicense_name: gemma\nlicense_link: https://ai.google.dev/gemma/terms\n"
    (folder / "README.md").write_text(f"---\n{licence}---\n# Instruct\n")
    return folder


@pytest.fixture
def copied(run, tmp_path):
    """A copy of the run that a test may write exports into."""
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def said(*arguments):
    """What a command prints; it runs in this process."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def load_card(folder):
    return ModelCard.load(folder / "README.md")


def valid(folder):
    """The record of how a folder was made, checked against its schema."""
    record = json.loads((folder / "origin.json").read_text())
    next(one for one in FORMATS if one.name == "origin").check(record)
    return record


@pytest.mark.slow
def test_the_card_of_a_merge_says_what_was_merged_and_claims_no_measurement(copied, chat):
    exports = copied / "exports"
    printed = said("merge", copied, "--chat", chat, "--factor", "0.5")
    assert f"--against {chat} --suite assistant" in printed
    assert valid(exports / "chat-0.5")["merge"]["chat"]["license_name"] == "gemma"
    printed = said("export", exports / "chat-0.5")
    assert "exports/chat-0.5-model" in printed and not (exports / "model").exists()
    said("export", copied)  # its place is free
    card = load_card(exports / "chat-0.5-model")
    assert "0.5 times the difference between instruct and its base base" in card.text
    assert "its card names the licence `other` (gemma, https://ai.google.dev/gemma/terms)" in card.text
    assert "its card names the licence `apache-2.0`" in card.text
    assert "before the merge" in card.text and "this model |" not in card.text
    assert "--chat instruct --base base --factor 0.5" in card.text
    assert card.data.eval_results is None and card.data.license is None and "merge" in card.data.tags
    assert str(copied.parent) not in card.text and str(chat.parent) not in card.text, "a path of this machine"
    said("export", exports / "chat-0.5", "--gguf", "Q8_0")
    card = load_card(exports / "chat-0.5-q8_0")
    assert "times the difference" in card.text and "quantized to q8_0" in card.text and card.data.eval_results is None
    said("export", exports / "chat-0.5-model", "--gguf", "q8_0", "--no-check")  # the record is exported with the model
    assert "times the difference" in load_card(exports / "chat-0.5-model-q8_0").text


@pytest.mark.slow
def test_the_card_of_a_merge_names_both_models_on_the_hub_and_the_mean_with_the_base_says_so(copied, chat):
    said("merge", copied, "--factor", "0.25")
    merged = copied / "exports" / "merge-0.25"
    assert valid(merged)["merge"]["method"] == "base"
    said("export", merged)
    text = load_card(copied / "exports" / "merge-0.25-model").text
    assert "0.25 times its weights plus 0.75 times those of base itself" in text and "before the merge" in text
    model = {"revision": None, "license": "mit", "license_name": None, "license_link": None, "on_hub": True}
    base, instruct = (NamedModel(**model, name=name) for name in ("owner/base", "owner/instruct"))
    merge = {"method": "residual", "factor": 1.0, "chat": instruct, "chat_base": base}
    recipe = Source.open(copied).recipe
    facts = gather(Workspace(copied), recipe)
    values = metadata(facts, recipe, base, "tiny", trained_origin(recipe) | {"merge": merge})
    assert values["base_model"] == ["owner/base", "owner/instruct"] and values["base_model_relation"] == "merge"
    assert values["license"] == "mit"
    values = metadata(facts, recipe, base, "tiny", trained_origin(recipe) | {"quantization": "q8_0"})
    assert values["base_model"] == "owner/base" and values["base_model_relation"] == "quantized"
    assert values["library_name"] == "gguf" and "model-index" not in values


@pytest.mark.slow
def test_the_card_of_a_checkpoint_says_which_and_the_run_measured_another_model(copied):
    said("export", copied, copied / "train-1" / "state", "--gguf", "f16", "--no-check")
    card = load_card(copied / "exports" / "state-f16")
    assert "the checkpoint `state` of training stage 1, after 1,024 tokens" in card.text
    assert "Not measured" in card.text and "| verdict |" not in card.text and card.data.eval_results is None
    assert valid(copied / "exports" / "state")["checkpoint"]["averaged"] is False


def test_a_checkpoint_of_an_unfinished_run_is_exported_without_a_card(copied):
    partial = (copied / "train-1").rename(copied / "train-1.partial")
    (partial / "manifest.json").unlink()
    with pytest.raises(UserError, match="name a checkpoint"):
        said("export", copied)
    said("export", copied, partial / "state", "--gguf", "f16", "--no-check")
    assert valid(copied / "exports" / "state")["trained"] is None
    assert (copied / "exports" / "state-f16" / "Modelfile").is_file()
    assert not (copied / "exports" / "state-f16" / "README.md").exists()


def test_the_card_of_8_bit_weights_says_so(copied):
    pytest.importorskip("torchao")
    said("export", copied, "--int8", "--no-check")
    card = load_card(copied / "exports" / "int8")
    assert "quantized to 8 bits" in card.text and "before the quantization" in card.text
    assert card.data.eval_results is None and card.data.library_name == "transformers"
    assert valid(copied / "exports" / "int8")["quantization"] == "int8"


def test_a_model_whose_origin_is_unknown_gets_no_measurement_and_one_of_an_earlier_training_no_card(copied):
    exports = copied / "exports"
    shutil.copytree(copied / "train-1" / "model", exports / "mine")
    said("export", exports / "mine")
    card = load_card(exports / "mine-model")
    assert "was not recorded" in card.text and "Not measured" in card.text and card.data.eval_results is None
    said("export", copied / "train-1" / "model")
    assert load_card(exports / "model").data.eval_results, "named by its folder, it is still the trained model"
    manifest = read_manifest(copied / "train-1" / "manifest.json")
    write_manifest(copied / "train-1", replace(manifest, content="another" * 4))
    with pytest.raises(UserError, match="trained again"):
        said("export", exports / "model", "--gguf", "f16")
    (exports / "model" / "origin.json").write_text("{}")
    with pytest.raises(UserError, match="no record"):
        said("export", exports / "model")


def test_the_licence_of_a_base_on_the_hub_is_that_of_its_card(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = Model(path="owner/base")
    asked = []

    def download(name, file, revision=None):
        asked.append(name)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert name_model(model)["license"] is None and asked == ["owner/base"]
    folder = tmp_path / "models--owner--base"
    (folder / "snapshots" / "1").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("1")
    (folder / "snapshots" / "1" / "README.md").write_text("---\nlicense: other\nlicense_name: qwen\n---\n")
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    named = name_model(model)
    assert (named["license"], named["license_name"], asked) == ("other", "qwen", ["owner/base"]), "it is in the cache"


@pytest.mark.parametrize(
    "arguments,message",
    [
        (("export", "RUN", "--averaged", "--gguf", "f16"), r"--averaged: .*checkpoint"),
        (("export", "RUN", "--text", "x.txt"), r"--text: .*\n.*--gguf or --int8"),
        (("export", "RUN/recipe.json"), r"recipe\.json: this is a file\n.*its folder"),
        (("merge", "RUN", "--chat", "./none"), r"--chat \./none: there is no model folder"),
        (("merge", "RUN", "--chat", "CHAT", "--base", "./none"), r"--base \./none: there is no model folder"),
        (("merge", "RUN", "--factor", "5"), r"--factor 5: the factor must be 0 to 1"),
    ],
)
def test_a_mistaken_option_is_one_message_that_names_it(copied, chat, arguments, message):
    (copied / "recipe.json").write_text("{}")
    with pytest.raises(UserError, match=message):
        said(*(one.replace("RUN", str(copied)).replace("CHAT", str(chat)) for one in arguments))
    assert not (copied / "exports").exists(), "nothing was written"


@pytest.mark.slow
def test_from_a_run_to_a_chat_model_in_a_gguf_file_by_the_commands(run, chat):
    """The path of docs/guides/assistant.md."""
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
        self.private: bool | None = None
        """Whether the repository is private; None: it does not exist."""
        self.tokens: set[str | None] = set()
        self.uploads = 0
        self.fails_after: int | None = None


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args):
        pass

    def answer(self, value, status=200, **headers):
        content = json.dumps(value).encode()
        self.send_response(status)
        for name, header in headers.items():
            self.send_header(name.replace("_", "-"), header)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        if self.server.private is None:
            self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            return
        files = [{"rfilename": name} for name in self.server.files]
        self.answer({"sha": "0" * 40, "siblings": files, "id": "me/tiny", "private": self.server.private})

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
            asked = self.server.created
            self.server.private = asked.get("private") is True or asked.get("visibility") == "private"
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
    assert hub.private
    assert hub.tokens == {"Bearer hf_secret"}


def test_a_public_repository_gets_no_private_upload(tmp_path, hub):
    (tmp_path / "README.md").write_text("# Tiny\n")
    hub.private = False
    with pytest.raises(UserError, match=r"exists and is public\n.*--public"):
        push_folder(tmp_path, "me/tiny")
    assert not hub.files and not hub.created
    push_folder(tmp_path, "me/tiny", private=False)
    assert list(hub.files) == ["README.md"]
    hub.private = None
    push_folder(tmp_path, "me/tiny", private=False)
    assert hub.private is False, "created as asked"


def test_a_hub_that_cannot_be_reached_is_one_message(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("# Tiny\n")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(UserError, match="cannot be reached") as refused:
        push_folder(tmp_path, "me/tiny")
    assert "hf_secret" not in str(refused.value)


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

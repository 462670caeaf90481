"""A tiny random model, and a recipe that takes the whole pipeline through in seconds."""

import importlib.resources
import json

import pytest
import yaml
from tests.models import write_tiny_model

DEMO = importlib.resources.files("reprise") / "demo"


@pytest.fixture(scope="session")
def passages():
    return {
        lang: [json.loads(line) for line in (DEMO / f"{lang}.jsonl").read_text(encoding="utf-8").splitlines()]
        for lang in ("en", "zh")
    }


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, passages):
    texts = [passage["text"] for part in passages.values() for passage in part]
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", texts, 600)


def small_recipe(workspace, model):
    """The recipe as plain data, for a test to change."""
    sources = {"web": 0.7, "book": 0.3}
    mixture = {"zh": {"share": 0.6, "sources": sources}, "en": {"share": 0.4, "sources": sources}}
    stage = {
        "tokens": 4096,
        "mixture": mixture,
        "topics": {"sources": ["web"], "policy": {"name": "topic_perplexity", "noise": 0}},
        "curriculum": {"zh": {"order": "ascending"}},
        "schedule": {"peak_lr": 1e-3, "warmup_tokens": 512},
    }
    return {
        "name": "tiny",
        "workspace": str(workspace),
        "model": {"path": str(model)},
        "documents": {
            "inputs": [{"path": "package:reprise/demo/en.jsonl"}, {"path": "package:reprise/demo/zh.jsonl"}],
            "valid_share": 0.2,
        },
        "rows": {"seq_len": 128},
        "stages": [
            {"name": "one", **stage},
            {"name": "two", **stage, "tokens": 2048, "topics": {"sources": ["web"], "initial": "inherit"}},
        ],
        "training": {
            "batch_rows": 4,
            "threads": 1,
            "validation": {"every_tokens": 1024, "max_tokens": 512},
            "verify_model": False,
        },
        "evaluation": {"max_length": 256, "stride": 128},
    }


@pytest.fixture
def recipe_data(tmp_path, tiny_model):
    return small_recipe(tmp_path / "run", tiny_model)


@pytest.fixture
def write_recipe(tmp_path):
    def write(data, name="recipe.yaml"):
        path = tmp_path / name
        path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
        return path

    return write

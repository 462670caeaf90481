"""A tiny random model, and a token store of the demo passages."""

import importlib.resources
import json
import os
import resource
import signal

import pytest
import torch
from tests.models import write_tiny_model

from reprise.model.tokenizer import open_tokenizer
from reprise.recipe.groups import find_groups
from reprise.recipe.mixture import Stage
from reprise.recipe.model import Model
from reprise.recipe.tokens import Rows
from reprise.recipe.training import Training
from reprise.tokens.builder import StoreBuilder
from reprise.training.signals import Interrupted
from reprise.training.stage import run
from reprise.training.trainer import Trainer
from reprise.workspace import Work

DEMO = importlib.resources.files("reprise") / "demo"
SEQ_LEN = 64


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def passages():
    return [
        json.loads(line) | {"lang": lang}
        for lang in ("en", "zh")
        for line in (DEMO / f"{lang}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


@pytest.fixture(scope="session")
def base_model(tmp_path_factory, passages):
    """Folder of the model."""
    return write_tiny_model(tmp_path_factory.mktemp("base") / "model", [passage["text"] for passage in passages], 512)


def build_store(folder, passages, base_model):
    """A store in which every sixth passage is held out."""
    builder = StoreBuilder(folder, open_tokenizer(Model(path=str(base_model)), "tokenizers"), ["web"])
    builder.add(
        [
            {**passage, "split": "valid" if number % 6 == 0 else "train", "ppl": None}
            for number, passage in enumerate(passages)
        ]
    )
    builder.finish()
    return folder


@pytest.fixture(scope="session")
def store(tmp_path_factory, passages, base_model):
    """Folder of the store."""
    return build_store(tmp_path_factory.mktemp("tokenize"), passages, base_model)


@pytest.fixture(scope="session")
def store_of_short_documents(tmp_path_factory, passages, base_model):
    """Folder of a store whose documents are shorter than a row."""
    short = [{**passage, "text": passage["text"][: 20 + number % 30]} for number, passage in enumerate(passages)]
    return build_store(tmp_path_factory.mktemp("short"), short, base_model)


def make_stage(**changes):
    sources = {"web": 0.6, "book": 0.4}
    settings = {
        "name": "one",
        "tokens": SEQ_LEN * 4 * 12,
        "mixture": {"zh": {"share": 0.5, "sources": sources}, "en": {"share": 0.5, "sources": sources}},
        "topics": {"sources": ["web"], "policy": {"name": "topic_perplexity", "noise": 0}},
        "schedule": {"peak_lr": 1e-3, "initial_lr": 1e-5, "warmup_tokens": SEQ_LEN * 8},
    }
    return Stage(**{**settings, **changes})


def make_training(**changes):
    settings = {
        "batch_rows": 4,
        "micro_batch_rows": 2,
        "precision": "float32",
        "threads": 1,
        "verify_model": False,
        "validation": {"every_tokens": SEQ_LEN * 16, "max_tokens": 256},
    }
    return Training(**{**settings, **changes})


@pytest.fixture
def arguments(base_model):
    """Keyword arguments of the stage, for a test to change."""
    return {
        "stage": make_stage(),
        "stage_index": 0,
        "rows": Rows(seq_len=SEQ_LEN),
        "training": make_training(),
        "model": Model(path=str(base_model)),
        "seed": 3,
        "kept": find_groups([], {"en": 0.02}),
        "window": (SEQ_LEN, SEQ_LEN // 2),
    }


@pytest.fixture
def make_work(tmp_path, store):
    def make(name="train-1.partial", **inputs):
        output = tmp_path / name
        output.mkdir(exist_ok=True)
        return Work(output=output, inputs={"tokenize": store, **inputs}, cache=tmp_path / "cache")

    return make


def as_call(arguments, work):
    """What the scripts beside the tests take on their command line."""
    settings = {
        name: value.model_dump(mode="json") if hasattr(value, "model_dump") else value
        for name, value in arguments.items()
    }
    inputs = {name: str(path) for name, path in work.inputs.items()}
    return json.dumps({"output": str(work.output), "inputs": inputs, "settings": settings})


def events(work, kind=None):
    lines = (work.output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return records if kind is None else [record for record in records if record["kind"] == kind]


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def assert_same_weights(first, second):
    a, b = weights_of(first), weights_of(second)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.fixture
def stop_after(monkeypatch):
    """Run a stage until SIGTERM comes during a step."""

    def go(count, work, arguments):
        original, made = Trainer.step, []

        def step(trainer):
            made.append(1)
            if len(made) == count:
                os.kill(os.getpid(), signal.SIGTERM)
            original(trainer)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "step", step)
            with pytest.raises(Interrupted, match="the same command continues"):
                run(work, **arguments)

    return go


@pytest.fixture
def small_disk():
    """Files cannot grow beyond so many bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(num_bytes):
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)

"""A tiny random chat model, the stage on a small corpus, and a server that misbehaves."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.synthesis.serving import FaultyServer, Runner, corpus_rows
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reprise.documents.table import TableWriter
from reprise.recipe.documents import Clean, Decontaminate, Deduplicate
from reprise.recipe.model import Model
from reprise.recipe.synthesis import Synthesis
from reprise.workspace import Work

torch.set_num_threads(1)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A random Llama over bytes, with a chat template."""
    folder = tmp_path_factory.mktemp("tiny-chat")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(5)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=len(vocabulary), max_position_embeddings=4096, eos_token_id=0, bos_token_id=0, initializer_range=0.4,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return Model(path=str(folder))


@pytest.fixture
def run_stage(tmp_path: Path, tiny_model: Model) -> Runner:
    """Run the stage on the small corpus; calls with the same name share the journal."""
    from reprise.synthesis.stage import run

    def runner(
        synthesis: Synthesis, *, name: str = "out", rows: list[dict[str, Any]] | None = None, **more: Any
    ) -> Work:
        label = tmp_path / "label"
        if not label.exists():
            with TableWriter(label / "documents") as writer:
                writer.write(corpus_rows() if rows is None else rows)
        output = tmp_path / name
        output.mkdir(exist_ok=True)
        work = Work(output=output, inputs={"label": label}, cache=tmp_path / "cache")
        settings: dict[str, Any] = {
            "model": tiny_model, "clean": Clean(min_chars=20), "deduplicate": Deduplicate(),
            "decontaminate": Decontaminate(), "benchmarks": [], "data": None, "seed": 1, "engine": "native",
        }  # fmt: skip
        run(work, synthesis=synthesis, **{**settings, **more})
        return work

    return runner


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setattr("reprise.generators.openai_server.FIRST_PAUSE_S", 0.01)
    faulty = FaultyServer()
    yield faulty
    faulty.close()

"""The calls that are made of vLLM, checked against the signatures of its documentation: it is not installed here."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from reprise.generators.generator import Answer, Request
from reprise.recipe.generator import Generator
from reprise.recipe.model import Model

if importlib.util.find_spec("vllm") is not None:
    pytest.skip("vLLM is installed", allow_module_level=True)


@dataclass
class SamplingParams:
    """The parameters that are used, by their names in vLLM."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = 16
    stop: str | list[str] | None = None
    seed: int | None = None


class LLM:
    """Says how many ids a prompt has."""

    def __init__(self, model: str, *, revision: str | None, trust_remote_code: bool, max_model_len: int) -> None:
        assert max_model_len == 4096

    def generate(
        self, prompts: Sequence[dict[str, Any]], sampling_params: Sequence[SamplingParams], *, use_tqdm: bool
    ) -> list[Any]:
        assert len(prompts) == len(sampling_params)
        return [
            SimpleNamespace(
                prompt_token_ids=prompt["prompt_token_ids"],
                outputs=[SimpleNamespace(text=f" {sampling.seed}", token_ids=(1, 2), finish_reason="length")],
            )
            for prompt, sampling in zip(prompts, sampling_params, strict=True)
        ]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.delitem(sys.modules, "reprise.generators.vllm_engine", raising=False)
    yield importlib.import_module("reprise.generators.vllm_engine")
    sys.modules.pop("reprise.generators.vllm_engine", None)


def test_groups_come_back_in_order_and_each_request_has_its_seed(
    engine: Any, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "GROUP", 1)
    settings = Generator(kind="vllm", batch_size=2, engine_options={"max_model_len": 4096})
    generator = engine.VllmEngine(settings, tiny_model)
    requests = [Request((("user", "x" * number),), 9, 0.5, 0.9, begin="Q:") for number in range(5)]
    keys = [request.key(generator.identity) for request in requests]
    groups = list(generator.answer(requests, keys))
    assert [len(group) for group in groups] == [2, 2, 1]
    found = [outcome for group in groups for _, outcome in group]
    assert [index for group in groups for index, _ in group] == [0, 1, 2, 3, 4]
    assert all(isinstance(outcome, Answer) and outcome.text.startswith("Q: ") for outcome in found)
    assert len({outcome.text for outcome in found}) == 5
    assert [outcome.prompt_tokens - found[0].prompt_tokens for outcome in found] == [0, 1, 2, 3, 4]
    assert found[0].finish == "length"
    generator.close()

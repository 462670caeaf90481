"""vLLM's engine in this process, if it is installed: the fastest generator on one machine without a server."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from reprise.errors import UserError
from reprise.generators.generator import Answer, ModelIdentity, Outcome, Request, random_seed
from reprise.generators.local import identify, load_chat_tokenizer, prompt_ids
from reprise.model.loading import locate_model
from reprise.recipe.generator import Generator as GeneratorSettings
from reprise.recipe.model import Model

try:
    import vllm
except ImportError:
    raise UserError(
        "vLLM is not installed",
        where="generator.kind=vllm",
        remedy="pip install vllm (it brings its own torch), or start a vLLM server elsewhere and use kind: openai",
    ) from None

GROUP = 64
"""Requests per call, as a multiple of `batch_size`; if the process is killed, at most this many answers are lost."""


class VllmEngine:
    """A generator that passes groups of requests to `vllm.LLM`, which batches them itself."""

    def __init__(self, settings: GeneratorSettings, model: Model, setting: str = "generator") -> None:
        """Locate the model.

        Raises:
            UserError: the model does not exist, or has no chat template.
        """
        self._settings, self._model = settings, model
        self._tokenizer = load_chat_tokenizer(model, setting)
        self._identity: ModelIdentity = {**identify(model), "engine": "vllm"}
        self._engine: Any = None

    @property
    def identity(self) -> ModelIdentity:
        """Hash of the model's content, and the fact that vLLM runs it."""
        return self._identity

    def answer(
        self, requests: Sequence[Request], keys: Sequence[str], budget: float = math.inf
    ) -> Iterator[list[tuple[int, Outcome]]]:
        """Yield the answers, group by group."""
        if self._engine is None and requests:
            options = {
                "revision": self._model.revision,
                "trust_remote_code": self._model.trust_remote_code,
                **self._settings.engine_options,
            }
            self._engine = vllm.LLM(model=locate_model(self._model), **options)
        size = GROUP * self._settings.batch_size
        for start in range(0, len(requests), size):
            group = requests[start : start + size]
            prompts = [{"prompt_token_ids": prompt_ids(self._tokenizer, request)} for request in group]
            sampling = [self._sampling(request, key) for request, key in zip(group, keys[start:], strict=False)]
            outputs = self._engine.generate(prompts, sampling, use_tqdm=False)
            yield [
                (start + index, _read(request, output))
                for index, (request, output) in enumerate(zip(group, outputs, strict=True))
            ]

    def close(self) -> None:
        """Free the memory that the engine uses."""
        self._engine = None

    def _sampling(self, request: Request, key: str) -> Any:
        return vllm.SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            max_tokens=request.max_tokens,
            stop=list(request.stop) or None,
            seed=random_seed(key),
        )


def _read(request: Request, output: Any) -> Answer:
    choice = output.outputs[0]
    finish = "length" if choice.finish_reason == "length" else "stop"
    return Answer(request.begin + choice.text, finish, len(output.prompt_token_ids), len(choice.token_ids))  # type: ignore[arg-type]

"""Models that this process does not compute itself: an OpenAI-compatible server, or vLLM's engine.

The harness's own clients send the requests, so every benchmark runs unchanged. Bits per byte are requested as the
log-likelihood of a window's new tokens given its old ones, and samples as greedy generations. Imported only if such a
backend is chosen.
"""

import contextlib
import json
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.openai_completions import LocalCompletionsAPI

from reprise.errors import UserError, missing_extra
from reprise.evaluation.choices import check_requests
from reprise.evaluation.quiet import without_bars
from reprise.generators.keys import read_key
from reprise.generators.reachable import ask_models
from reprise.model.likelihood import Stretches, clip_stretches, cut_windows, require_finite
from reprise.model.loading import load_config, load_tokenizer, locate_model
from reprise.model.tokenizer import begins_with_bos
from reprise.recipe.evaluation import Backend
from reprise.recipe.model import Model

_GROUP = 256
"""Windows or prompts per call of the client."""

_TIMEOUT_S = 600
"""Timeout of one request, in seconds."""


def open_backend(model: Model, backend: Backend) -> Any:
    """The harness's model for a backend other than transformers in this process.

    Raises:
        UserError: a package is missing, or the server does not answer or does not serve the model.
    """
    if backend.kind == "vllm":
        return _open_vllm(model, backend)
    name = backend.served_names.get(model.path, model.path)
    limit = min(_context(model), _ask_limit(backend, name))
    try:
        return _Server(
            model=name,
            base_url=f"{backend.base_url}/completions",
            tokenizer=locate_model(model),
            tokenizer_backend="huggingface",
            trust_remote_code=model.trust_remote_code,
            revision=model.revision,
            add_bos_token=begins_with_bos(
                load_tokenizer(model)
            ),  # the client's default is never; transformers follows the tokenizer's setting
            max_length=limit,
            num_concurrent=max(2, backend.requests_in_flight),  # with 1 the client takes a different code path
            max_retries=6,
            timeout=_TIMEOUT_S,
            header=_header(backend),
        )
    except ImportError as error:
        raise missing_extra("lm-eval[api]", "evaluation", "asking a server") from error


def _open_vllm(model: Model, backend: Backend) -> Any:
    try:
        import vllm  # noqa: F401
    except ImportError:
        raise UserError(
            "vLLM is not installed",
            where="evaluation.backend.kind=vllm",
            remedy="pip install vllm (it brings its own torch), or start a vLLM server elsewhere and use kind: openai",
        ) from None
    options = {"trust_remote_code": model.trust_remote_code, "max_length": _context(model)} | backend.engine_options
    return get_model("vllm")(pretrained=locate_model(model), revision=model.revision, **options)


class _Server(LocalCompletionsAPI):  # type: ignore[misc]
    """The harness's client; one request checks whether the server returns log-probabilities of a prompt."""

    _knows_logprobs = False

    def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        check_requests([request[1:] for request in requests], self.max_length)
        if not self._knows_logprobs and requests:
            ids = requests[0][1][-1:] + requests[0][2][:1]
            answer = self.model_call([ids], generate=False)
            told = answer["choices"][0]["logprobs"]["token_logprobs"] if answer else []
            if len(told) != len(ids) + 1:
                raise KeyError(f"log-probabilities of {len(ids) + 1} tokens, {len(told)} were returned")
            self._knows_logprobs = True
        scores: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, **kwargs)
        return scores


def document_bits(
    lm: Any,
    documents: Sequence[npt.NDArray[np.int64]],
    stretches: Sequence[Stretches | None],
    *,
    max_length: int,
    stride: int,
    advance: Callable[[float], None] = lambda amount: None,
) -> npt.NDArray[np.float64]:
    """Bits of whole documents, in the windows of `likelihood.document_nll`.

    Args:
        lm: the harness's model.
        documents: token ids of each document, int64[n], after the token that begins a text.
        stretches: for each document, the only tokens that count; None: every token.
        max_length: tokens in one window; reduced to the backend's limit.
        stride: tokens by which the window moves.
        advance: called with the tokens scored since the last call.

    Returns:
        float64[len(documents)]; every token that counts, except a document's first, is counted once.

    Raises:
        UserError: a likelihood is not finite.
    """
    if max_length > lm.max_length:
        max_length, stride = lm.max_length, min(stride, lm.max_length // 2)
    windows = [
        (index, (None, ids[begin:start].tolist(), ids[start:stop].tolist()))
        for index, ids in enumerate(documents)
        for begin, end, first in cut_windows(len(ids), max_length, stride)
        for start, stop in clip_stretches(stretches[index], first, end)
    ]
    bits = np.zeros(len(documents))
    for start in range(0, len(windows), _GROUP):
        group = windows[start : start + _GROUP]
        scores = score_tokens(lm, [request for _, request in group])
        for (index, request), (logprob, _) in zip(group, scores, strict=True):
            bits[index] -= logprob / np.log(2)
            advance(len(request[2]))
    require_finite(bits, "evaluation.backend", "texts")
    return bits


def score_tokens(lm: Any, requests: list[Any]) -> list[tuple[float, bool]]:
    """(log-likelihood in nats, whether it is greedy) of (name, context, continuation)."""
    with explained(), without_bars():
        return list(lm._loglikelihood_tokens(requests))


def generate(lm: Any, prompts: Sequence[str], max_tokens: int) -> list[str]:
    """The greedy continuation of each prompt."""
    settings = {"until": [], "max_gen_toks": max_tokens, "do_sample": False, "temperature": 0.0}
    requests = [
        Instance(request_type="generate_until", doc={}, arguments=(prompt, dict(settings)), idx=index)
        for index, prompt in enumerate(prompts)
    ]
    with explained(), without_bars():
        return [str(text) for text in lm.generate_until(requests)]


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn the exceptions of the harness's client, raised after its own retries, into one message."""
    import aiohttp
    import requests

    where = "evaluation.backend.base_url"
    try:
        yield
    except (aiohttp.ClientError, requests.RequestException, TimeoutError) as error:
        raise UserError(
            f"the server failed: {type(error).__name__}: {error}",
            where=where,
            remedy="see its log, and run the same command again; benchmarks that were finished are kept",
        ) from error
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"the server's answer lacks something: {type(error).__name__}: {error}",
            where=where,
            remedy="it must answer /completions with echo and logprobs, for prompts of token ids, as vLLM does",
        ) from error


def _ask_limit(backend: Backend, name: str) -> int:
    """The server's context length in tokens; 2^31 if it does not report one.

    Raises:
        UserError: the server does not answer, or serves other models.
    """
    where = f"evaluation.backend.base_url={backend.base_url}"
    key = read_key(backend.api_key_env, "evaluation.backend")
    try:
        listed = json.loads(ask_models(str(backend.base_url), key, timeout_s=30))["data"]
        served = {str(entry["id"]): int(entry.get("max_model_len") or 2**31) for entry in listed}
    except urllib.error.HTTPError as error:
        raise UserError(
            f"the server refuses: HTTP {error.code}",
            where=where,
            remedy=f"check the address (it usually ends in /v1) and the key in {backend.api_key_env}",
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"no OpenAI-compatible server answers: {error}", where=where, remedy="start it, or correct the address"
        ) from None
    if name not in served:
        raise UserError(
            f"the server does not serve {name!r} but {', '.join(sorted(served)) or 'nothing'}",
            where=where,
            remedy="start it with this model, or name it in evaluation.backend.served_names",
        )
    return served[name]


def _header(backend: Backend) -> dict[str, str]:
    key = read_key(backend.api_key_env, "evaluation.backend")
    return {"Authorization": f"Bearer {key}"} if key else {"Accept": "application/json"}


def _context(model: Model) -> int:
    return int(getattr(load_config(model).get_text_config(), "max_position_embeddings", None) or 2048)

"""Client of any server with the OpenAI protocol: vLLM, SGLang, llama.cpp, Ollama, hosted ones.

Many requests are in flight at once. 408, 409, 425, 429, 5xx, broken connections, slow answers and invalid answers are
retried, each time after a longer pause. The key is read from the environment and sent, but never written: it is removed
from texts of the server before they are shown.
"""

import asyncio
import contextlib
import json
import math
import random
import ssl
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from reprise.errors import UserError, missing_extra
from reprise.generators.generator import Answer, Failure, ModelIdentity, Outcome, Request, price, random_seed
from reprise.generators.keys import read_key
from reprise.recipe.generator import Generator as GeneratorSettings

try:
    import httpx
except ImportError:
    raise missing_extra("httpx", "synthesis", "generator.kind=openai") from None

_RETRIED = frozenset({408, 409, 425, 429})
_FATAL = {
    401: "put a valid key into the environment variable {variable}",
    402: "see to the account of the key in {variable}",
    403: "put a key that may use this model into the environment variable {variable}",
    404: "check {setting}.base_url (it usually ends in /v1) and {setting}.model",
}
_ENDS = (None, "stop", "eos", "stop_sequence", "length")
"""Finish reasons of an answer that was not filtered or replaced by something else."""
_LONGEST_PAUSE_S = 60.0
FIRST_PAUSE_S = 0.5
_BODY_BYTES = 1 << 20
_BODY_BYTES_PER_TOKEN = 256
"""A response body may have _BODY_BYTES, and this many bytes more per requested token: a token rarely has more than 16
characters, and each takes six bytes if the server escapes it."""
_CHARS_PER_TOKEN = 64
_MOST_TOKENS = 10**9
"""A larger value is not a valid token count."""


class _AnotherAttemptError(Exception):
    """A failure that another attempt may not have."""

    def __init__(self, reason: str, pause_s: float = 0.0) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


class _BilledAttemptError(_AnotherAttemptError):
    """The server responded, so it may have billed the request, but the response is not a valid answer."""


class OpenAIServer:
    """A client that keeps `batch_size` requests in flight."""

    def __init__(self, settings: GeneratorSettings, setting: str = "generator") -> None:
        """Read the key and prepare the client; nothing is sent yet."""
        self._settings, self._setting = settings, setting
        self._key = read_key(settings.api_key_env, setting)
        self._runner = asyncio.Runner()
        self._clients: list[httpx.AsyncClient] = []
        self._free: list[httpx.AsyncClient] = []
        self._certificates: ssl.SSLContext | None = None
        self._next_start = 0.0
        self._committed = 0.0
        self._budget = math.inf

    @property
    def identity(self) -> ModelIdentity:
        """Name of the model, without the address, which may change."""
        return {"name": self._settings.model}

    def answer(
        self, requests: Sequence[Request], keys: Sequence[str], budget: float = math.inf
    ) -> Iterator[list[tuple[int, Outcome]]]:
        """Yield outcomes in the order in which they arrive; those that arrived since the last group form one group.

        Raises:
            UserError: the server cannot be reached or refuses the key, or the cost limit is reached.
        """
        self._budget, self._committed = budget, 0.0
        done: asyncio.Queue[tuple[int, Outcome] | Exception] = asyncio.Queue()
        pending = iter(range(len(requests)))
        workers = [
            self._runner.get_loop().create_task(self._work(pending, requests, keys, done))
            for _ in range(min(self._settings.batch_size, len(requests)))
        ]
        remaining = len(requests)
        try:
            while remaining:
                group = self._runner.run(_drain(done))
                answered = [item for item in group if not isinstance(item, Exception)]
                if answered:
                    remaining -= len(answered)
                    yield answered
                errors = [item for item in group if isinstance(item, Exception)]
                if errors:
                    # The server bills requests in flight: their answers are saved before the error is raised.
                    if last := self._runner.run(_finish(workers, done, stop=pending)):
                        yield last
                    raise errors[0]
        finally:
            self._runner.run(_cancel(workers))

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            self._runner.run(client.aclose())
        self._clients, self._free = [], []
        self._runner.close()

    async def _work(
        self,
        pending: Iterator[int],
        requests: Sequence[Request],
        keys: Sequence[str],
        done: "asyncio.Queue[tuple[int, Outcome] | Exception]",
    ) -> None:
        try:
            for index in pending:
                done.put_nowait((index, await self._ask(requests[index], keys[index])))
        except Exception as error:
            done.put_nowait(error)

    async def _ask(self, request: Request, key: str) -> Outcome:
        """Send a request until it is answered, or no attempts remain."""
        reserved = self._reserve(request)
        reason = ""
        for attempt in range(self._settings.max_retries + 1):
            await self._wait_for_turn()
            try:
                async with asyncio.timeout(self._settings.timeout_s):
                    answer = await self._attempt(request, key)
            except _AnotherAttemptError as error:
                reason, pause_s = str(error), error.pause_s
                if isinstance(error, _BilledAttemptError):
                    self._committed += reserved
            except TimeoutError:
                reason, pause_s = f"no answer within {self._settings.timeout_s:g} s", 0.0
            else:
                if isinstance(answer, Answer):
                    self._settle(reserved, answer)
                return answer
            if attempt < self._settings.max_retries:
                await asyncio.sleep(max(pause_s, _pause_s(attempt)))
        return Failure(f"{reason} ({self._settings.max_retries + 1} attempts)")

    async def _attempt(self, request: Request, key: str) -> Outcome:
        body: dict[str, Any] = {
            "model": self._settings.model,
            "messages": [{"role": role, "content": text} for role, text in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": random_seed(key),
        }
        if request.stop:
            body["stop"] = list(request.stop)
        client = self._take_client()
        try:
            async with client.stream("POST", f"{self._settings.base_url}/chat/completions", json=body) as reply:
                content = await _read_body(reply, _BODY_BYTES + _BODY_BYTES_PER_TOKEN * request.max_tokens)
        except httpx.TransportError as error:
            raise _AnotherAttemptError(f"{type(error).__name__}: {self._hide(str(error))}") from None
        finally:
            self._free.append(client)
        if reply.status_code in _RETRIED or reply.status_code >= 500:
            raise _AnotherAttemptError(self._describe(reply.status_code, content), _retry_after_s(reply))
        if reply.status_code in _FATAL:
            raise UserError(
                f"the server refuses: {self._describe(reply.status_code, content)}",
                where=f"{self._setting}.base_url={self._settings.base_url}",
                remedy=_FATAL[reply.status_code].format(variable=self._settings.api_key_env, setting=self._setting),
            )
        if reply.status_code != 200:
            return Failure(self._describe(reply.status_code, content))
        if content is None:
            raise _BilledAttemptError("the body of the answer is too large")
        return self._without_key(_read_answer(content, request.max_tokens))

    def _take_client(self) -> httpx.AsyncClient:
        """A client that no other request uses. Each has one connection: a shared pool examines all of its connections
        at every request, which takes most of the time if many are in flight."""
        if self._free:
            return self._free.pop()
        if self._certificates is None:
            self._certificates = httpx.create_ssl_context()
        headers = {"Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        limits = httpx.Limits(max_connections=1)
        client = httpx.AsyncClient(headers=headers, limits=limits, timeout=None, verify=self._certificates)
        self._clients.append(client)
        return client

    async def _wait_for_turn(self) -> None:
        """Wait so that no more than `requests_per_minute` requests begin in a minute."""
        if not self._settings.requests_per_minute:
            return
        now = time.monotonic()
        start = max(now, self._next_start)
        self._next_start = start + 60.0 / self._settings.requests_per_minute
        await asyncio.sleep(start - now)

    def _reserve(self, request: Request) -> float:
        """Reserve the largest possible cost of the request. A token has at least one byte, so bytes bound the
        prompt."""
        prompt_bytes = sum(len(role.encode()) + len(text.encode()) + 16 for role, text in request.messages)
        most = price(prompt_bytes, request.max_tokens, self._settings)
        if self._committed + most > self._budget:
            left = max(0.0, self._budget - self._committed)
            raise UserError(
                f"the next request could cost more than the limit leaves ({left:.4f})",
                where=f"{self._setting}.max_cost={self._settings.max_cost:g}",
                remedy="raise the limit, or ask for less; what was answered is kept",
            )
        self._committed += most
        return most

    def _settle(self, reserved: float, answer: Answer) -> None:
        if answer.completion_tokens:  # if the server reports no usage, the reservation is kept
            self._committed += price(answer.prompt_tokens, answer.completion_tokens, self._settings) - reserved

    def _describe(self, status: int, content: bytes | None) -> str:
        """Status and beginning of the body, from which the key is removed, also in JSON escapes."""
        text = "(a body that is too large)" if content is None else content.decode(errors="replace")
        with contextlib.suppress(ValueError, RecursionError):
            text = json.dumps(json.loads(text), ensure_ascii=False)
        return f"HTTP {status} {' '.join(_printable(self._hide(text)).split())[:200]}".strip()

    def _hide(self, text: str) -> str:
        """The text without the key, in case the server repeats it."""
        return text.replace(self._key, "[key]") if self._key else text

    def _without_key(self, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Answer):
            return replace(outcome, text=self._hide(outcome.text))
        return Failure(self._hide(outcome.reason))


async def _read_body(reply: httpx.Response, limit: int) -> bytes | None:
    """The decompressed body; None if it is longer than `limit` bytes, more than which are never in memory.

    Raises:
        _AnotherAttemptError: the body is truncated, or compressed in a way that was not offered.
    """
    encoding = reply.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip", "deflate"):
        raise _AnotherAttemptError(f"the answer is packed with {encoding[:20]!r}, which was not asked for")
    unpack = None if encoding == "identity" else zlib.decompressobj(wbits=47 if encoding == "gzip" else 15)
    body = bytearray()
    async for chunk in reply.aiter_raw():
        try:
            body += chunk if unpack is None else unpack.decompress(chunk, limit + 1 - len(body))
        except zlib.error as error:
            raise _AnotherAttemptError(f"the answer is not {encoding}: {error}") from None
        if len(body) > limit:
            return None
    return bytes(body)


def _read_answer(content: bytes, max_tokens: int) -> Outcome:
    """The answer in a body.

    Raises:
        _BilledAttemptError: it is not a chat completion, or not one that a model can give: deeply nested, with a
            negative usage, with more text than the requested tokens can contain, or with a lone surrogate.
    """
    try:
        data = json.loads(content.decode(errors="replace"))
        choice = data["choices"][0]
        text, finish = choice["message"]["content"], choice.get("finish_reason")
        usage = data.get("usage") or {}
        counts = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        if not isinstance(text, str):
            raise TypeError("the content is not text")
        if not all(0 <= count <= _MOST_TOKENS for count in counts):
            raise ValueError(f"usage of {counts[0]} and {counts[1]} tokens")
        if len(text) > _CHARS_PER_TOKEN * max_tokens + 1000:
            raise ValueError(f"{len(text)} characters in {max_tokens} tokens")
        text.encode()
    except (
        ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError,
    ) as error:  # fmt: skip
        what = _printable(f"{type(error).__name__}: {error}")[:200]
        raise _BilledAttemptError(f"the answer is not a chat completion ({what})") from None
    if finish not in _ENDS:
        return Failure(f"the server ended the answer with {_printable(str(finish)[:40])!r}")
    return Answer(text, "length" if finish == "length" else "stop", *counts)


def _printable(text: str) -> str:
    """The text without lone surrogates, which cannot be written anywhere."""
    return text.encode(errors="replace").decode()


def _pause_s(attempt: int) -> float:
    """Pause in seconds: doubled after each attempt, and randomised, so that requests are not all retried at once."""
    return float(min(_LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt) * random.uniform(0.5, 1.0))


def _retry_after_s(reply: httpx.Response) -> float:
    try:
        return min(_LONGEST_PAUSE_S, max(0.0, float(reply.headers["retry-after"])))
    except (KeyError, ValueError):
        return 0.0


async def _drain(done: "asyncio.Queue[Any]") -> list[Any]:
    """Wait for one item, and return it with all others that are in the queue."""
    items = [await done.get()]
    while not done.empty():
        items.append(done.get_nowait())
    return items


async def _finish(workers: "list[asyncio.Task[None]]", done: "asyncio.Queue[Any]", stop: Iterator[int]) -> list[Any]:
    """Start no more requests, wait for those in flight, and return their outcomes."""
    for _ in stop:
        pass
    await asyncio.gather(*workers, return_exceptions=True)
    items = []
    while not done.empty():
        items.append(done.get_nowait())
    return [item for item in items if not isinstance(item, Exception)]


async def _cancel(workers: "list[asyncio.Task[None]]") -> None:
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)

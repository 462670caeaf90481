"""A server that misbehaves on demand, and a small corpus."""

import functools
import json
import random
import re
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from reprise.recipe.synthesis import Synthesis
from reprise.workspace import Work

TOPICS = {
    "physics": "force velocity gravity momentum energy",
    "biology": "cells species protein membrane enzyme",
    "astronomy": "stars planets galaxy orbit telescope",
}


def passage(discipline: str, number: int) -> str:
    """A passage that is taken for the discipline, different for every number."""
    words = TOPICS[discipline].split()
    return " ".join(
        f"Fact {number * 10 + line}: the {words[line % 5]} of sample {number} meets the {words[(line + 1) % 5]}."
        for line in range(6)
    )


def corpus_rows(per_discipline: int = 8) -> list[dict[str, Any]]:
    """Documents of three disciplines in two files."""
    return [
        {"id": f"{discipline}-{number}", "text": passage(discipline, number), "lang": "en", "source": "web",
         "topic": None, "split": "train", "origin": f"file{number % 2}.jsonl:{number + 1}"}
        for discipline in TOPICS
        for number in range(per_discipline)
    ]  # fmt: skip


Runner = Callable[..., Work]


WORDS = re.findall(
    r"\w+",
    "valley bridge copper winter lantern harbour meadow silver thunder orchard marble canyon feather granite timber "
    "willow amber falcon glacier pepper saddle tunnel velvet walnut zephyr basket candle dragon engine forest",
)


def good_answer(prompt: str, seed: int) -> str:
    """A short pair that passes the checks and is unlike every other."""
    chance = random.Random(f"{seed} {prompt}")
    words = [chance.choice(WORDS) + str(chance.randrange(1000)) for _ in range(30)]
    return f"Question: What links {' '.join(words[:8])}?\nAnswer: They share {' '.join(words[8:])}."


@functools.cache
def gzip_bomb() -> bytes:
    """2 GB of spaces in 2 MB."""
    packer = zlib.compressobj(9, wbits=31)
    block = b" " * (1 << 24)
    return b"".join([*(packer.compress(block) for _ in range(128)), packer.flush()])


class FaultyServer:
    """An OpenAI-compatible server whose first answers to a prompt are the faults of `script`, one after another."""

    def __init__(self) -> None:
        self.script: Callable[[int], list[str]] = lambda number: []
        """Number of the prompt in order of its first arrival -> its faults."""
        self.answer: Callable[[str, int], str] = good_answer
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.delay_s = 0.0
        self.escape = ""
        """A text that is written with JSON escapes."""
        self.in_flight = self.most_in_flight = 0
        self.starts: list[float] = []
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server.handle(self)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        name = json.dumps(body["messages"]) + str(body["seed"])
        with self._lock:
            self.headers.append(dict(handler.headers))
            self.bodies.append(body)
            self.starts.append(time.monotonic())
            attempt = self.asked[name]
            self.asked[name] += 1
            number = self._numbers.setdefault(name, len(self._numbers))
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            faults = self.script(number)
            fault = faults[attempt] if attempt < len(faults) else "none"
            time.sleep(self.delay_s)
            self._reply(handler, fault, self.answer(prompt, body["seed"]), name)
        finally:
            with self._lock:
                self.in_flight -= 1

    def _reply(self, handler: BaseHTTPRequestHandler, fault: str, text: str, name: str) -> None:
        whole = json.dumps(
            {"choices": [{"message": {"content": text}, "finish_reason": "stop"}],
             "usage": {"prompt_tokens": 100, "completion_tokens": 50}}
        ).encode()  # fmt: skip
        if self.escape:
            whole = whole.replace(self.escape.encode(), "".join(f"\\u{ord(char):04x}" for char in self.escape).encode())
        status, headers, data = 200, {}, whole
        if fault.isdigit():
            status, data = int(fault), f"sorry, {handler.headers.get('Authorization')}".encode()
            if status == 429:
                headers["Retry-After"] = "0.1"
        elif fault == "nonsense":
            data = b"<html>no JSON at all"
        elif fault == "empty":
            data = b""
        elif fault == "other":
            data = b'{"choices": []}'
        elif fault == "null":
            data = b'{"choices": [{"message": {"content": null}}]}'
        elif fault == "hang_up":
            handler.close_connection = True
            return
        elif fault == "surrogate":
            data = b'{"choices": [{"message": {"content": "half \\ud83d of it"}}], "usage": {}}'
        elif fault == "nested":
            data = b'{"choices": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
        elif fault.startswith("usage "):
            usage = f'"usage": {{"prompt_tokens": {fault[6:]}, "completion_tokens": {fault[6:]}}}'
            data = f'{{"choices": [{{"message": {{"content": "x"}}, "finish_reason": "stop"}}], {usage}}}'.encode()
        elif fault == "long answer":
            data = json.dumps({"choices": [{"message": {"content": "word " * 2_000_000}}]}).encode()
        elif fault == "long text":
            data = json.dumps({"choices": [{"message": {"content": "word " * 20_000}}]}).encode()
        elif fault == "bomb":
            headers["Content-Encoding"] = "gzip"
            data = gzip_bomb()
        elif fault == "packed nonsense":
            headers["Content-Encoding"], data = "gzip", b"not gzip"
        elif fault == "brotli":
            headers["Content-Encoding"], data = "br", b"x"
        elif fault == "slow":
            time.sleep(3.0)
        handler.send_response(status)
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if fault == "half":
            data = data[: len(data) // 2]
            handler.close_connection = True
        try:
            handler.wfile.write(data)
            handler.wfile.flush()
        except OSError:
            return
        if fault == "none":
            with self._lock:
                self.answered[name] += 1

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def settings(server: FaultyServer, requests: int = 12, **generator: Any) -> Synthesis:
    return Synthesis.model_validate(
        {
            "enabled": True,
            "requests": requests,
            "disciplines": ["physics", "biology", "astronomy"],
            "kinds": {"question": 1.0},
            "generator": {
                "kind": "openai", "base_url": server.url, "model": "m", "batch_size": 6, "max_tokens": 60, **generator,
            },
        }
    )  # fmt: skip


def read_documents(work: Work) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return [
        row for part in sorted((work.output / "documents").glob("*.parquet")) for row in pq.read_table(part).to_pylist()
    ]

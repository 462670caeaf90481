"""The stage against a real server: `transformers serve` with a tiny random model."""

import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest
from tests.synthesis.serving import Runner

from reprise.recipe.model import Model
from reprise.recipe.synthesis import Synthesis

if any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn", "openai")):
    pytest.skip("needs `pip install transformers[serving]`", allow_module_level=True)


@pytest.fixture(scope="module")
def address(tiny_model: Model) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = "from transformers.cli.transformers import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "serve", tiny_model.path, "--host", "127.0.0.1", "--port", str(port),
         "--device", "cpu"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            try:
                httpx.get(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except httpx.HTTPError:
                time.sleep(0.3)
        assert process.poll() is None, "the server ended"
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_answers_come_are_counted_and_nonsense_is_dropped(address: str, tiny_model: Model, run_stage: Runner) -> None:
    recipe = Synthesis.model_validate(
        {
            "enabled": True, "requests": 6, "disciplines": ["physics"], "kinds": {"question": 1.0},
            "generator": {"kind": "openai", "base_url": address, "model": tiny_model.path, "batch_size": 3,
                          "max_tokens": 16, "timeout_s": 60},
        }
    )  # fmt: skip
    work = run_stage(recipe)
    assert work.counts["failed"] == 0
    assert work.counts["completion_tokens"] > 0
    assert work.counts["documents_in"] == work.counts["dropped"] == 6
    assert set(work.counts["dropped_by_reason"]) <= {"cut_off", "does_not_parse"}
    again = run_stage(recipe, name="again")
    assert again.counts["from_journal"] == 6

"""The stage against a server that answers 429, 500, half a body, nonsense, nothing, and slowly."""

import json
import re
import resource
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.synthesis.serving import FaultyServer, Runner, good_answer, gzip_bomb, read_documents, settings

from reprise.errors import UserError
from reprise.recipe.loading import check
from reprise.recipe.synthesis import Synthesis

FAULTS = ["429", "500", "503", "408", "half", "nonsense", "empty", "other", "null", "hang_up"]
KEY = "sk-a-very-secret-key-4711"


def test_every_fault_is_survived_and_leaves_the_documents_the_same(
    server: FaultyServer, run_stage: Runner, tmp_path: Path
) -> None:
    clean = read_documents(run_stage(settings(server), name="clean"))
    assert len(clean) == 12
    (tmp_path / "cache" / "answers.jsonl").unlink()
    server.asked.clear()
    server.script = lambda number: [FAULTS[number % len(FAULTS)], FAULTS[(number + 3) % len(FAULTS)]]
    faulty = run_stage(settings(server), name="faulty")
    assert read_documents(faulty) == clean
    assert faulty.counts["failed"] == 0
    assert set(server.asked.values()) == {3}


def test_what_keeps_failing_is_dropped_with_its_reason_and_asked_again_later(
    server: FaultyServer, run_stage: Runner
) -> None:
    server.script = lambda number: ["500"] * 3 if number == 4 else []
    recipe = settings(server, max_retries=2, max_failed_share=0.1)
    first = run_stage(recipe, name="first")
    assert first.counts["dropped_by_reason"] == {"failed": 1}
    assert first.counts["documents_in"] == first.counts["documents_out"] + first.counts["dropped"] == 12
    asked = sum(server.asked.values())
    second = run_stage(recipe, name="second")
    assert second.counts["documents_out"] == 12
    assert sum(server.asked.values()) == asked + 1


def test_too_many_failures_stop_and_keep_what_was_answered(server: FaultyServer, run_stage: Runner) -> None:
    server.script = lambda number: ["500"] * 9 if number % 2 else []
    recipe = settings(server, max_retries=1)
    with pytest.raises(UserError, match=r"6 of 12 requests got no answer.*HTTP 500(.|\n)*is kept"):
        run_stage(recipe)
    server.script = lambda number: []
    before = sum(server.answered.values())
    assert before == 6
    run_stage(recipe, name="again")
    assert sum(server.answered.values()) == 12
    assert set(server.answered.values()) == {1}


def test_a_slow_answer_is_given_up_at_the_deadline(server: FaultyServer, run_stage: Runner) -> None:
    server.script = lambda number: ["slow"] if number == 0 else []
    started = time.monotonic()
    work = run_stage(settings(server, timeout_s=0.3))
    assert work.counts["documents_out"] == 12
    assert time.monotonic() - started < 2.5


def test_a_server_that_is_not_there_is_one_clear_error(server: FaultyServer, run_stage: Runner) -> None:
    recipe = settings(server, base_url="http://127.0.0.1:9/v1", max_retries=1)
    with pytest.raises(UserError, match=r"12 of 12 requests got no answer; the last one: ConnectError"):
        run_stage(recipe)


@pytest.mark.parametrize("status", ["401", "403", "404"])
def test_a_refusal_stops_at_once_and_names_the_remedy(server: FaultyServer, run_stage: Runner, status: str) -> None:
    server.script = lambda number: [status] * 99
    with pytest.raises(UserError, match=rf"HTTP {status}(.|\n)*->"):
        run_stage(settings(server, requests=24))
    assert sum(server.asked.values()) <= 6


def test_a_bad_request_is_not_repeated(server: FaultyServer, run_stage: Runner) -> None:
    server.script = lambda number: ["400"] * 9 if number == 2 else []
    work = run_stage(settings(server, max_failed_share=0.5))
    assert work.counts["dropped_by_reason"] == {"failed": 1}
    assert sum(server.asked.values()) == 12


def test_requests_are_in_flight_together_and_not_more_than_allowed(server: FaultyServer, run_stage: Runner) -> None:
    server.delay_s = 0.1
    run_stage(settings(server, requests=24))
    assert server.most_in_flight == 6


def test_rate_limit(server: FaultyServer, run_stage: Runner) -> None:
    run_stage(settings(server, requests_per_minute=600))
    assert server.starts[-1] - server.starts[0] >= 11 * 60 / 600 * 0.65


def test_cost_limit_holds_and_the_rest_can_be_had_later(server: FaultyServer, run_stage: Runner) -> None:
    prices = {"input_price": 1.0, "output_price": 10.0}
    price_of_one = (100 * 1.0 + 50 * 10.0) / 1e6
    limit = 4.5e-3
    with pytest.raises(UserError, match="max_cost"):
        run_stage(settings(server, **prices, max_cost=limit, batch_size=2))
    paid = sum(server.answered.values())
    assert paid >= 1
    assert paid * price_of_one <= limit
    work = run_stage(settings(server, **prices, max_cost=1.0), name="again")
    assert work.counts["cost"] == pytest.approx(12 * price_of_one)
    assert sum(server.answered.values()) == 12


def test_the_key_is_sent_and_written_nowhere(
    server: FaultyServer, run_stage: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: Any, capfd: Any
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(0)
    server.script = lambda number: ["500"] * 9 if number == 1 else []
    work = run_stage(settings(server, api_key_env="MY_KEY", max_retries=1, max_failed_share=0.5))
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    server.script = lambda number: ["401"] * 9
    with pytest.raises(UserError) as caught:
        run_stage(settings(server, requests=24, api_key_env="MY_KEY"), name="refused")
    assert "[key]" in str(caught.value)
    texts = [str(caught.value), caplog.text, "".join(capfd.readouterr()), json.dumps(work.counts)]
    texts += [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY in text for text in texts)


@pytest.mark.parametrize(
    "url", ["http://user:secret@host/v1", "https://host/v1?key=secret", "host:8000/v1", "ftp://host/v1"]
)
def test_addresses_that_hold_a_key_or_are_none_are_refused(url: str) -> None:
    with pytest.raises(ValidationError, match=r"address"):
        Synthesis.model_validate({"generator": {"kind": "openai", "model": "m", "base_url": url}})


def test_what_is_sent(server: FaultyServer, run_stage: Runner) -> None:
    run_stage(settings(server, requests=3, temperature=0.3, top_p=0.9))
    body = server.bodies[0]
    assert body["model"] == "m"
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.3, 0.9, 60)
    assert re.search(r"Fact \d+:", body["messages"][-1]["content"])
    assert len({body["seed"] for body in server.bodies}) == 3


HOSTILE = ["surrogate", "nested", "usage -5", "usage 1e999", "usage 10000000000", "usage true, [1", "long answer",
           "long text", "bomb", "packed nonsense", "brotli"]  # fmt: skip


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_hostile_body_is_a_failed_attempt_in_bounded_memory_and_time(
    server: FaultyServer, run_stage: Runner, fault: str
) -> None:
    gzip_bomb()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    server.script = lambda number: [fault]
    work = run_stage(settings(server, requests=3, max_retries=2))
    assert work.counts["failed"] == 0 and work.counts["documents_out"] == 3
    assert sum(server.asked.values()) == 6
    assert time.monotonic() - started < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_what_stays_hostile_is_counted_and_costs(server: FaultyServer, run_stage: Runner) -> None:
    server.script = lambda number: ["usage -1000000"] * 9 if number == 0 else []
    work = run_stage(settings(server, requests=4, max_retries=1, max_failed_share=0.5))
    assert work.counts["failed"] == 1
    server.script = lambda number: ["usage -1000000"] * 9
    limited = settings(server, requests=40, max_retries=9, max_failed_share=1.0, batch_size=1,
                       output_price=1e6, max_cost=200.0)  # fmt: skip
    asked = sum(server.asked.values())
    with pytest.raises(UserError, match="max_cost"):
        run_stage(limited, name="limited")
    assert sum(server.asked.values()) - asked <= 20


def test_a_key_with_escapes_is_hidden_after_decoding(
    server: FaultyServer, run_stage: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    server.answer = lambda prompt, seed: good_answer(prompt, seed).replace("They share", f"They share {KEY}")
    server.escape = KEY  # written as \u escapes
    work = run_stage(settings(server, requests=3, api_key_env="MY_KEY"))
    assert work.counts["failed"] == 0
    texts = [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY in text for text in texts) and any("[key]" in text for text in texts)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("api_key_env", "sk-proj-abc123"),
        ("api_key_env", "AKIAIOSFODNN7EXAMPLE9"),
        ("api_key_env", "hf_abcdefghijk"),
        ("api_key_env", "Bearer sk-1"),
        ("base_url", "https://user:hunter2@host/v1"),
        ("base_url", "https://host/v1?api-key=hunter2"),
        ("base_url", "user:hunter2@host"),
    ],
)
def test_a_refused_setting_does_not_repeat_the_key(name: str, value: str) -> None:
    with pytest.raises(UserError) as caught:
        check(
            Synthesis, {"generator": {"kind": "openai", "model": "m", "base_url": "http://h/v1", name: value}}, "x.yaml"
        )
    assert name in str(caught.value)
    assert not any(part in str(caught.value) for part in (value, "hunter2", "abc123", "EXAMPLE9"))

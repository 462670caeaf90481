"""SIGKILL at any time: nothing that was answered is asked twice, and the end is the same."""

import functools
import json
import multiprocessing
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tests.synthesis.serving import FaultyServer, Runner, corpus_rows, settings

from reprise.documents.table import TableWriter
from reprise.recipe.documents import Clean, Decontaminate, Deduplicate
from reprise.recipe.model import Model
from reprise.recipe.synthesis import Synthesis
from reprise.synthesis.stage import run
from reprise.workspace import Work


def run_in_child(root: Path, recipe: dict[str, Any], model: str) -> None:
    """The stage, in a process that can be killed."""
    (root / "out").mkdir(exist_ok=True)
    run(
        Work(output=root / "out", inputs={"label": root / "label"}, cache=root / "cache"),
        synthesis=Synthesis.model_validate(recipe), model=Model(path=model), clean=Clean(min_chars=20),
        deduplicate=Deduplicate(), decontaminate=Decontaminate(), benchmarks=[], data=None, seed=1,
        engine="native",
    )  # fmt: skip


@pytest.mark.slow
def test_killed_again_and_again_the_end_is_the_same(server: FaultyServer, tmp_path: Path, tiny_model: Model) -> None:
    recipe = {
        "requests": 60, "disciplines": ["physics", "biology", "astronomy"], "kinds": {"question": 1.0},
        "generator": {"kind": "openai", "base_url": server.url, "model": "m", "batch_size": 4, "max_tokens": 60},
    }  # fmt: skip
    for name in ("whole", "killed"):
        with TableWriter(tmp_path / name / "label" / "documents") as writer:
            writer.write(corpus_rows(20))
    context = multiprocessing.get_context("forkserver")  # imports once; a plain fork would copy threads of libraries
    context.set_forkserver_preload(["reprise.synthesis.stage"])
    start = functools.partial(context.Process, target=run_in_child)
    process = start(args=(tmp_path / "whole", recipe, tiny_model.path))
    process.start()
    process.join()
    assert process.exitcode == 0
    server.answered.clear()
    server.delay_s = 0.1
    kills, journal = 0, tmp_path / "killed" / "cache" / "answers.jsonl"
    chance = random.Random(3)
    while True:
        process = start(args=(tmp_path / "killed", recipe, tiny_model.path))
        process.start()
        had = journal.stat().st_size if journal.exists() else 0
        while process.is_alive() and (not journal.exists() or journal.stat().st_size == had):
            time.sleep(0.01)
        if kills < 4 and process.is_alive():
            time.sleep(chance.random() * 0.3)
            process.kill()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert kills >= 3
    recorded = [json.loads(line)["key"] for line in journal.read_text().splitlines()]
    assert len(recorded) == len(set(recorded)) == 60
    # An answer that was on its way when the kill came could not be recorded: at most one per request in flight.
    assert sum(server.answered.values()) <= 60 + 4 * kills
    for name in ("documents", "dropped"):
        one, other = (tmp_path / run / "out" / name / "part-00000.parquet" for run in ("whole", "killed"))
        assert one.read_bytes() == other.read_bytes()
    one, other = (tmp_path / run / "out" / "provenance.jsonl" for run in ("whole", "killed"))
    assert one.read_bytes() == other.read_bytes()


def test_a_changed_prompt_asks_only_what_depends_on_it(server: FaultyServer, run_stage: Runner, tmp_path: Path) -> None:
    recipe = settings(server, requests=12).model_copy(update={"kinds": {"question": 0.5, "textbook": 0.5}})
    server.answer = lambda prompt, seed: (
        f"## Passage\n{prompt[-200:]} {seed}" if "textbook" in prompt else "Question: no"
    )
    run_stage(recipe, name="first")
    assert sum(server.asked.values()) == 12
    own = tmp_path / "prompts"
    own.mkdir()
    import reprise.synthesis

    ours = Path(reprise.synthesis.__file__).parent / "prompts" / "textbook.en.yaml"
    (own / "textbook.en.yaml").write_text(ours.read_text().replace("beginners", "readers"))
    run_stage(recipe.model_copy(update={"prompts": str(own)}), name="second")
    assert sum(server.asked.values()) == 12 + 6
    run_stage(recipe, name="third")
    assert sum(server.asked.values()) == 12 + 6

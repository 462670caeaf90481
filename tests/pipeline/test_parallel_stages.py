"""Stages with a model under torchrun: the bytes of one process, whatever is killed on the way."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.pipeline.test_run import TIMES, reprise

from reprise.workspace import Workspace

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "reprise"]
OPTIONS = {"env": {**os.environ, **TIMES}, "text": True, "stderr": subprocess.PIPE}


def parts(workspace: Path) -> dict[str, bytes]:
    return {part.name: part.read_bytes() for part in sorted((workspace / "score" / "documents").iterdir())}


def a_worker_of(launcher: int) -> int:
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(launcher)], capture_output=True, text=True).stdout
    return int(children.split()[-1])


@pytest.mark.slow
def test_two_processes_score_the_bytes_of_one_and_a_killed_worker_loses_its_shard_only(
    tmp_path, recipe_data, write_recipe
):
    recipe_data["documents"]["perplexity"] = {"shard_documents": 4, "max_length": 64, "stride": 32}
    recipe = write_recipe(recipe_data)
    alone, together = tmp_path / "run", tmp_path / "together"
    reprise("label", recipe)
    shutil.copytree(alone, together)
    reprise("score", recipe)

    command = [*LAUNCHER, "score", str(recipe), f"workspace={together}"]
    with subprocess.Popen(command, **OPTIONS) as process:
        documents = together / "score.partial" / "documents"
        while process.poll() is None and not (documents.is_dir() and any(documents.glob("part-*"))):
            time.sleep(0.005)
        os.kill(a_worker_of(process.pid), signal.SIGKILL)
        process.communicate(timeout=120)
    assert process.returncode != 0
    left = {part.name: part.stat().st_mtime_ns for part in documents.glob("part-*")}
    assert left

    subprocess.run(command, check=True, timeout=300, **OPTIONS)
    assert parts(together) == parts(alone)
    finished = {part.name: part.stat().st_mtime_ns for part in (together / "score" / "documents").iterdir()}
    assert {name: finished[name] for name in left} == left, "a finished shard was scored again"
    counts = [Workspace(workspace).manifest("score").counts for workspace in (alone, together)]
    assert counts[0] == counts[1]


CHAT_TEMPLATE = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}<assistant>"


def bring_up(rank: int, world: int, port: int, recipe: Path, workspace: Path, until: str, kill_after: int) -> None:
    """One process of a command; it is killed after so many pieces, where this is not 0. Pieces are small."""
    launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in launched.items()}
    import torch

    from reprise.evaluation import bits_per_byte, pieces
    from reprise.evaluation.benchmarks import harness, loglikelihood
    from reprise.generators import cached, transformers_engine
    from reprise.pipeline import run_stages
    from reprise.recipe.loading import load_recipe

    torch.set_num_threads(1)
    bits_per_byte.SHARD_BYTES, loglikelihood.PIECE_TOKENS = 4_000, 2_000
    harness.GENERATION_PIECE = transformers_engine.PIECE_BATCHES = cached.ROUND_PIECES = 1
    done = 0

    def killed(function):
        def call(*arguments):
            nonlocal done
            result = function(*arguments)
            done += 1
            if done == kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    pieces._write, cached._answer_piece = killed(pieces._write), killed(cached._answer_piece)
    run_stages(load_recipe(recipe, [f"workspace={workspace}"]), until=[until])


@pytest.fixture
def start():
    """Run a command in processes that have their imports already; gives their exit codes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["reprise.evaluation.stage", "reprise.evaluation.benchmarks.harness"])

    def run(world, recipe, workspace, until, kill_after=0):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        processes = [
            context.Process(
                target=bring_up,
                args=(rank, world, port, recipe, workspace, until, kill_after if rank == world - 1 else 0),
            )
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(240)
        return [process.exitcode for process in processes]

    return run


def contents(folder: Path) -> dict[str, bytes]:
    """Files of a stage, less its manifest, which has times."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def kept(workspace: Path, stage: str) -> dict[Path, int]:
    """Files of answers with their times."""
    return {path: path.stat().st_mtime_ns for path in (workspace / "cache" / stage).rglob("*.json")}


@pytest.mark.slow
def test_models_are_asked_by_all_processes_for_the_bytes_of_one(tmp_path, recipe_data, write_recipe, tiny_model, start):
    chat = tmp_path / "chat"
    shutil.copytree(tiny_model, chat)
    (chat / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    generator = {"kind": "transformers", "max_tokens": 8, "batch_size": 1}
    recipe_data |= {"model": {"path": str(chat)}}
    recipe_data["synthesis"] = {
        "enabled": True, "requests": 6, "disciplines": ["physics"], "kinds": {"question": 1.0}, "generator": generator
    }  # fmt: skip
    recipe_data["evaluation"] |= {
        "benchmarks": ["icl-probe", "instructions-en"], "limit": 12, "dtype": "float32", "merge_factors": [0.5],
        "sample_tokens": 4, "samples_per_language": 2,
    }  # fmt: skip
    recipe = write_recipe(recipe_data)
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert start(1, recipe, alone, "label") == [0]
    shutil.copytree(alone, together)

    assert start(1, recipe, alone, "synthesize") == [0]
    codes = start(2, recipe, together, "synthesize", kill_after=2)
    assert codes[0] != 0 and codes[1] == -signal.SIGKILL
    answered = (together / "cache" / "synthesize" / "process-1" / "answers.jsonl").read_text().splitlines()
    assert answered
    assert start(2, recipe, together, "synthesize") == [0, 0]
    assert contents(together / "synthesize").keys() == contents(alone / "synthesize").keys()
    rows = [
        [json.loads(line) for line in (workspace / "synthesize" / "provenance.jsonl").read_text().splitlines()]
        for workspace in (alone, together)
    ]
    assert rows[0] == rows[1]
    journals = [(workspace / "cache" / "synthesize" / "answers.jsonl").read_text() for workspace in (alone, together)]
    assert sorted(journals[0].splitlines()) == sorted(journals[1].splitlines())
    assert set(answered) < set(journals[1].splitlines())

    assert start(1, recipe, alone, "train-2") == [0]
    shutil.rmtree(together)
    shutil.copytree(alone, together)
    assert start(1, recipe, alone, "evaluate") == [0]
    codes = start(2, recipe, together, "evaluate", kill_after=4)
    assert codes[0] != 0 and codes[1] == -signal.SIGKILL
    before = kept(together, "evaluate")
    assert len(before) >= 4
    assert start(2, recipe, together, "evaluate") == [0, 0]
    assert contents(together / "evaluate") == contents(alone / "evaluate")
    after = kept(together, "evaluate")
    assert {path: after[path] for path in before if path in after} == {
        path: time for path, time in before.items() if "pieces" not in path.parts
    }, "what was measured was measured again"


@pytest.mark.slow
def test_a_whole_run_under_torchrun(recipe_data, write_recipe):
    recipe_data["stages"][1:] = []
    done = subprocess.run([*LAUNCHER, "run", str(write_recipe(recipe_data))], timeout=300, **OPTIONS)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(done.stderr.count(f"{stage}: done in") == 1 for stage in ("read", "clean", "score", "train-1", "report"))

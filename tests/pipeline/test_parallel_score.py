"""`score` under torchrun: the bytes of one process, whatever is killed on the way."""

import os
import shutil
import signal
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


@pytest.mark.slow
def test_a_stage_that_runs_in_one_process_is_refused_under_torchrun(recipe_data, write_recipe):
    refused = subprocess.run([*LAUNCHER, "clean", str(write_recipe(recipe_data))], timeout=300, **OPTIONS)
    assert refused.returncode != 0
    assert refused.stderr.count("read runs in one process and must run first") == 1

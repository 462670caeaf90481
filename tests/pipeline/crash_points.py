"""Kill a whole tiny pipeline before one of its file events, again and again, and compare what it ends with.

A process imports everything once and forks; each child runs the pipeline and dies of SIGKILL before its n-th event
under the workspace: a file opened for writing, a rename, a removal, a new or removed folder.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from reprise.pipeline import run_stages
from reprise.recipe.loading import load_recipe
from reprise.workspace import MANIFEST, read_manifest

_EVENTS = frozenset({"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "shutil.rmtree"})
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def import_all():
    """What a run imports, before the first fork."""
    import daft  # noqa: F401
    import transformers  # noqa: F401

    import reprise.documents.clean.stage
    import reprise.documents.decontaminate.stage
    import reprise.documents.label.stage
    import reprise.documents.read.stage
    import reprise.documents.score
    import reprise.evaluation.stage
    import reprise.report.build
    import reprise.tokens.stage
    import reprise.training.stage  # noqa: F401


def run_child(recipe, kill_at=0):
    """Run the pipeline in a fork; whether it ended. It is killed before event `kill_at` (from 1; 0: never).

    Returns:
        (ended, events that it got to).
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            _run(recipe, kill_at, writer)
        except BaseException as error:  # the parent must see it
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    os.close(writer)
    count = 0
    with os.fdopen(reader, "rb") as pipe:
        count = len(pipe.read())
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False, count
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0, f"the run failed: {status}"
    return True, count


def _run(recipe, kill_at, writer):
    loaded = load_recipe(recipe)
    root = str(Path(loaded.workspace).absolute())
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        if event == "open":
            flags = arguments[2] if len(arguments) > 2 else 0
            if not (isinstance(flags, int) and flags & _WRITES):
                return
        elif event not in _EVENTS:
            return
        path = arguments[0] if arguments else ""
        if not isinstance(path, str | bytes | os.PathLike):
            return
        if not str(Path(os.fsdecode(path)).absolute()).startswith(root):
            return
        seen += 1
        os.write(writer, b".")
        if seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    run_stages(loaded, say=lambda line: None)


def outcome(root):
    """What must be the same whatever happened on the way: content of every stage, and the report's numbers."""
    contents = {}
    for path in sorted(root.glob(f"*/{MANIFEST}")):
        files = {name: entry["xxh128"] for name, entry in read_manifest(path).outputs.items()}
        for name in ("metrics.jsonl", "state/.metadata", "state/checkpoint.json"):
            files.pop(name, None)  # times; the path of the folder; the checksum of the file with that path
        facts = path.parent / "state" / "checkpoint.json"
        resumed = json.loads(facts.read_text(encoding="utf-8")) if facts.exists() else {}
        contents[path.parent.name] = [files, resumed.get("progress"), resumed.get("sampler")]
    contents.pop("report", None)  # it tells times; its numbers follow
    report = json.loads((root / "report.json").read_text(encoding="utf-8"))
    leftovers = sorted(path.name for path in root.iterdir() if path.suffix in (".partial", ".retired"))
    numbers = {name: report[name] for name in ("bits_per_byte", "benchmarks", "verdict", "corpus", "budget")}
    return {"contents": contents, "leftovers": leftovers, "numbers": json.dumps(numbers, sort_keys=True)}


def chain(recipe, root, rng, most):
    """Kill a run, resume it and kill it again until it ends.

    Args:
        recipe: its file.
        root: its workspace, not there yet.
        rng: chooses the events.
        most: largest number of events that a child lives through.

    Returns:
        How many kills there were.
    """
    kills = 0
    while True:
        ended, _ = run_child(recipe, rng.randint(1, most))
        if ended:
            return kills
        kills += 1
        assert kills < 5000, "the run makes no progress"


def run_chains(write, folder, seconds, seed=0, most=60):
    """Chains until the time is over, each compared with a run that was not killed.

    Args:
        write: (workspace) -> recipe file.
        folder: for the workspaces.
        seconds: no chain begins after so many.
        seed: of the choice of events.
        most: as in `chain`.

    Returns:
        (kills, chains, events of a whole run).
    """
    import_all()
    start = time.monotonic()
    whole = Path(folder, "whole")
    ended, events = run_child(write(whole))
    assert ended
    expected = outcome(whole)
    rng = random.Random(seed)
    kills = chains = 0
    while time.monotonic() - start < seconds or not chains:
        root = Path(folder, f"chain-{chains}")
        kills += chain(write(root), root, rng, most)
        found = outcome(root)
        assert found == expected, (root, {key for key in found if found[key] != expected[key]})
        chains += 1
    return kills, chains, events


def crash_recipe(folder, root, model, passages):
    """The smallest recipe with every kind of stage: two training stages with checkpoints, scores, an evaluation."""
    import yaml

    for lang, entries in passages.items():
        text = Path(folder, f"{lang}.jsonl")
        if not text.exists():
            lines = [json.dumps(entry, ensure_ascii=False) for entry in entries[:30]]
            text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    mixture = {lang: {"share": 0.5, "sources": {"web": 1.0}} for lang in passages}
    stage = {"tokens": 512, "mixture": mixture, "curriculum": {"zh": {"order": "ascending"}}, "max_epochs": 50}
    inputs = [{"path": str(Path(folder, f"{lang}.jsonl")), "constants": {"source": "web"}} for lang in passages]
    data = {
        "name": "crash",
        "workspace": str(root),
        "model": {"path": str(model)},
        "documents": {
            "inputs": inputs,
            "valid_share": 0.2,
            "max_drop_share": 1.0,
        },
        "rows": {"seq_len": 64},
        "stages": [{"name": "one", **stage}, {"name": "two", **stage}],
        "training": {
            "batch_rows": 2,
            "threads": 1,
            "validation": {"every_tokens": 256, "max_tokens": 128},
            "checkpoints": {"every_tokens": 256},
        },
        "evaluation": {"max_length": 64, "stride": 32, "sample_tokens": 4},
    }
    recipe = Path(folder, f"{Path(root).name}.yaml")
    recipe.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    return recipe


def run_all(write, folder):
    """One kill before each event of a whole run in turn, resumed to the end each time.

    Returns:
        {events, kills, chains, different}.
    """
    import shutil

    import_all()
    whole = Path(folder, "whole")
    _, events = run_child(write(whole))
    expected = outcome(whole)
    different = 0
    for event in range(1, events + 1):
        root = Path(folder, "one")
        shutil.rmtree(root, ignore_errors=True)
        recipe = write(root)
        run_child(recipe, event)
        ended, _ = run_child(recipe)
        different += not ended or outcome(root) != expected
        print(f"event {event} of {events}: {different} different", file=sys.stderr)
    return {"events": events, "kills": events, "chains": events, "different": different}

"""Kill a whole tiny pipeline before its n-th file event, resume it, and compare every file with those of a whole run.

A process imports everything once and forks; each child runs the pipeline and dies of SIGKILL before one event under
the workspace: a file opened for writing, a rename, a removal, a new or removed folder. A run that was never killed
leaves a copy of the workspace behind each of its stages. Up to a kill inside a stage nothing differs from that run, so
the child begins with the copy made before the stage. Some children are resumed to the end of the run; the others to
the end of the stage, where every file of the workspace must equal the copy made there: what follows reads these files
and nothing else.

Ctrl-C is tried in the same way: `reprise run` in a child gets SIGINT at a moment inside a stage.
"""

import gc
import importlib.resources
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import yaml

from reprise import interrupts
from reprise.__main__ import main as reprise_main
from reprise.pipeline import run_stages
from reprise.recipe.loading import load_recipe
from reprise.report.curves import drop_repeated, read_metrics

_EVENTS = frozenset({"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "shutil.rmtree"})
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_TIMES = frozenset({"seconds", "stall_s", "tokens_per_s", "memory_gb"})
"""Of a line of `metrics.jsonl`."""
_OF_A_PROCESS = frozenset({"start", "resume", "checkpoint", "end"})
"""Lines of `metrics.jsonl` that say what a process did, not what was measured."""
_HANG_S = 900
_STOP_S = 60
"""A command that has not ended so long after Ctrl-C hangs."""
_MANIFEST_TIMES = ("seconds", "hashing_seconds", "finished", "compared", "checksum")
_REPORT_NUMBERS = (
    "verdict",
    "tolerance",
    "bits_per_byte",
    "benchmarks",
    "curve",
    "samples",
    "corpus",
    "budget",
    "order",
)


def import_all():
    """Import what a run imports and fill its tables, before the first fork; no thread may start."""
    import daft  # noqa: F401
    import sklearn.svm  # noqa: F401
    import torch.distributed.checkpoint.state_dict_saver  # noqa: F401
    import transformers
    import transformers.conversion_mapping as conversions

    import reprise.documents.clean.stage
    import reprise.documents.decontaminate.stage
    import reprise.documents.label.stage
    import reprise.documents.read.stage
    import reprise.documents.score
    import reprise.evaluation.stage
    import reprise.report.build
    import reprise.tokens.stage
    import reprise.training.stage  # noqa: F401
    from reprise.documents.deduplicate.shingles import normalise_texts
    from reprise.documents.words import split_words

    split_words(["one text"])
    normalise_texts(["one text"])
    conversions.get_checkpoint_conversion_mapping("llama")
    transformers.LlamaForCausalLM  # noqa: B018
    gc.collect()
    gc.freeze()  # the children need not look through what the parent imported


class Run:
    """A recipe, the copies of its workspace behind each stage, and the events in it.

    Args:
        recipe: its file.
        copies: folder of the copies.
    """

    def __init__(self, recipe, copies):
        self.recipe, self.copies = recipe, copies
        self.root = Path(load_recipe(recipe).workspace).absolute()
        self.events = {}
        """Stage -> file events of a run from the stage before it to its end."""
        self.seconds = {}
        """Stage -> time from the end of the stage before it to its end."""

    def make_whole(self):
        """Run everything once without a kill, and keep a copy behind each stage."""
        events = self._fork(0, copies=True)[1]
        marks = json.loads((self.copies / "marks.json").read_text(encoding="utf-8"))
        before = 0
        for name, mark, seconds in marks:
            self.events[name], self.seconds[name] = mark - before, seconds
            before = mark
        self.events[marks[-1][0]] += events - before

    @property
    def points(self):
        """(stage, event in it), in the order of a run."""
        return [(stage, event + 1) for stage, count in self.events.items() for event in range(count)]

    def try_point(self, stage, event, *, more=(), to_end=False):
        """Kill before an event of a stage, and before further events of the runs that resume it, and compare.

        Args:
            stage: its name.
            event: from 1, counted from the end of the stage before it.
            more: events at which the runs that resume are killed in turn.
            to_end: compare the end of the run and not of the stage.

        Returns:
            (kills, names of the files that differ).
        """
        names = list(self.events)
        index = names.index(stage)
        self._restore(names[index - 1] if index else None)
        until = None if to_end else [stage]
        kills = 0
        for kill_at in (event, *more):
            ended = self._fork(kill_at, until=until)[0]
            kills += not ended
            if ended:
                break
        if kills == 1 + len(more):
            assert self._fork(0, until=until)[0]
        return kills, different(self.copies / (names[-1] if to_end else stage), self.root)

    def try_interrupt(self, stage, delay, *, again=None, to_end=False):
        """Send SIGINT to `reprise run` inside a stage, resume, and compare.

        Args:
            stage: its name.
            delay: seconds from the start of the command.
            again: seconds from the first to a second signal; None: there is none.
            to_end: compare the end of the run and not of the stage in which the command stopped.

        Returns:
            (the stage in which it stopped, or None where it ended before the signal; what was wrong).
        """
        names = list(self.events)
        index = names.index(stage)
        self._restore(names[index - 1] if index else None)
        code, said = self._command(delay, again)
        if code == 0:
            return None, ""
        fault = _fault_of(code, said, names)
        current = next((name for name in names if not (self.root / name / "manifest.json").exists()), names[-1])
        last = names[-1] if to_end else current
        assert self._fork(0, until=None if to_end else [current])[0]
        if wrong := different(self.copies / last, self.root):
            fault += f"; differ: {', '.join(wrong)}"
        return current, fault

    def _command(self, delay, again):
        """`reprise run` in a fork with one or two signals; (exit code, lines that it wrote)."""
        log = self.copies / "log"
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        child = os.fork()
        if child == 0:
            interrupts.exit_at_once()  # as the first lines of the program do
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.argv = ["reprise", "run", str(self.recipe)]
            reprise_main()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        for pause in (delay, *([] if again is None else [again])):
            time.sleep(pause)
            os.kill(child, signal.SIGINT)
        deadline = time.monotonic() + _STOP_S
        while (status := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.005)
        code = os.waitstatus_to_exitcode(status[1])
        return code, [line for line in log.read_text(encoding="utf-8").splitlines() if line]

    def _restore(self, stage):
        shutil.rmtree(self.root, ignore_errors=True)
        if stage is not None:
            shutil.copytree(self.copies / stage, self.root, symlinks=True)

    def _fork(self, kill_at, *, until=None, copies=False):
        """Run in a fork, which is killed before event `kill_at` (from 1; 0: never).

        Returns:
            (whether it ended, events that it got to).
        """
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            signal.alarm(_HANG_S)
            try:
                self._run(kill_at, writer, until, copies)
            except BaseException as error:  # the parent must see it
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
                os._exit(1)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            count = len(pipe.read())
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return False, count
        assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0, f"the run failed: {status}"
        return True, count

    def _run(self, kill_at, writer, until, copies):
        loaded = load_recipe(self.recipe)
        root = str(self.root)
        seen, marks, begun = 0, [], time.monotonic()

        def hook(event, arguments):
            nonlocal seen
            if not _changes(event, arguments, root):
                return
            seen += 1
            os.write(writer, b".")
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        def say(line):
            nonlocal begun
            name, _, rest = line.partition(": ")
            if copies and rest.startswith("done in "):
                marks.append((name, seen, time.monotonic() - begun))
                shutil.copytree(self.root, self.copies / name, symlinks=True)
                begun = time.monotonic()

        sys.addaudithook(hook)
        run_stages(loaded, until=until, say=say)
        if copies:
            (self.copies / "marks.json").write_text(json.dumps(marks), encoding="utf-8")


_STOPPED = re.compile(
    rf"{re.escape(interrupts.MESSAGE)}|stopped after step .* and saved .*; the same command continues", re.DOTALL
)


def _fault_of(code, said, names):
    """What is wrong with the end of a command that got SIGINT; empty: nothing."""
    if code == -signal.SIGKILL:
        return f"hang after {_STOP_S} s: {said[-3:]}"
    if code != 130:
        return f"exit code {code}: {said[-3:]}"
    if not said or not _STOPPED.fullmatch(said[-1]):
        return f"the last line is {said[-1:]}"
    others = [line for line in said[:-1] if line.split(":")[0] not in (*names, "warning")]
    return f"other lines: {others[:3]}" if others else ""


def _changes(event, arguments, root):
    """Whether an audit event changes a file under a folder."""
    if event == "open":
        flags = arguments[2] if len(arguments) > 2 else 0
        if not (isinstance(flags, int) and flags & _WRITES):
            return False
    elif event not in _EVENTS:
        return False
    path = arguments[0] if arguments else ""
    return isinstance(path, str | bytes | os.PathLike) and (
        str(Path(os.fsdecode(path)).absolute()).startswith(root + os.sep) or os.fsdecode(path) == root
    )


def different(whole, other):
    """Names of the files of two workspaces that differ in more than times; also of those that only one has."""
    names = {str(path.relative_to(root)) for root in (whole, other) for path in root.rglob("*") if not path.is_dir()}
    return sorted(name for name in names if content(whole / name) != content(other / name))


def content(path):
    """What must be the same of a file, whatever happened on the way; None: there is none."""
    if not path.exists():
        return None
    if path.name == "manifest.json":
        entry = json.loads(path.read_bytes())
        for name in _MANIFEST_TIMES:
            entry.pop(name)
        for name in entry["outputs"]:
            if Path(name).name in ("metrics.jsonl", "report.json", "report.html"):  # these hold times
                entry["outputs"][name] = None
        if entry["stage"] == "report":  # it reads the records of the others, which hold times; its numbers follow
            for name in ("content", "fingerprint", "inputs"):
                entry.pop(name)
        return entry
    if path.name == "metrics.jsonl":
        records = drop_repeated(read_metrics(path)[0])
        kept = [record for record in records if record["kind"] not in _OF_A_PROCESS]
        return [{key: value for key, value in record.items() if key not in _TIMES} for record in kept]
    if path.name == "report.json" and path.parent.name != "label":
        report = json.loads(path.read_bytes())
        return {name: report[name] for name in _REPORT_NUMBERS}
    if path.name == "report.html":
        return "drawn from report.json"
    return path.read_bytes()


def run_points(run, points, seconds, seed=0, every_to_end=8, say=lambda line: None):
    """Try points in turn until the time is over.

    Args:
        run: a `Run` that was made whole.
        points: (stage, event).
        seconds: no point begins after so many.
        seed: of the further kills while a run is resumed: none, one or two.
        every_to_end: one point of so many is resumed to the end of the run.
        say: told what differs, a line each.

    Returns:
        {points, kills, to_end, different}.
    """
    rng = random.Random(seed)
    start = time.monotonic()
    facts = {"points": 0, "kills": 0, "to_end": 0, "different": 0}
    for number, (stage, event) in enumerate(points):
        if facts["points"] and time.monotonic() - start >= seconds:
            break
        to_end = number % every_to_end == 0
        more = [rng.randint(1, run.events[stage]) for _ in range(rng.randrange(3))]
        kills, wrong = run.try_point(stage, event, more=more, to_end=to_end)
        facts["points"] += kills > 0
        facts["kills"] += kills
        facts["to_end"] += to_end
        facts["different"] += bool(wrong)
        if wrong:
            say(f"{stage} event {event}, then {more}: {', '.join(wrong)}")
    return facts


def spread(points, rng):
    """The points in a random order that goes round the stages, so that any beginning of it holds all of them."""
    by_stage = {}
    for stage, event in points:
        by_stage.setdefault(stage, []).append((stage, event))
    for each in by_stage.values():
        rng.shuffle(each)
    ranked = [(rank, rng.random(), point) for each in by_stage.values() for rank, point in enumerate(each)]
    return [point for _, _, point in sorted(ranked)]


def open_run(folder):
    """A `Run` of the demo's passages, made whole; in a process that has done nothing but imports.

    Args:
        folder: for its model, recipe, workspace and copies.
    """
    demo = importlib.resources.files("reprise") / "demo"
    passages = {
        lang: [json.loads(line) for line in (demo / f"{lang}.jsonl").read_text(encoding="utf-8").splitlines()]
        for lang in ("en", "zh")
    }
    # In a process of its own: saving a model starts threads, which a fork must not meet.
    if os.fork() == 0:
        from tests.models import write_tiny_model

        write_tiny_model(folder / "model", [passage["text"] for part in passages.values() for passage in part], 600)
        os._exit(0)
    os.wait()
    import_all()
    run = Run(crash_recipe(folder, folder / "model", passages), folder / "copies")
    run.make_whole()
    return run


def new_folder():
    """A temporary folder in memory, where there is one: what is tried is the order of writes, not the disk."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="crash-points-", dir=memory if os.access(memory, os.W_OK) else None))


def crash_recipe(folder, model, passages):
    """The smallest recipe with every kind of stage: two training stages with checkpoints, scores, an evaluation."""
    for lang, entries in passages.items():
        lines = [json.dumps(entry | {"text": entry["text"][:400]}, ensure_ascii=False) for entry in entries[:24]]
        Path(folder, f"{lang}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    mixture = {lang: {"share": 0.5, "sources": {"web": 1.0}} for lang in passages}
    stage = {"tokens": 512, "mixture": mixture, "curriculum": {"zh": {"order": "ascending"}}, "max_epochs": 50}
    inputs = [{"path": str(Path(folder, f"{lang}.jsonl")), "constants": {"source": "web"}} for lang in passages]
    data = {
        "name": "crash",
        "workspace": str(Path(folder, "run")),
        "model": {"path": str(model)},
        "documents": {
            "inputs": inputs,
            "valid_share": 0.2,
            "max_drop_share": 1.0,
            "clean": {"heuristics_sources": []},
        },
        "rows": {"seq_len": 64},
        "stages": [{"name": "one", **stage}, {"name": "two", **stage}],
        "training": {
            "batch_rows": 2,
            "threads": 1,
            "validation": {"every_tokens": 256, "max_tokens": 128},
            "checkpoints": {"every_tokens": 256},
            "verify_model": False,  # reads, in a process of its own, what was written
        },
        "evaluation": {"max_length": 64, "stride": 32, "sample_tokens": 2},
    }
    recipe = Path(folder, "crash.yaml")
    recipe.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    return recipe

"""Run benchmarks on a model: choose questions, use cached answers, and compute scores with intervals.

Every finished benchmark is cached under everything that determines its scores (model, questions, task, settings), so a
killed evaluation resumes, and a second one only reads.
"""

import contextlib
import importlib.util
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reprise.benchmark_files import LocalSet, read_set
from reprise.errors import missing_extra
from reprise.evaluation.benchmarks.catalogue import BENCHMARKS, GROUPS, Benchmark
from reprise.evaluation.benchmarks.external import read_question_file, resolve, task_identity
from reprise.evaluation.benchmarks.hub import SOURCES, read_hub
from reprise.evaluation.comparison import ComparedBenchmark
from reprise.evaluation.intervals import Estimate, estimate_rate, estimate_score, wilson
from reprise.evaluation.model import EvaluatedModel
from reprise.evaluation.results import BenchmarkRow, BenchmarkScore, GoldBits, TaskScore
from reprise.progress import console
from reprise.recipe.evaluation import INSTRUCTION_BENCHMARKS, Evaluation
from reprise.sandbox.run import require_sandbox
from reprise.storage import digest, read_checked, write_checked

_FORMAT = 5
"""To be increased when the same settings give other scores."""


@dataclass(frozen=True)
class Measured:
    """One model on one benchmark."""

    benchmark: str
    shots: int
    metric: str
    total: int
    """Questions that the benchmark has; more than in `scores` if they were sampled."""
    scores: dict[str, float]
    """`task/index of the question` -> its score, 0 to 1."""
    other_scores: dict[str, dict[str, float]] = field(default_factory=dict)
    """Other metric -> like `scores`."""
    language: str = "und"
    """Language of the questions."""
    differs: str = ""
    """How the setting differs from the paper's."""
    gold: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Like `scores`: (bits, UTF-8 bytes) of the right answer, of questions whose choices were scored."""

    @property
    def gold_bits_per_byte(self) -> float | None:
        """Bits per byte of the right answers; None if they were not scored."""
        return (
            sum(bits for bits, _ in self.gold.values()) / sum(size for _, size in self.gold.values())
            if self.gold
            else None
        )

    @property
    def other_metrics(self) -> dict[str, float]:
        """Other metric -> mean score."""
        return {metric: sum(scores.values()) / len(scores) for metric, scores in self.other_scores.items()}

    @property
    def score(self) -> float:
        """Mean over the questions."""
        return sum(self.scores.values()) / len(self.scores)

    def parts(self) -> dict[str, TaskScore]:
        """Task -> its questions and mean score."""
        groups: dict[str, list[float]] = {}
        for name, score in self.scores.items():
            groups.setdefault(name.rsplit("/", 1)[0], []).append(score)
        return {name: {"questions": len(part), "score": sum(part) / len(part)} for name, part in groups.items()}


class BenchmarkRunner:
    """A model with its benchmarks; loaded only where the cache lacks an answer."""

    def __init__(self, evaluated: EvaluatedModel, settings: Evaluation, *, cache: Path, seed: int) -> None:
        self._evaluated, self._settings = evaluated, settings
        self._cache, self._seed = cache, seed
        self._lm: Any = None
        self._pieces = cache / "pieces"
        """Answers of a benchmark that is not done yet."""
        self.absent: dict[str, str] = {}
        """Benchmark -> why it was not run."""

    def run(self) -> list[Measured]:
        """Run the benchmarks of the settings; those that cannot run are in `absent` with the reason."""
        results = (self._run_or_say(benchmark) for benchmark in resolve(self._settings.benchmarks))
        return [measured for measured in results if measured is not None]

    def _run_or_say(self, benchmark: Benchmark) -> Measured | None:
        measured: Measured | None = None
        if benchmark.runs_code and not self._settings.run_code:
            reason = "runs programs that the model wrote: allow it with evaluation.run_code=true"
        elif benchmark.needs_chat and not self._evaluated.in_process:
            reason = "asks through the model's chat template, which a backend outside this process does not show"
        elif benchmark.needs_chat and not self._has_chat_template:
            reason = f"{self._evaluated.settings.path} has no chat template"
        else:
            try:
                if benchmark.runs_code:
                    require_sandbox()
                items = self._items(benchmark)
                if isinstance(items, str):
                    reason = items
                else:
                    measured = self._measure(benchmark, items)
            except _AbsentError as error:
                reason = str(error)
        if measured is None:
            self.absent[benchmark.name] = reason
            line = f"evaluate: {benchmark.name} is left out: {reason}"
            console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
        return measured

    @property
    def _has_chat_template(self) -> bool:
        return self._evaluated.in_process and self._evaluated.tokenizer.chat_template is not None

    def _items(self, benchmark: Benchmark) -> LocalSet | str | None:
        """Local questions, None if they come from the Hub, or why there are none."""
        if benchmark.name not in BENCHMARKS:
            return None if benchmark.hub or benchmark.file is None else read_question_file(benchmark.file)
        if missing := [package for package in benchmark.needs if importlib.util.find_spec(package) is None]:
            return f"it needs {', '.join(missing)}: pip install 'reprise-cpt[evaluation]'"
        if benchmark.folder is None:
            return LocalSet([], [])
        if self._settings.data is None:
            return _read_hub(benchmark)
        items = read_set(Path(self._settings.data).expanduser(), benchmark.folder, benchmark.subjects)
        if items is None or not items.test:
            return f"{Path(self._settings.data, benchmark.folder, 'test.jsonl')} is missing"
        return items

    def _measure(self, benchmark: Benchmark, items: LocalSet | None) -> Measured:
        harness = _harness()
        tasks = _from_hub(harness, benchmark) if items is None else {}
        # A dataset of the Hub may change and keep its name, so its rows identify it, as they do a file.
        questions = harness.loaded_questions(tasks) if items is None else [items.test, items.dev]
        as_chat = benchmark.name in INSTRUCTION_BENCHMARKS and self._has_chat_template
        key = {
            "format": _FORMAT,
            "model": self._evaluated.fingerprint,
            "benchmark": benchmark.name,
            "harness": harness.VERSION,
            "questions": digest(questions),
            "limit": self._settings.limit,
            "seed": self._seed,
            "as_chat": as_chat,
            **({"task": task_identity(benchmark)} if benchmark.file is not None else {}),
        }
        path = self._cache / f"{benchmark.name}-{digest(key)}.json"
        if (known := read_checked(path)) is not None:
            measured = known["measured"]
            gold = {question: (bits, size) for question, (bits, size) in measured["gold"].items()}
            return Measured(**measured | {"gold": gold})
        tasks = tasks or harness.local_tasks(benchmark, items)
        total = {name: len(task.eval_docs) for name, task in tasks.items()}
        chosen = choose(total, self._settings.limit, self._seed)
        logs = self._ask(harness, tasks, chosen, as_chat=as_chat)
        main, others = _metrics(harness, benchmark, {name: tasks[name] for name in logs})
        filter_name = benchmark.filter if benchmark.metric else ""

        def scores_by(metrics: dict[str, str]) -> dict[str, float]:
            """`task/index of the question` -> its score by the metric of its task."""
            return {
                f"{name}/{index}": score
                for name, log in logs.items()
                for index, score in harness.ordered(log, metrics[name], filter_name)
            }

        gold = {
            f"{name}/{sample['doc_id']}": bits
            for name, log in logs.items()
            for sample in log
            if (bits := harness.gold_bits(sample, tasks[name].OUTPUT_TYPE)) is not None
        }
        measured = Measured(
            benchmark=benchmark.name,
            shots=max(int(task.get_config("num_fewshot") or 0) for task in tasks.values()),
            metric=" + ".join(dict.fromkeys(main.values())),
            total=sum(total.values()),
            scores=scores_by(main),
            other_scores={metric: scores_by(dict.fromkeys(logs, metric)) for metric in others},
            language=benchmark.language,
            differs=benchmark.differs + _as_asked(benchmark, as_chat=as_chat),
            gold=gold,
        )
        write_checked(path, {"key": key, "measured": asdict(measured)})
        shutil.rmtree(self._pieces, ignore_errors=True)  # they are all in it
        return measured

    def _ask(self, harness: Any, tasks: dict[str, Any], chosen: dict[str, list[int]], *, as_chat: bool) -> Any:
        if self._evaluated.in_process:
            chat = {"as_chat": True} if as_chat else {}
            return harness.run_tasks(self._loaded(harness), tasks, chosen, **chat)
        from reprise.evaluation.backends import explained

        with explained():
            return harness.run_tasks(self._evaluated.remote, tasks, chosen)

    def _loaded(self, harness: Any) -> Any:
        if self._lm is None:
            model, tokenizer = self._evaluated.model, self._evaluated.tokenizer
            self._lm = harness.BatchedLM(
                model,
                tokenizer,
                batch_tokens=self._settings.batch_tokens,
                evaluated=self._evaluated,
                folder=self._pieces,
            )
        return self._lm


def _as_asked(benchmark: Benchmark, *, as_chat: bool) -> str:
    """In which form a benchmark of instruction following was asked, if that depends on the model."""
    if benchmark.name not in INSTRUCTION_BENCHMARKS or benchmark.needs_chat:
        return ""
    return "; asked through the chat template" if as_chat else "; asked as plain text, without a chat template"


def _metrics(harness: Any, benchmark: Benchmark, tasks: dict[str, Any]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Task -> the metric that verdicts are made on, and the other metrics that all tasks have."""
    if benchmark.metric:
        return dict.fromkeys(tasks, benchmark.metric), benchmark.other_metrics
    shares: dict[str, list[str]] = {name: harness.share_metrics(task) for name, task in tasks.items()}
    for name, metrics in shares.items():
        if not metrics:
            raise _AbsentError(f"the task {name} has no score of each question from 0 to 1")
    main = {name: metrics[0] for name, metrics in shares.items()}
    in_all = [metric for metric in next(iter(shares.values())) if all(metric in one for one in shares.values())]
    return main, tuple(metric for metric in in_all if metric not in main.values())


def choose(total: dict[str, int], limit: int, seed: int) -> dict[str, list[int]]:
    """Numbers of the questions to ask, by task: all, or `limit` of them drawn from all tasks together.

    The same seed draws the same questions for every model.
    """
    every = [(name, index) for name, count in total.items() for index in range(count)]
    if 0 < limit < len(every):
        draw = np.random.default_rng(seed).choice(len(every), size=limit, replace=False)
        every = [every[position] for position in sorted(draw)]
    chosen: dict[str, list[int]] = {name: [] for name in total}
    for name, index in every:
        chosen[name].append(index)
    return chosen


def compare_benchmarks(
    before: Sequence[Measured], after: Sequence[Measured], settings: Evaluation
) -> list[ComparedBenchmark]:
    """Each benchmark that ran on both sides, as a row of the results whose verdict is not filled in yet."""
    rows: list[ComparedBenchmark] = []
    other = {measured.benchmark: measured for measured in after}
    for one in before:
        two = other.get(one.benchmark)
        if two is None:
            continue
        names = [name for name in one.scores if name in two.scores]
        estimate = _estimate(one.scores, two.scores, names)
        own, others = one.parts(), two.parts()
        tolerance = settings.tolerance_of(one.benchmark)
        by_metric = {
            metric: _estimate(scores, two.other_scores[metric], names) for metric, scores in one.other_scores.items()
        }
        judged = BENCHMARKS[one.benchmark].judged_metrics if one.benchmark in BENCHMARKS else ()
        row: BenchmarkRow = {
            "benchmark": one.benchmark,
            "language": one.language,
            "shots": one.shots,
            "metric": one.metric,
            "questions": len(names),
            "total": one.total,
            "sampled": len(names) < one.total,
            "before": estimate.before,
            "after": estimate.after,
            "change": estimate.change,
            "changed": estimate.spread**2,
            "ci": estimate.interval(),
            "tolerance": tolerance,
            "verdict": "undecided",
            "before_ci": wilson(estimate.before, len(names)),
            "after_ci": wilson(estimate.after, len(names)),
            "differs": one.differs if one.differs == two.differs else f"before: {one.differs}; after: {two.differs}",
            "parts": {
                name: {"questions": part["questions"], "before": part["score"], "after": others[name]["score"]}
                for name, part in own.items()
            },
            "other_metrics": {
                metric: {
                    "before": other.before,
                    "after": other.after,
                    "change": other.change,
                    "changed": other.spread**2,
                    "ci": other.interval(),
                    "tolerance": tolerance if metric in judged else None,
                    "verdict": "undecided" if metric in judged else None,
                }
                for metric, other in by_metric.items()
            },
            "gold_bits_per_byte": _compare_gold(one, two),
        }
        rows.append(ComparedBenchmark(row, estimate, {metric: by_metric[metric] for metric in judged}))
    return rows


def _estimate(before: dict[str, float], after: dict[str, float], names: Sequence[str]) -> Estimate:
    """The change of the mean score over the named questions."""
    return estimate_score(*(np.array([side[name] for name in names]) for side in (before, after)))


def _compare_gold(before: Measured, after: Measured) -> GoldBits | None:
    """Bits per byte of the right answers of both models; None if they were not scored."""
    names = [name for name in before.gold if name in after.gold]
    if not names:
        return None
    sides = [np.array([side.gold[name] for name in names], dtype=np.float64) for side in (before, after)]
    if not all(side[:, 0].sum() > 0 and np.isfinite(side).all() for side in sides):
        return None
    estimate = estimate_rate(sides[0][:, 0], sides[1][:, 0], sides[0][:, 1])
    return {
        "before": estimate.before,
        "after": estimate.after,
        "change": estimate.change,
        "ci": estimate.interval(),
        "questions": len(names),
    }


def summarize(measured: Sequence[Measured]) -> list[BenchmarkScore]:
    """Each benchmark of one model with its 95 % interval."""
    return [
        {
            "benchmark": one.benchmark,
            "shots": one.shots,
            "metric": one.metric,
            "score": one.score,
            "ci": wilson(one.score, len(one.scores)),
            "questions": len(one.scores),
            "total": one.total,
            "sampled": len(one.scores) < one.total,
            "parts": one.parts(),
            "other_metrics": one.other_metrics,
            "differs": one.differs,
            "gold_bits_per_byte": one.gold_bits_per_byte,
        }
        for one in measured
    ]


def group_means(scores: dict[str, float]) -> dict[str, float]:
    """Group -> mean of its benchmarks' scores, where all of them were measured."""
    complete = {name: members for name, members in GROUPS.items() if all(member in scores for member in members)}
    return {name: sum(scores[member] for member in members) / len(members) for name, members in complete.items()}


class _AbsentError(Exception):
    """Why the questions of a benchmark cannot be loaded."""


def _read_hub(benchmark: Benchmark) -> LocalSet | None:
    """Questions of the Hub for a task of our own; None if the harness's task loads them."""
    if benchmark.name not in SOURCES:
        return None
    with _explained():
        return read_hub(benchmark.name)


def _from_hub(harness: Any, benchmark: Benchmark) -> dict[str, Any]:
    with _explained():
        return dict(harness.hub_tasks(benchmark))


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise missing_extra("lm-eval", "evaluation", "running benchmarks") from error
    except Exception as error:  # `datasets` raises many kinds for a set that is gone, gated or out of reach
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _AbsentError(f"it cannot be loaded from the Hub ({type(error).__name__}: {first_line[:200]})") from error


def _harness() -> Any:
    """lm-evaluation-harness, imported only where a benchmark runs."""
    try:
        from reprise.evaluation.benchmarks import harness
    except ImportError as error:
        raise missing_extra("lm-eval", "evaluation", "running benchmarks") from error
    return harness

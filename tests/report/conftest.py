"""A workspace as a run leaves it, whole or half-way, made from the formats that ARCHITECTURE.md gives."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from reprise.documents.table import DROPPED_SCHEMA, read_table, write_part
from reprise.evaluation.bits_per_byte import Text
from reprise.evaluation.comparison import ComparedBenchmark, compare_bits, find_untested, judge_rows
from reprise.evaluation.intervals import estimate_score
from reprise.evaluation.results import CurvePoint
from reprise.evaluation.verdicts import headline
from reprise.manifest import Manifest
from reprise.manifest import write_manifest as publish_manifest
from reprise.mixture.budget import budgets
from reprise.model.machine import describe_machine
from reprise.model.tokenizer import Tokenizer
from reprise.recipe import Recipe, read_preset
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.groups import find_groups
from reprise.recipe.loading import parse_recipe
from reprise.storage import InputRecord, write_json
from reprise.tokens.builder import StoreBuilder
from reprise.training.checkpoint_facts import StageSettings
from reprise.workspace import Workspace

TOPICS = {"en": "Law and Policy", "zh": "Medicine and Health"}


VALIDATE_EVERY = 8
"""Steps between two measurements of the made-up runs."""

SAMPLES = [
    {"language": "zh", "prompt": "长江是", "before": "a river in", "after": "中国最长的河流。"},
    {"language": "en", "prompt": "The river", "before": " runs east.", "after": " runs to the east."},
]

BENCHMARKS = [
    {
        "benchmark": name,
        "language": "en",
        "shots": 5,
        "metric": "acc",
        "questions": 200,
        "total": total,
        "sampled": total > 200,
        "before": before,
        "after": before + change,
        "change": change,
        "changed": 0.1,
        "ci": [change - 0.03, change + 0.03],
        "tolerance": 0.02,
        "verdict": verdict,
        "before_ci": [before - 0.05, before + 0.05],
        "after_ci": [before + change - 0.05, before + change + 0.05],
        "differs": "",
        "parts": {},
        "gold_bits_per_byte": {"before": 1.2, "after": 1.1, "change": -0.1 / 1.2, "ci": [-0.1, -0.06], "questions": 200}
        if name == "ceval"
        else None,
        "other_metrics": {
            "acc_symbolic": {
                "before": 0.0425,
                "after": 0.0675,
                "change": 0.025,
                "changed": 0.025,
                "ci": [0.002, 0.048],
                "tolerance": None,
                "verdict": None,
            }
        }
        if name == "math"
        else {},
    }
    for name, total, before, change, verdict in (
        ("ceval", 1346, 0.27, 0.06, "gained"),
        ("arc_easy", 200, 0.55, -0.01, "undecided"),
        ("math", 200, 0.04, 0.0, "undecided"),
    )
]


def make_recipe(root: Path, *overrides: str) -> Recipe:
    """The demo's recipe, with lengths of its own: the page's tests do not move with the demo's budget."""
    lengths = ["stages.0.tokens=24k", "stages.1.tokens=6k"]
    return parse_recipe(read_preset("demo"), [f"workspace={root}", *lengths, *overrides])


def make_run(root: Path, recipe: Recipe, *, until: str = "evaluate", seed: int = 5) -> Workspace:
    """Fill a workspace as far as a stage; what follows is missing."""
    rng = np.random.default_rng(seed)
    stages = ["read", "clean", "deduplicate", "decontaminate", "label", "score", "synthesize", "tokenize"]
    stages += [f"train-{i + 1}" for i in range(len(recipe.stages))] + ["evaluate"]
    documents = _documents(recipe, rng)
    previous: dict[str, str] = {}
    for stage in stages[: stages.index(until) + 1]:
        folder = root / stage
        folder.mkdir(parents=True)
        counts: dict[str, object] = {}
        if stage in stages[:6]:
            documents = _write_documents(folder, stage, documents, rng)
            if stage == "score":
                counts["scored"] = {"zh/web": {"documents": 8, "tokens": 2400}}
        elif stage == "synthesize":
            _write_synthesis(folder)
            counts |= {"documents_in": 48, "documents_out": 42, "requests": 48, "failed": 0, "from_journal": 0}
            counts |= {"prompt_tokens": 9600, "completion_tokens": 12000}
        elif stage == "tokenize":
            _write_store(root, recipe)
        elif stage.startswith("train-"):
            index = int(stage.removeprefix("train-")) - 1
            write_metrics(folder, recipe, index, rng)
            counts["spent"] = _spent(recipe, index)
        elif stage == "evaluate":
            write_results(folder, rng)
        write_manifest(folder, previous, counts)
        previous[stage] = f"{stage}-content"
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")), encoding="utf-8")
    return Workspace(root)


def write_manifest(folder: Path, inputs: dict[str, str], counts: dict[str, object]) -> None:
    file: InputRecord = {"path": "en.jsonl", "size": 153580, "mtime_ns": 1, "xxh128": "8f3c" * 8}
    manifest = Manifest(
        stage=folder.name,
        fingerprint=f"{folder.name}-fingerprint-0123456789",
        content=f"{folder.name}-content",
        settings={},
        inputs=dict(inputs),
        files={"documents.inputs.0/en.jsonl": file} if folder.name == "read" else {},
        outputs={},
        counts=counts,
        seconds=12.5,
        hashing_seconds=0.1,
        compared={},
        version="0.1.0",
        finished="2026-11-24T09:00:00Z",
    )
    publish_manifest(folder, manifest)


def _documents(recipe: Recipe, rng: np.random.Generator) -> list[dict[str, object]]:
    """Documents of every source of the mixture, a few in each bucket."""
    found = []
    for lang in ("zh", "en"):
        for source in recipe.stages[0].mixture[lang].sources:
            for topic in recipe.documents.topics.list_of(lang) if source == "web" else [None]:
                for i in range(8 if source == "web" else 30):
                    text = ("水是生命之源。" if lang == "zh" else "The quick brown fox jumps. ") * int(
                        rng.integers(8, 30)
                    )
                    found.append(
                        {
                            "id": f"{lang}-{len(found)}",
                            "text": text,
                            "lang": lang,
                            "source": source,
                            "topic": topic,
                            "split": "valid" if i == 0 else "train",
                            "origin": f"{lang}.jsonl:{len(found) + 1}",
                            "ppl": float(np.exp(rng.normal(3.2, 0.6))) if lang == "zh" else None,
                        }
                    )
    rng.shuffle(found)
    return found


def _write_store(root: Path, recipe: Recipe) -> None:
    def encode(texts: list[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint32) for text in texts]

    builder = StoreBuilder(root / "tokenize", Tokenizer("bytes", encode, 258, 256, None, "a test"), ["web"])
    for stage in ("score", "synthesize"):
        for batch in read_table(root / stage / "documents"):
            builder.add(batch.to_pylist())
    builder.finish()


def _write_documents(
    folder: Path, stage: str, documents: list[dict[str, object]], rng: np.random.Generator
) -> list[dict[str, object]]:
    reasons = {
        "clean": ["too_short", "mostly_symbols"],
        "deduplicate": ["near_duplicate"],
        "decontaminate": ["benchmark"],
    }
    dropped = []
    for reason in reasons.get(stage, []):
        number = int(rng.integers(3, 9))
        dropped += [documents.pop() | {"reason": reason, "detail": "measured 12, limit 100"} for _ in range(number)]
    scored = documents if stage == "score" else [row | {"ppl": None} for row in documents]
    write_part(folder / "documents" / "part-00000.parquet", scored)
    if dropped:
        rows = [{name: row[name] for name in DROPPED_SCHEMA.names} for row in dropped]
        write_part(folder / "dropped" / "part-00000.parquet", rows, DROPPED_SCHEMA)
    if stage == "read":
        reject = {"file": "en.jsonl", "line": 7, "reason": "not JSON", "excerpt": '{"text": "cut of'}
        (folder / "rejects.jsonl").write_text(json.dumps(reject) + "\n", encoding="utf-8")
    return documents


def _write_synthesis(folder: Path) -> None:
    row = {
        "lang": "en",
        "source": "synthetic",
        "split": "train",
        "origin": "synthesize",
        "text": "Question. Answer. " * 20,
    }
    write_part(folder / "documents" / "part-00000.parquet", [row | {"id": f"s-{i}"} for i in range(42)])
    steps = {"requests": 48, "answered": 48, "parsed": 46, "kept": 42, "dropped": {"too_short": 4, "repetitive": 2}}
    part = {"requests": 24, "answered": 24, "parsed": 23, "kept": 21, "dropped": {"too_short": 2, "repetitive": 1}}
    spending = {"requests": 48, "from_journal": 0, "failed": 0}
    spending |= {"prompt_tokens": 9600, "completion_tokens": 12000, "cost": 0.0}
    write_json(
        folder / "funnel.json",
        {"total": steps, "disciplines": {"biology": part, "physics": part}, "spending": spending},
    )
    sample = {
        "id": "s-1",
        "discipline": "physics",
        "language": "en",
        "kind": "science",
        "passage": "A passage.",
        "detail": None,
        "text": "Q. A.",
    }
    write_json(
        folder / "samples.json",
        {"kept": [sample | {"reason": None}], "dropped": [sample | {"reason": "too_short"}]},
    )


def _spent(recipe: Recipe, index: int) -> list[dict[str, object]]:
    return [
        {
            "entry": plan.entry,
            "source": plan.source,
            "topic": plan.topic,
            "spent": round(plan.tokens * 1.03),
            "available": plan.tokens * 2,
            "epochs": 0.515,
        }
        for plan in budgets(recipe)
        if plan.stage == index + 1
    ]


def stage_settings(recipe: Recipe, index: int) -> StageSettings:
    training = recipe.training
    return {
        "stage": recipe.stages[index].model_dump(mode="json"),
        "stage_index": index,
        "rows": recipe.rows.model_dump(mode="json"),
        "optimizer": training.optimizer.model_dump(mode="json"),
        "adapter": training.adapter.model_dump(mode="json"),
        "master_weights": training.master_weights,
        "step_in_backward": training.step_in_backward,
        "averaging": training.averaging.model_dump(mode="json"),
        "batch_rows": training.batch_rows,
        "precision": "torch.float32",
        "model": recipe.model.model_dump(mode="json"),
        "seed": recipe.seed,
        "store": "a store",
    }


def write_metrics(folder: Path, recipe: Recipe, index: int, rng: np.random.Generator, share: float = 1.0) -> None:
    """Metrics of a training stage, up to a share of its tokens."""
    stage = recipe.stages[index]
    step_tokens = recipe.training.batch_rows * recipe.rows.seq_len
    num_steps = max(1, int(stage.tokens / step_tokens * share))
    lines: list[dict[str, object]] = [
        {
            "kind": "start",
            "step": 0,
            "tokens": 0,
            "seconds": 0.0,
            "processes": 1,
            "total_tokens": stage.tokens,
            "settings": stage_settings(recipe, index),
            "machine": describe_machine(),
            "speed_settings": {},
        }
    ]
    shares = dict.fromkeys(recipe.documents.topics.list_of("zh"), 1 / 11)
    lines.append(_validation(recipe, index, 0, 0, rng))
    for step in range(1, num_steps + 1):
        tokens = step * step_tokens
        base = {"step": step, "tokens": tokens, "seconds": 2.0 * step}
        loss = 3.1 - 0.25 * math.log1p(step / 4) + rng.normal(0, 0.06) - 0.3 * index
        lines.append(
            base
            | {
                "kind": "step",
                "loss": loss,
                "lr": min(1e-4, 1e-7 + 2.5e-5 * step),
                "grad_norm": 1.2 + rng.random(),
                "tokens_per_s": 480 + 30 * rng.random(),
            }
        )
        if step % VALIDATE_EVERY == 0 or step == num_steps:
            lines.append(_validation(recipe, index, step, tokens, rng) | base)
            old = dict(shares)
            moved = {topic: max(0.01, share * (1 + 0.2 * rng.normal())) for topic, share in shares.items()}
            shares = {topic: part / sum(moved.values()) for topic, part in moved.items()}
            lines.append(
                base
                | {
                    "kind": "shares",
                    "cause": "topic_perplexity",
                    "path": "zh/web",
                    "old": _by_path(old),
                    "new": _by_path(shares),
                }
            )
        if step == 20:
            lines.append(
                base
                | {
                    "kind": "shares",
                    "cause": "shares.json",
                    "path": "zh",
                    "old": {"zh/web": 0.7, "zh/book": 0.3},
                    "new": {"zh/web": 0.6, "zh/book": 0.4},
                }
            )
        if step == 12:
            lines.append(
                base
                | {
                    "kind": "guard",
                    "guard": "non_finite",
                    "action": "skip",
                    "loss": "nan",
                    "grad_norm": "inf",
                    "in_a_row": 1,
                }
            )
            lines.append(base | {"kind": "resume", "checkpoint": "step-00000012", "refused": []})
    lines.append({"kind": "end", "step": num_steps, "tokens": num_steps * step_tokens, "seconds": 2.0 * num_steps})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _by_path(shares: dict[str, float]) -> dict[str, float]:
    return {f"zh/web/{topic}": share for topic, share in shares.items()}


def _validation(recipe: Recipe, index: int, step: int, tokens: float, rng: np.random.Generator) -> dict[str, object]:
    entries = []
    for name, entry in recipe.stages[0].mixture.items():
        for source in entry.sources:
            topics = recipe.documents.topics.list_of(name) if source == "web" else [None]
            for i, topic in enumerate(topics):
                start = (2.4 if name == "zh" else 1.0) + 0.02 * i
                fall = (0.25 if name == "zh" else -0.01) * (1 - math.exp(-(step + 24 * index) / 9))
                bits_per_byte = start - fall + rng.normal(0, 0.004)
                entries.append(
                    {
                        "language": name,
                        "source": source,
                        "topic": topic,
                        "nll": bits_per_byte * 2.1,
                        "bits_per_byte": bits_per_byte,
                        "tokens": 900,
                        "num_bytes": round(900 * 2.1 / math.log(2)),
                        "documents": 3,
                    }
                )
    return {"kind": "validation", "step": step, "tokens": tokens, "seconds": 2.0 * step, "validation": entries}


def curve_row(kind: str, tokens: int | None, zh: float, en: float, factor: float | None = None) -> CurvePoint:
    change = {"zh": zh / 2.0 - 1, "en": en / 1.0 - 1}
    at = {"kind": kind, "stage": None if tokens is None else 1, "tokens": tokens, "factor": factor}
    return at | {"bits_per_byte": {"zh": zh, "en": en}, "change": change, "scores": {"arc-easy": 0.5 - en / 10}}


CURVE = [
    curve_row("base", 0, 2.0, 1.0),
    curve_row("checkpoint", 500, 1.8, 1.02),
    curve_row("checkpoint", 1000, 1.6, 1.05),
    curve_row("merge", None, 1.65, 1.01, 0.75),
    curve_row("merge", None, 1.75, 0.99, 0.5),
]


def write_results(folder: Path, rng: np.random.Generator) -> None:
    """Results of the evaluation: Chinese gained, English kept."""
    texts, before, after = [], [], []
    for language, bits_per_byte, change in (("zh", 2.41, -0.112), ("en", 1.02, 0.004)):
        for number in range(48):
            source = ("web", "book", "encyclopedia", "web")[number % 4]
            topic = (TOPICS[language], "Others")[number // 4 % 2] if source == "web" else None
            texts.append(Text(f"{number:03}".ljust(int(rng.integers(500, 1500)), "x"), language, source, topic))
            before.append(len(texts[-1].text) * bits_per_byte)
            after.append(before[-1] * (1 + change + rng.normal(0, 0.004)))
    groups = find_groups([], {"en": 0.02})
    table = compare_bits(texts, np.array(before), np.array(after), groups)
    won = np.zeros(200)
    won[:40] = 1.0
    benchmarks = [
        ComparedBenchmark(
            {**row, "verdict": "undecided"}, estimate_score(np.zeros(200), won if row["change"] > 0 else np.zeros(200))
        )
        for row in BENCHMARKS
    ]
    verdicts = judge_rows(table, benchmarks)
    write_json(
        folder / "results.json",
        {
            "headline": headline(verdicts),
            "bits_per_byte": [row for row, _ in table],
            "verdicts": verdicts,
            "untested": find_untested(texts, groups, verdicts, {}),
            "groups": {"before": {"ARC": 0.55}, "after": {"ARC": 0.54}},
            "benchmarks": [compared.row for compared in benchmarks],
            "samples": SAMPLES,
            "curve": CURVE,
            "settings": Evaluation().model_dump(mode="json"),
            "fingerprints": {"before": "a", "after": "b"},
            "harness": "0.4.13",
            "absent": {"humaneval": "runs programs"},
        },
    )


Run = tuple[Workspace, Recipe]


@pytest.fixture
def run_until(tmp_path: Path) -> Callable[..., Run]:
    """Make a run as it is after a stage; overrides of the recipe may follow."""

    def make(stage: str, *overrides: str, folder: str = "run") -> Run:
        recipe = make_recipe(tmp_path / folder, *overrides)
        return make_run(tmp_path / folder, recipe, until=stage), recipe

    return make


@pytest.fixture(scope="session")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run for the tests that only read it."""
    root = tmp_path_factory.mktemp("unchanged") / "run"
    recipe = make_recipe(root)
    return make_run(root, recipe), recipe


@pytest.fixture
def finished(run_until: Callable[..., Run]) -> Run:
    return run_until("evaluate")

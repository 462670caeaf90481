"""What a run will cost, before anything is paid for."""

import contextlib
import math
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from typing_extensions import TypedDict

from reprise import preflight
from reprise.benchmark_files import read_set
from reprise.errors import Finding, UserError
from reprise.evaluation.benchmarks.external import count_questions, external
from reprise.evaluation.power import Reach, plan_reach, reach_sentences
from reprise.evaluation.previous import known_spreads
from reprise.mixture.budget import budgets
from reprise.mixture.forecast import Supply, forecast
from reprise.model.files import model_folder
from reprise.recipe import Recipe
from reprise.recipe.evaluation import benchmark_folders, expand_benchmarks
from reprise.recipe.groups import Groups
from reprise.recipe.hardware import PEAK_BF16_TFLOPS
from reprise.storage import Json
from reprise.synthesis.estimate import estimate_need
from reprise.tables import print_table
from reprise.tokens.store import TokenStore
from reprise.workspace import Workspace

WARN_EPOCHS = 4.0
"""More passes than this over a text teach little (arXiv 2305.16264)."""


def make_plan(recipe: Recipe) -> dict[str, Json]:
    """Budgets, epochs, steps and cost of a run.

    Returns:
        A JSON object: `summary` (see `Summary`), `stages` (list: stage, name, tokens, steps, training_flops,
        gpu_hours), `buckets` (list: stage counted from 1, entry, source, topic or null, tokens; and, once the token
        store is there, available_tokens, epochs and runs_out_after), `totals`, `assumptions`, `scoring` (tokens,
        measured: whether the stage `score` counted them, flops, gpu_hours; null where no bucket is ordered by
        perplexity), `synthesis` (null
        without), `reach` (list of `evaluation.power.Reach`: which verdicts the held-out documents, once they are
        tokenized, and the local benchmark questions can reach), `warnings`.
    """
    per_token, formula = _flops_per_token(recipe)
    peak = _peak_tflops(recipe)
    rate = peak * 1e12 * recipe.hardware.utilisation
    step_tokens = recipe.training.batch_rows * recipe.rows.seq_len
    stages = _stages(recipe, per_token, rate, step_tokens)
    warnings: list[str] = []
    store = _store(recipe)
    buckets: list[dict[str, Json]]
    if store is None:
        buckets = [budget._asdict() for budget in budgets(recipe)]
        warnings.append(
            "epochs are not known before the text is tokenized: run `reprise tokenize RECIPE`, then plan again"
        )
    else:
        expected = forecast(recipe, store)
        buckets = [supply._asdict() for supply in expected.supplies]
        warnings += expected.warnings
        warnings += [
            f"stage {supply.stage}: {supply.epochs:.1f} epochs over {_name(supply)}, {supply.available_tokens:,} tokens"
            for supply in expected.supplies
            if supply.epochs > WARN_EPOCHS
        ]
    return {
        "name": recipe.name,
        "summary": _summarise(recipe, stages),
        "stages": stages,
        "buckets": buckets,
        "totals": {
            "tokens": sum(stage["tokens"] for stage in stages),
            "steps": sum(stage["steps"] for stage in stages),
            "training_flops": _total(stages, "training_flops"),
            "gpu_hours": _total(stages, "gpu_hours"),
            "by_entry_and_source": _by_source(buckets),
        },
        "assumptions": {
            "gpu": recipe.hardware.gpu,
            "peak_bf16_tflops": peak,
            "utilisation": recipe.hardware.utilisation,
            "flops_per_token": per_token,
            "formula": formula,
            "tokens_per_step": step_tokens,
        },
        "memory": _memory(recipe),
        "scoring": _scoring(recipe, rate),
        "synthesis": _synthesis(recipe, store, buckets),
        "reach": _reach(recipe, store),
        "warnings": warnings,
    }


def _reach(recipe: Recipe, store: TokenStore | None) -> list[Reach]:
    """Which verdicts can be reached: by held-out text once it is tokenized, by questions whose files are here."""
    sizes: defaultdict[tuple[str, str], list[npt.NDArray[np.float64]]] = defaultdict(list)
    for key, bucket in (store.valid if store is not None else {}).items():
        sizes[key.language, key.source].append(np.asarray(bucket.num_bytes, dtype=np.float64))
    evaluation = recipe.evaluation
    questions = {}
    for name in expand_benchmarks(evaluation.benchmarks):
        folder = benchmark_folders([name])
        if evaluation.data is not None and folder:
            items = read_set(Path(evaluation.data).expanduser(), folder[0])
            if items is not None and items.test:
                questions[name] = min(len(items.test), evaluation.limit or len(items.test))
    with contextlib.suppress(UserError):  # the findings of the plan say it
        for benchmark in external(evaluation.benchmarks):
            count = count_questions(benchmark)
            questions[benchmark.name] = min(count, evaluation.limit or count)
    groups = recipe.held_out_groups() if store is not None else Groups()
    return plan_reach(
        {pair: np.concatenate(parts) for pair, parts in sizes.items()},
        groups,
        questions,
        evaluation.benchmark_tolerance,
        known_spreads(Path(recipe.workspace), recipe.model.path),
    )


class Summary(TypedDict):
    """What a run takes, in the order in which people ask."""

    tokens: int
    steps: int
    gpu: str
    gpus: int
    gpu_hours: float | None
    """Of training alone; None where the model's size is not known."""
    hours: float | None
    """On all GPUs together."""
    days: float | None
    cost: float | None
    """At `hardware.price_per_hour`; None where there is no price."""
    disk_gb: float
    """What the workspace will take, about, in 10^9 bytes."""


def _summarise(recipe: Recipe, stages: list[dict[str, Json]]) -> Summary:
    gpus = max(1, recipe.hardware.gpus)
    gpu_hours = _total(stages, "gpu_hours")
    hours = None if gpu_hours is None else gpu_hours / gpus
    price = recipe.hardware.price_per_hour
    return {
        "tokens": sum(stage["tokens"] for stage in stages),
        "steps": sum(stage["steps"] for stage in stages),
        "gpu": recipe.hardware.gpu,
        "gpus": gpus,
        "gpu_hours": gpu_hours,
        "hours": hours,
        "days": None if hours is None else hours / 24,
        "cost": gpu_hours * price if price and gpu_hours is not None else None,
        "disk_gb": preflight.workspace_bytes(recipe) / 1e9,
    }


def summary_line(summary: Summary) -> str:
    """One paragraph for the first lines of the plan."""
    parts = [f"{summary['tokens']:,} tokens", f"{summary['steps']:,} steps"]
    if summary["hours"] is not None and summary["days"] is not None:
        time = f"{summary['hours']:,.3g} hours" if summary["days"] < 2 else f"{summary['days']:,.1f} days"
        parts.append(f"{time} on {summary['gpus']:,} {summary['gpu']}")
    else:
        parts.append("hours not known")
    parts.append(f"about {summary['disk_gb']:,.3g} GB of disk")
    if summary["cost"] is not None:
        parts.append(f"cost {summary['cost']:,.2f}")
    return ", ".join(parts)


def _memory(recipe: Recipe) -> Json:
    """Whether training fits the memory of a GPU; null where the model is not on this machine."""
    if model_folder(recipe.model) is None:
        return None
    from reprise.training.memory_plan import plan_memory

    return plan_memory(recipe)


def _peak_tflops(recipe: Recipe) -> float:
    """Peak of the recipe's GPU, dense bf16.

    Raises:
        UserError: it is not known.
    """
    peak = PEAK_BF16_TFLOPS.get(recipe.hardware.gpu)
    if peak is None:
        raise UserError(
            f"the peak of {recipe.hardware.gpu!r} is not known",
            where="hardware.gpu",
            remedy=f"choose one of: {', '.join(PEAK_BF16_TFLOPS)}",
        )
    return peak


def _stages(recipe: Recipe, per_token: float | None, rate: float, step_tokens: int) -> list[dict[str, Json]]:
    """Tokens, steps and cost of each stage of training; `rate` in FLOP/s."""
    stages = []
    for number, stage in enumerate(recipe.stages, 1):
        flops = None if per_token is None else per_token * stage.tokens
        stages.append(
            {
                "stage": number,
                "name": stage.name,
                "tokens": stage.tokens,
                "steps": math.ceil(stage.tokens / step_tokens),
                "training_flops": flops,
                "gpu_hours": None if flops is None else flops / rate / 3600,
            }
        )
    return stages


def _scoring(recipe: Recipe, rate: float) -> dict[str, Json] | None:
    """Cost of the perplexities that order the text: a forward pass, a third of training, over each token once.

    Before the stage `score` has counted them, the tokens are those that the stages take from the ordered buckets.
    """
    ordered = {
        (entry.language, source)
        for stage in recipe.stages
        for entry in stage.mixture.values()
        for source in entry.sources
        if recipe.curriculum_selects(entry.language, source)
    }
    if not ordered:
        return None
    manifest = Workspace(recipe.workspace).manifest("score")
    if manifest is not None:
        tokens = sum(int(bucket["tokens"]) for bucket in manifest.counts["scored"].values())
    else:
        tokens = sum(
            budget.tokens
            for budget in budgets(recipe)
            if (recipe.stages[budget.stage - 1].mixture[budget.entry].language, budget.source) in ordered
        )
    scorer = recipe.documents.perplexity.model or recipe.model
    per_token = _flops_per_token(recipe.model_copy(update={"model": scorer}))[0]
    flops = None if per_token is None else per_token / 3 * tokens
    return {
        "tokens": tokens,
        "measured": manifest is not None,
        "flops": flops,
        "gpu_hours": None if flops is None else flops / rate / 3600,
    }


def _synthesis(recipe: Recipe, store: TokenStore | None, buckets: list[dict[str, Json]]) -> dict[str, Json] | None:
    """Synthetic tokens that the stages need, that are there, and what the rest would take; None without synthesis."""
    if not recipe.synthesis.enabled:
        return None
    needed = sum(bucket["tokens"] for bucket in buckets if bucket["source"] == "synthetic")
    at_hand = {} if store is None else store.train
    there = sum(bucket.num_tokens for key, bucket in at_hand.items() if key.source == "synthetic")
    folder = Workspace(recipe.workspace).folder("synthesize")
    stage = folder if folder.is_dir() else None
    return asdict(estimate_need(recipe.synthesis, tokens_needed=needed, tokens_there=there, stage=stage))


def _total(stages: list[dict[str, Json]], key: str) -> float | None:
    return None if any(stage[key] is None for stage in stages) else sum(stage[key] for stage in stages)


def _flops_per_token(recipe: Recipe) -> tuple[float | None, str]:
    """Cost of a token and how it was found; None where neither the model nor its size is available."""
    if model_folder(recipe.model) is not None:
        from reprise.model.flops import training_flops_per_token
        from reprise.model.loading import load_config

        cost = training_flops_per_token(load_config(recipe.model), recipe.rows.seq_len)
        return cost, "6 * parameters + 12 * layers * heads * head_dim * seq_len (arXiv 2204.02311)"
    if recipe.hardware.parameters is not None:
        return 6.0 * recipe.hardware.parameters, "6 * hardware.parameters; attention is not counted"
    return None, "not known: the model is not available; set hardware.parameters"


def _store(recipe: Recipe) -> TokenStore | None:
    """The published token store, None before there is one."""
    workspace = Workspace(recipe.workspace)
    return None if workspace.manifest("tokenize") is None else TokenStore.open(workspace.folder("tokenize"))


def _name(supply: Supply) -> str:
    return "/".join(part for part in (supply.entry, supply.source, supply.topic) if part)


def _by_source(buckets: list[dict[str, Json]]) -> list[dict[str, Json]]:
    """Tokens of each mixture entry and source over all stages."""
    totals: defaultdict[tuple[str, str], int] = defaultdict(int)
    for bucket in buckets:
        totals[bucket["entry"], bucket["source"]] += bucket["tokens"]
    return [{"entry": entry, "source": source, "tokens": tokens} for (entry, source), tokens in totals.items()]


def without_topics(buckets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The buckets of a plan added up over topics, with a line for each entry (source null) where it has several."""
    rows: dict[tuple[int, str, str | None], dict[str, Any]] = {}
    for bucket in buckets:
        for source in (None, bucket["source"]):
            key = (bucket["stage"], bucket["entry"], source)
            first = {"stage": key[0], "entry": key[1], "source": source, "topic": None}
            row = rows.setdefault(key, first)
            for name in ("tokens", "available_tokens"):
                if name in bucket:
                    row[name] = row.get(name, 0) + bucket[name]
    for row in rows.values():
        if "available_tokens" in row:
            row["epochs"] = row["tokens"] / row["available_tokens"] if row["available_tokens"] else 0.0
    sources = Counter((row["stage"], row["entry"]) for row in rows.values() if row["source"] is not None)
    return [row for row in rows.values() if row["source"] is not None or sources[row["stage"], row["entry"]] > 1]


def show_plan(plan: dict[str, Any], *, topics: bool = False) -> None:
    """Print a plan: what the run takes, then tables.

    Args:
        plan: of `make_plan`.
        topics: one line for each topic, not only for each source.
    """
    console = Console()
    console.print(f"{plan['name']}: {summary_line(plan['summary'])}", markup=False, highlight=False)
    stages = Table("stage", "name", "tokens", "steps", "training FLOPs", "GPU-hours", title=f"{plan['name']}: stages")
    for stage in [*plan["stages"], {"stage": "all", "name": "", **plan["totals"]}]:
        flops, hours = stage["training_flops"], stage["gpu_hours"]
        stages.add_row(
            str(stage["stage"]),
            stage["name"],
            f"{stage['tokens']:,}",
            f"{stage['steps']:,}",
            "not known" if flops is None else f"{flops:.3g}",
            "not known" if hours is None else f"{hours:,.2f}" if hours < 100 else f"{hours:,.0f}",
        )
    known = any("available_tokens" in bucket for bucket in plan["buckets"])
    columns = ["stage", "entry", "source", *(["topic"] if topics else []), "tokens"]
    buckets = Table(*columns, *(["available", "epochs"] if known else []), title="mixture")
    for bucket in plan["buckets"] if topics else without_topics(plan["buckets"]):
        cells = [str(bucket["stage"]), bucket["entry"], bucket["source"] or "all"]
        cells += [bucket["topic"] or ""] if topics else []
        cells.append(f"{bucket['tokens']:,}")
        if known:
            cells += [f"{bucket['available_tokens']:,}", f"{bucket['epochs']:.2f}"]
        buckets.add_row(*cells)
    for table in (stages, buckets):
        for column in table.columns:
            if column.header in ("tokens", "steps", "available", "epochs", "training FLOPs", "GPU-hours"):
                column.justify = "right"
        print_table(table)
    assumed = plan["assumptions"]
    console.print(
        f"{assumed['gpu']} at {assumed['utilisation']:.0%} of {assumed['peak_bf16_tflops']:g} TFLOP/s; "
        f"FLOPs per token = {assumed['formula']}",
        markup=False,
        highlight=False,
    )
    if plan["memory"]:
        from reprise.training.memory_plan import memory_lines

        for line in memory_lines(plan["memory"]):
            console.print(line, markup=False, highlight=False)
    if plan["scoring"]:
        console.print(_scoring_line(plan["scoring"]), markup=False, highlight=False)
    if plan["synthesis"]:
        console.print(_synthesis_line(plan["synthesis"]), markup=False, highlight=False)
    for finding in (Finding(**entry) for entry in plan.get("findings", ())):
        label = "warning" if finding.severity == "warning" else "before a run"
        console.print(f"{label}: {finding}", style="yellow", markup=False, highlight=False)
    if plan["reach"]:
        console.print("verdicts within reach:", markup=False, highlight=False)
    for line in reach_sentences(plan["reach"]):
        console.print(f"  {line}", markup=False, highlight=False)
    for warning in plan["warnings"]:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)


def _scoring_line(cost: dict[str, Any]) -> str:
    tokens = f"{cost['tokens']:,} tokens" if cost["measured"] else f"{cost['tokens']:,} tokens if no more text is read"
    price = "not known" if cost["flops"] is None else f"{cost['flops']:.3g} FLOPs, {cost['gpu_hours']:,.2f} GPU-hours"
    return f"perplexities before training: {tokens}: {price}"


def _synthesis_line(need: dict[str, Any]) -> str:
    line = f"synthetic tokens: {need['tokens_needed']:,} needed, {need['tokens_there']:,} there"
    if not need["tokens_missing"]:
        return line
    hours = "hours not known before a run" if need["hours"] is None else f"{need['hours']:,.1f} hours"
    source = "at the rates of the run so far" if need["measured"] else "at assumed rates"
    return (
        f"{line}; the rest takes about {need['requests']:,} requests, {need['completion_tokens']:,} generated tokens, "
        f"cost {need['cost']:,.2f}, {hours} ({source})"
    )

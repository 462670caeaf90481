"""What a run will cost, before anything is paid for."""

import math
from collections import defaultdict
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from reprise.errors import Finding, UserError
from reprise.mixture.budget import budgets
from reprise.mixture.forecast import Supply, forecast
from reprise.model.files import model_folder
from reprise.recipe import Recipe
from reprise.recipe.hardware import PEAK_BF16_TFLOPS
from reprise.storage import Json
from reprise.synthesis.estimate import estimate_need
from reprise.tokens.store import TokenStore
from reprise.workspace import Workspace

WARN_EPOCHS = 4.0
"""More passes than this over a text teach little (arXiv 2305.16264)."""


def make_plan(recipe: Recipe) -> dict[str, Json]:
    """Budgets, epochs, steps and cost of a run.

    Returns:
        A JSON object: `stages` (list: stage, name, tokens, steps, training_flops, gpu_hours), `buckets` (list: stage
        counted from 1, entry, source, topic or null, tokens; and, once the token store is there, available_tokens,
        epochs and runs_out_after), `totals`, `assumptions`, `scoring` (tokens, measured: whether the
        stage `score` counted them, flops, gpu_hours; null where no bucket is ordered by perplexity), `synthesis` (null
        without), `warnings`.
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
        "scoring": _scoring(recipe, rate),
        "synthesis": _synthesis(recipe, store, buckets),
        "warnings": warnings,
    }


def _peak_tflops(recipe: Recipe) -> float:
    """Of the recipe's GPU, dense bf16.

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
    """Cost of a token and how it was found; None where neither the model nor its size is at hand."""
    if model_folder(recipe.model) is not None:
        from reprise.model.flops import training_flops_per_token
        from reprise.model.loading import load_config

        cost = training_flops_per_token(load_config(recipe.model), recipe.rows.seq_len)
        return cost, "6 * parameters + 12 * layers * heads * head_dim * seq_len (arXiv 2204.02311)"
    if recipe.hardware.parameters is not None:
        return 6.0 * recipe.hardware.parameters, "6 * hardware.parameters; attention is not counted"
    return None, "not known: the model is not at hand; set hardware.parameters"


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


def show_plan(plan: dict[str, Any]) -> None:
    """Print a plan as tables."""
    console = Console()
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
    columns = ["stage", "entry", "source", "topic", "tokens", *(["available", "epochs"] if known else [])]
    buckets = Table(*columns, title="buckets")
    for bucket in plan["buckets"]:
        cells = [
            str(bucket["stage"]),
            bucket["entry"],
            bucket["source"],
            bucket["topic"] or "",
            f"{bucket['tokens']:,}",
        ]
        if known:
            cells += [f"{bucket['available_tokens']:,}", f"{bucket['epochs']:.2f}"]
        buckets.add_row(*cells)
    for table in (stages, buckets):
        for column in table.columns:
            if column.header in ("tokens", "steps", "available", "epochs", "training FLOPs", "GPU-hours"):
                column.justify = "right"
        console.print(table)
    assumed = plan["assumptions"]
    console.print(
        f"{assumed['gpu']} at {assumed['utilisation']:.0%} of {assumed['peak_bf16_tflops']:g} TFLOP/s; "
        f"FLOPs per token = {assumed['formula']}",
        markup=False,
        highlight=False,
    )
    if plan["scoring"]:
        console.print(_scoring_line(plan["scoring"]), markup=False, highlight=False)
    if plan["synthesis"]:
        console.print(_synthesis_line(plan["synthesis"]), markup=False, highlight=False)
    for finding in (Finding(**entry) for entry in plan.get("findings", ())):
        label = "warning" if finding.severity == "warning" else "before a run"
        console.print(f"{label}: {finding}", style="yellow", markup=False, highlight=False)
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

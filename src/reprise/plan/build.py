"""A recipe -> its plan: budgets, epochs, steps and cost."""

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from reprise.benchmark_files import read_set
from reprise.documents.read.remote import is_remote
from reprise.errors import Finding, UserError
from reprise.evaluation.benchmarks.catalogue import BENCHMARKS, Benchmark
from reprise.evaluation.benchmarks.external import count_questions, external
from reprise.evaluation.power import Reach, plan_reach
from reprise.evaluation.previous import known_spreads
from reprise.freshness import walk_stages
from reprise.mixture.budget import budgets
from reprise.mixture.forecast import Supply, forecast
from reprise.model.files import model_folder
from reprise.model.machine import count_cores, cpu_flops_per_s
from reprise.plan.measuring import measured_bytes, plan_measuring
from reprise.plan.preparation import plan_preparation
from reprise.plan.records import (
    Plan,
    PlanFinding,
    PlannedBucket,
    PlannedStage,
    PlannedText,
    PlannedVocabulary,
    ScoringCost,
    SourceTokens,
    Summary,
)
from reprise.preflight.disk import workspace_bytes
from reprise.recipe import Recipe
from reprise.recipe.evaluation import expand_benchmarks
from reprise.recipe.groups import Groups
from reprise.recipe.hardware import PEAK_BF16_TFLOPS, PUBLISHED_UTILISATION
from reprise.stage_names import TOKENIZE, VOCABULARY
from reprise.synthesis.estimate import Need, estimate_need
from reprise.tokens.store import TokenStore
from reprise.training.memory_records import MemoryPlan
from reprise.vocabulary.records import VocabularyCounts
from reprise.workspace import Workspace

if TYPE_CHECKING:
    from reprise.documents.score import ScoreCounts

WARN_EPOCHS = 4.0
"""Epochs above which a plan warns: more passes over the same text teach little (arXiv 2305.16264)."""


_UNKNOWN = ("available_tokens", "epochs", "runs_out_after", "answer_tokens", "text_bytes")
"""Fields of a bucket that are unknown before the text is tokenized."""


def make_plan(recipe: Recipe, findings: Sequence[Finding] = ()) -> Plan:
    """Compute budgets, epochs, steps and cost of a run.

    Args:
        recipe: the settings; neither its data nor its model need exist yet.
        findings: results of the preflight checks, to be listed in the plan.

    Raises:
        UserError: the peak FLOP/s of `hardware.gpu` are not known, or the token store cannot supply a stage.
    """
    outdated = _outdated(recipe)
    vocabulary, trained = (None, recipe) if VOCABULARY in outdated else (_vocabulary(recipe), _as_trained(recipe))
    per_token, formula = _flops_per_token(trained)
    peak = _peak_tflops(recipe)
    rate = peak * 1e12 * recipe.hardware.utilisation
    step_tokens = recipe.training.batch_rows * recipe.rows.seq_len
    stages = _stages(recipe, per_token, rate, step_tokens)
    warnings = [
        f"the stage `{name}` was run with other settings or text ({reason}): run `reprise "
        f"{'extend' if name == VOCABULARY else name} RECIPE`, then plan again"
        for name, reason in outdated.items()
    ]
    store = _store(recipe)
    warnings += _uncounted_inputs(recipe)
    if store is None:
        buckets = [cast(PlannedBucket, budget._asdict() | dict.fromkeys(_UNKNOWN)) for budget in budgets(recipe)]
        if recipe.vocabulary is not None and recipe.start_model() != trained.model:
            warnings.append(
                f"FLOPs and memory are those of the base model, without up to {recipe.vocabulary.tokens:,} more "
                "tokens, and bytes per token are not known: run `reprise extend RECIPE`, then plan again"
            )
        warnings.append(
            "epochs are not known before the text is tokenized: run `reprise tokenize RECIPE`, then plan again"
        )
    else:
        expected = forecast(recipe, store)
        buckets = [cast(PlannedBucket, supply._asdict()) for supply in expected.supplies]
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
        "topics": _topics(recipe),
        "totals": {
            "tokens": sum(stage["tokens"] for stage in stages),
            "steps": sum(stage["steps"] for stage in stages),
            "training_flops": _total(stage["training_flops"] for stage in stages),
            "gpu_hours": _total(stage["gpu_hours"] for stage in stages),
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
        "vocabulary": vocabulary,
        "memory": _memory(trained),
        "scoring": _scoring(recipe, rate),
        "measuring": None if store is None else plan_measuring(recipe, store, _whole_flops_per_token(trained)),
        "preparation": plan_preparation(recipe),
        "synthesis": _synthesis(recipe, store, buckets),
        "reach": _reach(recipe, store),
        "warnings": warnings,
        "findings": [cast(PlanFinding, asdict(finding)) for finding in findings],
    }


def _topics(recipe: Recipe) -> dict[str, list[str]]:
    """Language -> topics of its text, of the languages that a stage splits by topic."""
    languages = {
        entry.language
        for stage in recipe.stages
        for entry in stage.mixture.values()
        if set(entry.sources) & set(stage.topics.sources)
    }
    return {language: recipe.documents.topics.list_of(language) for language in sorted(languages)}


def _uncounted_inputs(recipe: Recipe) -> list[str]:
    """A warning if the estimates leave out text whose size is not known here."""
    remote = [entry.path for entry in recipe.documents.inputs if is_remote(entry.path)]
    if recipe.hardware.text_gb or not remote:
        return []
    return [
        f"the size of {remote[0]} is not known, so its text is not in the estimates of disk and time: "
        "set hardware.text_gb"
    ]


def _outdated(recipe: Recipe) -> dict[str, str]:
    """Stages that the plan takes numbers from and that would run again -> why."""
    found: dict[str, str] = {}
    with contextlib.suppress(UserError):  # missing files are findings of their own
        for stage, _, status in walk_stages(recipe, Workspace(recipe.workspace), [TOKENIZE], read_files=False):
            if stage.name in (VOCABULARY, TOKENIZE) and status.state == "stale":
                found[stage.name] = status.reason
    return found


def _as_trained(recipe: Recipe) -> Recipe:
    """The recipe with the initial model for training as its model, if that already exists."""
    start = recipe.start_model()
    return recipe.model_copy(update={"model": start}) if Path(start.path, "config.json").is_file() else recipe


def _vocabulary(recipe: Recipe) -> PlannedVocabulary | None:
    """Effect of the stage `vocabulary` on the budget; None before that stage, or if the recipe has none."""
    manifest = None if recipe.vocabulary is None else Workspace(recipe.workspace).manifest(VOCABULARY)
    if manifest is None:
        return None
    counts = cast(VocabularyCounts, manifest.counts)
    entries = [(stage.tokens, entry) for stage in recipe.stages for entry in stage.mixture.values()]
    languages: list[PlannedText] = []
    for row in counts["compression"]:
        tokens = round(sum(total * entry.share for total, entry in entries if entry.language == row["language"]))
        languages.append(
            {
                "language": row["language"],
                "held_out": row["held_out"],
                "tokens": tokens,
                "bytes_before": round(tokens * row["before"]),
                "bytes_after": round(tokens * row["after"]),
            }
        )
    return {"tokens_added": counts["tokens_added"], "rows": counts["rows"], "languages": languages}


def _reach(recipe: Recipe, store: TokenStore | None) -> list[Reach]:
    """Which verdicts can be reached with the held-out text, once it is tokenized, and with the known questions."""
    sizes: defaultdict[tuple[str, str], list[npt.NDArray[np.float64]]] = defaultdict(list)
    for key, bucket in (store.valid if store is not None else {}).items():
        sizes[key.language, key.source].append(measured_bytes(bucket, recipe.evaluation.document_bytes))
    evaluation = recipe.evaluation
    questions: dict[str, tuple[int, float]] = {}
    for benchmark, count in _counted_questions(recipe):
        judged = [benchmark.name, *(f"{benchmark.name}/{metric}" for metric in benchmark.judged_metrics)]
        asked = min(count, evaluation.limit or count), evaluation.tolerance_of(benchmark.name)
        questions |= dict.fromkeys(judged, asked)
    groups = recipe.held_out_groups() if store is not None else Groups()
    return plan_reach(
        {pair: np.concatenate(parts) for pair, parts in sizes.items()},
        groups,
        questions,
        known_spreads(Path(recipe.workspace), recipe.model.path),
    )


def _counted_questions(recipe: Recipe) -> Iterator[tuple[Benchmark, int]]:
    """Each benchmark that can be run with what is on this machine, and its number of questions."""
    evaluation = recipe.evaluation
    for name in expand_benchmarks(evaluation.benchmarks):
        if name not in BENCHMARKS:
            continue
        benchmark = BENCHMARKS[name]
        if benchmark.folder is None:
            if not benchmark.needs_chat or _has_chat_template(recipe):
                yield benchmark, benchmark.count_generated()
        elif evaluation.data is not None:
            items = read_set(Path(evaluation.data).expanduser(), benchmark.folder, benchmark.subjects)
            if items is not None and items.test:
                yield benchmark, len(items.test)
    with contextlib.suppress(UserError):  # reported in the findings of the plan
        for benchmark in external(evaluation.benchmarks):
            yield benchmark, count_questions(benchmark)


def _has_chat_template(recipe: Recipe) -> bool:
    """Whether the base model can be asked through a chat template; True if it is not on this machine."""
    if recipe.evaluation.backend.kind != "transformers" or model_folder(recipe.model) is None:
        return recipe.evaluation.backend.kind == "transformers"
    from reprise.model.loading import load_tokenizer

    with contextlib.suppress(UserError):  # reported in the findings of the plan
        return load_tokenizer(recipe.model).chat_template is not None
    return False


def _summarise(recipe: Recipe, stages: list[PlannedStage]) -> Summary:
    gpus = max(1, recipe.hardware.gpus)
    gpu_hours = _total(stage["gpu_hours"] for stage in stages)
    hours = None if gpu_hours is None else gpu_hours / gpus
    price = recipe.hardware.price_per_hour
    tokens = sum(stage["tokens"] for stage in stages)
    given = "utilisation" in recipe.hardware.model_fields_set
    return {
        "tokens": tokens,
        "steps": sum(stage["steps"] for stage in stages),
        "gpu": recipe.hardware.gpu,
        "gpus": gpus,
        "gpu_hours": gpu_hours,
        "hours": hours,
        "days": None if hours is None else hours / 24,
        "cpu_cores": count_cores(),
        "cpu_hours": _cpu_hours(recipe, _total(stage["training_flops"] for stage in stages)),
        "tokens_per_s": tokens / hours / 3600 if hours else None,
        "utilisation": recipe.hardware.utilisation,
        "utilisation_source": "hardware.utilisation" if given else PUBLISHED_UTILISATION,
        "cost": gpu_hours * price if price and gpu_hours is not None else None,
        "disk_gb": workspace_bytes(recipe) / 1e9,
    }


def _cpu_hours(recipe: Recipe, flops: float | None) -> float | None:
    """Hours of training on this machine's cores; None if it or the recipe has a GPU, or FLOPs are unknown."""
    import torch

    if flops is None or "gpu" in recipe.hardware.model_fields_set or torch.cuda.is_available():
        return None
    return flops / cpu_flops_per_s() / 3600


def _memory(recipe: Recipe) -> MemoryPlan | None:
    """Whether training fits into the GPU's memory; None if the model is not on this machine."""
    if model_folder(recipe.model) is None:
        return None
    from reprise.training.memory_plan import plan_memory

    return plan_memory(recipe)


def _peak_tflops(recipe: Recipe) -> float:
    """Dense bf16 peak of the recipe's GPU, in 10^12 FLOP/s.

    Raises:
        UserError: the peak of this GPU is not known.
    """
    peak = PEAK_BF16_TFLOPS.get(recipe.hardware.gpu)
    if peak is None:
        raise UserError(
            f"the peak of {recipe.hardware.gpu!r} is not known",
            where="hardware.gpu",
            remedy=f"choose one of: {', '.join(PEAK_BF16_TFLOPS)}",
        )
    return peak


def _stages(recipe: Recipe, per_token: float | None, rate: float, step_tokens: int) -> list[PlannedStage]:
    """Tokens, steps and cost of each stage of training; `rate` in FLOP/s."""
    stages: list[PlannedStage] = []
    for index, stage in enumerate(recipe.stages):
        flops = None if per_token is None else per_token * stage.tokens
        stages.append(
            {
                "stage": index + 1,
                "name": stage.name,
                "tokens": stage.tokens,
                "steps": math.ceil(stage.tokens / step_tokens),
                "training_flops": flops,
                "gpu_hours": None if flops is None else flops / rate / 3600,
            }
        )
    return stages


def _scoring(recipe: Recipe, rate: float) -> ScoringCost | None:
    """Cost of the stage `score`: one forward pass per token, a third of the cost of training.

    Before that stage has counted the tokens, they are those that the training stages take from ordered buckets.
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
        tokens = sum(bucket["tokens"] for bucket in cast("ScoreCounts", manifest.counts)["scored"].values())
    else:
        tokens = sum(
            budget.tokens
            for budget in budgets(recipe)
            if (recipe.stages[budget.stage - 1].mixture[budget.entry].language, budget.source) in ordered
        )
    scorer = recipe.documents.perplexity.model or recipe.model
    per_token = _whole_flops_per_token(recipe.model_copy(update={"model": scorer}))
    flops = None if per_token is None else per_token / 3 * tokens
    return {
        "tokens": tokens,
        "measured": manifest is not None,
        "flops": flops,
        "gpu_hours": None if flops is None else flops / rate / 3600,
    }


def _whole_flops_per_token(recipe: Recipe) -> float | None:
    """FLOPs of training all weights on a token, of which a forward pass is a third; None if not known."""
    whole = recipe.training.model_copy(update={"adapter": type(recipe.training.adapter)()})
    return _flops_per_token(recipe.model_copy(update={"training": whole}))[0]


def _synthesis(recipe: Recipe, store: TokenStore | None, buckets: list[PlannedBucket]) -> Need | None:
    """Synthetic tokens needed and available, and the cost of the rest; None without synthesis."""
    if not recipe.synthesis.enabled:
        return None
    needed = sum(bucket["tokens"] for bucket in buckets if bucket["source"] == "synthetic")
    stored = {} if store is None else store.train
    there = sum(bucket.num_tokens for key, bucket in stored.items() if key.source == "synthetic")
    folder = Workspace(recipe.workspace).folder("synthesize")
    stage = folder if folder.is_dir() else None
    return estimate_need(recipe.synthesis, tokens_needed=needed, tokens_there=there, stage=stage)


def _total(values: Iterable[float | None]) -> float | None:
    """Sum of the values; None if one is None."""
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _flops_per_token(recipe: Recipe) -> tuple[float | None, str]:
    """FLOPs per token, and the formula; None if neither the model nor its size is known."""
    if model_folder(recipe.model) is not None:
        from reprise.model.flops import training_flops_per_token
        from reprise.model.loading import load_config

        frozen = recipe.training.adapter.kind != "none"
        cost = training_flops_per_token(load_config(recipe.model), recipe.rows.seq_len, frozen=frozen)
        return cost, f"{4 if frozen else 6} * parameters + 12 * layers * heads * head_dim * seq_len (arXiv 2204.02311)"
    if recipe.hardware.parameters is not None:
        return 6.0 * recipe.hardware.parameters, "6 * hardware.parameters; attention is not counted"
    return None, "not known: the model is not available; set hardware.parameters"


def _store(recipe: Recipe) -> TokenStore | None:
    """The published token store; None before the stage `tokenize`."""
    workspace = Workspace(recipe.workspace)
    return None if workspace.manifest("tokenize") is None else TokenStore.open(workspace.folder("tokenize"))


def _name(supply: Supply) -> str:
    return "/".join(part for part in (supply.entry, supply.source, supply.topic) if part)


def _by_source(buckets: list[PlannedBucket]) -> list[SourceTokens]:
    """Tokens of each mixture entry and source over all stages."""
    totals: defaultdict[tuple[str, str], int] = defaultdict(int)
    for bucket in buckets:
        assert bucket["source"] is not None, "only tables add up sources"
        totals[bucket["entry"], bucket["source"]] += bucket["tokens"]
    return [{"entry": entry, "source": source, "tokens": tokens} for (entry, source), tokens in totals.items()]

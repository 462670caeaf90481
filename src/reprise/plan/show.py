"""A plan on the terminal."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from reprise.errors import Finding
from reprise.evaluation.power import Reach, reach_sentences
from reprise.plan.records import (
    MeasuringCost,
    Plan,
    PlannedBucket,
    PlannedStage,
    PlannedVocabulary,
    Preparation,
    ScoringCost,
    Summary,
    Totals,
)
from reprise.synthesis.estimate import Need
from reprise.tables import print_table


def summary_line(summary: Summary) -> str:
    """Format the summary as one paragraph."""
    parts = [f"{summary['tokens']:,} tokens", f"{summary['steps']:,} steps"]
    if summary["hours"] is not None and summary["days"] is not None:
        parts.append(f"{in_words(summary['hours'])} on {summary['gpus']:,} {summary['gpu']}")
        parts.append(
            f"{summary['tokens_per_s']:,.0f} tokens/s at {summary['utilisation']:.0%} of the peak "
            f"({summary['utilisation_source']})"
        )
    else:
        parts.append("hours not known")
    if summary["cpu_hours"] is not None:
        parts.append(f"{in_words(summary['cpu_hours'])} on the {summary['cpu_cores']} CPU cores of this machine")
    parts.append(f"about {summary['disk_gb']:,.3g} GB of disk")
    if summary["cost"] is not None:
        parts.append(f"cost {summary['cost']:,.2f}")
    return ", ".join(parts)


def in_words(hours: float) -> str:
    """Format a time in a readable unit: minutes, hours or days."""
    if hours < 1 / 60:
        return "under a minute"
    if hours < 2:
        minutes = round(hours * 60)
        return f"{minutes} minutes" if minutes > 1 else "a minute"
    return f"{hours:,.3g} hours" if hours < 48 else f"{hours / 24:,.1f} days"


def without_topics(buckets: Sequence[PlannedBucket]) -> list[PlannedBucket]:
    """Sum the buckets of a plan over topics; entries with several sources also get a row with source None."""
    rows: dict[tuple[int, str, str | None], PlannedBucket] = {}
    for bucket in buckets:
        for source in (None, bucket["source"]):
            key = (bucket["stage"], bucket["entry"], source)
            if (row := rows.get(key)) is None:
                rows[key] = {**bucket, "source": source, "topic": None, "epochs": None, "runs_out_after": None}
                continue
            row["tokens"] += bucket["tokens"]
            if row["available_tokens"] is not None and bucket["available_tokens"] is not None:
                row["available_tokens"] += bucket["available_tokens"]
            if row["text_bytes"] is not None:
                more = bucket["text_bytes"]
                row["text_bytes"] = None if more is None else row["text_bytes"] + more
            if bucket["answer_tokens"] is not None:
                row["answer_tokens"] = (row["answer_tokens"] or 0) + bucket["answer_tokens"]
    for row in rows.values():
        if (available := row["available_tokens"]) is not None:
            row["epochs"] = row["tokens"] / available if available else 0.0
    sources = Counter((row["stage"], row["entry"]) for row in rows.values() if row["source"] is not None)
    return [row for row in rows.values() if row["source"] is not None or sources[row["stage"], row["entry"]] > 1]


def show_plan(plan: Plan, *, topics: bool = False) -> None:
    """Print a plan: a summary of the cost, tables, then warnings and findings.

    Args:
        plan: the result of `make_plan`.
        topics: print the topics of each language, and one row per topic instead of one per source.
    """
    console = Console()
    console.print(f"{plan['name']}: {summary_line(plan['summary'])}", markup=False, highlight=False)
    for table in (_stage_table(plan), _bucket_table(plan["buckets"], topics)):
        for column in table.columns:
            if column.header in (
                "tokens",
                "steps",
                "of answers",
                "text",
                "available",
                "epochs",
                "training FLOPs",
                "GPU-hours",
            ):
                column.justify = "right"
        print_table(table)
    for language, names in plan["topics"].items() if topics else ():
        console.print(f"topics of {language}: {'; '.join(names)}", markup=False, highlight=False)
    for line in _cost_lines(plan):
        console.print(line, markup=False, highlight=False)
    for finding in (Finding(**entry) for entry in plan["findings"]):
        label = "warning" if finding.severity == "warning" else "before a run"
        console.print(f"{label}: {finding}", style="yellow", markup=False, highlight=False)
    for line in _reach_lines(plan["reach"]):
        console.print(line, markup=False, highlight=False)
    for warning in plan["warnings"]:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)


def _stage_table(plan: Plan) -> Table:
    table = Table("stage", "name", "tokens", "steps", "training FLOPs", "GPU-hours", title=f"{plan['name']}: stages")
    for stage in plan["stages"]:
        table.add_row(str(stage["stage"]), stage["name"], *_cost_cells(stage))
    table.add_row("all", "", *_cost_cells(plan["totals"]))
    return table


def _cost_cells(cost: PlannedStage | Totals) -> list[str]:
    flops, hours = cost["training_flops"], cost["gpu_hours"]
    return [
        f"{cost['tokens']:,}",
        f"{cost['steps']:,}",
        "not known" if flops is None else f"{flops:.3g}",
        "not known" if hours is None else f"{hours:,.2f}" if hours < 100 else f"{hours:,.0f}",
    ]


def _bucket_table(buckets: Sequence[PlannedBucket], topics: bool) -> Table:
    known = any(bucket["available_tokens"] is not None for bucket in buckets)
    columns = ["stage", "entry", "source", *(["topic"] if topics else []), "tokens"]
    talks = any(bucket["answer_tokens"] is not None for bucket in buckets)
    columns += ["of answers"] if talks else []
    measured = any(bucket["text_bytes"] is not None for bucket in buckets)
    columns += ["text"] if measured else []
    table = Table(*columns, *(["available", "epochs"] if known else []), title="mixture")
    for bucket in buckets if topics else without_topics(buckets):
        cells = [str(bucket["stage"]), bucket["entry"], bucket["source"] or "all"]
        cells += [bucket["topic"] or ""] if topics else []
        cells.append(f"{bucket['tokens']:,}")
        cells += ["" if bucket["answer_tokens"] is None else f"{bucket['answer_tokens']:,}"] if talks else []
        if measured:
            size = bucket["text_bytes"]
            cells += ["" if size is None else f"{size / 1e6:,.3g} MB"]
        if known:
            cells += [f"{bucket['available_tokens']:,}", f"{bucket['epochs']:.2f}"]
        table.add_row(*cells)
    return table


def _cost_lines(plan: Plan) -> list[str]:
    """Format assumptions, memory, scoring and synthesis."""
    assumed = plan["assumptions"]
    lines = [
        f"{assumed['gpu']} at {assumed['utilisation']:.0%} of {assumed['peak_bf16_tflops']:g} TFLOP/s; "
        f"FLOPs per token = {assumed['formula']}"
    ]
    if plan["vocabulary"] is not None:
        lines += _vocabulary_lines(plan["vocabulary"])
    if plan["memory"] is not None:
        from reprise.training.memory_plan import memory_lines  # imports torch

        lines += memory_lines(plan["memory"])
    if plan["preparation"] is not None:
        lines += _preparation_lines(plan["preparation"])
    if plan["scoring"] is not None:
        lines.append(_scoring_line(plan["scoring"], plan["summary"]["gpus"]))
    if plan["measuring"] is not None:
        lines.append(_measuring_line(plan["measuring"], plan["totals"]["training_flops"]))
    if plan["synthesis"] is not None:
        lines.append(_synthesis_line(plan["synthesis"]))
    return lines


def _vocabulary_lines(vocabulary: PlannedVocabulary) -> list[str]:
    """Format the larger vocabulary, and the budget of each language in bytes of text."""
    lines = [f"vocabulary: {vocabulary['tokens_added']:,} tokens added, {vocabulary['rows']:,} rows of embeddings"]
    for row in vocabulary["languages"]:
        before, after = row["bytes_before"], row["bytes_after"]
        kind = "held-out text" if row["held_out"] else "the text that was learned from"
        rates = ["not known" if not row["tokens"] else f"{size / row['tokens']:.2f}" for size in (before, after)]
        lines.append(
            f"  {row['language']}: {rates[0]} -> {rates[1]} bytes per token ({kind}): its {row['tokens']:,} tokens are "
            f"{after / 1e6:,.3g} MB of text, {before / 1e6:,.3g} MB with the base model's vocabulary"
        )
    return lines


def _reach_lines(reach: Sequence[Reach]) -> list[str]:
    if not reach:
        return []
    return ["verdicts within reach:", *(f"  {line}" for line in reach_sentences(reach))]


def _preparation_lines(cost: Preparation) -> list[str]:
    """Hours of the stages that prepare the text, and on what the estimate rests."""
    stages = ", ".join(f"{stage['stage']} {in_words(stage['hours'])}" for stage in cost["stages"])
    return [
        f"preparing {cost['text_gb']:,.3g} GB of text on {cost['cpu_cores']:,} cores: {in_words(cost['hours'])}, "
        f"{cost['memory_gb_per_core']:.2g} GB of memory per core",
        f"  {stages}; rates of {cost['machine']}, {cost['date']}: cores, disks and languages differ",
    ]


def _scoring_line(cost: ScoringCost, gpus: int) -> str:
    tokens = f"{cost['tokens']:,} tokens" if cost["measured"] else f"{cost['tokens']:,} tokens if no more text is read"
    if cost["flops"] is None or cost["gpu_hours"] is None:
        price = "not known"
    else:
        price = f"{cost['flops']:.3g} FLOPs, {cost['gpu_hours']:,.2f} GPU-hours"
        price += f", {in_words(cost['gpu_hours'] / gpus)} on {gpus} GPUs" if gpus > 1 else ""
    return f"perplexities before training: {tokens}: {price}"


def _measuring_line(cost: MeasuringCost, training_flops: float | None) -> str:
    line = (
        f"measuring held-out text: {cost['validation_tokens']:,} tokens in {cost['validations']:,} validations, "
        f"{cost['evaluation_tokens']:,} in the evaluation of {cost['models']} models"
    )
    if cost["flops"] is None or not training_flops:
        return line
    line += f": {cost['flops'] / training_flops:.0%} of the FLOPs of training, without benchmarks"
    if cost["flops"] > training_flops:
        line += "; evaluation.document_bytes and training.validation.max_tokens make it cheaper"
    return line


def _synthesis_line(need: Need) -> str:
    line = f"synthetic tokens: {need['tokens_needed']:,} needed, {need['tokens_there']:,} there"
    if not need["tokens_missing"]:
        return line
    hours = "hours not known before a run" if need["hours"] is None else f"{need['hours']:,.1f} hours"
    source = "at the rates of the run so far" if need["measured"] else "at assumed rates"
    return (
        f"{line}; the rest takes about {need['requests']:,} requests, {need['completion_tokens']:,} generated tokens, "
        f"cost {need['cost']:,.2f}, {hours} ({source})"
    )

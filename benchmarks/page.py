"""docs/performance.md: run a benchmark and keep its figures, then write the page from what was kept.

    python benchmarks/page.py run documents --corpus CORPUS --megabytes 100 --only tokenize
    python benchmarks/page.py write

`run NAME ARGUMENTS` starts `benchmarks/NAME.py ARGUMENTS`, takes the JSON of its last line and keeps each figure in
docs/performance.json with the command, date, commit, machine and load, so that no number on the page is typed by
hand. Arguments that are paths are shown by the name of their option. The last line is the JSON that was kept.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from growth import STAGES

from reprise.model.machine import describe_machine

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "docs" / "performance.json"
PAGE = ROOT / "docs" / "performance.md"


@dataclass(frozen=True)
class Figure:
    """One row of the page."""

    key: str
    """Name of the figure in the benchmark's JSON."""
    script: str
    what: str
    rival: str
    unit: str
    target: str
    why: str
    """Why this target."""


FIGURES = (
    Figure(
        "tokenize_vs_tokenizers",
        "documents",
        "text to token store",
        "the paper's script: `tokenizers` in 2 processes",
        "times as fast",
        "20",
        "tokenizing must not be what a 100 B token run waits for",
    ),
    Figure(
        "clean_dedup_vs_datatrove",
        "documents",
        "clean, then exact and near deduplication",
        "datatrove, local executor, 2 workers",
        "times as fast",
        "20",
        "the tool most teams use today",
    ),
    Figure(
        "peak_gb",
        "growth",
        "memory of any stage from reading to the token store, two workers, largest size below",
        "none",
        "GB",
        "4",
        "a corpus of any size on the machine that is there",
    ),
    Figure(
        "worst_linearity",
        "growth",
        "processor time a document, in the worst stage and size below, by that at the smallest size",
        "none",
        "times",
        "1.2",
        "a hundred times the text takes a hundred times as long",
    ),
    Figure(
        "disk_ratio",
        "growth",
        "most disk of a workspace, beside its text",
        "none",
        "times the text",
        "2",
        "the disk that holds the text holds the run",
    ),
    Figure(
        "perplexity_vs_loop",
        "documents",
        "perplexity of documents",
        "one document at a time, plain transformers",
        "times as fast",
        "3",
        "the curriculum costs one forward pass over its text",
    ),
    Figure(
        "linear_docs_per_s",
        "documents",
        "topic labels by the linear classifier, documents of 1 kB",
        "none",
        "documents a second",
        "5,000",
        "labels must cost less than reading",
    ),
    Figure(
        "tokens_per_s_vs_trainer",
        "training",
        "training on a CPU in the precision that it multiplies in hardware, shape of SmolLM2-135M",
        "`transformers.Trainer`, fused AdamW",
        "times as fast",
        "1.4",
        "what a user would otherwise run",
    ),
    Figure(
        "memory_vs_trainer",
        "training",
        "peak memory of the same",
        "`transformers.Trainer`",
        "times its memory",
        "1.0",
        "no speed bought with memory",
    ),
    Figure(
        "loss_peak_gb",
        "training",
        "memory of the loss, 8,192 tokens x 128,256 entries",
        "naive on bf16 logits: 6.3 GB",
        "GB",
        "1.5",
        "the loss must not decide the batch size",
    ),
    Figure(
        "quick_suite_vs_harness",
        "evaluation",
        "benchmarks of the quick suite, equal scores",
        "lm-evaluation-harness's `hf` backend at its defaults",
        "times as fast",
        "2",
        "benchmarks are run on every checkpoint",
    ),
    Figure(
        "requests_vs_loop",
        "synthesis",
        "requests to a server of 32 slots",
        "one request at a time",
        "times as many",
        "5",
        "synthesis is bound by the server, not by us",
    ),
    Figure(
        "batched_vs_single",
        "synthesis",
        "generation in this process, 16 slots",
        "our own with one slot, the faster single way",
        "times as fast",
        "3",
        "synthesis without a server must be usable",
    ),
    Figure(
        "rows_per_s",
        "order",
        "rows of 2,048 tokens from 400 buckets",
        "see docs/order.md",
        "rows a second",
        "",
        "reading rows must be invisible beside a training step",
    ),
)


def run(name: str, arguments: list[str]) -> dict[str, Any]:
    """Run a benchmark and keep its figures."""
    load = os.getloadavg()[0]
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line if line.strip() else last
    if process.returncode:
        sys.exit(process.returncode)
    kept = {
        "command": " ".join(["python", f"benchmarks/{name}.py", *_without_paths(arguments)]),
        "date": date.today().isoformat(),
        "commit": _git("rev-parse", "--short", "HEAD")
        + (" with changes" if _git("status", "--porcelain", "--", ".", f":!{KEPT.relative_to(ROOT).parent}") else ""),
        "machine": _machine(),
        "load_before": round(load, 1),
    }
    everything = read_kept()
    for key, value in json.loads(last).items():
        if value is not None:
            everything[f"{name}.{key}"] = {"value": value, **kept}
    KEPT.write_text(json.dumps(everything, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return kept


def read_kept() -> dict[str, Any]:
    """`script.key` -> value, command, date, commit, machine, load_before."""
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}


def _without_paths(arguments: list[str]) -> list[str]:
    shown: list[str] = []
    for argument in arguments:
        option = shown[-1] if shown and shown[-1].startswith("--") else "--file"
        is_path = os.sep in argument or Path(argument).exists()
        shown.append(option[2:].upper().replace("-", "_") if is_path else argument)
    return shown


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _machine() -> str:
    machine = describe_machine()
    return f"{machine['processor']}, {os.cpu_count()} cores, {machine['memory_gib']:.0f} GiB"


def write() -> str:
    """The page from what was kept."""
    kept = read_kept()
    rows, notes = [], []
    for figure in FIGURES:
        entry = kept.get(f"{figure.script}.{figure.key}")
        value = "not measured" if entry is None else f"**{_shown(entry['value'])}** {figure.unit}"
        rows.append(f"| {figure.what} | {value} | {figure.rival} | {figure.target} | {figure.why} |")
        if entry is not None:
            quiet = "quiet" if entry["load_before"] < 0.5 else f"load {entry['load_before']} before the start"
            taken = f"{entry['date']} | {entry['commit']} | {entry['machine']}, {quiet}"
            notes.append(f"| `{figure.key}` | `{entry['command']}` | {taken} |")
    return "\n".join([_HEAD, *rows, *_growth(kept), *_document_rates(kept), _NOTES, *notes, ""])


def _growth(kept: dict[str, Any]) -> list[str]:
    """Every stage at every size, from benchmarks/growth.py."""
    entry = kept.get("growth.sizes")
    if entry is None:
        return []
    sizes = entry["value"]
    heads = [f"{size['documents'] / 1e6:g} M documents, {size['text_gb']:.1f} GB" for size in sizes]
    lines = [
        "",
        f"| stage: seconds (processor seconds), peak GB | {' | '.join(heads)} |",
        f"|---|{'---|' * len(sizes)}",
    ]
    for stage in STAGES:
        rows = [size["stages"][stage] for size in sizes]
        cells = [f"{row['seconds']:,.0f} ({row['processor_s']:,.0f}), {row['peak_gb']:.2f}" for row in rows]
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    totals = [
        [sum(row[key] for row in size["stages"].values()) for key in ("seconds", "processor_s")] for size in sizes
    ]
    lines.append(f"| all | {' | '.join(f'{wall:,.0f} ({used:,.0f})' for wall, used in totals)} |")
    lines += [
        "",
        "English and Chinese, two thirds to one by bytes, a tenth planted copies; memory is that of all processes "
        f"together. `{entry['command']}`, {entry['date']}, commit {entry['commit']}, {entry['machine']}.",
    ]
    return lines


def _document_rates(kept: dict[str, Any]) -> list[str]:
    """Documents a second of each reader, and of cleaning in each script: a table each, from benchmarks/readers.py."""
    lines: list[str] = []
    for key, what in (("read", "reading"), ("clean", "cleaning, documents of 4 kB")):
        entry = kept.get(f"readers.{key}")
        if entry is None:
            continue
        lines += ["", f"| {what} | documents a second | MB of text a second |", "|---|---:|---:|"]
        for name, rate in entry["value"].items():
            lines.append(f"| {name} | {rate['documents_per_s']:,} | {rate['mb_per_s']:,.2f} |")
    if lines:
        shared = "shared with other work" if entry["load_before"] >= 0.5 else "quiet"
        lines += [
            "",
            "Per second of one core's CPU time, over a fraction of a second each: small differences say nothing. "
            f"`{entry['command']}`, {entry['date']}, commit {entry['commit']}, "
            f"{entry['machine']}; the machine was {shared} (load {entry['load_before']} before the start).",
        ]
    return lines


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}" if isinstance(value, float) else str(value)


_HEAD = """# Performance

Ratios are taken in one run, both sides on the same work in turn; medians over the rounds. No figure here is from a GPU:
none was available. What was tried on the way, with its figures, is in [lab/](lab/); scores of models are in
[results/](results/). This page is written by `python benchmarks/page.py write` from `performance.json`.

| what | Reprise | against | target | why that target |
|---|---|---|---|---|"""
_NOTES = """
| figure | command | date | commit | machine |
|---|---|---|---|---|"""


def main() -> None:
    match sys.argv[1:]:
        case ["run", name, *arguments]:
            kept = run(name, arguments)
            print(json.dumps(kept))
        case ["write"]:
            PAGE.write_text(write(), encoding="utf-8")
            print(json.dumps({"figures": len(read_kept())}))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()

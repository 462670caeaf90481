"""Write the page of runs from a folder to a verdict, and its lines of the index, from the runs' report.json.

    python docs/results/runs.py                              # the page again, from docs/results/data/runs
    python docs/results/runs.py runs/greek runs/medicine     # take these finished runs first

A test compares the files with what this would write.
"""

import argparse
import json
import subprocess
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TypedDict

from write import replace

from reprise.evaluation.results import BitsRow
from reprise.report.records import Report

HERE = Path(__file__).resolve().parent
DATA = HERE / "data" / "runs"
PAGE, INDEX = HERE / "folder-to-verdict.md", HERE / "README.md"
START, END = "<!-- written by docs/results/runs.py -->", "<!-- end of what runs.py writes -->"
SHOWN = ("read", "clean", "deduplicate", "tokenize", "train-1", "evaluate")


class Run(TypedDict):
    """What is kept of a run's report."""

    name: str
    commit: str
    date: str
    model: str
    cores: int
    tokens: int
    documents: dict[str, int]
    """`read` documents, those dropped in cleaning, copies, and held-out ones."""
    document_bytes: int
    """Bytes of each held-out document that were measured; 0: all."""
    seconds: dict[str, float]
    """Stage -> seconds."""
    headline: str
    rows: list[BitsRow]
    """Entries of the mixture, without their sources."""


def collect(workspace: Path) -> None:
    """Keep what the page shows of a finished run, with the commit that was current when it began, and the date."""
    report: Report = json.loads((workspace / "report" / "report.json").read_text(encoding="utf-8"))
    stages = {stage["stage"]: stage for stage in report["stages"]}
    finished = datetime.fromisoformat(str(stages["read"]["finished"]))
    command = ["git", "rev-list", "-1", "--abbrev-commit", f"--before={finished.isoformat()}", "HEAD"]
    machine = report["repeat"]["machine"]
    assert machine is not None and report["verdict"]["headline"] is not None, "the run is not finished"
    counts = {name: stage["counts"] for name, stage in stages.items()}
    run: Run = {
        "name": report["run"]["name"],
        "commit": subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE).stdout.strip(),
        "date": finished.date().isoformat(),
        "model": report["run"]["model"],
        "cores": machine["cores"] or 0,
        "tokens": report["repeat"]["cost"]["tokens"],
        "documents": {
            "read": int(str(counts["read"]["documents_out"])),
            "cleaned away": int(str(counts["clean"]["dropped"])),
            "copies": int(str(counts["deduplicate"]["dropped"])),
            "held out": int(str(counts["evaluate"]["documents"])),
        },
        "document_bytes": report["document_bytes"],
        "seconds": {name: round(float(stages[name]["seconds"] or 0), 1) for name in SHOWN},
        "headline": report["verdict"]["headline"],
        "rows": [row for row in report["bits_per_byte"] if row["source"] is None],
    }
    DATA.mkdir(parents=True, exist_ok=True)
    text = json.dumps(run, indent=1, ensure_ascii=False) + "\n"
    (DATA / f"{run['name']}.json").write_text(text, encoding="utf-8")


def load() -> list[Run]:
    """The runs, by name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(DATA.glob("*.json"))]


def change(row: BitsRow) -> str:
    """`-3.1 % (-4.0 to -2.2)`."""
    text = f"{100 * row['change']:+.2f} %"
    return text if row["ci"] is None else f"{text} ({100 * row['ci'][0]:+.2f} to {100 * row['ci'][1]:+.2f})"


def results(runs: Sequence[Run]) -> str:
    """The part of the page that is written from the runs."""
    lines = [
        "| run | documents read | cleaned away | copies | held out | tokens | seconds: "
        + ", ".join(SHOWN)
        + " | commit, date |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        seconds = ", ".join(f"{run['seconds'][name]:,.0f}" for name in SHOWN)
        numbers = " | ".join(f"{count:,}" for count in run["documents"].values())
        lines.append(f"| {run['name']} | {numbers} | {run['tokens']:,} | {seconds} | {run['commit']}, {run['date']} |")
    lines += [
        "",
        "| run | text | before | after | change (95 % interval) | documents | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        for row in run["rows"]:
            lines.append(
                f"| {run['name']} | {row['path']} | {row['before']:.4f} | {row['after']:.4f} | {change(row)} "
                f"| {row['documents']} | {row['verdict']} |"
            )
    lines += ["", *(f"- {run['name']}: **{run['headline']}**" for run in runs)]
    return "\n".join(lines) + "\n"


def index(runs: Sequence[Run]) -> str:
    """The lines of the index."""
    lines = ["| run | answer | page | commit |", "|---|---|---|---|"]
    lines += [
        f"| {run['name']}, {run['tokens']:,} tokens | {run['headline']} | [page]({PAGE.name}) | {run['commit']} |"
        for run in runs
    ]
    return "\n".join(lines) + "\n"


def files(runs: Sequence[Run]) -> dict[Path, str]:
    """File -> its content."""
    parts = {PAGE: results(runs), INDEX: index(runs)}
    return {path: replace(path.read_text(encoding="utf-8"), part, START, END) for path, part in parts.items()}


def main() -> None:
    """Take new runs, and write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspaces", nargs="*", type=Path, metavar="RUN", help="finished runs to take")
    for workspace in parser.parse_args().workspaces:
        collect(workspace)
    for path, text in files(load()).items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(HERE.parents[1]))


if __name__ == "__main__":
    main()

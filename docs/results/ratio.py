"""Write the page on how much old text must stay, its picture and its lines of the index, from the ratio study's runs.

    python docs/results/ratio.py                     # the page again, from docs/results/data/ratio
    python docs/results/ratio.py runs/claims/ratio   # take the finished study and the unseen mixtures first

A test compares the files with what this would write.
"""

import json
import subprocess
import time
from pathlib import Path
from typing import TypedDict

from plane import draw, take_and_write
from write import MACHINE, replace

from reprise.ratio import RatioAnswer

HERE = Path(__file__).resolve().parent
DATA = HERE / "data" / "ratio" / "ratio.json"
PAGE, INDEX = HERE / "ratio.md", HERE / "README.md"
PICTURE = HERE / "ratio.svg"
START, END = "<!-- written by docs/results/ratio.py -->", "<!-- end of what ratio.py writes -->"
COMMAND = "reprise study ratio --recipe examples/studies/claims/ratio.yaml --workspace runs/claims/ratio"


class UnseenRun(TypedDict):
    """A mixture that no law was fitted to; losses are bits per byte after training, divided by those before."""

    share: float
    kept_predicted: float
    new_predicted: float
    kept: float
    new: float


class Unseen(TypedDict):
    """What benchmarks/ratio.py writes."""

    seed: int
    runs: list[UnseenRun]
    spearman_kept: float
    spearman_new: float
    error_kept: float
    error_new: float
    spread_kept: float
    spread_new: float


class Recorded(TypedDict):
    """What is kept."""

    answer: RatioAnswer
    unseen: Unseen
    commit: str
    date: str


def collect(workspace: Path) -> None:
    """Keep the answer and the unseen mixtures, the commit that was current when the first run began, and the date."""
    begun = min(path.stat().st_mtime for path in workspace.glob("*/*/manifest.json"))
    command = ["git", "rev-list", "-1", "--abbrev-commit", f"--before={int(begun)}", "HEAD"]
    recorded: Recorded = {
        "answer": json.loads((workspace / "ratio.json").read_text(encoding="utf-8")),
        "unseen": json.loads((workspace / "unseen.json").read_text(encoding="utf-8")),
        "commit": subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE).stdout.strip(),
        "date": time.strftime("%Y-%m-%d", time.gmtime(begun)),
    }
    DATA.parent.mkdir(parents=True, exist_ok=True)
    DATA.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def predicted(unseen: Unseen) -> str:
    """How well the laws predicted, in a sentence."""
    parts = [
        f"{name} text: rank correlation {unseen[rank]:.2f}, mean error {unseen[error]:.2%} where the six lie "
        f"{unseen[spread]:.1%} apart"
        for name, rank, error, spread in (
            ("kept", "spearman_kept", "error_kept", "spread_kept"),
            ("new", "spearman_new", "error_new", "spread_new"),
        )
    ]
    return "; ".join(parts)


def results(recorded: Recorded) -> str:
    """The part of the page that is written from the runs."""
    answer, unseen = recorded["answer"], recorded["unseen"]
    lines = [
        f"Commit {recorded['commit']}, {recorded['date']}, {MACHINE}; {answer['tokens']:,} tokens a run.",
        "",
        f"**{answer['sentence']}**",
        "",
        f"Laws: {answer['laws']['kept']} for {answer['kept']}, {answer['laws']['new']} for {answer['entry']}; error "
        f"on a run that was left out {answer['left_out_error']['kept']:.2%} and {answer['left_out_error']['new']:.2%}.",
        "",
        f"![Losses by share of new text]({PICTURE.name})",
        "",
        f"**Six mixtures that no law was fitted to.** {predicted(unseen).capitalize()}.",
        "",
        f"| share of {answer['entry']} | {answer['kept']}, predicted | {answer['kept']} | {answer['entry']}, predicted "
        f"| {answer['entry']} |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {one['share']:.2f} | {one['kept_predicted']:.4f} | {one['kept']:.4f} | {one['new_predicted']:.4f} "
        f"| {one['new']:.4f} |"
        for one in unseen["runs"]
    ]
    lines += [
        "",
        "The runs of the study:",
        "",
        f"| share of {answer['entry']} | seed | {answer['kept']} | {answer['entry']} |",
    ]
    lines += ["|---:|---:|---:|---:|"]
    lines += [
        f"| {run['share']:.3f} | {run['seed']} | {run['kept']:.4f} | {run['new']:.4f} |"
        for run in sorted(answer["runs"], key=lambda run: run["share"])
    ]
    return "\n".join(lines) + "\n"


def index(recorded: Recorded) -> str:
    """The lines of the index."""
    where = f"[page]({PAGE.name}), `{COMMAND}`"
    rows = (
        ("How much English must stay in the mixture of a tiny model?", recorded["answer"]["sentence"]),
        ("Do its laws predict mixtures that they were not fitted to?", predicted(recorded["unseen"])),
    )
    return "| question | answer | page and command | commit |\n|---|---|---|---|\n" + "".join(
        f"| {question} | {answer} | {where} | {recorded['commit']} |\n" for question, answer in rows
    )


def files(recorded: Recorded) -> dict[Path, str]:
    """File -> its content."""
    parts = {PAGE: results(recorded), INDEX: index(recorded)}
    written = {path: replace(path.read_text(encoding="utf-8"), part, START, END) for path, part in parts.items()}
    answer = recorded["answer"]
    points = {
        f"{answer['entry']} at {run['share']:.2f}": [(100 * (run["new"] - 1), 100 * (run["kept"] - 1))]
        for run in recorded["unseen"]["runs"]
    }
    axes = (f"{answer['entry']}, bits per byte, % change", f"{answer['kept']}, bits per byte, % change")
    return written | {PICTURE: draw("Gain against retention", axes, points, (0.0, 0.0), start="base model")}


def load() -> Recorded:
    """What is kept."""
    recorded: Recorded = json.loads(DATA.read_text(encoding="utf-8"))
    return recorded


if __name__ == "__main__":
    take_and_write(__doc__, collect, lambda: files(load()))

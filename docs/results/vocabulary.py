"""Write the page on a larger vocabulary for SmolLM2-135M-Instruct, its picture and its line of the index.

    python docs/results/vocabulary.py                        # the page again, from docs/results/data/vocabulary
    python docs/results/vocabulary.py runs/vocabulary/rates  # take a finished study first
    python docs/results/vocabulary.py runs/vocabulary/pays

A test compares the files with what this would write.
"""

import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from plane import amount, draw, take_and_write
from write import MACHINE, replace

from reprise.evaluation.paired import mean_interval
from reprise.model.flops import training_flops_per_token
from reprise.model.loading import load_config
from reprise.recipe import load_recipe
from reprise.recipe.model import Model
from reprise.report.study_records import StudyResult

HERE = Path(__file__).resolve().parent
STUDY = HERE.parents[1] / "examples" / "studies" / "vocabulary" / "pays.study.yaml"
DATA = HERE / "data" / "vocabulary"
PAGE, INDEX = HERE / "smollm2-vocabulary.md", HERE / "README.md"
PICTURE = HERE / "smollm2-vocabulary.svg"
START, END = "<!-- written by docs/results/vocabulary.py -->", "<!-- end of what vocabulary.py writes -->"
ZH, EN = "bits_per_byte/zh", "bits_per_byte/en"
STUDIED, RATES = "pays", "rates"
PLAIN = "plain"
EQUAL = {"4000 tokens": "equal FLOPs", "4000 tokens, equal bytes": "equal bytes"}
"""Variant -> what it has in common with plain training."""


class Spent(TypedDict):
    """What the runs of a variant took: means over the seeds."""

    tokens: int
    zh_bytes: int
    """UTF-8 bytes of Chinese text."""
    flops: float
    """Of all training steps."""


class Recorded(TypedDict):
    """What is kept of a study."""

    study: StudyResult
    commit: str
    date: str
    before: dict[str, float]
    """Measure -> value of the base model."""
    documents: dict[str, int]
    """Entry -> held-out documents."""
    bytes_per_token: dict[str, float]
    """Variant -> bytes of held-out Chinese text per token."""
    spent: dict[str, Spent]
    """Variant -> what its runs took."""


def collect(workspace: Path) -> None:
    """Keep the result of the study, the commit that was current when its first stage was done, and the date."""
    study: StudyResult = json.loads((workspace / "study.json").read_text(encoding="utf-8"))
    begun = min(path.stat().st_mtime for path in workspace.glob("*/*/manifest.json"))
    command = ["git", "rev-list", "-1", "--abbrev-commit", f"--before={int(begun)}", "HEAD"]
    recorded: Recorded = {
        "study": study,
        "commit": subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE).stdout.strip(),
        "date": time.strftime("%Y-%m-%d", time.gmtime(begun)),
        "before": {},
        "documents": {},
        "bytes_per_token": {},
        "spent": {},
    }
    for variant in study["variants"]:
        runs = [workspace / f"{variant}-seed-{seed}" for seed in study["seeds"]]
        recorded["spent"][variant] = spent(runs)
        results = json.loads((runs[0] / "evaluate" / "results.json").read_text(encoding="utf-8"))
        for row in results["bits_per_byte"]:
            if row["source"] is None:
                recorded["documents"][row["entry"]] = row["documents"]
                recorded["before"][f"bits_per_byte/{row['entry']}"] = row["before"]
        manifest = runs[0] / "vocabulary" / "manifest.json"
        if manifest.is_file():
            (zh,) = json.loads(manifest.read_text(encoding="utf-8"))["counts"]["compression"]
            recorded["bytes_per_token"] |= {PLAIN: zh["before"], variant: zh["after"]}
    DATA.mkdir(parents=True, exist_ok=True)
    text = json.dumps(recorded, indent=1, ensure_ascii=False) + "\n"
    (DATA / f"{workspace.name}.json").write_text(text, encoding="utf-8")


def spent(runs: list[Path]) -> Spent:
    """What runs took."""
    tokens, zh_bytes, flops = 0, 0, 0.0
    for run in runs:
        recipe = load_recipe(run / "recipe.yaml")
        config = load_config(Model(path=str(run / "train-1" / "model")))
        for manifest in sorted(run.glob("train-*/manifest.json")):
            counts = json.loads(manifest.read_text(encoding="utf-8"))["counts"]
            tokens += counts["tokens"]
            zh_bytes += sum(one["text_bytes"] for one in counts["spent"] if one["entry"] == "zh")
            flops += counts["tokens"] * training_flops_per_token(config, recipe.rows.seq_len)
    return {"tokens": tokens // len(runs), "zh_bytes": zh_bytes // len(runs), "flops": flops / len(runs)}


def change(recorded: Recorded, variant: str, measure: str) -> list[float]:
    """Change since the base model for each seed, in per cent."""
    values = recorded["study"]["measures"][measure]["variants"][variant]["values"]
    return [100 * (value / recorded["before"][measure] - 1) for value in values]


def difference(recorded: Recorded, variant: str, measure: str) -> list[float]:
    """Difference from plain training with the same seed, in points of that change."""
    pairs = zip(change(recorded, variant, measure), change(recorded, PLAIN, measure), strict=True)
    return [one - other for one, other in pairs]


def answer(recorded: Recorded) -> str:
    """Whether the larger vocabulary paid, in a sentence."""
    parts = []
    for variant, equal in EQUAL.items():
        mean, ci = mean_interval(difference(recorded, variant, ZH))
        shown = ci is not None and (ci[0] > 0 or ci[1] < 0)
        word = ("it paid" if mean < 0 else "it did not pay") if shown else "no difference is shown"
        parts.append(f"on {equal} {word}: Chinese bits per byte {amount(difference(recorded, variant, ZH), 1)} points")
    tokens = recorded["spent"][PLAIN]["tokens"]
    return f"{'; '.join(parts)}, against plain training with {tokens:,} tokens"


def source(recorded: Recorded) -> str:
    """Where the numbers come from."""
    documents = ", ".join(f"{name} {count}" for name, count in recorded["documents"].items())
    seeds = ", ".join(map(str, recorded["study"]["seeds"]))
    return (
        f"Commit {recorded['commit']}, {recorded['date']}, {MACHINE}. Seeds: {seeds}. Held-out documents: {documents}."
    )


def table(recorded: Recorded) -> list[str]:
    """A line for each variant: what it took, and its change since the base model."""
    study, before = recorded["study"], recorded["before"]
    head = ["variant", "bytes per token, zh", "tokens", "zh text, kB", "FLOPs, 10^12", "zh, bits per byte"]
    head.append("en, bits per byte")
    rates = recorded["bytes_per_token"]
    first = ["base model", f"{rates[PLAIN]:.2f}", "0", "0", "0", f"{before[ZH]:.4f}", f"{before[EN]:.4f}"]
    compared = PLAIN in study["variants"]
    if compared:
        head += ["zh, points against plain", "en, points against plain"]
        first += ["", ""]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|", f"| {' | '.join(first)} |"]
    for name in study["variants"]:
        took = recorded["spent"][name]
        cells = [name, f"{rates[name]:.2f}", f"{took['tokens']:,}", f"{took['zh_bytes'] / 1e3:.1f}"]
        cells.append(f"{took['flops'] / 1e12:.1f}")
        cells += [f"{amount(change(recorded, name, one), 1)} %" for one in (ZH, EN)]
        if compared:
            cells += ["" if name == PLAIN else amount(difference(recorded, name, one), 1) for one in (ZH, EN)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def results(studies: Mapping[str, Recorded]) -> str:
    """The part of the page that is written from the runs."""
    recorded = studies[STUDIED]
    lines = [
        f"{source(recorded)} Changes are relative to the base model; differences are paired by seed, with Student's "
        "95 % interval.",
        "",
        f"**{answer(recorded).replace('on', 'On', 1)}.**",
        "",
        f"![Chinese learned and English kept]({PICTURE.name})",
        "",
        *table(recorded),
        "",
        f"### Rates that were tried first\n\n{source(studies[RATES])}\n",
        *table(studies[RATES]),
    ]
    return "\n".join(lines) + "\n"


def index(recorded: Recorded) -> str:
    """The line of the index."""
    where = f"[page]({PAGE.name}), `reprise study {STUDY.relative_to(HERE.parents[1])}`"
    return (
        "| question | answer | page and command | commit |\n|---|---|---|---|\n"
        f"| Does a larger vocabulary pay? | {answer(recorded)} | {where} | {recorded['commit']} |\n"
    )


def files(studies: Mapping[str, Recorded]) -> dict[Path, str]:
    """File -> its content."""
    recorded = studies[STUDIED]
    parts = {PAGE: results(studies), INDEX: index(recorded)}
    written = {path: replace(path.read_text(encoding="utf-8"), part, START, END) for path, part in parts.items()}
    points = {
        name: list(zip(change(recorded, name, ZH), change(recorded, name, EN), strict=True))
        for name in recorded["study"]["variants"]
    }
    axes = ("Chinese bits per byte, % change", "English bits per byte, % change")
    picture = draw("Chinese learned and English kept", axes, points, (0.0, 0.0), start="base model")
    return written | {PICTURE: picture}


def load() -> dict[str, Recorded]:
    """Name of the workspace -> what is kept of its study."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(DATA.glob("*.json"))}


if __name__ == "__main__":
    take_and_write(__doc__, collect, lambda: files(load()))

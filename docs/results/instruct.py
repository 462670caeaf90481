"""Write the page on SmolLM2-135M-Instruct in Chinese, its pictures and its lines of the index, from the runs' results.

    python docs/results/instruct.py                         # the pages again, from docs/results/data/instruct
    python docs/results/instruct.py runs/assistant/keep     # take the finished runs of the study first

A test compares the files with what this would write.
"""

import itertools
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from plane import amount, draw, take_and_write
from write import MACHINE, replace

from reprise.evaluation.paired import mean_interval
from reprise.evaluation.results import CurvePoint, Results
from reprise.study import load_study

HERE = Path(__file__).resolve().parent
STUDY = HERE.parents[1] / "examples" / "studies" / "assistant" / "keep.study.yaml"
DATA = HERE / "data" / "instruct"
STUDIED, FIRST_TRY = "keep", "rate-5e-4"
PAGE, INDEX = HERE / "smollm2-instruct.md", HERE / "README.md"
START, END = "<!-- written by docs/results/instruct.py -->", "<!-- end of what instruct.py writes -->"
BASELINE, PROBE = "plain", "instructions-en"


ZH, EN = "zh", "en"
HALF, DIFFERENCE = "plain, merged by half", "base and difference"
KEEP = ("plain", "5 percent conversations", "20 percent conversations", "lora rank 64", HALF, DIFFERENCE)
PLANE = ("plain", "lora rank 64", HALF)
DIAGRAMS = {
    "kept": HERE / "smollm2-instruct-kept.svg",
    "plane": HERE / "smollm2-instruct-plane.svg",
}


class Measured(TypedDict):
    """One model."""

    bits_per_byte: dict[str, float]
    """Entry of the mixture -> bits per byte of its held-out text."""
    probe: float | None
    """Share of the probe's questions that were answered as asked; null if they were not asked."""


class Added(TypedDict):
    """Runs that a workspace added to those of an earlier one."""

    commit: str
    date: str
    runs: list[str]


class Recorded(TypedDict):
    """What is kept of the runs of a study."""

    commit: str
    date: str
    added: list[Added]
    before: Measured
    """The instruct model."""
    stand_in: Measured | None
    """What stands for its base model."""
    questions: int
    """Questions of the probe."""
    documents: dict[str, int]
    """Entry -> held-out documents."""
    tokens: dict[str, int]
    """Variant -> tokens of a run."""
    variants: dict[str, dict[str, Measured]]
    """Variant -> seed -> the model that its run ended with; merges have names of their own."""


def measured(point: CurvePoint) -> Measured:
    """What is kept of a point of the curve."""
    return {"bits_per_byte": point["bits_per_byte"], "probe": point["scores"].get(PROBE)}


def same(one: Measured, other: Measured) -> bool:
    """Whether two measurements are of one model on one text: a thousandth apart at most."""
    names, values = one["bits_per_byte"].keys(), other["bits_per_byte"]
    close = names == values.keys() and all(abs(one["bits_per_byte"][name] - values[name]) < 1e-3 for name in names)
    return close and abs((one["probe"] or 0.0) - (other["probe"] or 0.0)) < 1e-3


def collect(workspace: Path) -> None:
    """Keep the finished runs of a study beside those that are kept already, which may be of another machine.

    The commit is the one that was current when the first run of the workspace began.
    """
    study = load_study(STUDY)
    path = DATA / f"{workspace.name}.json"
    kept: Recorded | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    begun = min(path.stat().st_mtime for path in workspace.glob("*/*/manifest.json"))
    command = ["git", "rev-list", "-1", "--abbrev-commit", f"--before={int(begun)}", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE).stdout.strip()
    date = time.strftime("%Y-%m-%d", time.gmtime(begun))
    recorded: Recorded = kept or {
        "commit": commit,
        "date": date,
        "added": [],
        "before": {"bits_per_byte": {}, "probe": None},
        "stand_in": None,
        "questions": 0,
        "documents": {},
        "tokens": {},
        "variants": {},
    }
    new = []
    for variant, seed in itertools.product(study.variants, study.seeds):
        run = workspace / f"{variant}-seed-{seed}"
        if not (run / "evaluate" / "results.json").is_file():
            print(f"left out, since it is not finished: {run}")
            continue
        if str(seed) not in recorded["variants"].get(variant, {}):
            new.append(run.name)
        results: Results = json.loads((run / "evaluate" / "results.json").read_text(encoding="utf-8"))
        points = {point["kind"]: measured(point) for point in results["curve"]}
        end = points["checkpoint"]
        start, known = points["base"], recorded["stand_in" if variant == DIFFERENCE else "before"]
        if kept is not None and known is not None and not same(known, start):
            raise SystemExit(f"{run} began with another model or text than the runs that are kept: {start}, {known}")
        if variant == DIFFERENCE:
            recorded["stand_in"], end = start, points["chat"]
        else:
            recorded["before"] = start
            recorded["documents"] = {
                row["entry"]: row["documents"] for row in results["bits_per_byte"] if row["source"] is None
            }
        for row in results["benchmarks"]:
            recorded["questions"] = row["questions"]
        recorded["variants"].setdefault(variant, {})[str(seed)] = end
        if variant == BASELINE:
            recorded["variants"].setdefault(HALF, {})[str(seed)] = points["merge"]
        manifest = json.loads((run / "train-1" / "manifest.json").read_text(encoding="utf-8"))
        recorded["tokens"][variant] = manifest["counts"]["tokens"]
    if kept is not None and new:
        recorded["added"].append({"commit": commit, "date": date, "runs": new})
    DATA.mkdir(parents=True, exist_ok=True)
    text = json.dumps(recorded, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def load() -> dict[str, Recorded]:
    """Name of the workspace -> what is kept of its runs."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(DATA.glob("*.json"))}


def present(recorded: Recorded, names: Sequence[str]) -> list[str]:
    """The variants with a finished run."""
    return [name for name in names if name in recorded["variants"]]


def change(recorded: Recorded, entry: str) -> Callable[[Measured], float]:
    """Change of the bits per byte of an entry since the instruct model, in per cent."""
    before = recorded["before"]["bits_per_byte"][entry]
    return lambda one: 100 * (one["bits_per_byte"][entry] / before - 1)


def probe(one: Measured) -> float:
    """Questions answered as asked, in per cent."""
    return 100 * (one["probe"] or 0.0)


def values(recorded: Recorded, variant: str, of: Callable[[Measured], float]) -> list[float]:
    """One value for each seed."""
    return [of(one) for _, one in sorted(recorded["variants"][variant].items())]


def difference(recorded: Recorded, variant: str, of: Callable[[Measured], float]) -> list[float]:
    """The difference from the baseline with the same seed, for each seed that both have."""
    own, other = recorded["variants"][variant], recorded["variants"][BASELINE]
    return [of(own[seed]) - of(other[seed]) for seed in sorted(own.keys() & other.keys())]


def table(recorded: Recorded, names: Sequence[str], entries: Sequence[str], with_probe: bool) -> list[str]:
    """A line for each variant: its change since the instruct model, and its difference from the baseline."""
    columns = [f"{entry}, bits per byte" for entry in entries]
    head = ["variant", "tokens", *columns, *(["probe, %"] if with_probe else [])]
    versus = [f"{column}, points against plain" for column in [*entries, *(["probe"] if with_probe else [])]]
    lines = [f"| {' | '.join([*head, *versus])} |", "|---" * (len(head) + len(versus)) + "|"]
    of = [*(change(recorded, entry) for entry in entries), *([probe] if with_probe else [])]
    before = [f"{recorded['before']['bits_per_byte'][entry]:.4f}" for entry in entries]
    before += [f"{probe(recorded['before']):.1f}"] if with_probe else []
    lines.append(f"| instruct model | 0 | {' | '.join(before)} |{' |' * len(versus)}")
    if with_probe and (stand_in := recorded["stand_in"]) is not None:
        cells = [f"{one(stand_in):+.2f} %" for one in of[:-1]] + [f"{probe(stand_in):.1f}"]
        lines.append(f"| stand-in for its base model | | {' | '.join(cells)} |{' |' * len(versus)}")
    for name in names:
        own = [f"{statistics.fmean(values(recorded, name, one)):+.2f} %" for one in of[: len(entries)]]
        if with_probe:
            each = values(recorded, name, probe)
            own.append(f"{statistics.fmean(each):.1f} ({', '.join(f'{value:.0f}' for value in each)})")
        against = [amount(difference(recorded, name, one), 2) if name != BASELINE else "" for one in of]
        tokens = recorded["tokens"].get(name)
        lines.append(f"| {' | '.join([name, '' if tokens is None else f'{tokens:,}', *own, *against])} |")
    return lines


def kept_answer(recorded: Recorded) -> str:
    """What the probe says about each way, in a sentence."""
    names = [name for name in present(recorded, KEEP) if name != BASELINE]
    shown = []
    for name in names:
        mean, ci = mean_interval(difference(recorded, name, probe))
        if ci is not None and ci[0] > 0:
            shown.append(f"{name} ({mean:+.1f} points)")
    lost = statistics.fmean(values(recorded, BASELINE, probe)) - probe(recorded["before"])
    text = f"plain pre-training changed the probe by {lost:+.1f} points; "
    return text + (f"above it: {', '.join(shown)}" if shown else "no way is shown to be above it")


def plane_answer(recorded: Recorded) -> str:
    """Whether the adapters learn less and forget less than full training."""
    parts = []
    for name in present(recorded, PLANE):
        if not name.startswith("lora"):
            continue
        words = []
        for entry, less in ((ZH, "learned less"), (EN, "forgot more")):
            mean, ci = mean_interval(difference(recorded, name, change(recorded, entry)))
            clear = ci is not None and (ci[0] > 0 or ci[1] < 0)
            opposite = {"learned less": "learned more", "forgot more": "forgot less"}[less]
            words.append((less if mean > 0 else opposite) if clear else f"no difference shown in {entry}")
        parts.append(f"{name}: {', '.join(words)}")
    return "; ".join(parts)


def pictures(recorded: Recorded) -> dict[Path, str]:
    """File -> picture."""
    zh, en = change(recorded, ZH), change(recorded, EN)
    drawn = {}
    for key, names, other, title, label in (
        ("kept", KEEP, probe, "Chinese learned and instructions followed", "probe, % answered as asked"),
        ("plane", PLANE, en, "Chinese learned and English kept", "English bits per byte, % change"),
    ):
        points = {
            name: list(zip(values(recorded, name, zh), values(recorded, name, other), strict=True))
            for name in present(recorded, names)
        }
        start = (0.0, other(recorded["before"]))
        drawn[DIAGRAMS[key]] = draw(title, ("Chinese bits per byte, % change", label), points, start)
    return drawn


def results(studies: Mapping[str, Recorded]) -> str:
    """The part of the page that is written from the runs."""
    recorded = studies[STUDIED]
    documents = ", ".join(f"{name} {count}" for name, count in recorded["documents"].items())
    counts = {len(runs) for runs in recorded["variants"].values()}
    seeds = str(max(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}, as the table shows"
    later = "".join(
        f" Run later, at commit {added['commit']} on {added['date']}: {', '.join(added['runs'])}."
        for added in recorded["added"]
    )
    lines = [
        f"Commit {recorded['commit']}, {recorded['date']}, {MACHINE}.{later} Seeds: {seeds}. "
        f"Held-out documents: {documents}. Questions of the probe: {recorded['questions']}. "
        "Changes are relative to the instruct model; differences are paired by seed, with Student's 95 % interval. "
        "Circles of the pictures are seeds; intervals of two seeds are wider than a picture and left out of it.",
        "",
        f"### What keeps the assistant\n\n**{kept_answer(recorded).capitalize()}.**\n",
        f"![Chinese learned and instructions followed]({DIAGRAMS['kept'].name})\n",
        *table(recorded, present(recorded, KEEP), [ZH, EN], with_probe=True),
    ]
    if plane_answer(recorded):
        lines += [
            "",
            f"### Adapters: do they learn less and forget less?\n\n**{plane_answer(recorded).capitalize()}.**\n",
            f"![Chinese learned and English kept]({DIAGRAMS['plane'].name})\n",
            *table(recorded, present(recorded, PLANE), [ZH, EN], with_probe=False),
        ]
    if (first := studies.get(FIRST_TRY)) is not None:
        lines += [
            "",
            f"### The first try, with a rate of 5e-4\n\nCommit {first['commit']}, {first['date']}.\n",
            *table(first, present(first, (BASELINE, HALF)), [ZH, EN], with_probe=True),
        ]
    return "\n".join(lines) + "\n"


def index(studies: Mapping[str, Recorded]) -> str:
    """The lines of the index."""
    recorded = studies[STUDIED]
    answers = {
        "What keeps the instruction following of an instruct model that learns Chinese?": kept_answer(recorded),
        "Do adapters learn less and forget less than full training?": plane_answer(recorded),
    }
    lines = ["| question | answer | page and command | commit |", "|---|---|---|---|"]
    where = f"[page]({PAGE.name}), `reprise study {STUDY.relative_to(HERE.parents[1])}`"
    lines += [
        f"| {question} | {answer} | {where} | {recorded['commit']} |" for question, answer in answers.items() if answer
    ]
    return "\n".join(lines) + "\n"


def files(studies: Mapping[str, Recorded]) -> dict[Path, str]:
    """File -> its content."""
    parts = {PAGE: results(studies), INDEX: index(studies)}
    written = {path: replace(path.read_text(encoding="utf-8"), part, START, END) for path, part in parts.items()}
    return written | pictures(studies[STUDIED])


if __name__ == "__main__":
    take_and_write(__doc__, collect, lambda: files(load()))

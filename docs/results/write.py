"""Write the results of the claims and the topic rule, their pictures and lines of the index from the studies' JSON.

    python docs/results/write.py                         # the pages again, from docs/results/data
    python docs/results/write.py runs/claims/questions   # take a finished study's study.json first

A test compares the files with what this would write.
"""

import argparse
import json
import math
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict
from xml.sax.saxutils import escape

from reprise.evaluation.paired import detectable_difference, mean_interval, smallest_error
from reprise.evaluation.verdicts import holm_levels
from reprise.report.study_records import StudyResult

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
PAGE, INDEX = HERE / "five-claims.md", HERE / "README.md"
START, END = "<!-- written by docs/results/write.py -->", "<!-- end of what it writes -->"
MACHINE = "2 cores, 24 GB, no GPU"


class Recorded(TypedDict):
    """A study with where it comes from."""

    study: StudyResult
    commit: str
    date: str


@dataclass(frozen=True)
class Comparison:
    """Per seed, how much better one variant is than another: positive as claimed."""

    better: str
    worse: str
    measure: str
    study: str | None = None
    """The study of these variants; None: the claim's own."""
    decides: bool = False
    """Whether the verdict depends on it, as said before the runs."""
    less: tuple[str, float] | None = None
    """Minus the advantage of `better` over this variant, times the factor: the comparison of two damages."""

    def label(self) -> str:
        """What is compared."""
        if self.less is not None:
            return f"{self.factor():.2f} of the loss at {self.worse}, minus the loss at {self.less[0]}"
        return f"{self.better} against {self.worse}"

    def factor(self) -> float:
        """What the advantage over `worse` is multiplied by."""
        return 1.0 if self.less is None else self.less[1]

    def values(self, study: StudyResult) -> list[float]:
        """One for each seed: relative for bits per byte, else a difference of shares."""
        values = self._advantages(study, self.worse)
        if self.less is None:
            return values
        others = self._advantages(study, self.less[0])
        return [self.less[1] * one - other for one, other in zip(values, others, strict=True)]

    def _advantages(self, study: StudyResult, worse: str) -> list[float]:
        comparison = study["measures"][self.measure]
        one, other = (comparison["variants"][name]["values"] for name in (self.better, worse))
        if comparison["higher_is_better"]:
            return [mine - theirs for mine, theirs in zip(one, other, strict=True)]
        return [1 - mine / theirs for mine, theirs in zip(one, other, strict=True)]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and what was decided before the runs."""

    number: int
    title: str
    question: str
    study: str
    pictured: str
    """The measure of the picture."""
    variants: list[str]
    """The variants of the picture and the table, in their order; empty: the picture has the comparisons."""
    comparisons: list[Comparison]
    limits: str
    """What the result does not show."""


_ACCURACY, _GOLD = "benchmark/arithmetic", "bits_per_byte/en/gold"
_TEXTS = ("ordinary", "synthetic/math", "synthetic/qa_forum", "en/paper", "en/code", "en")
_MORE = (_ACCURACY, *(f"bits_per_byte/{name}" for name in _TEXTS))
_ZH = "bits_per_byte/zh"
_SMALL = "Anything about models that are larger or were trained longer."
_POLICIES = ("topic_perplexity, every difference", "ado", "bandit", "velocity")

CLAIMS = [
    Claim(
        1,
        "synthetic data helps",
        "Does a fifth of question-answer text help, on equal tokens?",
        "questions",
        _GOLD,
        ["0 percent", "20 percent"],
        [
            Comparison("20 percent", "0 percent", _GOLD, decides=True),
            *(Comparison("20 percent", "0 percent", measure) for measure in _MORE),
        ],
        "That text written by a model helps: real and generated questions stand in for it. The right answers become "
        "likelier also if only their form was learned, numbers of one or two digits; the accuracy says how much more "
        f"was. {_SMALL}",
    ),
    Claim(
        2,
        "up to 30 % wrong answers cost little, over 50 % much",
        "What do wrong answers in the generated questions cost?",
        "questions",
        _GOLD,
        ["20 percent", "30 percent wrong", "50 percent wrong", "70 percent wrong"],
        [
            Comparison("20 percent", "70 percent wrong", _GOLD, decides=True),
            Comparison("20 percent", "70 percent wrong", _GOLD, decides=True, less=("30 percent wrong", 3 / 7)),
            *(Comparison("20 percent", name, _GOLD) for name in ("30 percent wrong", "50 percent wrong")),
            *(Comparison("20 percent", name, _ACCURACY) for name in ("30 percent wrong", "70 percent wrong")),
            Comparison("20 percent", "70 percent wrong", "bits_per_byte/ordinary"),
        ],
        "The effect of wrong answers that are consistent: here they are slips by 1 or 2, drawn for each "
        f"question, so that the right answer stays the most frequent one even at 70 %. {_SMALL}",
    ),
    Claim(
        3,
        "a share of 20 % is best",
        "Is a share of 20 % of question-answer text better than 10 % and 40 %?",
        "questions",
        _GOLD,
        ["0 percent", "10 percent", "20 percent", "40 percent"],
        [
            Comparison("20 percent", "10 percent", _GOLD, decides=True),
            Comparison("20 percent", "40 percent", _GOLD, decides=True),
            *(Comparison("20 percent", name, measure) for measure in _MORE for name in ("10 percent", "40 percent")),
        ],
        "The best share of a long run: in a short one, more of the generated questions only repeats each fact more "
        f"often. {_SMALL}",
    ),
    Claim(
        4,
        "an order from easy to hard helps",
        "Is an order from easy to hard better than a random one, on the same documents?",
        "order",
        _ZH,
        [],
        [
            Comparison("easy to hard", "random", _ZH, decides=True),
            Comparison("easy to hard, stronger scorer", "random", _ZH),
            Comparison("segments", "random", _ZH),
            Comparison("cyclic", "random", _ZH),
            Comparison("easy to hard, decay", "random, decay", _ZH, study="order-schedule"),
            Comparison("easy to hard, averaged", "random, averaged", _ZH, study="order-schedule"),
            *(
                Comparison("easy to hard", "random", f"{_ZH}/{kind}")
                for kind in ("web", "encyclopedia", "book", "qa_forum")
            ),
        ],
        "The effect over many passes, or with a scorer that is strong by any other standard than ours: both are of "
        f"the size of the trained model. {_SMALL}",
    ),
    Claim(
        5,
        "mixing disciplines beats one after the other",
        "Is mixing three disciplines better than one after the other?",
        "disciplines",
        "bits_per_byte/disciplines",
        ["mixed", "math then paper then code", "code then paper then math"],
        [
            *(
                Comparison("mixed", name, "bits_per_byte/disciplines", decides=True)
                for name in ("math then paper then code", "code then paper then math")
            ),
            *(
                Comparison("mixed", name, f"bits_per_byte/disciplines/{kind}")
                for kind in ("math", "paper", "code")
                for name in ("math then paper then code", "code then paper then math")
            ),
        ],
        "The effect on benchmarks, or with the paper's nine disciplines: three kinds of real text stand in for them, "
        f"and the base model had read all three. {_SMALL}",
    ),
    Claim(
        6,
        "topic shares that follow perplexity help",
        "Do topic shares that follow perplexity beat fixed shares?",
        "topics",
        _ZH,
        ["static", "topic_perplexity", *_POLICIES],
        [
            Comparison("topic_perplexity", "static", _ZH, decides=True),
            *(Comparison(name, "static", _ZH) for name in _POLICIES),
            *(
                Comparison("topic_perplexity", "static", f"{_ZH}/web/{topic}")
                for topic in ("web", "encyclopedia", "book", "qa_forum", "sums", "shuffled")
            ),
        ],
        "What a policy does with a hundred topics that resemble each other, with other constants, or over many more "
        f"updates than 25. {_SMALL}",
    ),
]


@dataclass(frozen=True)
class Measured:
    """A comparison with its numbers."""

    comparison: Comparison
    values: list[float]
    mean: float
    ci: tuple[float, float] | None
    detectable: float | None
    error: float
    is_shown: bool
    """Whether the difference is shown; for one that decides, by Holm's rule among those of its claim."""


def collect(workspace: Path) -> None:
    """Copy the result of a study, with the commit that was current when its first stage was done, and the date."""
    study = json.loads((workspace / "study.json").read_text(encoding="utf-8"))
    begun = min(path.stat().st_mtime for path in workspace.glob("*/*/manifest.json"))
    command = ["git", "rev-list", "-1", "--abbrev-commit", f"--before={int(begun)}", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE).stdout.strip()
    date = time.strftime("%Y-%m-%d", time.gmtime(begun))
    recorded: Recorded = {"study": study, "commit": commit, "date": date}
    DATA.mkdir(exist_ok=True)
    text = json.dumps(recorded, indent=1, ensure_ascii=False) + "\n"
    (DATA / f"{workspace.name}.json").write_text(text, encoding="utf-8")


def load() -> dict[str, Recorded]:
    """Name -> study."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(DATA.glob("*.json"))}


def measure(claim: Claim, studies: Mapping[str, Recorded]) -> list[Measured]:
    """The comparisons of a claim whose studies are here."""
    present = [one for one in claim.comparisons if (one.study or claim.study) in studies]
    values = [one.values(studies[one.study or claim.study]["study"]) for one in present]
    errors = [smallest_error(each) for each in values]
    deciding = [index for index, one in enumerate(present) if one.decides]
    levels = dict(zip(deciding, holm_levels([errors[index] for index in deciding]), strict=True))
    measured = []
    for index, (one, each) in enumerate(zip(present, values, strict=True)):
        mean, ci = mean_interval(each)
        is_shown = errors[index] <= levels.get(index, 0.05)
        measured.append(Measured(one, each, mean, ci, detectable_difference(each), errors[index], is_shown))
    return measured


def verdict(measured: Sequence[Measured]) -> str:
    """The rule written before the runs: opposite if one deciding comparison is, confirmed if all are as claimed."""
    signs = [(one.mean > 0) - (one.mean < 0) if one.is_shown else 0 for one in measured if one.comparison.decides]
    if min(signs) < 0:
        return "opposite here"
    return "confirmed here" if min(signs) > 0 else "not seen here"


def amount(value: float, one: Comparison) -> str:
    """A difference: points of accuracy, or per cent of bits per byte."""
    return f"{100 * value:+.2f} {'points' if one.measure == _ACCURACY else '%'}"


def interval(one: Measured) -> str:
    """Its 95 % interval."""
    return "one seed" if one.ci is None else f"{100 * one.ci[0]:+.2f} to {100 * one.ci[1]:+.2f}"


def claim_section(claim: Claim, studies: Mapping[str, Recorded]) -> str:
    """Everything about a claim."""
    head = f"### Claim {claim.number}: {claim.title}\n\n"
    if claim.study not in studies:
        return f"{head}**Not run.** Command: `{command(claim.study)}`.\n"
    measured = measure(claim, studies)
    deciding = [one for one in measured if one.comparison.decides]
    numbers = "; ".join(
        f"{one.comparison.label()}: {amount(one.mean, one.comparison)} ({interval(one)})" for one in deciding
    )
    recorded = studies[claim.study]
    lines = [
        f"{head}**{verdict(measured).capitalize()}.** {measure_name(deciding[0].comparison.measure)}; {numbers}.\n",
        f"![{claim.title}](five-claims-{claim.number}.svg)\n",
        "Dot and line: mean and 95 % interval over the seeds (circles); their differences scatter less.\n"
        if claim.variants
        else "Dot and line: mean and 95 % interval over the seeds (circles).\n",
        "Positive: as claimed. Bold: decides the verdict.\n",
        "| better? | measure | mean | 95 % interval | each seed | detectable |",
        "|---|---|---:|---:|---:|---:|",
        *(row(one) for one in measured),
        "",
        f"*Does not show*: {claim.limits}",
    ]
    if claim.variants:
        lines += ["", *value_table(claim, recorded["study"])]
    absent = sorted({one.study for one in claim.comparisons if one.study and one.study not in studies})
    lines += [f"\nNot run: {name} (`{command(name)}`)." for name in absent]
    return "\n".join(lines) + "\n"


def row(one: Measured) -> str:
    """A line of the table of comparisons."""
    mark = "**" if one.comparison.decides else ""
    each = ", ".join(f"{100 * value:+.2f}" for value in one.values)
    seen = "" if one.detectable is None else f"{100 * one.detectable:.2f}"
    name = measure_name(one.comparison.measure)
    return (
        f"| {mark}{one.comparison.label()}{mark} | {name} | {amount(one.mean, one.comparison)} | {interval(one)} "
        f"| {each} | {seen} |"
    )


def value_table(claim: Claim, study: StudyResult) -> list[str]:
    """The mean of each variant on each measure of the claim."""
    measures = list(dict.fromkeys(one.measure for one in claim.comparisons))
    lines = [f"| mean | {' | '.join(claim.variants)} |", f"|---|{'---:|' * len(claim.variants)}"]
    for name in measures:
        means = [study["measures"][name]["variants"][variant]["mean"] for variant in claim.variants]
        cells = [f"{100 * mean:.1f} %" if name == _ACCURACY else f"{mean:.4f}" for mean in means]
        lines.append(f"| {measure_name(name)} | {' | '.join(cells)} |")
    return lines


def measure_name(name: str) -> str:
    """A measure in words."""
    if name == _ACCURACY:
        return "accuracy on held-out questions"
    if name == _GOLD:
        return "gold answers, bits per byte"
    return f"{name.removeprefix('bits_per_byte/')}, bits per byte"


def command(study: str) -> str:
    """What runs a study."""
    return f"reprise study examples/studies/claims/{study}.study.yaml"


_STYLE = """text{font:13px system-ui,sans-serif;fill:#1f2328}.axis{stroke:#8c959f}.mean{fill:#0969da}
.bar{stroke:#0969da;stroke-width:2}.seed{fill:none;stroke:#8c959f;stroke-width:1.5}@media(prefers-color-scheme:dark){text{fill:#e6edf3}
.mean{fill:#4493f8}.bar{stroke:#4493f8}}"""


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two values: two to five of them."""
    power = 10 ** math.floor(math.log10(high - low))
    step = next(power * part for part in (0.2, 0.5, 1, 2, 5) if (high - low) / (power * part) < 5.5)
    return [round(step * index, 10) for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def draw(title: str, rows: Sequence[tuple[str, Sequence[float]]], unit: str, zero: bool) -> str:
    """A picture: each row with its seeds as circles, their mean as a dot, and its 95 % interval as a line."""
    left, width, top, step = 250, 420, 34, 30
    intervals = [mean_interval(values) for _, values in rows]
    ends = [end for (_, ci), (_, values) in zip(intervals, rows, strict=True) for end in (*(ci or ()), *values)]
    low, high = min(ends + [0.0] * zero), max(ends + [0.0] * zero)
    margin = 0.06 * (high - low) or 1.0
    low, high = low - margin, high + margin
    height = top + step * len(rows) + 34

    def x(value: float) -> float:
        return round(left + width * (value - low) / (high - low), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 40} {height}" role="img" '
        f'aria-label="{escape(title, {chr(34): "&quot;"})}">',
        f"<style>{_STYLE}</style>",
        f'<text x="0" y="16">{escape(title)}</text>',
    ]
    bottom = top + step * len(rows)
    parts += [f'<line class="axis" x1="{left}" x2="{left + width}" y1="{bottom}" y2="{bottom}"/>']
    if zero:
        parts += [f'<line class="axis" x1="{x(0)}" x2="{x(0)}" y1="{top - 8}" y2="{bottom}"/>']
    for value in ticks(low, high):
        parts += [f'<line class="axis" x1="{x(value)}" x2="{x(value)}" y1="{bottom}" y2="{bottom + 4}"/>']
        parts += [f'<text x="{x(value)}" y="{bottom + 19}" text-anchor="middle">{value:g}{unit and " " + unit}</text>']
    for index, ((label, values), (mean, ci)) in enumerate(zip(rows, intervals, strict=True)):
        y = top + step * index + 10
        parts += [f'<text x="{left - 12}" y="{y + 4}" text-anchor="end">{escape(label)}</text>']
        if ci is not None:
            parts += [f'<line class="bar" x1="{x(ci[0])}" x2="{x(ci[1])}" y1="{y}" y2="{y}"/>']
        parts += [f'<circle class="seed" cx="{x(value)}" cy="{y}" r="4"/>' for value in values]
        parts += [f'<circle class="mean" cx="{x(mean)}" cy="{y}" r="4.5"/>']
    return "\n".join([*parts, "</svg>"]) + "\n"


def picture(claim: Claim, studies: Mapping[str, Recorded]) -> str:
    """The values of the variants, or the differences where the variants have different partners."""
    name = measure_name(claim.pictured)
    if claim.variants:
        variants = studies[claim.study]["study"]["measures"][claim.pictured]["variants"]
        scale = 100 if claim.pictured == _ACCURACY else 1
        rows = [(one, [scale * value for value in variants[one]["values"]]) for one in claim.variants]
        return draw(name, rows, "%" if scale == 100 else "", zero=False)
    same = [one for one in measure(claim, studies) if one.comparison.measure == claim.pictured]
    rows = [(one.comparison.better, [100 * value for value in one.values]) for one in same]
    return draw(f"{name}: better than its random partner by", rows, "%", zero=True)


def results(studies: Mapping[str, Recorded]) -> str:
    """The results of the page."""
    sections = [claim_section(claim, studies) for claim in CLAIMS]
    runs = [
        f"`{command(name)}`: {len(one['study']['variants'])} variants, {len(one['study']['seeds'])} seeds, "
        f"commit {one['commit']}, {one['date']}, {MACHINE}."
        for name, one in studies.items()
    ]
    return "\n".join([*runs, "", *sections])


def index(studies: Mapping[str, Recorded]) -> str:
    """The lines of the index."""
    lines = ["| question | answer | figure | page and command | commit |", "|---|---|---|---|---|"]
    for claim in CLAIMS:
        link = f"[claim {claim.number}](five-claims.md)"
        if claim.study not in studies:
            lines.append(f"| {claim.question} | not run | | {link}, `{command(claim.study)}` | |")
            continue
        measured = measure(claim, studies)
        first = next(one for one in measured if one.comparison.decides)
        one = first.comparison
        figure = f"{one.label()}: {measure_name(one.measure)} {amount(first.mean, one)} ({interval(first)}), "
        figure += f"{len(first.values)} seeds; positive is as claimed"
        recorded = studies[claim.study]
        lines.append(
            f"| {claim.question} | {verdict(measured)} | {figure} | {link}, `{command(claim.study)}` "
            f"| {recorded['commit']} |"
        )
    return "\n".join(lines) + "\n"


def replace(text: str, new: str, start: str = START, end: str = END) -> str:
    """A page with what is written between its marks."""
    head, rest = text.split(start + "\n")
    return f"{head}{start}\n{new}{end}\n{rest.split(end + chr(10))[1]}"


def files(studies: Mapping[str, Recorded]) -> dict[Path, str]:
    """File -> its content."""
    written = {
        PAGE: replace(PAGE.read_text(encoding="utf-8"), results(studies)),
        INDEX: replace(INDEX.read_text(encoding="utf-8"), index(studies)),
    }
    for claim in CLAIMS:
        if claim.study in studies:
            written[HERE / f"five-claims-{claim.number}.svg"] = picture(claim, studies)
    return written


def main() -> None:
    """Take new studies, and write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspaces", nargs="*", type=Path, metavar="WORKSPACE", help="finished studies to take")
    for workspace in parser.parse_args().workspaces:
        collect(workspace)
    for path, text in files(load()).items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(HERE.parents[1]))


if __name__ == "__main__":
    main()

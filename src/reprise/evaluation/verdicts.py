"""What was gained, kept and lost: verdicts that are valid jointly, and how they are worded.

A verdict is given if the whole interval supports it. All measures of a report are judged as one family by Holm's
step-down rule (Scandinavian Journal of Statistics 6, 1979): the probability that any verdict of the report is wrong is
at most 5 %, however many rows it has. A verdict that depends on one document is not given. Rows that are not judged,
such as topics, are described by their intervals only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from reprise.evaluation.intervals import Estimate
from reprise.evaluation.results import Untested, Verdict, VerdictWord
from reprise.recipe.languages.packs import english_name

FAMILY_ERROR = 0.05
"""Probability that any verdict of a report is wrong."""

VERDICTS: tuple[VerdictWord, ...] = ("gained", "kept", "lost", "undecided")


@dataclass(frozen=True)
class Judgement:
    """The verdict on one estimate, given the others of its report."""

    verdict: VerdictWord
    error: float | None
    """Share of the family's error that Holm's rule leaves to this verdict; None if no interval can be given."""
    ci: tuple[float, float] | None
    """The interval at that error, which decides."""
    reason: str | None
    """Why it is undecided."""


def judge_all(measures: Sequence[tuple[Estimate, float | None]]) -> list[Judgement]:
    """Judge the estimates of a report with their tolerances, all as one family."""
    tested = [index for index, (estimate, _) in enumerate(measures) if estimate.problem is None]
    levels = holm_levels([smallest_error(*measures[index]) for index in tested])
    allowed = dict(zip(tested, levels, strict=True))
    return [_judge_one(*measure, allowed.get(index), len(tested)) for index, measure in enumerate(measures)]


def holm_levels(errors: Sequence[float]) -> list[float]:
    """The part of FAMILY_ERROR that is left to each verdict; a verdict is valid if its own error is at most that.

    Args:
        errors: the smallest error of each verdict.
    """
    levels = [FAMILY_ERROR] * len(errors)
    stopped = False
    level = FAMILY_ERROR
    for rank, index in enumerate(sorted(range(len(errors)), key=lambda index: errors[index])):
        if not stopped:
            level = FAMILY_ERROR / (len(errors) - rank)
            stopped = errors[index] > level
        levels[index] = level
    return levels


def smallest_error(estimate: Estimate, tolerance: float | None) -> float:
    """The smallest error at which the interval still supports a verdict: the p-value of the verdict."""
    bound = _rise(tolerance or 0.0, estimate.better)
    rise = _rise(estimate.center, estimate.better)
    if rise > (tolerance or 0.0):
        return estimate.error_at(bound)
    if rise == 0.0 and estimate.standard_error == 0.0:
        return 0.0  # nothing changed at all
    errors = [estimate.error_at(bound)] if tolerance else []
    return min(errors + ([estimate.error_at(0.0)] if rise < 0 else []), default=1.0)


def _rise(value: float, better: Literal["lower", "higher"]) -> float:
    """A change with its sign flipped so that a rise is worse; applied twice, it is the change again."""
    return value if better == "lower" else -value


def judge(
    ci: tuple[float, float] | None, tolerance: float | None, *, better: Literal["lower", "higher"]
) -> VerdictWord:
    """The verdict that the whole interval supports.

    gained: all of it is better than no change. kept: all of it is within the tolerance. lost: all of it is worse than
    the tolerance, or than no change if no tolerance is set. Everything else is undecided.
    """
    if ci is None:
        return "undecided"
    low, high = ci if better == "lower" else (-ci[1], -ci[0])
    if high < 0:
        return "gained"
    if high <= (tolerance or 0.0):
        return "kept"
    if low > (tolerance or 0.0):
        return "lost"
    return "undecided"


def _judge_one(estimate: Estimate, tolerance: float | None, error: float | None, family: int) -> Judgement:
    if error is None:
        return Judgement("undecided", None, None, estimate.problem)
    ci = estimate.interval(error)
    verdict = judge(ci, tolerance, better=estimate.better)
    assert ci is not None
    if verdict != "undecided":
        return _unless_one_decides(verdict, estimate, tolerance, error, ci)
    alone = judge(estimate.interval(FAMILY_ERROR), tolerance, better=estimate.better)
    span = f"the change lies between {percent(ci[0], estimate.better)} and {percent(ci[1], estimate.better)}"
    if alone != "undecided":
        reason = f"alone it would be {alone}, but among {family} verdicts {span}"
    elif tolerance is None:
        reason = f"{span}, and no tolerance is set for it"
    else:
        reason = f"{span}, so it is not known whether it is within the tolerance"
    return Judgement("undecided", error, ci, reason)


def _unless_one_decides(
    verdict: VerdictWord, estimate: Estimate, tolerance: float | None, error: float, ci: tuple[float, float]
) -> Judgement:
    """The verdict if the change stays on its side of the bound whichever document is skipped; else undecided."""
    if estimate.without_one is None:
        return Judgement(verdict, error, ci, None)
    low, high = estimate.without_one
    words: list[VerdictWord] = ["gained", "kept"] if verdict == "gained" and tolerance else [verdict]
    for word in words:
        limit = 0.0 if word == "gained" else tolerance or 0.0
        if low > limit if word == "lost" else high <= limit:
            return Judgement(word, error, ci, None)
    rest = percent(low if verdict == "lost" else high, estimate.better)
    reason = f"it hangs on one of {estimate.items} documents: of the others the change is {rest}"
    return Judgement("undecided", error, ci, reason)


def percent(change: float, better: Literal["lower", "higher"]) -> str:
    """A change with its sign and unit: per cent of bits per byte, points of a score."""
    return f"{100 * change:+.1f} {'%' if better == 'lower' else 'points'}"


def headline(verdicts: Sequence[Verdict], untested: Sequence[Untested] = ()) -> str:
    """The verdicts in one line, such as:

    `gained Chinese (bits per byte fell by 12.3 %); kept English (bits per byte rose by 0.4 %, tolerance 2 %);
    lost nothing of what was measured. Bits per byte: lower is better.`
    """
    line = "; ".join(text for _, text in headline_parts(verdicts, untested))
    if any(entry["kind"] == "bits_per_byte" for entry in verdicts):
        line += ". Bits per byte: lower is better."
    return line


def headline_parts(
    verdicts: Sequence[Verdict], untested: Sequence[Untested] = ()
) -> list[tuple[VerdictWord | Literal["none"], str]]:
    """The parts of the headline, each with the verdict that it reports; `none` for what is not known to be lost."""
    parts: list[tuple[VerdictWord | Literal["none"], str]] = []
    for word in VERDICTS:
        if word == "lost" and not has_loss(verdicts):
            parts.append(("none", _about_losses(verdicts)))
        named = _named(verdicts, word)
        if named:
            parts.append((word, f"{word} {', '.join(named)}"))
    return parts + [("none", f"not tested: {', '.join(entry['measure'] for entry in untested)}")] * bool(untested)


def _about_losses(verdicts: Sequence[Verdict]) -> str:
    """What can be said about losses if no verdict is `lost`."""
    promised = [entry for entry in verdicts if entry["tolerance"] is not None]
    undecided = [entry for entry in verdicts if entry["verdict"] == "undecided"]
    if not verdicts or len(undecided) == len(verdicts):
        return "whether anything was lost is undecided"
    if not promised:
        return "whether anything was kept was not asked: there is no tolerance and no benchmark"
    if undecided:
        return f"no loss shown, {len(undecided)} of {len(verdicts)} measures undecided"
    return "lost nothing of what was measured"


def _named(verdicts: Sequence[Verdict], word: VerdictWord) -> list[str]:
    """The measures with one verdict in words; sources that share a good verdict with their entry are only counted."""
    chosen = [entry for entry in verdicts if entry["verdict"] == word]
    paths = {entry["path"] for entry in chosen if entry["kind"] == "bits_per_byte"}
    names = []
    for entry in chosen:
        whole = entry["path"].split("/", 1)[0]
        is_source = entry["kind"] == "bits_per_byte" and whole != entry["path"]
        if is_source and whole in paths and word in ("gained", "kept"):
            continue
        label = english_name(entry["path"]) if entry["kind"] == "bits_per_byte" else entry["measure"]
        text = f"{label} ({_in_words(entry)}"
        if entry["kind"] == "bits_per_byte" and not is_source and word in ("gained", "kept"):
            sources = [other for other in verdicts if other["path"].startswith(f"{whole}/")]
            alike = sum(other["verdict"] == word for other in sources)
            text += f"; so did {alike} of its {len(sources)} sources" if alike else ""
        names.append(f"{text})")
    return names


def _in_words(entry: Verdict) -> str:
    """`bits per byte rose by 5.9 %, tolerance 2 %`, or why nothing is decided."""
    if entry["verdict"] == "undecided" and entry["ci"] is None:
        return entry["reason"] or "undecided"
    measure = "bits per byte" if entry["kind"] == "bits_per_byte" else "score"
    words = f"{measure} {moved(entry['change'], entry['unit'])}"
    if entry["tolerance"] is not None and entry["verdict"] != "gained":
        tolerance = f"{100 * entry['tolerance']:g}"
        unit = "%" if entry["unit"] == "relative" else "point" if tolerance == "1" else "points"
        words += f", tolerance {tolerance} {unit}"
    return words


def moved(change: float, unit: str) -> str:
    """A change in words: `fell by 9.9 %`, `rose by 2.1 points`, `did not change`."""
    size = f"{100 * abs(change):.1f}"
    if change == 0.0:
        return "did not change"
    if size == "0.0":
        size = f"{100 * abs(change):.2g}"
    return f"{'rose' if change > 0 else 'fell'} by {size} {'%' if unit == 'relative' else 'points'}"


def has_loss(verdicts: Sequence[Verdict]) -> bool:
    """Whether anything is lost; decides the exit code of `--fail-on-loss`."""
    return any(entry["verdict"] == "lost" for entry in verdicts)

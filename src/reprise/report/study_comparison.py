"""The results of a study's runs -> paired differences from the baseline, and sentences about what they show."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from reprise.errors import UserError
from reprise.evaluation.paired import detectable_difference, mean_interval, smallest_error
from reprise.evaluation.results import Results
from reprise.evaluation.verdicts import holm_levels
from reprise.report.study_records import MeasureComparison, PairedDifference, StoppedVariant


def held_out_bits(results: Results, name: str) -> tuple[float, float] | None:
    """Held-out bits per byte before and after training; None without such held-out text.

    Args:
        results: the evaluation of a run.
        name: an entry of the mixture (`law`) or a source of it (`law/cases`), as in the verdicts; else a language,
            with the text of all of its entries.
    """
    rows = results["bits_per_byte"]
    named = [row for row in rows if row["path"] == name]
    named = named or [row for row in rows if row["language"] == name and row["source"] is None]
    num_bytes = sum(row["num_bytes"] for row in named)
    if not num_bytes:
        return None
    before = sum(row["before"] * row["num_bytes"] for row in named) / num_bytes
    after = sum(row["after"] * row["num_bytes"] for row in named) / num_bytes
    return before, after


def _value(results: Results, measure: str) -> float:
    kind, _, name = measure.partition("/")
    value: float | None = None
    if kind == "bits_per_byte":
        bits = held_out_bits(results, name)
        value = None if bits is None else bits[1]
    elif kind == "benchmark":
        value = next((row["after"] for row in results["benchmarks"] if row["benchmark"] == name), None)
    elif kind == "group":
        value = results["groups"]["after"].get(name)
    if value is None:
        raise UserError(f"the runs have no measure {measure!r}", where="measures", remedy="see results.json of a run")
    return value


@dataclass(frozen=True)
class Compared:
    """What a study compares."""

    variants: Collection[str]
    baseline: str
    seeds: Sequence[int]
    measures: Sequence[str]


def compare_all(
    study: Compared,
    outcomes: Mapping[tuple[str, int], Results],
    stopped: Mapping[str, StoppedVariant],
    halving: str | None,
) -> dict[str, MeasureComparison]:
    """Compare every variant with the baseline in every measure; Holm's method controls the family-wise error.

    Of variants that were chosen by their first seeds only the later ones are judged: chosen values are too good.

    Args:
        study: what is compared.
        outcomes: (variant, seed) -> evaluation of the run.
        stopped: variants that did not run with every seed.
        halving: the measure by which they were stopped.

    Raises:
        UserError: a run lacks a measure.
    """
    num_chosen = max((stop["seeds"] for stop in stopped.values()), default=0)
    compared = {measure: compare(study, measure, outcomes) for measure in study.measures}
    judged = [
        (measure, variant, _difference(difference["values"][num_chosen:], difference["unit"]))
        for measure, comparison in compared.items()
        for variant, difference in comparison["differences"].items()
        if variant not in stopped
    ]
    errors = [smallest_error(difference["values"]) for _, _, difference in judged]
    later = f" after the choice by the first {num_chosen}" if num_chosen else ""
    sentences = {
        (measure, variant): _sentence(study, measure, variant, difference, error <= level, len(errors), later)
        for (measure, variant, difference), error, level in zip(judged, errors, holm_levels(errors), strict=True)
    }
    for measure, comparison in compared.items():
        for variant, difference in comparison["differences"].items():
            sentence = sentences.get((measure, variant))
            if sentence is None:
                sentence = _stop_sentence(study, measure, variant, difference, stopped[variant], halving)
            comparison["sentences"].append(sentence)
    return compared


def compare(study: Compared, measure: str, outcomes: Mapping[tuple[str, int], Results]) -> MeasureComparison:
    """One measure of every variant, with its paired differences from the baseline; see `compare_all`."""
    relative = measure.startswith("bits_per_byte/")
    values = {
        variant: [_value(outcomes[variant, seed], measure) for seed in study.seeds if (variant, seed) in outcomes]
        for variant in study.variants
    }
    base = values[study.baseline]
    result: MeasureComparison = {"higher_is_better": not relative, "variants": {}, "differences": {}, "sentences": []}
    for variant, mine in values.items():
        mean, ci = mean_interval(mine)
        result["variants"][variant] = {"values": mine, "mean": mean, "ci": ci}
        if variant != study.baseline:
            paired = [one / other - 1 if relative else one - other for one, other in zip(mine, base, strict=False)]
            result["differences"][variant] = _difference(paired, "relative" if relative else "difference")
    return result


def _difference(values: list[float], unit: Literal["relative", "difference"]) -> PairedDifference:
    mean, ci = mean_interval(values)
    return {"values": values, "mean": mean, "ci": ci, "unit": unit, "detectable": detectable_difference(values)}


def _stop_sentence(
    study: Compared,
    measure: str,
    variant: str,
    difference: PairedDifference,
    stop: StoppedVariant,
    halving: str | None,
) -> str:
    """State that a variant was stopped, by which measure, and that this is not a verdict."""
    unit = "%" if difference["unit"] == "relative" else "points"
    return (
        f"{variant} against {study.baseline}: stopped after {stop['seeds']} of {len(study.seeds)} seeds, rank "
        f"{stop['rank']} of {stop['among']} by {halving}; {measure} {100 * difference['mean']:+.2f} {unit} "
        "so far, which does not show that it is worse."
    )


def _sentence(
    study: Compared,
    measure: str,
    variant: str,
    difference: PairedDifference,
    is_shown: bool,
    num_compared: int,
    later: str,
) -> str:
    """State in one sentence what the results do and do not show."""
    mean, ci, detectable = difference["mean"], difference["ci"], difference["detectable"]
    relative = difference["unit"] == "relative"
    unit, count = ("%" if relative else "points"), len(difference["values"])
    head = f"{variant} against {study.baseline}: {measure} {100 * mean:+.2f} {unit}"
    if ci is None or detectable is None:
        return f"{head} in one run{later}, which shows nothing about chance."
    head += f" (95 % interval {100 * ci[0]:+.2f} to {100 * ci[1]:+.2f}, {count} seeds{later})"
    if ci[0] <= 0 <= ci[1]:
        return (
            f"{head}: the interval contains 0, so these runs do not show which is better; a difference of "
            f"{100 * detectable:.2f} {unit} would have been detected in 4 of 5 such studies."
        )
    if not is_shown:
        return (
            f"{head}: the interval excludes 0, but among {num_compared} comparisons one such is to be expected by "
            "chance, so it is not shown which is better; more seeds would tell."
        )
    better = (mean < 0) == relative
    return f"{head}: {'better' if better else 'worse'} with this model, text and budget; beyond them it shows nothing."

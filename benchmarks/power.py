"""Are verdicts reached as often as `reprise plan` says, and what does it cost that none may hang on one document?

    python -m benchmarks.power [--replicates 1000]

Documents have log-normal sizes (sigma 1); they change by as much as the plan calls detectable plus noise (standard
deviation 3 %): normal, of Student's t with 5 degrees of freedom, or exponential, which is skewed to the side of a rise.
Printed is the share of samples in which the true verdict is given: by the interval alone, by the interval where leaving
out any document leaves the change on its side of the bound (what is done), and in how many samples Student's interval
gives it at the change that Student's quantile calls detectable. The plan promises 0.8. Last, the same of benchmarks.
"""

import argparse
import dataclasses
import json
import time

import numpy as np
from scipy.special import ndtri, stdtrit

from reprise.evaluation.intervals import Estimate, estimate_rate, estimate_score
from reprise.evaluation.power import POWER, Spread, plan_reach
from reprise.evaluation.verdicts import judge, judge_all
from reprise.recipe.groups import find_groups

SIZES = (5, 8, 13, 40)
SPREAD = 0.03
SAMPLES_PER_SIZES = 20
"""Samples of changes for each sample of sizes, for which the plan is made once."""
GROUPS = find_groups([], {"en": 0.02})


def noise(rng: np.random.Generator, kind: str, count: int) -> np.ndarray:
    """Changes of documents with mean 0 and standard deviation 1."""
    if kind == "normal":
        return rng.standard_normal(count)
    if kind == "t":
        return rng.standard_t(5, count) / np.sqrt(5 / 3)
    return rng.exponential(1, count) - 1


def is_given(estimate: Estimate, word: str, tolerance: float | None) -> bool:
    """Whether the interval alone gives the verdict; gained is kept, too."""
    verdict = judge(estimate.interval(), tolerance, better="lower")
    return verdict == word or (word == "kept" and verdict == "gained")


def power(rng: np.random.Generator, count: int, kind: str, word: str, replicates: int) -> dict[str, float]:
    """Share of the samples in which a true verdict is given."""
    given: list[tuple[bool, bool, bool]] = []
    for _ in range(max(1, replicates // SAMPLES_PER_SIZES)):
        size = rng.lognormal(0, 1, count)
        (reach,) = plan_reach({("en", "web"): size}, GROUPS, {}, {"en": Spread(SPREAD)})
        if (planned := reach["detectable"]) is None:
            continue
        flat = estimate_rate(size, size, size)
        share = size / size.sum()
        quantiles = float(stdtrit(flat.degrees, 0.975) + ndtri(POWER))
        by_student = quantiles * SPREAD * float(np.sqrt((share**2).sum()))
        for _ in range(SAMPLES_PER_SIZES):
            moves = SPREAD * noise(rng, kind, count)
            sign = {"gained": -1, "lost": 1, "kept": 0}[word]
            ours = estimate_rate(size, size * (1 + sign * planned + moves), size)
            theirs = estimate_rate(size, size * (1 + sign * by_student + moves), size)
            tolerance = planned if word == "kept" else None
            judged = judge_all([(ours, tolerance)])[0].verdict
            plain = dataclasses.replace(theirs, skewness=0.0, stretch=1.0)
            given.append(
                (
                    is_given(ours, word, tolerance),
                    judged == word or (word == "kept" and judged == "gained"),
                    is_given(plain, word, by_student if word == "kept" else None),
                )
            )
    names = ("interval alone", "no document decides", "Student's")
    return {name: round(float(value), 3) for name, value in zip(names, np.mean(given, axis=0), strict=True)}


def power_of_benchmark(rng: np.random.Generator, count: int, replicates: int) -> float:
    """Share of samples in which a benchmark that rose by what is detectable, one answer in ten changed, is gained."""
    (reach,) = plan_reach({}, find_groups([], {}), {"one": (count, 0.01)})
    change = reach["detectable"] or 0.0
    up, down = 0.05 + change / 2, 0.05 - change / 2
    gained = 0
    for _ in range(replicates):
        moved = rng.choice([1.0, -1.0, 0.0], count, p=[up, down, 0.9])
        interval = estimate_score(np.where(moved < 0, 1.0, 0.0), np.where(moved > 0, 1.0, 0.0)).interval()
        gained += interval is not None and interval[0] > 0
    return round(gained / replicates, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=1000)
    replicates = parser.parse_args().replicates
    rng = np.random.default_rng(20261130)
    start = time.monotonic()
    result: dict[str, object] = {"replicates": replicates}
    for kind in ("normal", "t", "exponential"):
        for count in SIZES:
            for word in ("gained", "lost", "kept"):
                row = power(rng, count, kind, word, replicates)
                result[f"{kind}, {count} documents, {word}"] = row
                print(f"{kind:12} {count:3} documents, {word:7}", row, flush=True)
    result["benchmarks"] = {count: power_of_benchmark(rng, count, replicates) for count in (100, 300, 1000)}
    print("benchmarks of n questions:", result["benchmarks"])
    print(json.dumps(result | {"seconds": round(time.monotonic() - start, 1)}))


if __name__ == "__main__":
    main()

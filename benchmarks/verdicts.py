"""Do verdicts hold? Coverage of the intervals, and wrong verdicts in a report, by simulation.

    python benchmarks/verdicts.py [--replicates 10000] [--sizes 5 8 13]

Documents have log-normal sizes (sigma 1); each changes by a common drift plus noise: normal, of Student's t with 5
degrees of freedom, or skewed (exponential; log-normal with sigma 0.75); and the same but less in long documents.
Intervals of nominally 95 % are compared: the percentile bootstrap; the same stretched around the estimate by
sqrt(n / (n - 1)) * t(n - 1) / 1.96; the symmetric bootstrap-t, never shorter than Student's; Student's with the
sandwich error; the same after Hall's transformation for skewness (Annals of Statistics 20, 1992), by the estimate's
own; and ours (`reprise.evaluation.intervals`). Those that resample are tried on a tenth of the replicates. Of Student's
and ours also the misses of the interval that decides first among 40 verdicts. Then reports of 40 rows in which nothing
changed: rows called gained or lost, with each interval by itself and with all judged as one family. Last, benchmarks of
n questions, of which one in ten is answered differently.
"""

import argparse
import dataclasses
import json
import time

import numpy as np
from scipy import stats

from reprise.evaluation.intervals import Estimate, estimate_rate, estimate_score
from reprise.evaluation.verdicts import judge, judge_all

SIZES = (5, 8, 13, 20, 40, 80, 120)
DRIFT = 0.01
NOISE = 0.03
RESAMPLES = 400
ROWS = 40
KINDS = ("normal", "t", "exponential", "log-normal")
LESS = ", less in long ones"
SUREST = 0.05 / ROWS
"""Error of the interval that decides first among ROWS verdicts."""


def documents(rng: np.random.Generator, count: int, kind: str, drift: float) -> tuple[np.ndarray, np.ndarray]:
    """Bits of each document before and after."""
    size = rng.lognormal(0.0, 1.0, count)
    before = 1000 * size * rng.lognormal(0.0, 0.2, count)
    name = kind.removesuffix(LESS)
    if name == "exponential":
        noise = rng.exponential(1.0, count) - 1
    elif name == "log-normal":
        noise = rng.lognormal(0.0, 0.75, count) - np.exp(0.75**2 / 2)
    elif name == "normal":
        noise = rng.standard_normal(count)
    else:
        noise = rng.standard_t(5, count)
    if kind != name:
        noise *= size**-0.5
    return before, before * (1 + drift + NOISE * noise)


def percentile(rng: np.random.Generator, before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """The percentile bootstrap."""
    draws = rng.integers(0, len(before), (RESAMPLES, len(before)))
    low, high = np.quantile(after[draws].sum(1) / before[draws].sum(1) - 1, [0.025, 0.975])
    return float(low), float(high)


def stretched(ci: tuple[float, float], estimate: Estimate) -> tuple[float, float]:
    """A percentile interval, longer around the estimate for few documents."""
    n, middle = estimate.items, estimate.change
    factor = np.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1) / stats.norm.ppf(0.975)
    return middle - factor * (middle - ci[0]), middle + factor * (ci[1] - middle)


def student(estimate: Estimate) -> Estimate:
    """Ours without regard to skewness."""
    return dataclasses.replace(estimate, skewness=0.0, stretch=1.0)


def hall_holds(before: np.ndarray, after: np.ndarray, estimate: Estimate) -> bool:
    """Whether the interval that is Student's after Hall's cubic transformation holds the drift."""
    share = before / before.sum()
    residuals = (after - (1 + estimate.change) * before) / before.sum() / np.sqrt(1 - share)
    skewness = float((residuals**3).sum()) / estimate.standard_error**3
    distance = (estimate.change - DRIFT) / estimate.standard_error
    moved = distance + skewness / 3 * distance**2 + skewness**2 / 27 * distance**3 + skewness / 6
    return abs(moved) <= stats.t.ppf(0.975, estimate.degrees)


def bootstrap_t(rng: np.random.Generator, before: np.ndarray, after: np.ndarray, own: Estimate) -> tuple[float, float]:
    """The symmetric bootstrap-t: the 95 % quantile of the distance in standard errors, over resampled documents."""
    draws = rng.integers(0, len(before), (RESAMPLES // 2, len(before)))
    with np.errstate(invalid="ignore", divide="ignore"):
        one, two = before[draws], after[draws]
        share = one / one.sum(1, keepdims=True)
        ratio = two.sum(1, keepdims=True) / one.sum(1, keepdims=True)
        residuals = (two - ratio * one) / one.sum(1, keepdims=True)
        error = np.sqrt((residuals**2 / (1 - share)).sum(1))
        distances = np.abs(ratio[:, 0] - 1 - own.change) / error
    quantile = np.quantile(np.where(np.isfinite(distances), distances, np.inf), 0.95, method="lower")
    half = max(float(quantile), float(stats.t.ppf(0.975, own.degrees))) * own.standard_error
    return own.change - half, own.change + half


def coverage(rng: np.random.Generator, count: int, kind: str, replicates: int) -> dict[str, float]:
    """Share of intervals that hold the drift, and of samples that get an interval of ours."""
    names = ("percentile", "stretched", "bootstrap-t", "t", "hall", "ours", "t, surest", "ours, surest")
    hits: dict[str, list[bool]] = {name: [] for name in names}
    lengths = []
    for number in range(replicates):
        before, after = documents(rng, count, kind, DRIFT)
        estimate = estimate_rate(before, after, before)
        if number % 10 == 0:
            ci = percentile(rng, before, after)
            for name, (low, high) in (("percentile", ci), ("stretched", stretched(ci, estimate))):
                hits[name].append(low <= DRIFT <= high)
        plain = student(estimate)
        own, shorter = estimate.interval(), plain.interval()
        if own is None or shorter is None:
            continue
        lengths.append((own[1] - own[0]) / (shorter[1] - shorter[0]))
        for name, one in (("t", plain), ("ours", estimate)):
            error = one.error_at(DRIFT)
            hits[name].append(error >= 0.05)
            hits[f"{name}, surest"].append(error >= SUREST)
        hits["hall"].append(hall_holds(before, after, estimate))
        if number % 10 == 0:
            low, high = bootstrap_t(rng, before, after, estimate)
            hits["bootstrap-t"].append(low <= DRIFT <= high)
    shares = {name: round(float(np.mean(values)), 3) for name, values in hits.items() if "surest" not in name}
    misses = {
        f"{name}: misses of nominal": round((1 - float(np.mean(values))) / SUREST, 1)
        for name, values in hits.items()
        if "surest" in name
    }
    given = {"given": round(len(lengths) / replicates, 3), "length": round(float(np.median(lengths)), 3)}
    return shares | misses | given


def false_verdicts(rng: np.random.Generator, count: int, kind: str, reports: int) -> dict[str, float]:
    """Rows called gained or lost in a report of ROWS rows in which nothing changed: mean, and reports with any."""
    wrong: dict[str, list[int]] = {"percentile": [], "ours, each row alone": [], "ours, one family": []}
    for _ in range(reports):
        pairs = [documents(rng, count, kind, 0.0) for _ in range(ROWS)]
        estimates = [estimate_rate(before, after, before) for before, after in pairs]
        plain = [judge(percentile(rng, *pair), None, better="lower") for pair in pairs]
        alone = [judge(estimate.interval(), None, better="lower") for estimate in estimates]
        family = [one.verdict for one in judge_all([(estimate, None) for estimate in estimates])]
        for name, verdicts in zip(wrong, (plain, alone, family), strict=True):
            wrong[name].append(sum(verdict != "undecided" for verdict in verdicts))
    return {f"{name}: rows": round(float(np.mean(values)), 2) for name, values in wrong.items()} | {
        f"{name}: reports with any": round(float(np.mean(np.array(values) > 0)), 3) for name, values in wrong.items()
    }


def score_coverage(rng: np.random.Generator, count: int, replicates: int) -> float:
    """Share of intervals that hold the drift of a benchmark: DRIFT points better, one answer in ten changed."""
    hits = 0
    for _ in range(replicates):
        changed = rng.choice([1.0, -1.0, 0.0], count, p=[0.05 + DRIFT / 2, 0.05 - DRIFT / 2, 0.9])
        low, high = estimate_score(np.where(changed < 0, 1.0, 0.0), np.where(changed > 0, 1.0, 0.0)).interval() or (
            1,
            0,
        )
        hits += low <= DRIFT <= high
    return round(hits / replicates, 3)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--replicates", type=int, default=10000)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="documents")
    arguments = parser.parse_args()
    replicates = arguments.replicates
    rng = np.random.default_rng(20261129)
    start = time.monotonic()
    results: dict[str, object] = {"replicates": replicates}
    for kind in (*KINDS, *(f"{kind}{LESS}" for kind in KINDS)):
        rows = {n: coverage(rng, n, kind, replicates) for n in arguments.sizes}
        results[f"coverage, {kind}"] = rows
        print(f"coverage, noise: {kind}")
        for n, row in rows.items():
            print(f"  n {n:4}  " + "  ".join(f"{name} {value:.3f}" for name, value in row.items()), flush=True)
    for kind in ("t", "log-normal"):
        wrong = {n: false_verdicts(rng, n, kind, max(100, replicates // 25)) for n in (5, 13, 40)}
        results[f"false verdicts, {kind}"] = wrong
        for n, row in wrong.items():
            print(f"{ROWS} rows of {n} documents in which nothing changed, noise {kind}: {row}", flush=True)
    results["scores"] = {n: score_coverage(rng, n, replicates) for n in (20, 100, 300, 1000)}
    print(f"benchmarks of n questions: {results['scores']}")
    print(json.dumps(results | {"seconds": round(time.monotonic() - start, 1)}))


if __name__ == "__main__":
    main()

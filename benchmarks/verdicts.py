"""Do verdicts hold? Coverage of the intervals, and wrong verdicts in a report, by simulation.

    python benchmarks/verdicts.py [--replicates 2000]

Documents have log-normal sizes (sigma 1); each changes by a common drift plus noise of Student's t with 5 degrees of
freedom. Three intervals of nominally 95 % are compared: the percentile bootstrap; the same stretched around the
estimate by sqrt(n / (n - 1)) * t(n - 1) / 1.96; and ours (`reprise.evaluation.intervals.estimate_rate`). Also with
noise that falls with the size of a document, and with skewed noise (exponential). Then reports of 40 rows in which
nothing changed: rows called gained or lost, with each interval by itself and with all judged as one family. Last,
benchmarks of n questions, of which one in ten is answered differently.
"""

import argparse
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


def documents(rng: np.random.Generator, count: int, kind: str, drift: float) -> tuple[np.ndarray, np.ndarray]:
    """Bits of each document before and after."""
    size = rng.lognormal(0.0, 1.0, count)
    before = 1000 * size * rng.lognormal(0.0, 0.2, count)
    if kind == "skewed":
        noise = rng.exponential(1.0, count) - 1
    else:
        noise = rng.standard_t(5, count) * (size**-0.5 if kind == "less in long ones" else 1.0)
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


def coverage(rng: np.random.Generator, count: int, kind: str, replicates: int) -> dict[str, float]:
    """Share of intervals that hold the drift, and of samples that get an interval of ours."""
    hits: dict[str, list[bool]] = {"percentile": [], "stretched": [], "ours": []}
    for _ in range(replicates):
        before, after = documents(rng, count, kind, DRIFT)
        estimate = estimate_rate(before, after, before)
        ci = percentile(rng, before, after)
        for name, (low, high) in (("percentile", ci), ("stretched", stretched(ci, estimate))):
            hits[name].append(low <= DRIFT <= high)
        own = estimate.interval()
        if own is not None:
            hits["ours"].append(own[0] <= DRIFT <= own[1])
    shares = {name: round(float(np.mean(values)), 3) for name, values in hits.items()}
    return shares | {"given": round(len(hits["ours"]) / replicates, 3)}


def false_verdicts(rng: np.random.Generator, count: int, reports: int) -> dict[str, float]:
    """Rows called gained or lost in a report of ROWS rows in which nothing changed: mean, and reports with any."""
    wrong: dict[str, list[int]] = {"percentile": [], "ours, each row alone": [], "ours, one family": []}
    for _ in range(reports):
        pairs = [documents(rng, count, "t", 0.0) for _ in range(ROWS)]
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
    parser.add_argument("--replicates", type=int, default=2000)
    replicates = parser.parse_args().replicates
    rng = np.random.default_rng(20261129)
    start = time.monotonic()
    results: dict[str, object] = {"replicates": replicates}
    for kind in ("t", "less in long ones", "skewed"):
        rows = {n: coverage(rng, n, kind, replicates if kind == "t" else replicates // 2) for n in SIZES}
        results[f"coverage, {kind}"] = rows
        print(f"coverage, noise: {kind}")
        for n, row in rows.items():
            print(f"  n {n:4}  " + "  ".join(f"{name} {value:.3f}" for name, value in row.items()), flush=True)
    results["false verdicts"] = {n: false_verdicts(rng, n, max(100, replicates // 5)) for n in (5, 13, 40)}
    for n, row in results["false verdicts"].items():  # type: ignore[attr-defined]
        print(f"{ROWS} rows of {n} documents in which nothing changed: {row}", flush=True)
    results["scores"] = {n: score_coverage(rng, n, replicates) for n in (20, 100, 300, 1000)}
    print(f"benchmarks of n questions: {results['scores']}")
    print(json.dumps(results | {"seconds": round(time.monotonic() - start, 1)}))


if __name__ == "__main__":
    main()

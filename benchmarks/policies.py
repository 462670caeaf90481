"""How far each rule moves the shares of topics on noise alone, and on a difference that is there.

11 topics of 60 held-out documents, equal shares, 20 validations. The losses of documents are 2.5 nats with a standard
deviation of 0.5 and fall by a power law, 0.3 nats in all, each document by its own measure (standard deviation: half of
the mean). "alike": all topics fall alike, so that every move is noise. "one": one topic falls four times as fast.
Printed is the largest distance of a share from its start: of any topic ("alike"), of that topic ("one"); mean over the
seeds (of "alike" also the worst seed), under the default bounds (floor 0.01, cap 0.5, largest step 0.03).

    python benchmarks/policies.py [--seeds 20]
"""

import argparse
import json

import numpy as np

from reprise.mixture.policy import update
from reprise.mixture.rules import RULES
from reprise.recipe.mixture import Policy
from reprise.stable_random import resamples

TOPICS, DOCUMENTS, VALIDATIONS, DRAWS = 11, 60, 20, 32


def final_shares(policy: Policy, falls: np.ndarray, seed: int) -> np.ndarray:
    """Shares after all validations.

    Args:
        policy: settings.
        falls: float64[TOPICS], mean loss that each topic loses until the end.
        seed: of the documents.
    """
    rng = np.random.default_rng(seed)
    start = rng.normal(2.5, 0.5, (TOPICS, DOCUMENTS))
    speed = rng.normal(1.0, 0.5, (TOPICS, DOCUMENTS)) * falls[:, None]
    draws = resamples("benchmark", DOCUMENTS, DRAWS) / DOCUMENTS
    topics = [f"topic {number}" for number in range(TOPICS)]
    state, shares = {}, dict.fromkeys(topics, 1 / TOPICS)
    whole = 1 - VALIDATIONS**-0.3
    for step in range(VALIDATIONS):
        losses = start - speed * (1 - (1 + step) ** -0.3) / whole
        means = dict(zip(topics, losses.mean(axis=1).tolist(), strict=True))
        resampled = dict(zip(topics, (losses @ draws.T).tolist(), strict=True))
        state, shares = update(policy, state, shares, means, step * 1_000_000, resampled)
    return np.array(list(shares.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    seeds = range(parser.parse_args().seeds)
    alike = np.full(TOPICS, 0.3)
    one = np.where(np.arange(TOPICS) == 0, 4.0, 1.0) * 0.3
    result: dict[str, dict[str, float]] = {}
    for name in sorted(set(RULES) - {"static"}):
        result[name] = {}
        for label, noise in (("acts on everything", 0.0), ("default", Policy().noise)):
            policy = Policy.model_validate({"name": name, "noise": noise})
            moves = [np.abs(final_shares(policy, alike, seed) - 1 / TOPICS).max() for seed in seeds]
            there = np.mean([final_shares(policy, one, seed)[0] - 1 / TOPICS for seed in seeds])
            result[name] |= {
                f"{label}: alike": round(float(np.mean(moves)), 4),
                f"{label}: alike, worst seed": round(float(np.max(moves)), 4),
                f"{label}: one": round(float(there), 4),
            }
        print(f"{name:18}", "  ".join(f"{key} {value:+.4f}" for key, value in result[name].items()))
    print(json.dumps({"policies_on_noise": result}))


if __name__ == "__main__":
    main()

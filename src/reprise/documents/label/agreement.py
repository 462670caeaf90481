"""How well two labellings of the same documents agree: Cohen's kappa, with an interval."""

from collections import Counter
from collections.abc import Mapping
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2000
_SHOWN_PAIRS = 3


class Disagreement(TypedDict):
    """Two different topics that the two labellings give to the same documents."""

    ours: str
    theirs: str
    documents: int


class Agreement(TypedDict):
    """Agreement of two labellings of the same documents."""

    documents: int
    """Documents that both labellings contain."""
    same: float
    """Share of them with the same topic in both."""
    kappa: float | None
    """Cohen's kappa; null if chance alone would always agree, for example if both give one topic to every document."""
    interval: tuple[float, float] | None
    """95 % interval of kappa, from resampled documents."""
    apart: list[Disagreement]
    """The most frequent disagreements, at most three."""


def measure_agreement(ours: Mapping[str, str], theirs: Mapping[str, str], *, seed: int = 0) -> Agreement:
    """Compare the topics that two labellings give to the documents that both contain.

    kappa = (p - e) / (1 - e). p is the share of documents with the same topic; e is that share if both labellings chose
    topics at random, each with its own frequencies (Cohen 1960, A Coefficient of Agreement for Nominal Scales).

    Args:
        ours: document -> topic, the first labelling.
        theirs: document -> topic, the second labelling.
        seed: random seed of the resampling.
    """
    shared = sorted(ours.keys() & theirs.keys())
    topics = sorted({ours[key] for key in shared} | {theirs[key] for key in shared})
    index = {topic: position for position, topic in enumerate(topics)}
    pairs = np.array([(index[ours[key]], index[theirs[key]]) for key in shared], np.int64).reshape(-1, 2)
    apart = Counter((ours[key], theirs[key]) for key in shared if ours[key] != theirs[key])
    kappa = _kappa(pairs, len(topics))
    interval = None
    if kappa is not None:
        rng = np.random.default_rng(seed)
        draws = (pairs[rng.integers(0, len(pairs), len(pairs))] for _ in range(_RESAMPLES))
        resampled = [value for draw in draws if (value := _kappa(draw, len(topics))) is not None]
        low, high = np.quantile(resampled, [0.025, 0.975])
        interval = (float(low), float(high))
    return Agreement(
        documents=len(shared),
        same=float((pairs[:, 0] == pairs[:, 1]).mean()) if shared else 0.0,
        kappa=kappa,
        interval=interval,
        apart=[
            Disagreement(ours=one, theirs=other, documents=count)
            for (one, other), count in sorted(apart.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN_PAIRS]
        ],
    )


def _kappa(pairs: NDArray[np.int64], num_topics: int) -> float | None:
    """Kappa of the topic indices int64[documents, 2]; None if it is undefined."""
    if not len(pairs):
        return None
    first, second = (np.bincount(pairs[:, side], minlength=num_topics) / len(pairs) for side in (0, 1))
    by_chance = float(first @ second)
    same = float((pairs[:, 0] == pairs[:, 1]).mean())
    return (same - by_chance) / (1 - by_chance) if by_chance < 1 else None


def say_agreement(name: str, agreement: Agreement) -> str:
    """The agreement as one sentence for the user."""
    if not agreement["documents"]:
        return f"{name}: no document is labelled by both"
    sentence = f"{name}: {agreement['documents']:,} documents, {agreement['same']:.1%} the same topic"
    if agreement["kappa"] is None or agreement["interval"] is None:
        sentence += ", kappa not defined (one topic everywhere)"
    else:
        low, high = agreement["interval"]
        sentence += f", kappa {agreement['kappa']:.2f} (95 % interval {low:.2f} to {high:.2f})"
    if agreement["apart"]:
        pairs = (f"{pair['ours']} / {pair['theirs']} {pair['documents']}" for pair in agreement["apart"])
        sentence += f"; most often apart: {', '.join(pairs)}"
    return sentence

"""The best share of new text: laws of the loss against the share, fitted to runs, and which runs to make next.

Each run trains a proxy with a share x of new text and measures two losses: on the text that must be kept, and on the
new text. Both are fitted by L(x) = a + b h(p) + c[seed], with p the text's own share (1 - x or x): a straight line, a
parabola, a logarithm as in Olmix (arXiv 2602.12237) or a power as in the laws of continual pre-training (CMR, arXiv
2407.17467; D-CPT, arXiv 2406.01375), whichever predicts each run best from the others (leave-one-out). Runs with one
seed read their documents in the same order and are off in the same direction, on a small model often by more than
the share changes; c, which sums to 0 over the seeds, keeps that out of the law. The best share has the lowest loss on
new text among those whose kept text stays within its tolerance; its interval comes from fits to the law plus resampled
residuals, shifted by Student's error of the mean over the seeds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

GRID = np.linspace(0.0, 1.0, 1001)
"""Shares of new text that are examined."""
DRAWS = 400
"""Count of fits to resampled residuals."""
FIRST_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares of the first runs."""
SPREADS = ((-0.12, -0.04, 0.04, 0.12), (-0.08, 0.0, 0.08, 0.15), (-0.15, -0.05, 0.05))
"""Offsets of the next rounds' runs from the best share so far: close enough to be similar, far enough for a slope."""


@dataclass(frozen=True)
class Law:
    """A shape of the loss against the text's own share p."""

    name: str
    columns: Callable[[Floats], list[Floats]]
    """p, float64 [shares] -> columns of the design matrix besides the constant, float64 [shares] each."""

    def design(self, own_share: Floats) -> Floats:
        """Design matrix, float64 [shares, coefficients]."""
        return np.stack([np.ones_like(own_share), *self.columns(own_share)], axis=1)


def _logarithm(offset: float) -> Callable[[Floats], list[Floats]]:
    return lambda p: [np.log(p + offset)]


def _power(exponent: float, offset: float) -> Callable[[Floats], list[Floats]]:
    return lambda p: [(p + offset) ** -exponent]


LAWS = (
    Law("line", lambda p: [p]),
    Law("parabola", lambda p: [p, p**2]),
    *(Law(f"logarithm of p + {offset:g}", _logarithm(offset)) for offset in (0.02, 0.1, 0.3)),
    *(
        Law(f"power {-exponent:g} of p + {offset:g}", _power(exponent, offset))
        for exponent in (0.25, 0.5, 1.0)
        for offset in (0.02, 0.1, 0.3)
    ),
)


@dataclass(frozen=True)
class Fit:
    """A law fitted to runs."""

    law: str
    values: Floats
    """float64 [GRID]: the loss at every share of new text."""
    left_out_error: float
    """Root mean squared error of the runs, each predicted from the others."""
    seed_effects: Floats
    """float64 [seeds]: how much the runs of each seed are off, in the order of the seeds; empty if not fitted."""
    residuals: Floats
    """float64 [runs]: residuals, scaled up for the fitted coefficients."""
    fitted: Floats
    """float64 [runs]: fitted losses."""


class Laws:
    """The laws that can be fitted to this many runs at these shares, prepared once for any losses."""

    def __init__(self, own: Callable[[Floats], Floats], new_shares: Floats, seeds: Sequence[int] | None = None) -> None:
        """Prepare the laws.

        Args:
            own: share of new text -> the text's own share.
            new_shares: share of new text in each run, float64 [runs].
            seeds: seed of each run; None: the runs are independent.

        Raises:
            ValueError: there are too few different shares.
        """
        self._ready: list[tuple[Law, Floats, Floats, Floats, Floats]] = []
        effects = _seed_columns(seeds, len(new_shares))
        for law in LAWS:
            plain = law.design(own(new_shares))
            design = np.concatenate([plain, effects], axis=1)
            if len(design) <= design.shape[1] or np.linalg.matrix_rank(design) < design.shape[1]:
                continue
            solve = np.linalg.pinv(design)
            leverage = np.einsum("ij,ji->i", design, solve)
            if leverage.max() < 1 - 1e-9:
                grid = law.design(own(GRID)) @ solve[: plain.shape[1]]
                self._ready.append((law, design @ solve, grid, leverage, solve[plain.shape[1] :]))
        if not self._ready:
            raise ValueError("too few different shares to fit a law")

    def fit(self, losses: Floats) -> Fit:
        """The law that predicts each run best from the others; `losses` is float64 [runs]."""
        fits = []
        for law, project, extend, leverage, of_seed in self._ready:
            fitted = project @ losses
            error = float(np.sqrt(np.mean(((losses - fitted) / (1 - leverage)) ** 2)))
            scale = math.sqrt(len(losses) / max(1e-9, len(losses) - leverage.sum()))
            first = of_seed @ losses
            effects = np.append(first, -first.sum()) if len(first) else first
            fits.append(Fit(law.name, extend @ losses, error, effects, (losses - fitted) * scale, fitted))
        return min(fits, key=lambda fit: fit.left_out_error)

    def values(self, losses: Floats) -> Floats:
        """float64 [draws, GRID]: fitted losses of many draws at once; `losses` is float64 [draws, runs]."""
        errors, values = [], []
        for _, project, extend, leverage, _ in self._ready:
            errors.append(np.mean(((losses - losses @ project.T) / (1 - leverage)) ** 2, axis=1))
            values.append(losses @ extend.T)
        chosen = np.argmin(np.stack(errors), axis=0)
        best: Floats = np.stack(values)[chosen, np.arange(len(losses))]
        return best


RUNS_PER_SEED = 3
"""Seeds get an effect of their own once each of them has this many runs."""


def _seed_columns(seeds: Sequence[int] | None, num_runs: int) -> Floats:
    """Columns of the design matrix for the effects of all seeds but the last, which is minus their sum."""
    names, counts = np.unique(np.array([] if seeds is None else seeds, dtype=np.int64), return_counts=True)
    if len(names) < 2 or counts.min() < RUNS_PER_SEED:
        return np.zeros((num_runs, 0))
    each = (np.array(seeds)[:, None] == names).astype(np.float64)
    columns: Floats = each[:, :-1] - each[:, -1:]
    return columns


@dataclass(frozen=True)
class BestShare:
    """The best share by the runs, with its interval."""

    share: float
    """Share of new text; 0 if none keeps the kept text within its tolerance."""
    low: float
    high: float
    """Upper end of the 95 % interval."""
    bounded_by: str
    """`kept`: a larger share would lose too much on the kept text; `gain`: it would gain less."""
    kept: Fit
    new: Fit


def best_share(
    new_shares: Sequence[float],
    kept: Sequence[float],
    new: Sequence[float],
    limit: float,
    draws: int = DRAWS,
    seeds: Sequence[int] | None = None,
) -> BestShare:
    """The share of new text that gains most while the kept text stays within its tolerance.

    Args:
        new_shares: share of the new entry in each run.
        kept: loss of the kept text in each run.
        new: loss of the new text in each run.
        limit: largest loss of the kept text.
        draws: fits for the interval; 0: no interval.
        seeds: seed of each run; None: the runs are independent.
    """
    shares, kept_losses, new_losses = (np.array(values, dtype=np.float64) for values in (new_shares, kept, new))
    kept_laws, new_laws = Laws(lambda x: 1 - x, shares, seeds), Laws(lambda x: x, shares, seeds)
    kept_fit, new_fit = kept_laws.fit(kept_losses), new_laws.fit(new_losses)
    share, bounded_by = _argbest(kept_fit.values, new_fit.values, limit)
    low = high = share
    if draws:
        # The two residuals of a run are drawn together, as chance affects its kept and its new text alike.
        random = np.random.default_rng(0)
        chosen = random.integers(0, len(shares), (draws, len(shares)))
        kept_values = kept_laws.values(kept_fit.fitted + kept_fit.residuals[chosen])
        new_values = new_laws.values(new_fit.fitted + new_fit.residuals[chosen])
        if num_seeds := len(kept_fit.seed_effects):
            # Other seeds would shift the kept text against its limit. A shift of the new text changes no choice.
            error = kept_fit.seed_effects.std(ddof=1) / math.sqrt(num_seeds)
            kept_values = kept_values + error * random.standard_t(num_seeds - 1, (draws, 1))
        best = [_argbest(*pair, limit)[0] for pair in zip(kept_values, new_values, strict=True)]
        low, high = (float(end) for end in np.quantile(best, [0.025, 0.975]))
    return BestShare(share, min(low, share), max(high, share), bounded_by, kept_fit, new_fit)


def _argbest(kept: Floats, new: Floats, limit: float) -> tuple[float, str]:
    allowed = kept <= limit
    if not allowed.any():
        return 0.0, "kept"
    best = int(np.argmin(np.where(allowed, new, np.inf)))
    is_edge = best + 1 < len(GRID) and not allowed[best + 1]
    return float(GRID[best]), "kept" if is_edge else "gain"


def next_shares(best: float, round_number: int, left: int) -> list[float]:
    """Distinct shares of the next runs, around the best one so far, within 0.02 to 0.98.

    Args:
        best: share of new text.
        round_number: 0 for the first round after `FIRST_SHARES`.
        left: runs that may still be made.
    """
    spread = SPREADS[min(round_number, len(SPREADS) - 1)]
    shares = [round(min(0.98, max(0.02, best + step)), 3) for step in spread]
    return list(dict.fromkeys(shares))[:left]

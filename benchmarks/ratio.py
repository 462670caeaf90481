"""Do the laws of `reprise study ratio` predict the losses of mixtures that no law was fitted to?

    python benchmarks/ratio.py --recipe RECIPE --workspace FOLDER [--runs 16]

Makes the study's runs, or takes those that FOLDER has, then trains six more mixtures, whose shares lie between and
beyond those of the study, and compares what the fitted laws predict with what was measured (FOLDER/unseen.json). All
resume. The last line is JSON: `spearman_kept` and `spearman_new`, rank correlations over the six, and `error_kept` and
`error_new`, the mean error of a prediction relative to the loss; `spread_...` is how far the six losses lie apart, in
the same unit.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from reprise.mixture.share_laws import GRID
from reprise.ratio import RatioStudy, best_of, find_ratio, measured_of, recipe_of, roles
from reprise.recipe import load_recipe
from reprise.storage import write_json
from reprise.study import run_one, take_through

UNSEEN = (0.04, 0.21, 0.39, 0.57, 0.79, 0.96)
SEED = 4
"""Not one of the study's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=16)
    chosen = parser.parse_args()
    study = RatioStudy(recipe=str(chosen.recipe), workspace=str(chosen.workspace), runs=chosen.runs)
    answer = find_ratio(study)
    print(answer["sentence"], flush=True)
    recipe = load_recipe(study.recipe)
    entry, kept, tolerance = roles(study, recipe)
    fitted = best_of(answer["runs"], tolerance, last=False)
    language = str(recipe.stages[study.stage].mixture[entry].language)
    values: dict[str, list[tuple[float, float]]] = {"kept": [], "new": []}
    unseen: list[dict[str, float]] = []
    for share in UNSEEN:
        one = recipe_of(study, recipe, entry, share, SEED)
        run_one({(f"share-{share:.3f}", SEED): one}, (f"share-{share:.3f}", SEED), take_through)
        measured = measured_of(Path(one.workspace), kept, entry, language)
        for name, fit, found in (("kept", fitted.kept, measured["kept"]), ("new", fitted.new, measured["new"])):
            values[name].append((float(np.interp(share, GRID, fit.values)), found))
        unseen.append(
            {"share": share}
            | {f"{name}_predicted": pairs[-1][0] for name, pairs in values.items()}
            | {name: pairs[-1][1] for name, pairs in values.items()}
        )
        shown = (f"{name} {pairs[-1][0]:.4f}, is {pairs[-1][1]:.4f}" for name, pairs in values.items())
        print(f"  {share}: {', '.join(shown)}", flush=True)
    figures: dict[str, float] = {}
    for name, pairs in values.items():
        predicted, right = np.array(pairs).T
        figures[f"spearman_{name}"] = round(float(spearmanr(predicted, right).statistic), 3)
        figures[f"error_{name}"] = round(float(np.abs(predicted / right - 1).mean()), 5)
        figures[f"spread_{name}"] = round(float(right.max() / right.min() - 1), 5)
    write_json(chosen.workspace / "unseen.json", {"seed": SEED, "runs": unseen, **figures})
    print(
        json.dumps({**figures, "runs": len(answer["runs"]), "tokens": answer["tokens"], "answer": answer["sentence"]})
    )


if __name__ == "__main__":
    main()

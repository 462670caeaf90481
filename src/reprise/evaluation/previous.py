"""Earlier evaluations: how much documents and answers differed in their change, for `reprise plan`."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from reprise.evaluation.power import Spread
from reprise.evaluation.results import Results
from reprise.yaml_text import read_yaml


def known_spreads(workspace: Path, model: str) -> dict[str, Spread]:
    """Spreads from the evaluation of this run; missing ones from neighbouring runs of the same base model.

    Args:
        workspace: folder of the run.
        model: `model.path` of its recipe.
    """
    return measured_spreads(_evaluations(workspace, model))


def measured_spreads(evaluations: Iterable[tuple[str, Results]]) -> dict[str, Spread]:
    """Path of a group, or benchmark -> its spread in the first evaluation that measured it.

    Args:
        evaluations: folder and results of each run, the nearest first.
    """
    spreads: dict[str, Spread] = {}
    for run, results in evaluations:
        for row in results["bits_per_byte"]:
            if row["topic"] is None and row["spread"]:
                spreads.setdefault(row["path"], Spread(row["spread"], run))
        for question in results["benchmarks"]:
            if question["changed"]:
                spreads.setdefault(question["benchmark"], Spread(question["changed"], run))
            for metric, scores in question["other_metrics"].items():
                if scores["changed"]:
                    spreads.setdefault(f"{question['benchmark']}/{metric}", Spread(scores["changed"], run))
    return spreads


def _evaluations(workspace: Path, model: str) -> Iterator[tuple[str, Results]]:
    """Folder and results of the evaluations: the run's own, then its neighbours', the latest first."""
    beside = [path for path in workspace.parent.glob("*/evaluate/results.json") if path.parents[1] != workspace]
    beside.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in [workspace / "evaluate" / "results.json", *beside]:
        root = path.parents[1]
        if root != workspace and _model_of(root) != model:
            continue
        try:
            yield str(root), TypeAdapter(Results).validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue  # none yet, or written by another version


def _model_of(root: Path) -> str | None:
    """The base model of a run, as its recipe names it; None if it cannot be read."""
    try:
        return str(read_yaml((root / "recipe.yaml").read_bytes())["model"]["path"])
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None

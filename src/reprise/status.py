"""`reprise status`: which stages of a run are fresh, stale or missing, and the progress of a study's runs."""

from pathlib import Path

from rich.table import Table
from typing_extensions import TypedDict

from reprise.errors import UserError
from reprise.freshness import statuses
from reprise.recipe import Recipe
from reprise.recipe.loading import open_recipe
from reprise.records import record
from reprise.workspace import Workspace


@record
class StageStatus(TypedDict):
    """A stage of a run."""

    stage: str
    state: str
    """`fresh`, `stale` or `missing`."""
    reason: str
    """Why it is not fresh; empty if it is."""


@record
class RunStatus(TypedDict):
    """A run of a study."""

    run: str
    """Name of its folder."""
    fresh: int
    """Number of fresh stages."""
    stages: int
    next: str
    """The first stage that is not fresh; empty if all are."""
    reason: str
    """Why it is not fresh, or why the run cannot be opened."""


def status_of_run(recipe: Recipe) -> list[StageStatus]:
    """Status of every stage of a run, in order."""
    states = statuses(recipe, Workspace(recipe.workspace))
    return [{"stage": name, "state": status.state, "reason": status.reason} for name, status in states]


def status_of_runs(folders: list[Path]) -> list[RunStatus]:
    """Progress of several runs; a run that cannot be opened has the error as its reason."""
    lines: list[RunStatus] = []
    for folder in folders:
        try:
            stages = status_of_run(open_recipe(folder, None))
        except UserError as error:
            lines.append({"run": folder.name, "fresh": 0, "stages": 0, "next": "", "reason": str(error)})
            continue
        waiting = [stage for stage in stages if stage["state"] != "fresh"]
        lines.append(
            {
                "run": folder.name,
                "fresh": len(stages) - len(waiting),
                "stages": len(stages),
                "next": waiting[0]["stage"] if waiting else "",
                "reason": waiting[0]["reason"] if waiting else "",
            }
        )
    return lines


def run_table(stages: list[StageStatus], title: str) -> Table:
    """Format the stages of a run for the terminal."""
    table = Table("stage", "state", "why", title=title)
    for stage in stages:
        style = {"fresh": "green", "stale": "yellow"}.get(stage["state"])
        table.add_row(stage["stage"], stage["state"], stage["reason"], style=style)
    return table


def study_table(runs: list[RunStatus], title: str) -> Table:
    """Format the runs of a study for the terminal."""
    table = Table("run", "fresh stages", "next", "why", title=title)
    for run in runs:
        table.add_row(run["run"], f"{run['fresh']} of {run['stages']}", run["next"], run["reason"])
    return table

"""A workspace -> report.html and report.json."""

from collections.abc import Sequence
from pathlib import Path

from reprise.errors import UserError
from reprise.recipe import Recipe
from reprise.recipe.loading import open_recipe
from reprise.report.facts import gather
from reprise.report.page import render_comparison, render_report
from reprise.report.records import ComparedRun, Report, ReportCounts, RunComparison
from reprise.storage import write_json, write_text
from reprise.workspace import Work, Workspace

HTML, JSON = "report.html", "report.json"


def run(work: Work, *, recipe: Recipe) -> None:
    """Write report.html and report.json into the workspace, and report.json into the stage's folder too."""
    root = work.output.parent
    facts = write_report(Workspace(root), recipe, root / HTML)
    write_json(work.output / JSON, facts)
    work.outside += [root / HTML, root / JSON]
    work.counts.update(ReportCounts(verdicts=len(facts["verdict"]["verdicts"]), verified=facts["integrity"]["when"]))


def write_report(workspace: Workspace, recipe: Recipe, output: Path) -> Report:
    """Write the report of a run, finished or not.

    Args:
        workspace: the run.
        recipe: its settings.
        output: the HTML file; the JSON file goes beside it under the same name.

    Returns:
        The content of the JSON file.
    """
    facts = gather(workspace, recipe)
    numbers = _json_beside(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, render_report(facts))
    write_json(numbers, facts)
    return facts


def compare_report(runs: Sequence[Path], output: Path) -> RunComparison:
    """Write a page that compares several runs, and its numbers as JSON.

    Args:
        runs: folders of at least two runs.
        output: the HTML file; the JSON file goes beside it under the same name.

    Returns:
        The content of the JSON file.

    Raises:
        UserError: fewer than two runs are given, or a folder contains no run.
    """
    if len(runs) < 2:
        raise UserError("there is nothing to compare", remedy="name at least two folders of runs")
    compared: list[ComparedRun] = [
        {"folder": str(root), "report": gather(Workspace(root), open_recipe(root, None))} for root in runs
    ]
    comparison: RunComparison = {"format": 4, "runs": compared}
    numbers = _json_beside(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, render_comparison(comparison))
    write_json(numbers, comparison)
    return comparison


def _json_beside(page: Path) -> Path:
    """Path of the JSON file beside a page.

    Raises:
        UserError: `page` is a .json file itself.
    """
    if page.suffix == ".json":
        raise UserError(
            "the page is HTML; its numbers go into a .json beside it", where=str(page), remedy="name a .html"
        )
    return page.with_suffix(".json")

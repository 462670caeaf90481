"""Read and print the reports of the stage `label` on the quality of its labels."""

import json
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from reprise.documents.label.records import GradeReport, TopicReport
from reprise.errors import UserError
from reprise.tables import print_table

REPORT, GRADE_REPORT = "report.json", "grades.json"


def read_report(folder: Path) -> dict[str, TopicReport]:
    """Report of the stage per language: labels, figures on held-out labels, documents per topic.

    Args:
        folder: folder of the published stage.

    Raises:
        UserError: the stage has not run.
    """
    path = folder / REPORT
    if not path.exists():
        raise UserError("there is no report of the topics", where=str(path), remedy="run `reprise label RECIPE` first")
    report: dict[str, TopicReport] = json.loads(path.read_text(encoding="utf-8"))
    return report


def read_grades(folder: Path) -> dict[str, GradeReport]:
    """Figures of the quality grades per language; empty if no grades are given.

    Args:
        folder: folder of the published stage.
    """
    path = folder / GRADE_REPORT
    report: dict[str, GradeReport] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return report


def show_grades(folder: Path) -> None:
    """Print the figures of the quality grades for each language; nothing if no grades are given.

    Args:
        folder: folder of the published stage.
    """
    for language, report in read_grades(folder).items():
        if asked := report.get("asked"):
            print(
                f"{language}: a language model graded {asked['labelled']:,} of {asked['documents']:,} documents "
                f"(cost {asked['cost']:,.2f})"
            )
        figures = report.get("figures")
        if figures is None:
            continue
        correlation = figures["rank_correlation"]
        print(
            f"{language}: grades of {figures['held_out']:,} held-out documents: mean error {figures['mean_error']:.2f} "
            f"({figures['error_of_mean']:.2f} if all got the mean), rank correlation "
            + (f"{correlation:.2f}" if correlation is not None else "not defined")
        )
        for entry in figures["calibration"]:
            print(f"  given {entry['given']:.2f}: true {entry['true']:.2f} ({entry['documents']:,} documents)")
        if figures["min_grade"] and figures["precision"] is not None and figures["recall"] is not None:
            print(
                f"  of those kept from grade {figures['min_grade']:g} on, {figures['precision']:.1%} deserve it; "
                f"of those that deserve it, {figures['recall']:.1%} are kept"
            )


def show_report(reports: Mapping[str, TopicReport]) -> None:
    """Print, for each language, the classifier's figures on labels that it was not fitted on."""
    console = Console()
    for language, report in reports.items():
        if asked := report.get("asked"):
            unusable = ", ".join(f"{count} {reason}" for reason, count in asked["unusable"].items()) or "none unusable"
            console.print(
                f"{language}: a language model named the topic of {asked['labelled']:,} of {asked['documents']:,} "
                f"documents ({unusable}; cost {asked['cost']:,.2f})"
            )
        held_out = report.get("held_out")
        if held_out is None:
            console.print(f"{language}: every document carries its topic; no classifier was fitted")
            continue
        title = f"{language}: accuracy {held_out['accuracy']:.3f}, macro-F1 {held_out['macro_f1']:.3f}"
        title += f" on {held_out['labels']:,} held-out labels; calibration error {held_out['calibration_error']:.3f}"
        topics = report["topics"]
        table = Table("topic (rows: true)", "F1", *map(str, range(1, len(topics) + 1)), title=title)
        for column, (topic, counts) in enumerate(zip(topics, held_out["confusion"], strict=True), 1):
            cells = [str(count) if count else "" for count in counts]
            table.add_row(f"{column} {topic}", f"{held_out['f1'].get(topic, 0.0):.2f}", *cells)
        print_table(table)

"""Commands that run stages: all of them, one, or training."""

from typing import Annotated

import typer

from reprise.cli.options import Adopt, AsJson, Overrides, RecipePath, Restart, bring_up, print_json, training_stages
from reprise.recipe.loading import open_recipe

ONE_STAGE = {
    "read": "Read the inputs into one table; unreadable documents go to rejects.jsonl.",
    "deduplicate": "Drop exact and near duplicates, across all sources.",
    "decontaminate": "Drop documents that contain benchmark questions.",
    "score": "Score perplexity by the base model, for the curriculum.",
    "synthesize": "Make question-answer documents about passages of the text.",
    "tokenize": "Write the token store.",
}
"""Stage whose command has no options -> help of the command."""


def run(recipe: RecipePath, overrides: Overrides = None, restart: Restart = False, adopt: Adopt = False) -> None:
    """Run every stage that is not fresh, from raw text to the report."""
    bring_up(open_recipe(recipe, overrides), None, restart=restart, adopt=adopt)


def _add_stage(app: typer.Typer, name: str, doc: str) -> None:
    """Add the command that brings one stage, and what it needs, up to date."""

    def command(recipe: RecipePath, overrides: Overrides = None) -> None:
        bring_up(open_recipe(recipe, overrides), [name])

    app.command(name, help=doc)(command)


def train(recipe: RecipePath, overrides: Overrides = None, restart: Restart = False, adopt: Adopt = False) -> None:
    """Train every stage; under torchrun on several processes."""
    loaded = open_recipe(recipe, overrides)
    bring_up(loaded, training_stages(loaded), restart=restart, adopt=adopt)


def label(
    recipe: RecipePath,
    overrides: Overrides = None,
    report: Annotated[bool, typer.Option("--report", help="Print how good the labels are.")] = False,
    as_json: AsJson = False,
) -> None:
    """Label documents by topic, and grade their quality."""
    from reprise.documents.label.report import read_grades, read_report, show_grades, show_report
    from reprise.workspace import Workspace

    loaded = open_recipe(recipe, overrides)
    bring_up(loaded, ["label"])
    folder = Workspace(loaded.workspace).folder("label")
    if as_json:
        print_json({"topics": read_report(folder), "quality": read_grades(folder)})
    elif report:
        show_report(read_report(folder))
        show_grades(folder)


def clean(
    recipe: RecipePath,
    overrides: Overrides = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Drop nothing: print what each rule would drop from a sample.")
    ] = False,
    sample: Annotated[int, typer.Option(min=1, help="Documents of each language and source to measure.")] = 500,
    as_json: AsJson = False,
) -> None:
    """Repair the text, and drop documents that fail the heuristics."""
    from reprise.documents.clean.measure import measure_stage, show_retention
    from reprise.workspace import Workspace

    loaded = open_recipe(recipe, overrides)
    if not measure:
        bring_up(loaded, ["clean"])
        return
    bring_up(loaded, ["read"])
    retention = measure_stage(Workspace(loaded.workspace).folder("read"), loaded.documents.clean, sample=sample)
    if as_json:
        print_json(retention)
    else:
        show_retention(retention)


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for name, doc in ONE_STAGE.items():
        _add_stage(app, name, doc)
    for command in (run, train, label, clean):
        app.command()(command)

"""Commands about a recipe: write it, list its settings, plan it, and show which of its stages are up to date."""

from pathlib import Path
from typing import Annotated

import typer

from reprise.cli.options import AsJson, Overrides, RecipePath, print_json
from reprise.errors import UserError
from reprise.recipe import presets, read_preset
from reprise.recipe.loading import check, open_recipe, runs_in
from reprise.tables import print_table


def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("recipe.yaml"),
    preset: Annotated[
        str | None, typer.Option(help=f"Start from a preset (default: demo): {', '.join(presets())}.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The base model: a folder, or a name on the Hub.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="New text: a file or folder; repeat for more.")] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Text like that which the model must not forget; repeat for more.")
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(help="Training tokens, such as 2M; default: what text and machine allow.")
    ] = None,
    gguf_file: Annotated[str | None, typer.Option(help="The model's GGUF file, inside --model.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a commented recipe: a preset, or with --model and --data one for your own text."""
    if path.exists() and not force:
        raise UserError("the file exists", where=str(path), remedy="name another file, or add --force")
    if preset is not None and (model or data or keep or tokens or gguf_file):
        raise UserError("--preset does not go with options about your own text", remedy="leave --preset out")
    if (model is None) != (not data) or (keep and not data):
        raise UserError("--model and --data go together", remedy="name the base model and the new text")
    notes: list[str] = []
    if model is not None and data:
        from reprise.proposal.propose import propose
        from reprise.recipe.model import Model

        proposal = propose(
            check(Model, {"path": model, "gguf_file": gguf_file}, "--model"),
            data,
            keep or [],
            name=path.stem,
            workspace=str(Path("runs") / path.stem),
            tokens=_count(tokens, "--tokens"),
        )
        text, notes, origin = proposal.recipe, proposal.assumptions, "for your text"
    else:
        text, origin = read_preset(preset or "demo"), f"preset {preset or 'demo'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    for note in notes:
        print(f"- {note}")
    print(f"wrote {path} ({origin}). Next: reprise plan {path}; reprise run {path}")


def _count(given: str | None, option: str) -> int | None:
    """Parse a count from the command line, such as `2M`."""
    from reprise.recipe.fields import parse_count

    try:
        count = None if given is None else int(parse_count(given))
    except ValueError as error:
        raise UserError(str(error), where=option) from None
    if count is not None and count < 1:
        raise UserError(f"{given} is less than 1", where=option)
    return count


def settings() -> None:
    """List every setting with its default and its one-line doc, as Markdown."""
    from reprise.recipe.listing import list_settings

    print(list_settings())


def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    topics: Annotated[bool, typer.Option("--topics", help="Print the topics, and one line for each.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the token budget per stage, mixture entry, source and topic; epochs, steps, FLOPs and GPU-hours."""
    from reprise.plan.build import make_plan
    from reprise.plan.show import show_plan
    from reprise.preflight.checks import inspect, refuse

    loaded = open_recipe(recipe, overrides)
    findings = inspect(loaded)
    refuse(findings, "error")
    result = make_plan(loaded, findings)
    if as_json:
        print_json(result)
    else:
        show_plan(result, topics=topics)


def status(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """List which stages are fresh, stale or missing, and why; of a study's folder, how far each of its runs is."""
    from reprise.status import run_table, status_of_run, status_of_runs, study_table

    if folders := runs_in(recipe):
        runs = status_of_runs(folders)
        if as_json:
            print_json(runs)
        else:
            print_table(study_table(runs, str(recipe)))
        return
    loaded = open_recipe(recipe, overrides)
    stages = status_of_run(loaded)
    if as_json:
        print_json(stages)
    else:
        print_table(run_table(stages, loaded.workspace))


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (init, settings, plan, status):
        app.command()(command)

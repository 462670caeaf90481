"""Commands that show results of a run (rejects, order, report, live page), and label documents by hand."""

import json
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from reprise.cli.options import AsJson, Overrides, RecipePath, bring_up, print_json, say, training_stages
from reprise.errors import UserError
from reprise.recipe.loading import open_recipe, runs_in


def rejects(
    recipe: RecipePath,
    stage: Annotated[str | None, typer.Option(help="Only of this stage: read, clean, ..., synthesize.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only for this reason.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most this many; 0: all.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List documents that were rejected or dropped, lines that others lost, and why."""
    from reprise.documents.rejects import nothing_rejected, read_rejects

    root = Path(open_recipe(recipe, None).workspace)
    first = None
    for entry in islice(read_rejects(root, stage, reason), limit or None):
        first = first or entry
        if as_json:
            print(json.dumps(entry, ensure_ascii=False))
        else:
            excerpt = " ".join(entry["text"].split())[:160]
            print(f"{entry['stage']}: {entry['reason']} {entry['detail']}  {entry['origin']}\n    {excerpt}")
    if first is None:
        say(nothing_rejected(root, stage, reason))


def order(
    recipe: RecipePath,
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows to print.")] = 200,
    stage: Annotated[str, typer.Option(help="Training stage, such as train-1.")] = "train-1",
    picture: Annotated[
        Path | None, typer.Option(help="Write the planned mixture over tokens to this HTML file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the training order: step, bucket, perplexity and first words of each row."""
    from reprise.report.order_table import order_json, plan_order, show_order
    from reprise.tokens.store import TokenStore
    from reprise.training.checkpoint import read_facts
    from reprise.workspace import Workspace

    loaded = open_recipe(recipe, overrides)
    names = training_stages(loaded)
    if stage not in names:
        raise UserError(f"there is no training stage {stage!r}", where="--stage", remedy=f"name {' or '.join(names)}")
    index = names.index(stage)
    bring_up(loaded, ["tokenize"])
    workspace = Workspace(loaded.workspace)
    before = workspace.folder(f"train-{index}") / "state"
    previous = read_facts(before)["sampler"] if before.is_dir() else None
    store = TokenStore.open(workspace.folder("tokenize"))
    planned = plan_order(loaded, store, stage=index + 1, rows=rows, previous=previous, picture=picture)
    if as_json:
        print_json(order_json(planned))
    else:
        show_order(planned)
    if picture is not None:
        say(f"the mixture over tokens: {picture}")


def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RECIPE [NAME=VALUE]...", help="The recipe, or folders of runs.")
    ],
    compare: Annotated[bool, typer.Option("--compare", help="Compare the named runs side by side.")] = False,
    output: Annotated[Path | None, typer.Option(help="The HTML file; default: in the first run's folder.")] = None,
) -> None:
    """Write the report of a run, at any time; with --compare, or of a study's folder, of several side by side."""
    from reprise.report.build import compare_report, write_report
    from reprise.workspace import Workspace

    overrides = [argument for argument in runs if "=" in argument and not Path(argument).exists()]
    named = [Path(argument) for argument in runs if argument not in overrides]
    folders = [folder for path in named for folder in runs_in(path) or [path]]
    compare = compare or len(folders) > len(named)
    recipes = [open_recipe(folder, overrides) for folder in folders]
    if not recipes or (len(recipes) > 1 and not compare):
        raise UserError("name one recipe or run, or several with --compare", where=f"reprise report {' '.join(runs)}")
    root = named[0] if compare and folders[0] != named[0] else Path(recipes[0].workspace)
    target = output or root / ("comparison.html" if compare else "report.html")
    if compare:
        compare_report([Path(recipe.workspace) for recipe in recipes], target)
    else:
        write_report(Workspace(root), recipes[0], target)
    say(f"wrote {target}")


def watch(
    recipe: RecipePath,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: any that is free.")] = 0,
) -> None:
    """Serve the live page of a run on this machine only."""
    from reprise.report.watch import watch as serve
    from reprise.workspace import Workspace

    loaded = open_recipe(recipe, None)
    serve(Workspace(loaded.workspace), loaded, port)


def annotate(
    recipe: RecipePath,
    overrides: Overrides = None,
    file: Annotated[
        Path | None, typer.Option(help="The file of labels; default: beside the recipe, NAME.topics.jsonl.")
    ] = None,
    documents: Annotated[int, typer.Option(min=1, help="Documents to label.")] = 200,
    language: Annotated[str | None, typer.Option(help="Only documents in this language.")] = None,
    against: Annotated[
        list[Path] | None, typer.Option(help="Another person's file: label the same documents, and compare.")
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Label nothing; only print the agreement.")] = False,
    as_json: AsJson = False,
) -> None:
    """Label topics by hand, one key per document, then print agreement with classifier, model and others. Resumes."""
    from reprise.annotate import annotate_run, say_result

    labels = file or recipe.with_name(f"{recipe.resolve().stem}.topics.jsonl")
    result = annotate_run(
        open_recipe(recipe, overrides),
        labels,
        lambda loaded: bring_up(loaded, ["decontaminate"]),
        documents=documents,
        language=language,
        against=against or [],
        ask=not (report or as_json),
    )
    if as_json:
        print_json(result)
    else:
        for line in say_result(result):
            print(line)


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (rejects, order, report, watch, annotate):
        app.command()(command)

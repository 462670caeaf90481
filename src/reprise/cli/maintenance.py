"""Commands that do not run stages: verify, doctor and prune a run, and list benchmarks."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from reprise.cli.options import AsJson, Overrides, RecipePath
from reprise.errors import UserError
from reprise.recipe.loading import open_recipe
from reprise.tables import print_table


def verify(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE|STORE", help="A recipe or run; or a token store.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Compare the checksums of everything a run has published, its caches, its inputs and the base model."""
    from reprise.tokens.store import STORE, TokenStore
    from reprise.verification import damage_of
    from reprise.verify import verify_run

    if (recipe / STORE).exists():
        store = TokenStore.open(recipe)
        store.verify()
        if as_json:
            print(json.dumps({"store": str(recipe), "fingerprint": store.fingerprint, "damage": []}))
        else:
            print(f"{recipe}: all files are as they were published (fingerprint {store.fingerprint})")
        return
    loaded = open_recipe(recipe, overrides)
    result = verify_run(loaded)
    if as_json:
        print(json.dumps(result, ensure_ascii=False, indent=1))
    elif not result["parts"]:
        raise UserError("nothing is published yet", where=loaded.workspace, remedy="run `reprise run RECIPE` first")
    else:
        for part in result["parts"]:
            state = f"{len(part['damage'])} damaged" if part["damage"] else "as written"
            print(f"{part['what']}: {part['files']:,} files, {part['bytes'] / 1e6:,.1f} MB: {state}")
    if damage := damage_of(result):
        raise UserError(
            f"{len(damage)} files are damaged or missing:\n  " + "\n  ".join(damage),
            where=loaded.workspace,
            remedy="restore the files from a copy, or delete the folder of the stage and run again; "
            "a damaged cache entry is computed again by itself",
        )
    if not as_json:
        files, size = sum(part["files"] for part in result["parts"]), sum(part["bytes"] for part in result["parts"])
        print(f"all {files:,} files ({size / 1e6:,.1f} MB) are as they were written; {result['seconds']:,.1f} s")


def benchmarks(
    language: Annotated[str | None, typer.Argument(help="List the tasks of this language, such as tr.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of local benchmark files (evaluation.data).")] = None,
    as_json: AsJson = False,
) -> None:
    """List suites and benchmarks by language, and whether their questions are on this machine."""
    from reprise.evaluation.benchmarks import listing

    if language is not None:
        tasks = listing.list_language(language)
        if as_json:
            print(json.dumps(tasks, ensure_ascii=False, indent=1))
        else:
            print_table(listing.benchmark_table(tasks, f"Tasks of lm-evaluation-harness in {language}"))
        return
    own, languages = listing.list_own(data), listing.list_languages()
    if as_json:
        print(json.dumps({"benchmarks": own, "languages": languages}, ensure_ascii=False, indent=1))
        return
    print_table(listing.benchmark_table(own, "Benchmarks and suites of Reprise"))
    print_table(listing.language_table(languages))
    print(
        "evaluation.benchmarks also takes any task or group of the installed lm-evaluation-harness, a YAML task "
        "and a file of questions: docs/evaluation.md"
    )


def doctor(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a recipe and its machine, and try read and clean on 200 documents of each input; writes nothing."""
    from reprise.doctor import diagnose, diagnosis_tables
    from reprise.preflight.checks import refuse

    findings, inputs, buckets = diagnose(open_recipe(recipe, overrides))
    if as_json:
        facts = {"findings": [asdict(finding) for finding in findings], "inputs": inputs, "buckets": buckets}
        print(json.dumps(facts, ensure_ascii=False, indent=1))
    else:
        for table in diagnosis_tables(inputs, buckets):
            print_table(table)
        for finding in findings:
            if finding.severity == "warning":
                print(f"warning: {finding}")
        if not any(finding.severity != "warning" for finding in findings):
            print("no problem found: the run can start")
    refuse(findings)


def prune(
    recipe: RecipePath,
    kept: Annotated[
        bool, typer.Option("--kept", help="Remove training stages that were made with other settings.")
    ] = False,
    cache: Annotated[bool, typer.Option("--cache", help="Remove cached answers and results.")] = False,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Remove half-made stages.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the disk space of kept stages, caches and unfinished stages; remove those that are named."""
    from reprise.prune import Kind, Prunable, list_prunable, remove
    from reprise.workspace import Workspace

    workspace = Workspace(open_recipe(recipe, None).workspace)
    flags: dict[Kind, bool] = {"kept": kept, "cache": cache, "unfinished": unfinished}
    chosen = {kind for kind, given in flags.items() if given}
    entries: list[Prunable] = remove(workspace, chosen) if chosen else list_prunable(workspace)
    if as_json:
        print(json.dumps(entries, ensure_ascii=False, indent=1))
        return
    for entry in entries:
        print(f"{entry['bytes'] / 1e6:>12,.1f} MB  {entry['path']}")
        if not chosen:
            print(f"{'':>16}--{entry['kind']}: costs {entry['costs']}")
    total = sum(entry["bytes"] for entry in entries)
    print(f"{'removed' if chosen else 'could be removed'}: {total / 1e6:,.1f} MB")


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (verify, doctor, prune, benchmarks):
        app.command()(command)

"""`reprise study`: grids of recipes, and studies that plan their runs themselves."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reprise.cli.options import AsJson, print_json, say, training_stages
from reprise.errors import UserError
from reprise.recipe.loading import open_recipe

if TYPE_CHECKING:
    from reprise.study import Study


def study(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="The study (YAML), or the name of a shipped one.")],
    recipe: Annotated[str | None, typer.Option(help="Recipe that every variant starts from.")] = None,
    workspace: Annotated[str | None, typer.Option(help="Folder of the runs.")] = None,
    parallel: Annotated[int | None, typer.Option(help="Runs at the same time, each in a process of its own.")] = None,
    only: Annotated[str | None, typer.Option(metavar="VARIANT-seed-N", help="Only this run of the grid.")] = None,
    entry: Annotated[str | None, typer.Option(help="`ratio`: mixture entry of the new text.")] = None,
    kept: Annotated[str | None, typer.Option(help="`ratio`: language that must be kept.")] = None,
    runs: Annotated[int | None, typer.Option(help="`ratio`: most runs.")] = None,
    source: Annotated[str | None, typer.Option(metavar="ENTRY/SOURCE", help="`microanneal`: the candidate.")] = None,
    tokens: Annotated[
        str | None, typer.Option(help="`microanneal`: tokens of a run; `rate`: tokens at each rate.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a grid of recipes with seeds and compare them; `ratio`: find the best share of new text;
    `microanneal`: is a source worth adding; `rate`: which learning rates to try; `replay`: what each policy
    would have done with the validations of a run. Resumes."""
    given: dict[str, str | int | None] = {"recipe": recipe, "workspace": workspace}
    if study == "replay":
        _replay_policies(recipe, as_json)
    elif study == "ratio":
        _find_ratio({**given, "entry": entry, "kept": kept, "runs": runs}, as_json)
    elif study == "rate":
        _find_rates({**given, "tokens": tokens}, as_json)
    else:
        _run_grid(study, {**given, "parallel": parallel}, only, source, tokens, as_json)


def _run_grid(
    name: str,
    given: dict[str, str | int | None],
    only: str | None,
    source: str | None,
    tokens: str | None,
    as_json: bool,
) -> None:
    """Run the grid of a study or of `microanneal`, and print the comparison."""
    from reprise.study import load_study, run_study

    arguments = [name]
    if name == "microanneal":
        loaded = _plan_microanneal({**given, "source": source, "tokens": tokens})
        arguments += ["--source", str(source), *(["--tokens", str(tokens)] if tokens else [])]
    else:
        loaded = load_study(name, _named(given))
    arguments += ["--recipe", loaded.recipe, "--workspace", loaded.workspace]
    result = run_study(loaded, arguments=arguments, only=only)
    if as_json:
        print_json(result)
        return
    if result is None:
        return
    for comparison in result["measures"].values():
        for sentence in comparison["sentences"]:
            print(sentence)
    say(f"wrote {Path(loaded.workspace) / 'study.html'}")


def _replay_policies(run: str | None, as_json: bool) -> None:
    from reprise.mixture.replay import replay, say_replay
    from reprise.report.curves import drop_repeated, read_metrics

    if run is None:
        raise UserError("name the run", where="reprise study replay", remedy="add --recipe RUN")
    loaded = open_recipe(Path(run), None)
    results = {}
    for name, stage in zip(training_stages(loaded), loaded.stages, strict=True):
        folder = Path(loaded.workspace) / name
        metrics = (
            next((path for path in (folder, folder.with_suffix(".partial")) if path.is_dir()), folder) / "metrics.jsonl"
        )
        records = drop_repeated(read_metrics(metrics)[0])
        events = [(record["tokens"], record["validation"]) for record in records if record["kind"] == "validation"]
        if not events:
            raise UserError("there is no validation yet", where=str(metrics), remedy="train first")
        results[name] = replay(stage, events)
    if as_json:
        print_json(results)
        return
    for name, result in results.items():
        for sentence in say_replay(result):
            print(f"{name}: {sentence}")


def _find_ratio(given: dict[str, str | int | None], as_json: bool) -> None:
    from reprise.ratio import RatioStudy, find_ratio
    from reprise.recipe.loading import check

    loaded = check(RatioStudy, {"workspace": "runs/study-ratio", **_named(given)}, "reprise study ratio")
    answer = find_ratio(loaded)
    if as_json:
        print_json(answer)
        return
    print(answer["sentence"])
    say(f"wrote {Path(loaded.workspace) / 'proposed.yaml'}")


def _plan_microanneal(given: dict[str, str | int | None]) -> "Study":
    from reprise.microanneal import Microanneal, plan_microanneal
    from reprise.recipe.loading import check

    parallel = given.pop("parallel")
    settings = {"workspace": "runs/study-microanneal", **_named(given)}
    planned = plan_microanneal(check(Microanneal, settings, "reprise study microanneal"))
    return planned.model_copy(update={"parallel": parallel or 1})


def _find_rates(given: dict[str, str | int | None], as_json: bool) -> None:
    from reprise.rate_range import RateStudy, find_rates
    from reprise.recipe.loading import check

    loaded = check(RateStudy, {"workspace": "runs/study-rate", **_named(given)}, "reprise study rate")
    answer = find_rates(loaded)
    if as_json:
        print_json(answer)
        return
    print(answer["sentence"])
    say(f"wrote {Path(loaded.workspace) / 'rate.json'}")


def _named(given: dict[str, str | int | None]) -> dict[str, str | int]:
    """The options that were given on the command line."""
    return {name: value for name, value in given.items() if value is not None}


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(study)

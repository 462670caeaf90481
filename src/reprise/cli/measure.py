"""Commands that measure models: evaluate, and selftest, which compares training with a plain loop."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from reprise.cli.options import AsJson, Overrides, RecipePath, bring_up, leads, say
from reprise.errors import UserError
from reprise.manifest import read_output
from reprise.recipe.loading import open_recipe
from reprise.tables import print_table


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="RECIPE|MODEL", help="A recipe or run; or a model directory.")],
    overrides: Overrides = None,
    against: Annotated[str | None, typer.Option(help="The model that MODEL came from.")] = None,
    suite: Annotated[
        list[str] | None, typer.Option(help="paper, guards, quick, assistant, or a benchmark; repeat for more.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of local benchmark files; else from the Hub.")] = None,
    text: Annotated[Path | None, typer.Option(help="Text whose bits per byte are measured.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Questions per benchmark; 0: all.")] = 0,
    backend: Annotated[
        str | None, typer.Option(help="vllm, or the address of an OpenAI-compatible server; else in this process.")
    ] = None,
    run_code: Annotated[
        bool, typer.Option("--run-code", help="Run the programs that the model writes, sandboxed.")
    ] = False,
    fail_on_loss: Annotated[bool, typer.Option("--fail-on-loss", help="Exit with code 1 if anything is lost.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a run, or any two models, before and after, and judge what was gained and kept."""
    from reprise.evaluation.verdicts import has_loss

    options: dict[str, Any] = {"against": against, "suite": suite, "data": data, "text": text}
    options |= {"limit": limit, "backend": backend, "run_code": run_code}
    is_run = model.suffix in (".yaml", ".yml") or (model / "recipe.yaml").exists()
    if is_run:
        if given := [f"--{name.replace('_', '-')}" for name, value in options.items() if value]:
            raise UserError(
                f"{', '.join(given)}: only for a model, as a run has its recipe",
                where=str(model),
                remedy="write evaluation.benchmarks=[...] and the like, or name a model, such as RUN/train-1/model",
            )
        recipe = open_recipe(model, overrides)
        bring_up(recipe, ["evaluate"])
        if not leads():
            return
        results = read_output(Path(recipe.workspace) / "evaluate" / "results.json")
    elif fail_on_loss and against is None:
        raise UserError("--fail-on-loss compares two models", remedy="name the other one with --against")
    else:
        results = _evaluate_model(model, overrides or [], options)
        if results is None:
            return  # a helper process
    if as_json:
        print(json.dumps(results, ensure_ascii=False, indent=1))
    else:
        from reprise.evaluation.command import result_tables

        for table in result_tables(results):
            print_table(table)
        if "headline" in results:
            print(results["headline"])
    if fail_on_loss and has_loss(results["verdicts"]):
        raise typer.Exit(1)


def _evaluate_model(model: Path, overrides: list[str], options: dict[str, Any]) -> Any:
    from reprise.evaluation.command import evaluate_model, read_settings
    from reprise.pipeline import open_processes
    from reprise.recipe.training import Training
    from reprise.storage import cache_folder

    settings = read_settings(str(model), overrides, **options)
    processes = open_processes(Training().collective_timeout_s)
    return processes.first(
        lambda: evaluate_model(
            settings.model,
            evaluation=settings.evaluation,
            against=settings.against,
            text=options["text"],
            cache=cache_folder() / "evaluation",
            processes=processes,
        )
    )


def selftest(
    recipe: RecipePath,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 30,
    rows: Annotated[int, typer.Option(min=1, help="Rows of a batch, at most the recipe's.")] = 4,
    seq_len: Annotated[int, typer.Option(min=8, help="Tokens of a row, at most the recipe's.")] = 256,
    rounding: Annotated[bool, typer.Option("--rounding", help="Also print differences from rounding.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a few steps on your model and tokens, and again by a plain PyTorch loop; exit code 1 if they differ."""
    from reprise.training.selftest import selftest as run_selftest

    result = run_selftest(
        open_recipe(recipe, overrides), steps=steps, batch_rows=rows, seq_len=seq_len, measure_rounding=rounding
    )
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        size = f"{result['steps']} steps of {result['batch_rows']} rows of {result['seq_len']} tokens"
        say(f"{size} on {result['device']}, loss {result['first_loss']:.4f} -> {result['last_loss']:.4f}")
        say("worst relative difference from a plain PyTorch loop in float32:")
        for name, limit in result["limits"].items():
            where = f" ({result['weight']})" if name == "weights" else ""
            say(f"  {name.replace('_', ' '):<10} {result[name]:.1e}, at most {limit:.0e} passes{where}")  # type: ignore[literal-required]
        if (alone := result["rounding"]) is not None:
            say("the plain loop against itself, its sums in another order:")
            say(f"  loss {alone['loss']:.1e}, weights {alone['weights']:.1e} ({alone['weight']})")
            all_steps = f"{alone['grad_norm_all_steps']:.1e}; the trainer's {result['grad_norm_all_steps']:.1e}"
            say(f"  grad norm over all steps {all_steps}")
        say("passed" if result["passed"] else "FAILED: training would not do what a plain loop does")
    if not result["passed"]:
        raise typer.Exit(1)


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (evaluate, selftest):
        app.command()(command)

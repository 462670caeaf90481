"""The commands."""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from reprise import __version__, cli_maintenance, cli_publish, interrupts
from reprise.errors import UserError
from reprise.progress import console
from reprise.recipe import Recipe, presets, read_preset
from reprise.recipe.loading import open_recipe, runs_in
from reprise.tables import print_table
from reprise.training.signals import Interrupted

app = typer.Typer(
    help="Continual pre-training: from raw text to a better model, and the proof of what it gained and kept.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


STOPPED = 75
"""Exit code (EX_TEMPFAIL) of a training that a scheduler stopped and that saved: run the same command again."""


def _print_version(given: bool) -> None:
    if given:
        print(f"reprise {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe (YAML), or the folder of a run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME=VALUE]...", help="Settings to override, such as stages.0.tokens=2M."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
Restart = Annotated[bool, typer.Option("--restart", help="Throw away a half-trained stage whose settings changed.")]
Adopt = Annotated[bool, typer.Option("--adopt", help="Resume from its checkpoint with the new settings.")]


def main() -> NoReturn:
    """Run a command; the user's mistakes are one message and exit code 2, without a traceback unless --debug."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        code = app(
            arguments, prog_name="reprise", standalone_mode=False
        )  # the code of typer.Exit, which it catches itself
    except BaseException as error:
        signal_number = interrupts.settle() or (signal.SIGINT if isinstance(error, KeyboardInterrupt) else None)
        if isinstance(error, Interrupted) or signal_number is None:
            _leave(error, debug)
        _say_stopped(signal_number)
    if code == 128 + signal.SIGINT:  # what typer makes of KeyboardInterrupt
        _say_stopped(interrupts.settle() or signal.SIGINT)
    sys.exit(code if isinstance(code, int) else 0)


def _say_stopped(signal_number: int) -> NoReturn:
    """End after Ctrl-C or SIGTERM; an interrupted import may have raised anything."""
    console.print(interrupts.MESSAGE, markup=False, soft_wrap=True)
    sys.exit(128 + signal_number)


def _leave(error: BaseException, debug: bool) -> NoReturn:
    """End on what the user, typer and training raise, and on our own faults."""
    if debug or not isinstance(error, Exception):
        raise error
    if isinstance(error, UserError):
        console.print(f"error: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    if isinstance(error, typer.Exit):
        sys.exit(error.exit_code)
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # a wrong command line
        console.print(f"error: {error.format_message()}", style="bold red", markup=False, highlight=False)
        sys.exit(2)
    if isinstance(error, Interrupted):
        if _leads():
            console.print(str(error), markup=False, soft_wrap=True)
        sys.exit(130 if error.by_user else STOPPED)
    if isinstance(error, BrokenPipeError):  # such as `| head`, which has read enough
        sys.exit(128 + signal.SIGPIPE)
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        console.print(f"error: {where}{error.strerror}", style="bold red", markup=False, soft_wrap=True)
        sys.exit(2)
    raise error


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("recipe.yaml"),
    preset: Annotated[
        str | None, typer.Option(help=f"Start from a preset (default: demo): {', '.join(presets())}.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The base model: a folder, or a name on the Hub.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="New text: a file or folder; again for more.")] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Text of the kind that the model must not lose; again for more.")
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
            Model(path=model, gguf_file=gguf_file),
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
    """A count of things of the command line, such as `2M`."""
    from reprise.recipe.fields import parse_count

    try:
        count = None if given is None else int(parse_count(given))
    except ValueError as error:
        raise UserError(str(error), where=option) from None
    if count is not None and count < 1:
        raise UserError(f"{given} is less than 1", where=option)
    return count


@app.command()
def settings() -> None:
    """List every setting with its default and its one-line doc, as Markdown."""
    from reprise.recipe.listing import list_settings

    print(list_settings())


@app.command()
def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    topics: Annotated[bool, typer.Option("--topics", help="A line for each topic.")] = False,
    as_json: AsJson = False,
) -> None:
    """The token budget per stage, mixture entry, source and topic; epochs, steps, FLOPs and GPU-hours."""
    from reprise import preflight
    from reprise.plan.build import make_plan
    from reprise.plan.show import show_plan

    loaded = open_recipe(recipe, overrides)
    findings = preflight.inspect(loaded)
    preflight.refuse(findings, "error")
    result = make_plan(loaded, findings)
    if as_json:
        print(json.dumps(result, ensure_ascii=False, indent=1))
    else:
        show_plan(result, topics=topics)


@app.command()
def run(recipe: RecipePath, overrides: Overrides = None, restart: Restart = False, adopt: Adopt = False) -> None:
    """Everything that is not fresh: from raw text to the report."""
    _run(open_recipe(recipe, overrides), None, restart=restart, adopt=adopt)


@app.command()
def status(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Which stages are fresh, stale and missing, and why; of a study's folder, how far each of its runs is."""
    from reprise.status import run_table, status_of_run, status_of_runs, study_table

    if folders := runs_in(recipe):
        runs = status_of_runs(folders)
        if as_json:
            _print_json(runs)
        else:
            print_table(study_table(runs, str(recipe)))
        return
    loaded = open_recipe(recipe, overrides)
    stages = status_of_run(loaded)
    if as_json:
        _print_json(stages)
    else:
        print_table(run_table(stages, loaded.workspace))


def _stage_command(name: str, doc: str) -> None:
    """Add the command that brings one stage up to date, and what it needs."""

    def command(recipe: RecipePath, overrides: Overrides = None) -> None:
        _run(open_recipe(recipe, overrides), [name])

    app.command(name, help=doc)(command)


for _name, _doc in {
    "read": "Read the inputs into one table; what cannot be read goes to rejects.jsonl.",
    "deduplicate": "Drop exact and near duplicates, across all sources.",
    "decontaminate": "Drop documents that hold benchmark questions.",
    "score": "Score perplexity by the base model, for the curriculum.",
    "synthesize": "Make question-answer documents about passages of the text.",
    "tokenize": "Write the token store.",
}.items():
    _stage_command(_name, _doc)


@app.command()
def train(recipe: RecipePath, overrides: Overrides = None, restart: Restart = False, adopt: Adopt = False) -> None:
    """Train every stage; under torchrun on several processes."""
    loaded = open_recipe(recipe, overrides)
    _run(loaded, [f"train-{number + 1}" for number in range(len(loaded.stages))], restart=restart, adopt=adopt)


@app.command()
def label(
    recipe: RecipePath,
    overrides: Overrides = None,
    report: Annotated[bool, typer.Option("--report", help="Print how good the labels are.")] = False,
    as_json: AsJson = False,
) -> None:
    """Label documents by topic, and grade their quality."""
    from reprise.documents.label.stage import read_grades, read_report, show_grades, show_report
    from reprise.workspace import Workspace

    loaded = open_recipe(recipe, overrides)
    _run(loaded, ["label"])
    folder = Workspace(loaded.workspace).folder("label")
    if as_json:
        _print_json({"topics": read_report(folder), "quality": read_grades(folder)})
    elif report:
        show_report(read_report(folder))
        show_grades(folder)


@app.command()
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
    report: Annotated[bool, typer.Option("--report", help="Ask nothing; print the agreement.")] = False,
    as_json: AsJson = False,
) -> None:
    """Label topics by hand, one key a document; then say how far classifier, model and others agree. Resumes."""
    from reprise.annotate import annotate_run, say_result

    def bring_up_to_date(loaded: Recipe) -> None:
        _run(loaded, ["decontaminate"])

    labels = file or recipe.with_name(f"{recipe.resolve().stem}.topics.jsonl")
    result = annotate_run(
        open_recipe(recipe, overrides),
        labels,
        bring_up_to_date,
        documents=documents,
        language=language,
        against=against or [],
        ask=not (report or as_json),
    )
    if as_json:
        print(json.dumps(result, ensure_ascii=False, indent=1))
    else:
        for line in say_result(result):
            print(line)


@app.command()
def clean(
    recipe: RecipePath,
    overrides: Overrides = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Drop nothing: print what each rule would drop of a sample, and examples.")
    ] = False,
    sample: Annotated[int, typer.Option(min=1, help="Documents of each language and source to measure.")] = 500,
    as_json: AsJson = False,
) -> None:
    """Repair the text, and drop what the heuristics find bad."""
    from reprise.documents.clean.measure import measure_stage, show_retention
    from reprise.workspace import Workspace

    loaded = open_recipe(recipe, overrides)
    if not measure:
        _run(loaded, ["clean"])
        return
    _run(loaded, ["read"])
    found = measure_stage(Workspace(loaded.workspace).folder("read"), loaded.documents.clean, sample=sample)
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
    else:
        show_retention(found)


@app.command()
def rejects(
    recipe: RecipePath,
    stage: Annotated[str | None, typer.Option(help="Only of this stage: read, clean, ..., synthesize.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only for this reason.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 20,
    as_json: AsJson = False,
) -> None:
    """What was rejected or dropped, and why."""
    from itertools import islice

    from reprise.documents.rejects import read_rejects

    found = read_rejects(Path(open_recipe(recipe, None).workspace), stage, reason)
    for entry in islice(found, limit or None):
        if as_json:
            print(json.dumps(entry, ensure_ascii=False))
        else:
            excerpt = " ".join(entry["text"].split())[:160]
            print(f"{entry['stage']}: {entry['reason']} {entry['detail']}  {entry['origin']}\n    {excerpt}")


@app.command()
def order(
    recipe: RecipePath,
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows to print.")] = 200,
    stage: Annotated[str, typer.Option(help="Stage of training, such as train-1.")] = "train-1",
    picture: Annotated[
        Path | None, typer.Option(help="Write the planned mixture over tokens to this HTML file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What would be trained on when: step, bucket, perplexity, first words."""
    from reprise.report.order_table import order_json, plan_order, show_order
    from reprise.tokens.store import TokenStore
    from reprise.training.checkpoint import read_facts
    from reprise.workspace import Workspace

    loaded = open_recipe(recipe, overrides)
    names = [f"train-{number + 1}" for number in range(len(loaded.stages))]
    if stage not in names:
        raise UserError(
            f"there is no stage of training {stage!r}", where="--stage", remedy=f"name {' or '.join(names)}"
        )
    number = names.index(stage) + 1
    _run(loaded, ["tokenize"])
    workspace = Workspace(loaded.workspace)
    before = workspace.folder(f"train-{number - 1}") / "state"
    previous = read_facts(before)["sampler"] if before.is_dir() else None
    store = TokenStore.open(workspace.folder("tokenize"))
    planned = plan_order(loaded, store, stage=number, rows=rows, previous=previous, picture=picture)
    if as_json:
        _print_json(order_json(planned))
    else:
        show_order(planned)
    if picture is not None:
        _say(f"the mixture over tokens: {picture}")


@app.command()
def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RECIPE [NAME=VALUE]...", help="The recipe, or folders of runs.")
    ],
    compare: Annotated[bool, typer.Option("--compare", help="Lay the named runs side by side.")] = False,
    output: Annotated[Path | None, typer.Option(help="The HTML file; default: in the first run's folder.")] = None,
) -> None:
    """Write the report of a run, at any moment; with --compare, or of a study's folder, of several side by side."""
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
    _say(f"wrote {target}")


@app.command()
def watch(
    recipe: RecipePath,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: any that is free.")] = 0,
) -> None:
    """Serve the live page of a run on this machine only."""
    from reprise.report.watch import watch as serve
    from reprise.workspace import Workspace

    loaded = open_recipe(recipe, None)
    serve(Workspace(loaded.workspace), loaded, port)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="RECIPE|MODEL", help="A recipe or run; or a model directory.")],
    overrides: Overrides = None,
    against: Annotated[str | None, typer.Option(help="The model that MODEL came from.")] = None,
    suite: Annotated[
        list[str] | None, typer.Option(help="paper, guards, quick, assistant, or a benchmark; again for more.")
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
    fail_on_loss: Annotated[bool, typer.Option("--fail-on-loss", help="Exit code 1 where anything is lost.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure before and after, and judge what was gained and kept: of a run, or of any two models."""
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
        _run(recipe, ["evaluate"])
        if not _leads():
            return
        results = json.loads((Path(recipe.workspace) / "evaluate" / "results.json").read_text(encoding="utf-8"))
    elif fail_on_loss and against is None:
        raise UserError("--fail-on-loss compares two models", remedy="name the other one with --against")
    else:
        measured = _evaluate_model(model, overrides or [], options)
        if measured is None:
            return  # this process has helped
        results = measured
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


@app.command()
def selftest(
    recipe: RecipePath,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the optimizer.")] = 30,
    rows: Annotated[int, typer.Option(min=1, help="Rows of a batch, at most the recipe's.")] = 4,
    seq_len: Annotated[int, typer.Option(min=8, help="Tokens of a row, at most the recipe's.")] = 256,
    as_json: AsJson = False,
) -> None:
    """Train a few steps on your model and tokens, and again by a plain PyTorch loop; exit code 1 where they differ."""
    from reprise.training.selftest import selftest as run_selftest

    result = run_selftest(open_recipe(recipe, overrides), steps=steps, batch_rows=rows, seq_len=seq_len)
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        size = f"{result['steps']} steps of {result['batch_rows']} rows of {result['seq_len']} tokens"
        _say(f"{size} on {result['device']}, loss {result['first_loss']:.4f} -> {result['last_loss']:.4f}")
        _say("worst relative difference from a plain PyTorch loop in float32:")
        for name, limit in result["limits"].items():
            where = f" ({result['weight']})" if name == "weights" else ""
            _say(f"  {name.replace('_', ' '):<10} {result[name]:.1e}, at most {limit:.0e} passes{where}")  # type: ignore[literal-required]
        _say("passed" if result["passed"] else "FAILED: training would not do what a plain loop does")
    if not result["passed"]:
        raise typer.Exit(1)


@app.command()
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
    tokens: Annotated[str | None, typer.Option(help="`microanneal`: of a run; `rate`: at each rate.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a grid of recipes with seeds and compare them; `ratio`: find the best share of new text;
    `microanneal`: is a source worth adding; `rate`: which learning rates to try; `replay`: what each policy
    would have done with the validations of a run. Resumes."""
    if study == "ratio":
        _find_ratio({"recipe": recipe, "workspace": workspace, "entry": entry, "kept": kept, "runs": runs}, as_json)
        return
    if study == "replay":
        _replay_policies(recipe, as_json)
        return
    if study == "rate":
        _find_rates({"recipe": recipe, "workspace": workspace, "tokens": tokens}, as_json)
        return
    from reprise.study import load_study, run_study

    changes = {"recipe": recipe, "workspace": workspace, "parallel": parallel}
    arguments = [study]
    if study == "microanneal":
        loaded = _plan_microanneal({**changes, "source": source, "tokens": tokens})
        arguments += ["--source", str(source), *(["--tokens", str(tokens)] if tokens else [])]
    else:
        loaded = load_study(study, {name: value for name, value in changes.items() if value is not None})
    arguments += ["--recipe", loaded.recipe, "--workspace", loaded.workspace]
    result = run_study(loaded, arguments=arguments, only=only)
    if as_json:
        _print_json(result)
        return
    for found in result["measures"].values() if result else ():
        for sentence in found["sentences"]:
            print(sentence)
    if result:
        _say(f"wrote {Path(loaded.workspace) / 'study.html'}")


def _replay_policies(run: str | None, as_json: bool) -> None:
    from reprise.mixture.replay import replay, say_replay
    from reprise.report.curves import drop_repeated, read_metrics

    if run is None:
        raise UserError("name the run", where="reprise study replay", remedy="add --recipe RUN")
    loaded = open_recipe(Path(run), None)
    results: dict[str, Any] = {}
    for number, stage in enumerate(loaded.stages, 1):
        folder = Path(loaded.workspace) / f"train-{number}"
        metrics = (
            next((path for path in (folder, folder.with_suffix(".partial")) if path.is_dir()), folder) / "metrics.jsonl"
        )
        records = drop_repeated(read_metrics(metrics)[0])
        events = [(record["tokens"], record["validation"]) for record in records if record["kind"] == "validation"]
        if not events:
            raise UserError("there is no validation yet", where=str(metrics), remedy="train first")
        results[f"train-{number}"] = replay(stage, events)
    if as_json:
        _print_json(results)
        return
    for name, result in results.items():
        for sentence in say_replay(result):
            print(f"{name}: {sentence}")


def _find_ratio(given: dict[str, Any], as_json: bool) -> None:
    from reprise.ratio import RatioStudy, find_ratio
    from reprise.recipe.loading import check

    settings = {"workspace": "runs/study-ratio", **{name: value for name, value in given.items() if value is not None}}
    loaded = check(RatioStudy, settings, "reprise study ratio")
    answer = find_ratio(loaded)
    if as_json:
        _print_json(answer)
        return
    print(answer["sentence"])
    _say(f"wrote {Path(loaded.workspace) / 'proposed.yaml'}")


def _plan_microanneal(given: dict[str, Any]) -> Any:
    from reprise.microanneal import Microanneal, plan_microanneal
    from reprise.recipe.loading import check

    parallel = given.pop("parallel")
    settings = {
        "workspace": "runs/study-microanneal",
        **{name: value for name, value in given.items() if value is not None},
    }
    planned = plan_microanneal(check(Microanneal, settings, "reprise study microanneal"))
    return planned.model_copy(update={"parallel": parallel or 1})


def _find_rates(given: dict[str, Any], as_json: bool) -> None:
    from reprise.rate_range import RateStudy, find_rates
    from reprise.recipe.loading import check

    settings = {"workspace": "runs/study-rate", **{name: value for name, value in given.items() if value is not None}}
    loaded = check(RateStudy, settings, "reprise study rate")
    answer = find_rates(loaded)
    if as_json:
        _print_json(answer)
        return
    print(answer["sentence"])
    _say(f"wrote {Path(loaded.workspace) / 'rate.json'}")


def _run(
    recipe: Recipe,
    until: list[str] | None,
    *,
    restart: bool = False,
    adopt: bool = False,
    others: Sequence[Path] = (),
) -> None:
    from reprise.pipeline import run_stages, say_result

    leads = _leads()
    count = run_stages(
        recipe,
        until=until,
        restart=restart,
        adopt=adopt,
        others=others,
        say=lambda line: _say(line) if leads else None,
    )
    if leads:
        _say(say_result(recipe, until, count))


def _leads() -> bool:
    """Whether this is the first process of those that torchrun or Slurm started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1))


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


cli_maintenance.add_commands(app)
cli_publish.add_commands(app)

if __name__ == "__main__":
    main()

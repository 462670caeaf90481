"""The command line: one module for each group of commands, and the exit codes."""

import signal
import sys
from typing import Annotated, NoReturn

import typer

from reprise import __version__, interrupts
from reprise.cli import maintenance, measure, publish, recipes, run, show, studies
from reprise.cli.options import leads
from reprise.errors import UserError
from reprise.progress import console
from reprise.training.signals import Interrupted

app = typer.Typer(
    help="Continual pre-training: from raw text to a better model, and the proof of what it gained and kept.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


STOPPED = 75
"""Exit code (EX_TEMPFAIL) after a scheduler stopped training and a checkpoint was saved: run the same command again."""


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


for _group in (recipes, run, show, measure, studies, maintenance, publish):
    _group.add_commands(app)


def main() -> NoReturn:
    """Run a command; a mistake of the user is one message and exit code 2, without a traceback unless --debug."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        # Typer catches its own Exit and returns the code.
        code = app(arguments, prog_name="reprise", standalone_mode=False)
    except BaseException as error:
        signal_number = interrupts.settle() or (signal.SIGINT if isinstance(error, KeyboardInterrupt) else None)
        if isinstance(error, Interrupted) or signal_number is None:
            _leave(error, debug)
        _say_stopped(signal_number)
    if code == 128 + signal.SIGINT:  # typer's code for KeyboardInterrupt
        _say_stopped(interrupts.settle() or signal.SIGINT)
    sys.exit(code if isinstance(code, int) else 0)


def _say_stopped(signal_number: int) -> NoReturn:
    """Exit after Ctrl-C or SIGTERM; an interrupted import may have raised anything."""
    console.print(interrupts.MESSAGE, markup=False, soft_wrap=True)
    sys.exit(128 + signal_number)


def _leave(error: BaseException, debug: bool) -> NoReturn:
    """Exit after an error of the user, typer or training, or a bug of Reprise."""
    if debug or not isinstance(error, Exception):
        raise error
    if isinstance(error, UserError):
        console.print(f"error: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    if isinstance(error, typer.Exit):
        sys.exit(error.exit_code)
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # an invalid command line
        console.print(f"error: {error.format_message()}", style="bold red", markup=False, highlight=False)
        sys.exit(2)
    if isinstance(error, Interrupted):
        if leads():
            console.print(str(error), markup=False, soft_wrap=True)
        sys.exit(130 if error.by_user else STOPPED)
    if isinstance(error, BrokenPipeError):  # for example `| head`, which stopped reading
        sys.exit(128 + signal.SIGPIPE)
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        console.print(f"error: {where}{error.strerror}", style="bold red", markup=False, soft_wrap=True)
        sys.exit(2)
    raise error

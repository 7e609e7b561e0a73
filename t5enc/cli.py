"""The console script: commands come from entry points, and each imports what it needs when it runs."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points

import typer
from rich.console import Console

from t5enc.errors import ExitCode, T5encError, show_invisible
from t5enc.fields.blank import refusing_blanks
from t5enc.machine.streams import check_working_folder, explain_lost_output, is_lost_output, open_streams, speak_utf8

GROUP = "t5enc.commands"
INTERRUPTED = 130


def build_app() -> typer.Typer:
    """All installed commands."""
    app = typer.Typer(
        name="t5enc",
        help="T5-family text encoders for datasets and services.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        entry.load()(app)
    _refuse_blanks(app)
    return app


def _refuse_blanks(app: typer.Typer) -> None:
    """In all commands: a blank argument is a mistake of whoever wrote the command line."""
    for command in app.registered_commands:
        if command.callback is not None:
            command.callback = refusing_blanks(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _refuse_blanks(group.typer_instance)


def _root() -> None:
    """T5-family text encoders for datasets and services."""


def main() -> None:
    """Run a command; an error of t5enc's own ends it with its message and exit code, without a traceback."""
    speak_utf8()
    open_streams()
    try:
        check_working_folder()
        try:
            build_app()(prog_name="t5enc")
        finally:
            sys.stdout.flush()
    except T5encError as error:
        report_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # while modules were imported
        sys.exit(INTERRUPTED)
    except OSError as error:
        if not is_lost_output(error):
            raise
        report_error(explain_lost_output(error))
        os._exit(ExitCode.FAILED)  # Python would try to write the rest once more


def report_error(error: T5encError) -> None:
    """An error as the person at the terminal reads it."""
    from t5enc.commands.model_options import name_flags

    told = show_invisible(name_flags(str(error)), keep="\n\t")
    Console(stderr=True, soft_wrap=True).print(f"error: {told}", style="bold red", markup=False, highlight=False)

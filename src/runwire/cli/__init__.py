"""The command line. Every command says in one sentence on stderr why it failed, and by its exit code in which way.

Heavy imports are made inside the commands: `runwire --help` should not wait for an HTTP stack.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

import runwire
from runwire.cli import archive, canary, content, demo, doctor, environment, keys, migrate, ops, serve, top
from runwire.cli.failures import EXIT_CODES_HELP, defect, sentences_of
from runwire.cli.options import examples
from runwire.cli.standard_streams import open_standard_descriptors, settle_output
from runwire.errors import ExitCode, RunwireError

# The classes of click as typer has them: its own copy in later versions.
_HELP: Final = ["-h", "--help"]
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="runwire",
    help="A durable, observable event pipeline for agent runs.",
    epilog=examples(
        "runwire demo", "runwire demo chat", "runwire serve --port 0", "runwire run start --follow", "runwire doctor"
    )
    + "\n\n"
    + EXIT_CODES_HELP,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": _HELP},
)
app.command(epilog=serve.EPILOG)(serve.serve)
app.add_typer(demo.app, name="demo", epilog=demo.EPILOG)
app.add_typer(content.app, name="run", epilog=examples("runwire run start --follow", "runwire run list --state failed"))
app.add_typer(archive.app, name="archive", epilog=archive.EPILOG)
app.command(epilog=doctor.EPILOG)(doctor.doctor)
app.command(epilog=canary.EPILOG)(canary.canary)
app.command(epilog=top.EPILOG)(top.top)
app.command(epilog=migrate.EPILOG)(migrate.migrate)
app.add_typer(keys.app, name="keys", epilog=examples("runwire keys create --scope runs:read --name dashboard"))
app.add_typer(ops.app, name="ops", epilog=examples("runwire ops render", "runwire ops render --check"))


def _print_version(wanted: bool) -> None:  # noqa: FBT001  # typer calls it with the flag
    if wanted:
        typer.echo(f"runwire {runwire.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A durable, observable event pipeline for agent runs."""


def main() -> int:
    """The entry point: runs the command line of this process, which is its alone, and returns its exit code."""
    open_standard_descriptors()
    environment.ignored += environment.ignore_unusable(os.environ)
    return run_command(sys.argv[1:])


def run_command(args: Sequence[str]) -> int:
    """Runs one command line and returns its exit code."""
    if not args or list(args) in (["run"], ["archive"], ["keys"], ["ops"]):
        args = [*args, "--help"]
    try:
        command = typer.main.get_command(app)
        if not {"-h", "--help"}.isdisjoint(args):
            _name_values(command)
        result = command.main(args=list(args), prog_name="runwire", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has what it wanted
        settle_output()
        return ExitCode.OK
    except SystemExit as error:  # typer's, for a reader that has what it wanted; any other was no success
        settle_output()
        return ExitCode.OK if isinstance(error.__context__, OSError) else ExitCode.FAILED
    except (KeyboardInterrupt, typer.Abort, asyncio.CancelledError):  # the last: told to end while it was starting
        settle_output()
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001  # whatever it is, nobody is helped by a traceback
        return say_failure(error)
    return int(result) if isinstance(result, int) else ExitCode.OK


def _name_values(command: Any, parent: typer.Context | None = None) -> None:
    """In help: a value by its option's name. Typer says `--port <int>`, and `--follow <bool>` where there is none."""
    context = typer.Context(command, parent=parent, help_option_names=_HELP)
    for parameter in command.get_params(context):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        elif parameter.param_type_name == "argument":
            parameter.display_type_rich = lambda ctx: ""  # noqa: ARG005  # typer's signature
        elif parameter.metavar is None:
            parameter.metavar = parameter.name.upper().rpartition("_")[2]
    for inner in getattr(command, "commands", {}).values():
        _name_values(inner, context)


def _usage(error: Exception) -> str:
    """Typer's text in one line, with where to read on."""
    text = " ".join(str(getattr(error, "format_message", lambda: error)()).split()).rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{text}; see `{context.command_path if context else 'runwire'} --help`"


def say_failure(error: Exception) -> int:
    """Says on stderr what is wrong, and returns the exit code for it."""
    written = settle_output()
    if isinstance(error, _UsageError):
        code, text = ExitCode.USAGE, _usage(error)
    elif isinstance(error, RunwireError):
        code, text = error.exit_code, "\n".join(sentences_of(error))
    elif isinstance(error, OSError):
        (said,) = sentences_of(error)
        of_output = not written or error.errno in (errno.ENOSPC, errno.EIO)
        code, text = ExitCode.FAILED, f"the output cannot be written: {said}" if of_output else said
    else:
        code, text = ExitCode.FAILED, defect(error)
    with contextlib.suppress(OSError):  # a full disk; the exit code says it, too
        for line in text.splitlines():
            sys.stderr.write(f"runwire: {line}\n")
    return code

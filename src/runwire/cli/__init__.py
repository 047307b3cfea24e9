"""The command line. Every command says in one sentence on stderr why it failed, and by its exit code in which way.

Heavy imports are made inside the commands: `runwire --help` should not wait for an HTTP stack.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import runwire
from runwire.cli import archive, demo, doctor, keys, migrate, ops, run, serve
from runwire.cli.failures import EXIT_CODES_HELP, ExitCode, exit_code_of, sentences_of
from runwire.cli.options import examples
from runwire.cli.standard_streams import open_standard_descriptors
from runwire.errors import RunwireError

# The classes of click as typer has them: its own copy in later versions.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="runwire",
    help="A durable, observable event pipeline for agent runs.",
    epilog=examples("runwire demo", "runwire serve --port 0", "runwire run start --follow", "runwire doctor")
    + "\n\n"
    + EXIT_CODES_HELP,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=serve.EPILOG)(serve.serve)
app.command(epilog=demo.EPILOG)(demo.demo)
app.add_typer(run.app, name="run", epilog=examples("runwire run start --follow", "runwire run list --state failed"))
app.add_typer(archive.app, name="archive", epilog=archive.EPILOG)
app.command(epilog=doctor.EPILOG)(doctor.doctor)
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


def main() -> None:
    """The entry point: runs the command line of this process and exits."""
    open_standard_descriptors()
    sys.exit(run_command(sys.argv[1:]))


def run_command(args: Sequence[str]) -> int:
    """Runs one command line and returns its exit code."""
    if not args or list(args) in (["run"], ["archive"], ["keys"], ["ops"]):
        args = [*args, "--help"]
    try:
        result = typer.main.get_command(app).main(args=list(args), prog_name="runwire", standalone_mode=False)
        sys.stdout.flush()
    except _UsageError as error:
        return _failed(_usage(error), ExitCode.USAGE)
    except (BrokenPipeError, SystemExit):  # the reader has what it wanted; typer exits for nothing else here
        # Without this the interpreter complains at exit, of what it cannot flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except RunwireError as error:
        return _failed("\n".join(sentences_of(error)), exit_code_of(error))
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    return int(result) if isinstance(result, int) else ExitCode.OK


def _usage(error: Exception) -> str:
    """Typer's text in one line, with where to read on."""
    text = " ".join(str(getattr(error, "format_message", lambda: error)()).split()).rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{text}; see `{context.command_path if context else 'runwire'} --help`"


def _failed(text: str, code: ExitCode) -> int:
    for line in text.splitlines():
        sys.stderr.write(f"runwire: {line}\n")
    return code

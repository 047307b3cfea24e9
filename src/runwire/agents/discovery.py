"""Finds the agents of a process: those of installed packages, and those that the settings name."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, NoReturn

from runwire.errors import ConfigurationError, GraphError
from runwire.model.graph import Agent, Agents
from runwire.model.names import class_name
from runwire.telemetry.logs import logging_kept

ENTRY_POINT_GROUP = "runwire.agents"
_CANARY: Final = "runwire.agents.canary:canary"
"""No entry point, but a part of the service: each process has it, also where another release is on the path."""
_SAID_CHARS: Final = 300


def find_agents(references: Iterable[str] = ()) -> Agents:
    """Agents by entry point, then by `module:object`; the working directory is importable, as for `python -m`.

    Raises ConfigurationError naming every one that cannot be loaded or whose graph cannot run. The import of a module
    leaves this process's logging, standard output and handlers of signals as they were.
    """
    agents = Agents()
    problems: list[str] = []
    _add(agents, _CANARY, problems, told_by="runwire")
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        _add(agents, f"{entry_point.module}:{entry_point.attr}", problems, told_by=f"entry point {entry_point.name}")
    with contextlib.suppress(OSError):  # a working directory that is gone holds no module
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.append(here)
    for reference in references:
        _add(agents, reference, problems, told_by="RUNWIRE_AGENTS")
    if problems:
        raise ConfigurationError(tuple(problems))
    return agents


def _add(agents: Agents, reference: str, problems: list[str], *, told_by: str) -> None:
    module_name, _, path = reference.partition(":")
    if not all(part.isidentifier() for name in (module_name, path) for part in name.split(".")):
        problems.append(f"{told_by}: {reference!r} must be written as module:object, e.g. shop.agents:triage")
        return
    try:
        # Output that a module prints during its import does not reach the log.
        with logging_kept(), contextlib.redirect_stdout(sys.stderr), _exit_raises(), _signals_kept():
            found: Any = import_module(module_name)
            for part in path.split("."):
                found = getattr(found, part)
        if not issubclass(type(found), Agent):
            problems.append(f"{told_by}: {reference} is a {class_name(type(found))}, not a runwire.Agent")
            return
        agents.add(found)
    except GraphError as error:
        problems.append(f"{told_by}: {error}")
    except BaseException as error:  # noqa: BLE001  # a module may raise anything while it is imported, SystemExit included
        said = f"{class_name(type(error))}: {_first_line(error)}".rstrip(": ")
        problems.append(f"{told_by}: {reference} cannot be loaded: {said}{_where(error, module_name)}")


@contextlib.contextmanager
def _exit_raises() -> Iterator[None]:
    """Inside, `os._exit` raises SystemExit: it would end this process without a word, and with any code."""
    exit_, process, inside = os._exit, os.getpid(), True

    def end(status: int) -> NoReturn:
        if inside and os.getpid() == process:
            raise SystemExit(f"os._exit({status})")
        exit_(status)  # a module may keep this function under a name of its own

    os._exit = end
    try:
        yield
    finally:
        inside = False
        os._exit = exit_


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Undoes at its end what is done inside to handlers of signals: a module would take away how this process ends."""
    if threading.current_thread() is not threading.main_thread():  # others can set none
        yield
        return
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
                signal.siginterrupt(number, False)  # noqa: FBT003  # has no name


def _where(error: BaseException, module_name: str) -> str:
    """` (file:line)`: of the module's own package where the error came by there, else of what it called."""
    if isinstance(error, SyntaxError) and type(error.filename) is str:
        return f" ({error.filename}:{error.lineno})"
    package = module_name.partition(".")[0]
    own = other = ""
    at = error.__traceback__
    while at is not None:
        file = at.tb_frame.f_code.co_filename
        name = at.tb_frame.f_globals.get("__name__")
        if type(name) is str and name.partition(".")[0] == package and name != __name__:
            own = f" ({file}:{at.tb_lineno})"
        elif name != __name__ and not file.startswith("<frozen "):
            other = f" ({file}:{at.tb_lineno})"
        at = at.tb_next
    return own or other


def _first_line(error: BaseException) -> str:
    try:
        return (str(error).strip().splitlines() or [""])[0][:_SAID_CHARS]
    except BaseException:  # noqa: BLE001  # an exception's text is code, too
        return ""

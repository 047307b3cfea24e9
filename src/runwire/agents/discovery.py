"""Finds the agents a process knows: those installed packages offer, and those it was told of."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from runwire.errors import ConfigurationError, GraphError
from runwire.model.graph import Agent, Agents

ENTRY_POINT_GROUP = "runwire.agents"


def find_agents(references: Iterable[str] = ()) -> Agents:
    """Agents by entry point, then by `module:object`; the working directory is importable, as for `python -m`.

    Raises ConfigurationError naming every one that cannot be loaded or whose graph cannot run.
    """
    agents = Agents()
    problems: list[str] = []
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        _add(agents, f"{entry_point.module}:{entry_point.attr}", problems, told_by=f"entry point {entry_point.name}")
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
    try:
        found: Any = import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:  # noqa: BLE001  # a module may raise anything while it is imported
        problems.append(f"{told_by}: {reference} cannot be loaded: {type(error).__name__}: {error}")
        return
    if not isinstance(found, Agent):
        problems.append(f"{told_by}: {reference} is a {type(found).__name__}, not a runwire.Agent")
        return
    try:
        agents.add(found)
    except GraphError as error:
        problems.append(f"{told_by}: {error}")

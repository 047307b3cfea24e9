"""The parts of one process, from which its roles are built."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

from runwire.db import Database, Troubles
from runwire.duties import Duty, Role
from runwire.model.graph import Agents
from runwire.process.hints import Callbacks, Hints
from runwire.process.phases import Phases
from runwire.process.settings import ProcessSettings
from runwire.process.supervision import Supervision
from runwire.settings_group import SettingsGroup, group_of
from runwire.telemetry.metrics import Metrics
from runwire.telemetry.tracing import Tracing

T = TypeVar("T")
G = TypeVar("G", bound=SettingsGroup)


async def _at_once() -> None:
    """No publisher runs in this process, so appends wait for none."""


@dataclass(slots=True, kw_only=True)
class Context:
    """One process while it starts and runs: its settings, its telemetry, its health, and the parts built so far."""

    settings: ProcessSettings
    alone: bool
    """Whether no other process works on the same runs, so that hints need no NOTIFY."""
    agents: Agents
    metrics: Metrics
    spans: Tracing
    troubles: Troubles
    supervision: Supervision
    phases: Phases
    hints: Hints = field(default_factory=Hints)
    bus_missed: Callbacks = field(default_factory=Callbacks)
    """Called when messages of the bus may have been lost."""
    note_deaf: Callable[[], None] = lambda: None
    """Called when a connection of this process hears no notifications."""
    keep_up: Callable[[], Awaitable[None]] = _at_once
    """Awaited before each commit of appends. It returns once this process's publisher keeps up with them."""
    version: str = ""
    database_url: str = ""
    api_port: int | None = None
    """None without the role api, and until its listener is open."""
    admin_port: int = 0
    migrating: bool = False
    draining: bool = False
    _parts: dict[Any, Any] = field(default_factory=dict)

    @property
    def roles(self) -> frozenset[Role]:
        return frozenset(self.settings.roles)

    @property
    def place(self) -> str:
        """The process, for people: the name of its worker, and its process id."""
        return f"{self.settings.worker_id}:{os.getpid()}"

    @property
    def database(self) -> Database:
        return self.part(Database)

    def group(self, kind: type[G]) -> G:
        """A stage's settings. Raises LookupError when the settings of this process have no such group."""
        return group_of(self.settings, kind)

    def offer(self, kind: type[T], part: T) -> T:
        """Keeps a part for later steps, by its class or by the protocol that it serves."""
        self._parts[kind] = part
        return part

    def part(self, kind: type[T]) -> T:
        """A part of this process. Raises LookupError when no step offered one."""
        part = self.find(kind)
        if part is None:
            raise LookupError(f"no step of the plan offers {kind.__name__}")
        return part

    def find(self, kind: type[T]) -> T | None:
        """A part of this process; None when it has none, as a process without that role."""
        part: T | None = self._parts.get(kind)
        return part

    def keep(
        self, phase: AsyncExitStack, duty: Duty, name: str, loop: Callable[[], Coroutine[Any, Any, None]]
    ) -> asyncio.Task[None]:
        """Keeps a loop running until its phase is closed. One that raises is told, counted and begun again."""
        task = asyncio.create_task(self.supervision.keep(duty, loop, name=name), name=name)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        phase.push_async_callback(end)
        return task

"""The plan of a process: the steps of its start, in order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from runwire.duties import Role
from runwire.process.context import Context

Start: TypeAlias = Callable[[Context], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Step:
    """`start` builds one part of a process. A step with a `role` is left out of processes without that role."""

    name: str
    start: Start
    role: Role | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in the order of starting. Tests and benchmarks replace a step, or put one after another, to have a hand in
    a process: a bus of their own, another store, a part that watches.
    """

    steps: tuple[Step, ...]

    def replacing(self, name: str, start: Start) -> Plan:
        """The same plan with another start for one step. Raises KeyError for a step that is not there."""
        at = self._position(name)
        return Plan((*self.steps[:at], replace(self.steps[at], start=start), *self.steps[at + 1 :]))

    def adding(self, step: Step, *, after: str) -> Plan:
        """The same plan with one more step. Raises KeyError for an `after` that is not there."""
        at = self._position(after) + 1
        return Plan((*self.steps[:at], step, *self.steps[at:]))

    async def start(self, context: Context) -> None:
        """Starts the steps of the process's roles."""
        for step in self.steps:
            if step.role is None or step.role in context.roles:
                await step.start(context)

    def _position(self, name: str) -> int:
        names = [step.name for step in self.steps]
        if name not in names:
            raise KeyError(name)
        return names.index(name)

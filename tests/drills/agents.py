"""An agent that waits for a signal that never comes: its streams stay open, and its runs are no stalled ones."""

from __future__ import annotations

from dataclasses import dataclass

from runwire import END, Agent, Context, Wait


@dataclass
class Nothing:
    """No input."""


patient = Agent("patient", start="Wait", state=Nothing)


@patient.node(to="GoOn")
async def wait(_ctx: Context, _state: Nothing) -> Wait:
    return Wait("go", then="GoOn")


@patient.node(to=END)
async def go_on(_ctx: Context, _state: Nothing) -> None:
    pass

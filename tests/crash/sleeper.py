"""An agent that sleeps, for tests that kill its workers."""

from __future__ import annotations

from dataclasses import dataclass

from runwire import END, Agent, Context, Sleep


@dataclass
class Nothing:
    """No input."""


sleeper = Agent("sleeper", start="Doze", state=Nothing)


@sleeper.node(to="Wake")
async def doze(_ctx: Context, _state: Nothing) -> Sleep:
    return Sleep("Wake", for_s=2)


@sleeper.node(to=END)
async def wake(_ctx: Context, _state: Nothing) -> None: ...

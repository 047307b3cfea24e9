"""The agent `canary`: waits for a signal and ends. `runwire canary` starts it to see what users of the service see.

Its nodes have the names of two nodes of `golden`, because a scrape has room for few names of nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from runwire.model.graph import END, Agent, Context, Wait

SIGNAL: Final = "pong"
PATIENCE_S: Final = 60.0
"""A run whose canary is gone ends by itself after this long."""


@dataclass(slots=True)
class Nothing:
    """No input."""


canary = Agent("canary", start="Ping", state=Nothing)


@canary.node(to="Teardown")
async def ping(_ctx: Context, _state: Nothing) -> Wait:
    return Wait(SIGNAL, then="Teardown", within_s=PATIENCE_S, on_timeout="Teardown")


@canary.node(to=END)
async def teardown(_ctx: Context, _state: Nothing) -> None:
    pass

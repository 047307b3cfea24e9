"""More agents and nodes than a scrape names: `agent0` to `agent24`, of five nodes each."""

from __future__ import annotations

from typing import Any, Final

from runwire.model.graph import END, Agent, Context

AGENTS: Final = 25
NODES: Final = 5
REFERENCES: Final = [f"benchmarks.many_agents:agent{n}" for n in range(AGENTS)]


def __getattr__(name: str) -> Agent[dict[str, Any]]:
    if not name.removeprefix("agent").isdecimal():
        raise AttributeError(name)
    agent = Agent(name, start=f"{name}x0", state=dict[str, Any])
    for k in range(NODES):

        @agent.node(name=f"{name}x{k}", to=END if k == NODES - 1 else f"{name}x{k + 1}")
        async def node(_ctx: Context, _state: dict[str, Any]) -> None:
            pass

    return agent

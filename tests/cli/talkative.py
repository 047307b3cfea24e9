"""An agent whose node prints more than a pipe takes, to the stream that is also the service's log."""

from __future__ import annotations

from dataclasses import dataclass

from runwire import END, Agent, Context


@dataclass
class Said:
    lines: int = 0


talkative = Agent("talkative", start="Talk", state=Said)


@talkative.node(to=END)
async def talk(ctx: Context, state: Said) -> None:
    for _ in range(2_000):
        print("a line of a node", flush=True)  # noqa: T201  # it is what is tested
        state.lines += 1

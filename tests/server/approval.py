"""An agent that waits for a signal, for tests of the API."""

from __future__ import annotations

from dataclasses import dataclass

from runwire import END, Agent, Context, Wait


@dataclass
class Request:
    approved: bool = False


approval = Agent("approval", start="Ask", state=Request)


@approval.node(to="Grant")
async def ask(_ctx: Context, _state: Request) -> Wait:
    return Wait("approved", then="Grant")


@approval.node(to=END)
async def grant(_ctx: Context, state: Request) -> None:
    state.approved = True

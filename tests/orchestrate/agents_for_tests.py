"""Small agents whose nodes a test holds in its hand."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from runwire import END, Agent, Context, NodeFailed, Wait


@dataclass
class Count:
    n: int = 0
    seen: list[str] = field(default_factory=list)


class Named(str, enum.Enum):  # noqa: UP042  # as many write it; an f-string has `Named.ANSWER`, unlike a StrEnum's
    """Names as a node may give them."""

    REPORT = "report"
    ANSWER = "answer"
    DONE = "done"


class Gate:
    """Lets a test see that a node is in the middle, and decide how it goes on."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.open = asyncio.Event()
        self.cancelled = False

    async def pass_through(self) -> None:
        self.entered.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


def one_node(
    run: Callable[[Context, Count], Awaitable[None]],
    *,
    timeout_s: float = 5,
    retries: int = 0,
    backoff_s: float = 0.0,
    on_error: bool = False,
) -> Agent[Count]:
    """`work` runs the given coroutine; with `on_error` its failure leads to node Recover."""
    agent = Agent("one", start="Work", state=Count)

    @agent.node(timeout_s=timeout_s, retries=retries, backoff_s=backoff_s, on_error="Recover" if on_error else None)
    async def work(ctx: Context, state: Count) -> None:
        await run(ctx, state)

    if on_error:

        @agent.node()
        async def recover(_ctx: Context, state: Count) -> None:
            state.seen.append("recovered")

    return agent


def looping(times: int, between: Callable[[], Awaitable[None]] | None = None) -> Agent[Count]:
    """Counts in a loop of two nodes, then ends."""
    agent = Agent("looping", start="Add", state=Count)

    @agent.node(to="Check")
    async def add(ctx: Context, state: Count) -> None:
        state.n += 1
        ctx.trace("add.one")
        if between is not None:
            await between()

    @agent.node(to=("Add", END))
    async def check(_ctx: Context, state: Count) -> str:
        return END if state.n >= times else "Add"

    return agent


def asking() -> Agent[Count]:
    """Waits for a signal in the middle."""
    agent = Agent("asking", start="Ask", state=Count)

    @agent.node(to="Act")
    async def ask(_ctx: Context, state: Count) -> Wait:
        state.n += 1
        return Wait("approved", then="Act")

    @agent.node()
    async def act(_ctx: Context, state: Count) -> None:
        state.n += 10

    return agent


async def fail(_ctx: Context, _state: Count) -> None:
    raise NodeFailed("no_luck", "a detail that must not travel")

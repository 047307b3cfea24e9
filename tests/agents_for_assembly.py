"""Agents that a whole process finds by reference: `agents_for_assembly:held` stays in its node until it is let go."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from runwire import Agent, Context


@dataclass
class Nothing:
    pass


class Hold:
    """The signal that the node of `held` waits for. Made anew by each test, since an Event belongs to its loop."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.interrupted = 0


class _Now:
    hold: Hold


now = _Now()

held = Agent("held", start="Hold", state=Nothing)


@held.node(to="Rest", timeout_s=60)
async def hold(ctx: Context, _state: Nothing) -> None:
    here = now.hold
    here.entered.set()
    try:
        await here.release.wait()
    except asyncio.CancelledError:
        here.interrupted += 1
        raise


@held.node()
async def rest(_ctx: Context, _state: Nothing) -> None:
    pass

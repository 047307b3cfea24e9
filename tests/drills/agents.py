"""Agents that drills need: they wait for a signal, sleep, block the event loop, take their time in a node, or fail."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from runwire import END, Agent, Context, NodeFailed, Sleep, Wait


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


standing = Agent("standing", start="Stand", state=Nothing)


@standing.node(to=END, timeout_s=20)
async def stand(_ctx: Context, _state: Nothing) -> None:
    time.sleep(6)  # noqa: ASYNC251  # the fault


sleepy = Agent("sleepy", start="Doze", state=Nothing)


@sleepy.node(to=END)
async def doze(_ctx: Context, _state: Nothing) -> Sleep:
    return Sleep(then=END, for_s=2)


resting = Agent("resting", start="Rest", state=Nothing)


@resting.node(to=END, timeout_s=300)
async def rest(_ctx: Context, _state: Nothing) -> None:
    await asyncio.sleep(300)


hasty = Agent("hasty", start="Rest", state=Nothing, expected_s=2)


@hasty.node(to=END, name="Rest", timeout_s=300)
async def rest_too_long(_ctx: Context, _state: Nothing) -> None:
    await asyncio.sleep(300)


failing = Agent("failing", start="Fail", state=Nothing)


@failing.node(to=END)
async def fail(_ctx: Context, _state: Nothing) -> None:
    raise NodeFailed("no_luck")


lonely = Agent("lonely", start="Rest", state=Nothing)
"""Only an API process knows it."""


@lonely.node(to=END, name="Rest")
async def rest_alone(_ctx: Context, _state: Nothing) -> None:
    pass

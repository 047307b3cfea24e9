"""The agent `golden`: five steps in a row, exactly 13 events. The example to read first, and the canary."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from runwire.model.graph import END, Agent, Context

PATIENCE_S: Final = 75.0
"""More than the longest `delay_ms`, so a slowed run is slow and not timed out."""


@dataclass(slots=True)
class Plan:
    """A run's input and its state. `delay_ms` is how long every node takes, to slow a run down on purpose."""

    delay_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)] = 0

    async def pause(self) -> None:
        await asyncio.sleep(self.delay_ms / 1000)


golden = Agent("golden", start="EnsureDevice", state=Plan)


@golden.node(to="Warmup", timeout_s=PATIENCE_S)
async def ensure_device(ctx: Context, plan: Plan) -> None:
    ctx.trace("ensureDevice.check")
    await plan.pause()


@golden.node(to="OpenApp", timeout_s=PATIENCE_S)
async def warmup(_ctx: Context, plan: Plan) -> None:
    await plan.pause()


@golden.node(to="Ping", timeout_s=PATIENCE_S)
async def open_app(_ctx: Context, plan: Plan) -> None:
    await plan.pause()


@golden.node(to="Teardown", timeout_s=PATIENCE_S)
async def ping(_ctx: Context, plan: Plan) -> None:
    await plan.pause()


@golden.node(to=END, timeout_s=PATIENCE_S)
async def teardown(_ctx: Context, plan: Plan) -> None:
    await plan.pause()

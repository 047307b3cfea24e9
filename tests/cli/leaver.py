"""An agent that has the event loop itself call sys.exit, past everything that guards its node."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass

from runwire import END, Agent, Context


@dataclass
class Nothing:
    code: int = 0


leaver = Agent("leaver", start="Leave", state=Nothing)


@leaver.node(to=END)
async def leave(_ctx: Context, state: Nothing) -> None:
    asyncio.get_running_loop().call_soon(sys.exit, state.code)
    await asyncio.sleep(5)

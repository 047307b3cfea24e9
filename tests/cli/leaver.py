"""An agent that leaves things running which end, raise and warn past everything that guards its node."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import time
import warnings
from dataclasses import dataclass

from runwire import END, Agent, Context

TEXT = "bob@example.com was not found"
LEFT: list[object] = []


@dataclass
class Nothing:
    how: str = ""
    code: int = 0


leaver = Agent("leaver", start="Leave", state=Nothing)


class RaisesWhenItGoes:
    def __del__(self) -> None:
        raise ValueError(TEXT)


async def later(error: BaseException) -> None:
    await asyncio.sleep(0.01)
    raise error


def stays() -> None:
    time.sleep(3600)


async def swallows() -> None:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            LEFT.append("a cancellation")


def fail(text: str) -> None:
    raise ValueError(text)


@leaver.node(to=END)
async def leave(_ctx: Context, state: Nothing) -> None:
    loop = asyncio.get_running_loop()
    match state.how:
        case "callback":
            loop.call_soon(sys.exit, state.code)
        case "timer":
            loop.call_later(0.01, fail, TEXT)
        case "task that exits":
            LEFT.append(asyncio.create_task(later(SystemExit(state.code))))
        case "task that interrupts":
            LEFT.append(asyncio.create_task(later(KeyboardInterrupt(TEXT))))
        case "task that fails":
            asyncio.create_task(later(ValueError(TEXT))).set_name("left")
            await asyncio.sleep(0.05)
            gc.collect()
        case "thread":
            threading.Thread(target=fail, args=(TEXT,)).start()
        case "finaliser":
            RaisesWhenItGoes()
        case "warning":
            warnings.warn(TEXT, RuntimeWarning, stacklevel=1)
        case "log":
            logging.getLogger("theirs").error(ValueError(TEXT))
        case "task that stays":
            LEFT.append(asyncio.create_task(swallows()))
        case "thread that stays":
            LEFT.append(loop.run_in_executor(None, stays))
    await asyncio.sleep(0.05)

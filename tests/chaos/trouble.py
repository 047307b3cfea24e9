"""An agent whose one node misbehaves as its run's input says."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from runwire import Agent, Context


class Rogue(BaseException):
    """No Exception, so that `except Exception` lets it pass."""


def _exit() -> None:
    sys.exit(0)


def _raise() -> None:
    raise BaseExceptionGroup("several", [Rogue(), KeyboardInterrupt()])


def _block() -> None:
    time.sleep(4)  # four times the node's timeout, and longer than a lease


def _spin() -> None:
    until = time.monotonic() + 4
    while time.monotonic() < until:
        pass


def _die() -> None:
    os._exit(9)


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


WAYS: Final[Mapping[str, Callable[[], None]]] = {
    "exit": _exit,
    "raise": _raise,
    "block": _block,
    "spin": _spin,
    "die": _die,
    "crash": _crash,
}
"""The node's behaviour, by the word in the input."""


@dataclass
class Plan:
    way: str


trouble = Agent("trouble", start="Do", state=Plan)


@trouble.node(timeout_s=1)
async def do(ctx: Context, plan: Plan) -> None:
    ctx.trace("do.begun")
    WAYS[plan.way]()

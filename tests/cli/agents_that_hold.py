"""Modules of agents are code: this one leaves a thread, and ends as the environment says."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from runwire import Agent


def ends_the_process() -> None:
    while not Path(os.environ["HOLD_EXITS_BY"]).exists():
        time.sleep(0.05)
    os._exit(0)


@dataclass
class Nothing:
    pass


fine = Agent("fine", start="Work", state=Nothing)


@fine.node()
async def work(_ctx: object, _state: Nothing) -> None:
    pass


if "HOLD_EXITS_BY" in os.environ:
    threading.Thread(target=ends_the_process).start()
else:
    threading.Thread(target=threading.Event().wait).start()
    raise LookupError("no model")

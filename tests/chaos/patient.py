"""An agent that waits for a signal, sleeps, and tells as its result what it has heard."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runwire import END, Agent, Context, Sleep, Wait


@dataclass
class Visit:
    """`within_s`: how long it waits for the signal; `rest_s`: how long it sleeps then."""

    within_s: float = 1800.0
    rest_s: float = 1.0
    heard: list[Any] = field(default_factory=list)


patient = Agent("patient", start="Ask", state=Visit)


@patient.node(to="Rest")
async def ask(_ctx: Context, visit: Visit) -> Wait:
    return Wait(any_of=("yes", "no"), then="Rest", within_s=visit.within_s, on_timeout="Rest")


@patient.node(to="Wake")
async def rest(ctx: Context, visit: Visit) -> Sleep:
    signal = ctx.signal
    visit.heard.append(None if signal is None else [signal.name, signal.data, signal.id])
    return Sleep("Wake", for_s=visit.rest_s)


@patient.node(to=END, retries=10)
async def wake(ctx: Context, visit: Visit) -> None:
    ctx.result(visit.heard)

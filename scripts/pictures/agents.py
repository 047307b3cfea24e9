"""The agents of the pictured service: they answer questions, some of which a person must approve, and write reports."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from runwire import END, Agent, Context, NodeFailed, Wait


@dataclass
class Ticket:
    hard: bool = False


@dataclass
class Report:
    sources: int = 3
    read: int = 0


async def _think(median_s: float) -> None:
    """As long as a model takes: mostly about the median, at times many times that."""
    await asyncio.sleep(median_s * random.lognormvariate(0, 0.5))  # a made-up load


def _fails(share: float) -> bool:
    return random.random() < share  # a made-up load


triage = Agent("triage", start="Classify", state=Ticket)


@triage.node(to=("Answer", "Escalate"), timeout_s=4, retries=2)
async def classify(ctx: Context, ticket: Ticket) -> str:
    await _think(0.6)
    if _fails(0.03):
        raise NodeFailed("model_busy")
    ticket.hard = _fails(0.12)
    ctx.trace("classify.labelled")
    return "Escalate" if ticket.hard else "Answer"


@triage.node(to="Answer")
async def escalate(ctx: Context, _ticket: Ticket) -> Wait:
    ctx.trace("escalate.asked")
    return Wait("approved", then="Answer")


@triage.node(to="Notify", timeout_s=8, retries=1)
async def answer(_ctx: Context, _ticket: Ticket) -> None:
    await _think(1.6)
    if _fails(0.02):
        raise NodeFailed("refused", retry=False)


@triage.node(to=END)
async def notify(_ctx: Context, _ticket: Ticket) -> None:
    await _think(0.15)


report = Agent("report", start="Gather", state=Report)


@report.node(to=("Gather", "Summarise"), timeout_s=2.5, retries=1)
async def gather(ctx: Context, report: Report) -> str:
    await _think(0.9)
    report.read += 1
    ctx.trace("gather.read")
    return "Gather" if report.read < report.sources else "Summarise"


@report.node(to="Deliver")
async def summarise(_ctx: Context, _report: Report) -> None:
    await _think(2.2)


@report.node(to=END, retries=1)
async def deliver(_ctx: Context, _report: Report) -> None:
    await _think(0.3)
    if _fails(0.03):
        raise NodeFailed("mailbox_full")

"""Agents that wait, for tests of signals and timers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from runwire import END, Agent, Context, Signal, Sleep, Wait


@dataclass(frozen=True)
class Decision:
    by: str
    comment: str = ""


@dataclass
class Order:
    heard: list[Any] = field(default_factory=list)


REVIEW = Wait(any_of=("approved", "rejected"), then="Decide", within_s=3600, on_timeout="Escalate", schema=Decision)


def note(ctx: Context, order: Order) -> None:
    assert isinstance(ctx.signal, Signal)
    assert isinstance(ctx.signal.data, Decision)
    order.heard.append([ctx.signal.name, ctx.signal.data.by, ctx.signal.data.comment, ctx.signal.id])


def reviewing(decide: Callable[[Context, Order], None] = note) -> Agent[Order]:
    """Waits for one of two signals with a time-out, and notes what it heard."""
    agent = Agent("reviewing", start="Ask", state=Order)

    @agent.node(waits=REVIEW)
    async def ask(ctx: Context, _order: Order) -> None:
        assert ctx.signal is None

    @agent.node(to="Report", name="Decide", retries=1, backoff_s=0)
    async def decided(ctx: Context, order: Order) -> None:
        decide(ctx, order)

    @agent.node(to="Report")
    async def escalate(ctx: Context, order: Order) -> None:
        assert ctx.signal is None
        order.heard.append("timeout")

    @agent.node()
    async def report(ctx: Context, _order: Order) -> None:
        assert ctx.signal is None

    return agent


def chatting() -> Agent[Order]:
    """Takes messages, one after the other, until `bye`, or an hour of silence."""
    agent = Agent("chatting", start="Listen", state=Order)
    message = Wait(any_of=("message", "bye"), then="Hear", within_s=3600, on_timeout="Bored")

    @agent.node(to=END, waits=message)
    async def listen(_ctx: Context, order: Order) -> str | Wait:
        return END if order.heard[-1:] == ["bye"] else message

    @agent.node(to="Listen")
    async def hear(ctx: Context, order: Order) -> None:
        assert ctx.signal is not None
        order.heard.append("bye" if ctx.signal.name == "bye" else ctx.signal.data)

    @agent.node(to="Listen")
    async def bored(ctx: Context, order: Order) -> None:
        assert ctx.signal is None
        order.heard.append("silence")

    return agent


def sleeping(sleep: Callable[[], Sleep]) -> Agent[Order]:
    agent = Agent("sleeping", start="Doze", state=Order)

    @agent.node(to="Wake")
    async def doze(_ctx: Context, _order: Order) -> Sleep:
        return sleep()

    @agent.node()
    async def wake(ctx: Context, order: Order) -> None:
        assert ctx.signal is None
        order.heard.append("woken")

    return agent

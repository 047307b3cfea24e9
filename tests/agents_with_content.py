"""An agent that writes content, waits for a signal with data, and sleeps: `agents_with_content:talk`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from runwire import Agent, Context, Sleep, Wait


@dataclass
class Talk:
    heard: str = ""


@dataclass(frozen=True)
class Reply:
    text: str


ANSWER: Final = ("Grüße, ", "世界! ", "🚀 " * 20, "\n")
REPORT: Final = b"report " * 40_000  # more than PostgreSQL keeps
ASK: Final = Wait("reply", then="Hear", within_s=0.2, on_timeout="Doze", schema=Reply)

talk = Agent("talk", start="Say", state=Talk)


@talk.node(waits=ASK, timeout_s=60, retries=30, backoff_s=0.05)
async def say(ctx: Context, _state: Talk) -> Wait:
    async with ctx.part("answer", media_type="text/markdown") as part:
        for piece in ANSWER:
            await part.write(piece)
    await ctx.artifact("report", REPORT + ctx.run_id.encode())
    return ASK


@talk.node(to="Doze")
async def hear(ctx: Context, state: Talk) -> None:
    assert ctx.signal is not None
    state.heard = ctx.signal.data.text


@talk.node(to="Tell")
async def doze(_ctx: Context, _state: Talk) -> Sleep:
    return Sleep("Tell", for_s=0.02)


@talk.node(timeout_s=60, retries=30, backoff_s=0.05)
async def tell(ctx: Context, state: Talk) -> None:
    ctx.result({"heard": state.heard})

"""The agent `chat`: one run answers one message of a conversation, which is a session.

Listen --> Answer --the model has said all--> END
Answer --it asks for a tool--> UseTool --> Answer
Answer --it asks for a tool that changes something--> Propose --approve, reject, or an hour--> Decide --> Answer

Users see parts. `question` is the message, and `answer` has words as the model finds them. `tool`, `proposal` and
`decision` have a JSON object in each line. When a worker dies, the next one enters the same node again and begins a new
attempt of the part.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

import msgspec

from runwire.agents.chat.conversation import Call, Decision, Message, Turn
from runwire.agents.chat.models import model
from runwire.agents.chat.tools import TOOLS
from runwire.errors import NodeFailed
from runwire.model.graph import END, Agent, Context, Wait

STEPS_MAX: Final = 8
"""Messages of one run after which the model gets no more tools, so each run comes to its end."""
ANSWER_S: Final = 180.0
APPROVAL_S: Final = 3600.0

chat = Agent("chat", start="Listen", state=Turn)


@chat.node(to="Answer")
async def listen(ctx: Context, turn: Turn) -> None:
    """Shows the message, so each page that follows the run has it."""
    async with ctx.part("question") as part:
        await part.write(turn.messages[-1].text)


@chat.node(to=("UseTool", "Propose", END), timeout_s=ANSWER_S, retries=1)
async def answer(ctx: Context, turn: Turn) -> str:
    """Shows the words of the model one by one, and notes the tool that it asks for."""
    tools = TOOLS if len(turn.steps) < STEPS_MAX else {}
    words: list[str] = []
    call: Call | None = None
    reply = model().reply([*turn.messages, *turn.steps], tools=tools)
    async with aclosing(reply), ctx.part("answer", media_type="text/markdown") as part:
        async for piece in reply:
            if isinstance(piece, Call):
                call = piece
            else:
                words.append(piece)
                await part.write(piece)
    turn.steps.append(Message("assistant", "".join(words), call))
    if call is None:
        return END
    if call.tool not in tools:
        raise NodeFailed("unknown_tool")
    return "Propose" if tools[call.tool].needs_approval else "UseTool"


@chat.node(to="Answer")
async def use_tool(ctx: Context, turn: Turn) -> None:
    """Shows the call, then its result."""
    call = _call_of(turn)
    async with ctx.part("tool") as part:
        await part.write(_line(call))
        result = await TOOLS[call.tool].run(ctx, call.arguments)
        await part.write(_line(result))
    turn.steps.append(Message("tool", _json(result)))


@chat.node(
    waits=Wait(any_of=("approve", "reject"), then="Decide", within_s=APPROVAL_S, on_timeout="Decide", schema=Decision)
)
async def propose(ctx: Context, turn: Turn) -> None:
    """Shows the call and waits for a person. No worker holds the run meanwhile."""
    async with ctx.part("proposal") as part:
        await part.write(_line(_call_of(turn)))


@chat.node(to="Answer")
async def decide(ctx: Context, turn: Turn) -> None:
    """Shows the decision, and does what was approved. Without a signal the hour is over, which approves nothing."""
    call, signal = _call_of(turn), ctx.signal
    decision = {
        "decision": "timeout" if signal is None else signal.name,
        "comment": "" if signal is None else signal.data.comment,
    }
    async with ctx.part("decision") as part:
        await part.write(_line(decision))
        if decision["decision"] == "approve":
            result = await TOOLS[call.tool].run(ctx, call.arguments)
            await part.write(_line(result))
            decision |= result
    turn.steps.append(Message("tool", _json(decision)))


def _call_of(turn: Turn) -> Call:
    """The call that the model asked for last."""
    call = turn.steps[-1].call
    assert call is not None  # noqa: S101  # Answer came before
    return call


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _line(value: object) -> str:
    return _json(value) + "\n"

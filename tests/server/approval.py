"""An agent that waits for a signal, for tests of the API."""

from __future__ import annotations

from dataclasses import dataclass, field

from runwire import END, Agent, Context, Wait


@dataclass
class Request:
    approved: bool = False


approval = Agent("approval", start="Ask", state=Request)


@approval.node(to="Grant")
async def ask(_ctx: Context, _state: Request) -> Wait:
    return Wait("approved", then="Grant")


@approval.node(to=END)
async def grant(_ctx: Context, state: Request) -> None:
    state.approved = True


@dataclass(frozen=True)
class Verdict:
    by: str
    comment: str = ""


@dataclass
class Review:
    heard: list[str] = field(default_factory=list)


review = Agent("review", start="AskForReview", state=Review)


@review.node(waits=Wait(any_of=("approved", "rejected"), then="Note", within_s=3600, on_timeout="Note", schema=Verdict))
async def ask_for_review(_ctx: Context, _state: Review) -> None: ...


@review.node()
async def note(ctx: Context, state: Review) -> None:
    if ctx.signal is not None:
        state.heard += [ctx.signal.name, ctx.signal.data.by, ctx.signal.data.comment]

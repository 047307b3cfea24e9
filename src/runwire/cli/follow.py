"""Follows a run in the terminal, through reconnects, to its end."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import ExitStack

from rich.console import Console

from runwire.cli.output import console, harmless, print_json
from runwire.cli.timeline import Timeline
from runwire.client import MixedStream, PartPiece, RunStream
from runwire.errors import ExitCode
from runwire.model.event import Event
from runwire.model.run import RunState


async def follow(
    stream: RunStream,
    *,
    as_json: bool,
    started_ms: int | None = None,
    on_event: Callable[[Event], None] = lambda _event: None,
) -> ExitCode:
    """Prints the events as they come: JSON, one a line, or a timeline. FAILED when the run did not end well."""
    out = console()
    timeline = Timeline(started_ms=started_ms)
    with ExitStack() as stack:
        status = stack.enter_context(out.status("waiting")) if out.is_terminal and not as_json else None
        async for event in stream:
            on_event(event)
            if as_json:
                print_json(event)
                continue
            for line in timeline.take(event):
                out.print(line, soft_wrap=True)
            if status is not None:
                status.update(f"[dim]{timeline.node or 'waiting'} …[/]")
    end = stream.end
    if end is None:
        return ExitCode.FAILED
    if not as_json:
        print_end(out, state=end.state, run_id=end.run_id, events=end.last_seq)
    return ExitCode.OK if end.state is RunState.FINISHED else ExitCode.FAILED


async def follow_parts(stream: MixedStream, *, as_json: bool, started_ms: int | None = None) -> ExitCode:
    """As `follow`, with the content of parts between the events, as text."""
    out = console()
    timeline = Timeline(started_ms=started_ms)
    amid_line = False
    async for item in stream:
        if as_json:
            print_json(_piece(item) if isinstance(item, PartPiece) else item)
            continue
        if isinstance(item, PartPiece):
            amid_line = _show(out, item, amid_line=amid_line)
            continue
        if amid_line:
            out.print()
            amid_line = False
        for line in timeline.take(item):
            out.print(line, soft_wrap=True)
    if stream.end is None:
        return ExitCode.FAILED
    if not as_json:
        print_end(out, state=stream.end.state, run_id=stream.end.run_id, events=stream.end.last_seq)
    return ExitCode.OK if stream.end.state is RunState.FINISHED else ExitCode.FAILED


def _show(out: Console, item: PartPiece, *, amid_line: bool) -> bool:
    """Prints a piece of a part as text. Whether the line goes on after it."""
    if item.reset:
        out.print(f"{chr(10) if amid_line else ''}[yellow]part {item.part} begins again[/]")
        return False
    text = item.data.decode(errors="replace")
    shown = harmless(text) if out.is_terminal else text
    out.print(shown, end="", markup=False, highlight=False, soft_wrap=True)
    return not text.endswith("\n")


def _piece(item: PartPiece) -> dict[str, object]:
    """As the frame of the stream has it."""
    piece: dict[str, object] = {"part": item.part, "attempt": item.attempt, "offset": item.offset}
    if item.reset:
        return {**piece, "reset": True}
    try:
        return {**piece, "text": item.data.decode()}
    except UnicodeDecodeError:
        return {**piece, "base64": base64.b64encode(item.data).decode()}


def print_end(out: Console, *, state: RunState, run_id: str, events: int) -> None:
    out.print(f"{coloured(state)}  {run_id}  {events} events", soft_wrap=True)


def coloured(state: RunState) -> str:
    colour = {
        RunState.FINISHED: "green",
        RunState.FAILED: "red",
        RunState.CANCELLED: "yellow",
        RunState.WAITING: "magenta",
    }.get(state, "cyan")
    return f"[{colour}]{state.value}[/]"

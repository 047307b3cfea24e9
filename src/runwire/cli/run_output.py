"""Runs and diagnoses as `runwire run` prints them: text for people, or JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runwire.client import Diagnosis, RunSignals, RunView


def print_diagnosis(found: Diagnosis, *, as_json: bool) -> None:
    from rich.markup import escape

    from runwire.cli.output import console, print_json

    if as_json:
        print_json(found)
        return
    out = console()
    colour = "green" if found.healthy else "yellow" if found.stage == "unknown" else "red"
    out.print(f"[bold {colour}]{found.stage}[/]  {escape(found.summary)}", soft_wrap=True)
    for name, fact in found.evidence.items():
        if fact not in (None, [], {}):
            out.print(f"[dim]{name:>22}[/]  {escape(_fact(fact))}", soft_wrap=True)
    out.print(f"\n[bold]next[/]  {escape(found.next_step.text)}", soft_wrap=True)
    if found.next_step.command is not None:
        out.print(f"      [cyan]{escape(found.next_step.command)}[/]", soft_wrap=True)


def _fact(fact: Any) -> str:
    if isinstance(fact, dict):
        return ", ".join(f"{name} {_fact(value)}" for name, value in fact.items() if value is not None)
    if isinstance(fact, list):
        return "; ".join(_fact(part) for part in fact)
    return str(fact)


def print_view(view: RunView, *, as_json: bool) -> None:
    from rich.markup import escape

    from runwire.cli.follow import coloured
    from runwire.cli.output import console, duration, print_json

    if as_json:
        print_json(view)
        return
    facts = {
        "run": view.run_id,
        "agent": view.agent + (" (external)" if view.external else ""),
        "state": coloured(view.state) + (f" for {view.waiting_for}" if view.waiting_for else ""),
        "events": f"{view.last_seq} in the log, {view.published_seq} published",
        "attempt": str(view.attempt),
        "created": _when(view.created_at),
        "started": _when(view.started_at),
        "finished": _when(view.finished_at),
    }
    if view.started_at is not None and view.finished_at is not None:
        facts["took"] = duration(view.finished_at - view.started_at)
    if view.error_code:
        facts["error"] = f"[red]{view.error_code}[/]"
    if view.session:
        facts["session"] = view.session
    for key, value in view.labels.items():
        facts[f"label {key}"] = escape(value)
    if view.cancel_requested:
        facts["cancel"] = "requested"
    if view.trace_id:
        facts["trace"] = view.trace_id
    out = console()
    for name, fact in facts.items():
        out.print(f"[dim]{name:>8}[/]  {fact}", soft_wrap=True)


def print_signals(found: RunSignals, *, as_json: bool) -> None:
    from rich.markup import escape

    from runwire.cli.output import console, print_json

    if as_json:
        print_json(found)
        return
    out = console()

    def told(what: str, text: str) -> None:
        out.print(f"[dim]{what:>9}[/]  {escape(text)}", soft_wrap=True)

    told("waits for", " or ".join(found.waiting_for) or "no signal")
    if found.waiting_until is not None:
        told("until", _when(found.waiting_until))
    for one in found.accepts:
        told("accepts", one.name + ("" if one.schema is None else "  with data that fits its schema (--json shows it)"))
    if found.accepts_others:
        told("accepts", "any other name")
    for signal in found.not_taken:
        data = "data withheld" if signal.withheld else _shown_json(signal.data)
        told("not taken", "  ".join(filter(None, (signal.name, signal.id, _when(signal.sent_at), data))))


def _shown_json(data: Any) -> str:
    """JSON in ASCII, so that no content commands the terminal; nothing for null."""
    return "" if data is None else json.dumps(data)


def print_table(views: list[RunView]) -> None:
    from rich.table import Table

    from runwire.cli.follow import coloured
    from runwire.cli.output import console, duration

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("RUN", "AGENT", "STATE", "CREATED"):
        table.add_column(column, no_wrap=True)
    table.add_column("EVENTS", justify="right")
    table.add_column("TOOK", justify="right", no_wrap=True)
    for view in views:
        ended = view.started_at is not None and view.finished_at is not None
        took = duration((view.finished_at or 0) - (view.started_at or 0)) if ended else ""
        table.add_row(view.run_id, view.agent, coloured(view.state), _when(view.created_at), str(view.last_seq), took)
    console().print(table)


def _when(ms: int | None) -> str:
    return "-" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"

"""Why the events of a run are stored and not published."""

from __future__ import annotations

from typing import Final

from runwire.db import Row
from runwire.model.run import RunState
from runwire.observe.findings import DiagnosisThresholds, Finding, NextStep, Stage, end_session

_OWN: Final = "runwire "
_FIND_HOLDER: Final = (
    "SELECT pid, application_name, state, xact_start FROM pg_stat_activity "
    "WHERE xact_start IS NOT NULL ORDER BY xact_start"
)


def publishing_problem(
    run: Row, publishers: list[Row], *, cursor_is_free: bool, holder: Row | None, limits: DiagnosisThresholds
) -> Finding | None:
    """`holder`: the session that has locked the run's cursor, where one is known."""
    if not run["has_cursor"] and not RunState(run["state"]).terminal:
        return (
            Stage.OUTBOX_STUCK,
            "The run is open and has no row in run_outbox, so nobody publishes it: somebody deleted the row.",
            NextStep("Publish the run again, as the runbook says under Rebuild stream.", None),
        )
    waited = run["unpublished_age_s"]
    if waited is None or waited < limits.unpublished_s:
        return None
    alive = [row for row in publishers if row["heartbeat_age_s"] <= limits.alive_s]
    return _stuck(run, alive, cursor_is_free=cursor_is_free, holder=holder, silent_s=limits.silent_s)


def _stuck(run: Row, alive: list[Row], *, cursor_is_free: bool, holder: Row | None, silent_s: float) -> Finding:
    """`alive`: publishers by their heartbeats, the youngest first."""
    behind = f"Event {run['published_seq'] + 1} has been unpublished for {run['unpublished_age_s']:.0f} s"
    if not alive:
        return (
            Stage.OUTBOX_STUCK,
            f"{behind}: no publisher is alive.",
            NextStep("Start one; it finds what is unpublished by itself.", "runwire serve --role publisher"),
        )
    own = holder is not None and holder["held_by"].startswith(_OWN)
    if not cursor_is_free and not own:
        return Stage.OUTBOX_STUCK, *_locked(behind, holder)
    if alive[0]["heartbeat_age_s"] > silent_s:
        return (
            Stage.OUTBOX_STUCK,
            f"{behind}: no publisher has said for {alive[0]['heartbeat_age_s']:.0f} s that it lives. It may be dead.",
            NextStep(
                "See that one is running. Another one finds what is unpublished by itself.",
                "runwire serve --role publisher",
            ),
        )
    failing = next((row for row in alive if row["failing_code"] is not None), None)
    if failing is not None:
        return (
            Stage.BUS_DOWN,
            f"{behind}: the publisher has failed with {failing['failing_code']} for {failing['failing_s'] or 0:.0f} s.",
            NextStep("Bring the bus back; publishing goes on by itself.", "runwire doctor"),
        )
    if own and holder is not None:
        return (
            Stage.OUTBOX_STUCK,
            f"{behind}: a publisher has had it in hand for {holder['held_s'] or 0:.0f} s.",
            NextStep("Look at the bus and at the database. A restart of the publisher is safe.", "runwire doctor"),
        )
    return (
        Stage.OUTBOX_STUCK,
        f"{behind}, though a publisher is alive and does not fail.",
        NextStep("Nudge it; that is safe at any time.", f"psql -c \"NOTIFY runwire_dirty, '{run['run_id']}'\""),
    )


def _locked(behind: str, holder: Row | None) -> tuple[str, NextStep]:
    if holder is None or holder["pid"] is None:
        return (
            f"{behind}: its cursor is locked, and no session is known to do it.",
            NextStep("Find who holds the row, and end that session.", f"psql -c '{_FIND_HOLDER}'"),
        )
    who = f"session {holder['pid']} ({holder['held_by'] or 'without a name'}, {holder['state'] or 'state unknown'})"
    since = "" if holder["held_s"] is None else f", in a transaction of {holder['held_s']:.0f} s"
    return f"{behind}: its cursor is locked by {who}{since}.", end_session(holder["pid"])

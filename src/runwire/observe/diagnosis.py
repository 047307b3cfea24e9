"""The runbook's "run stuck" checklist as code: the stage in which a run is stuck, why, and a safe next step."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from runwire.db import Database, Row, load_sql, seen_by
from runwire.db.notify import DEAF
from runwire.errors import RunNotFound
from runwire.model.graph import Agents
from runwire.model.run import RunState
from runwire.observe.closed_runs import why_failed
from runwire.observe.evidence import evidence_of
from runwire.observe.findings import (
    DEFAULT_THRESHOLDS,
    HEALTHY,
    DiagnosisThresholds,
    Finding,
    NextStep,
    Stage,
    end_session,
)
from runwire.observe.proof import unproven
from runwire.observe.unpublished import publishing_problem
from runwire.thresholds import EXTERNAL_NODE_S, NODE_GRACE_S, RUN_EXPECTED_S

_SQL: Final = load_sql("runwire.observe", "observe.sql")


class Diagnosis(msgspec.Struct, frozen=True, rename="camel"):
    """`evidence` holds what was looked at: ages and waits in seconds, seqs, owners, the trace. Never payload."""

    run_id: str
    stage: Stage
    healthy: bool
    summary: str
    evidence: dict[str, Any]
    next_step: NextStep


class Diagnostician:
    """`diagnose` costs a handful of look-ups by key; it may be asked at any time, and changes nothing."""

    def __init__(self, database: Database, agents: Agents, *, limits: DiagnosisThresholds = DEFAULT_THRESHOLDS) -> None:
        self._database = database
        self._agents = agents
        self._limits = limits

    async def diagnose(self, run_id: str, *, tenant: str | None = None) -> Diagnosis:
        """Raises RunNotFound and DatabaseUnavailable (which is a diagnosis, too).

        For a `tenant` the runs of others do not exist; what holds up its own is looked for everywhere.
        """
        run = await seen_by(self._database, tenant).fetchrow(_SQL["diagnose"], run_id)
        if run is None:
            raise RunNotFound(run_id)
        [walkers] = await self._database.fetch(_SQL["walkers"], run["lease_owner"], run["agent"])
        node = await self._database.fetchrow(_SQL["node_in_flight"], run_id)
        error = await self._database.fetchrow(_SQL["last_error"], run_id)
        parts = await self._database.fetch(_SQL["open_parts"], run_id)
        publishers = await self._database.fetch(_SQL["publisher_health"])
        locks = await self._database.fetch(_SQL["row_holders"])
        deaf = await self._database.fetch(_SQL["deaf_listeners"], DEAF)
        # A database that takes no writes lets nobody lock a row either, so that one is free.
        cursor_is_free = run["read_only"] or await self._database.fetchrow(_SQL["outbox_is_free"], run_id) is not None
        holder = None if cursor_is_free else await self._database.fetchrow(_SQL["cursor_holder"], run_id)
        in_flight = node if node is not None and node["type"] == "NodeStarted" else None
        evidence = evidence_of(
            run, in_flight, error, parts=parts, publishers=publishers, locks=locks, deaf=deaf, holder=holder
        )
        evidence |= {"ownerGone": walkers["owner_gone"], "workers": walkers["workers"]}
        limits = self._limits
        publishing = publishing_problem(run, publishers, cursor_is_free=cursor_is_free, holder=holder, limits=limits)
        problem = publishing or self._walking_problem(run, in_flight, parts, locks) or _deaf_problem(run, deaf)
        expected_s = self._expected_s(run)
        unknown = problem or unproven(
            run, in_flight, publishers=publishers, walkers=walkers, expected_s=expected_s, limits=limits
        )
        stage, summary, step = unknown or _no_problem(run, error, parts)
        healthy = stage in HEALTHY
        return Diagnosis(run_id, stage, healthy, summary, evidence, step)

    def _walking_problem(self, run: Row, node: Row | None, parts: list[Row], locks: list[Row]) -> Finding | None:
        state = RunState(run["state"])
        if state is RunState.WAITING:
            return self._signal_problem(run) or self._timer_problem(run)
        if state.terminal:
            return None
        return (
            _append_problem(run, locks, lock_s=self._limits.lock_s)
            or _part_problem(parts, locks, lock_s=self._limits.lock_s)
            or _standing_problem(run)
            or _suspect_problem(run)
            or self._owner_problem(run)
            or self._node_problem(run, node)
        )

    def _signal_problem(self, run: Row) -> Finding | None:
        signalled_s = run["signalled_s"]
        if signalled_s is None or signalled_s < self._limits.unclaimed_s:
            return None
        return (
            Stage.NEVER_CLAIMED,
            f"The signal came {signalled_s:.0f} s ago, and no worker has taken the run.{self._unknown(run)}",
            NextStep(
                "Start a worker, or give the workers there are the agent or more room. Do not send the signal again.",
                "runwire serve --role worker",
            ),
        )

    def _unknown(self, run: Row) -> str:
        """A sentence where this process does not know the run's agent."""
        known = run["agent"] in self._agents.names
        return "" if known else f" This process does not know agent {run['agent']!r}: do the workers?"

    def _timer_problem(self, run: Row) -> Finding | None:
        left_s = run["timer_left_s"]
        if left_s is None or left_s > -self._limits.unclaimed_s:
            return None
        return (
            Stage.TIMER_OVERDUE,
            f"The run's timer was due {-left_s:.0f} s ago, and no worker has taken the run.{self._unknown(run)}",
            NextStep(
                "Start a worker, or give the workers there are the agent or more room. A lock of the run's row also "
                "keeps it.",
                "runwire serve --role worker",
            ),
        )

    def _owner_problem(self, run: Row) -> Finding | None:
        lease_left = run["lease_left_s"]
        start_worker = "runwire serve --role worker"
        if run["state"] == RunState.PENDING and lease_left is None:
            if run["age_s"] < self._limits.unclaimed_s:
                return None
            return (
                Stage.NEVER_CLAIMED,
                f"No worker has claimed the run in {run['age_s']:.0f} s.{self._unknown(run)}",
                NextStep("Start a worker, or give the workers there are the agent or more room.", start_worker),
            )
        if lease_left is not None and lease_left <= 0:
            owner = run["lease_owner"] or "nobody"
            return (
                Stage.LEASE_LOST,
                f"The lease of {owner} ended {-lease_left:.0f} s ago and nobody has taken over.",
                NextStep("A worker takes it within a second of looking: see that one is running.", start_worker),
            )
        return None

    def _node_problem(self, run: Row, node: Row | None) -> Finding | None:
        if node is None:
            return None
        limit = self._limit_s(run["agent"], node["name"])
        if node["age_s"] <= limit + self._limits.grace_s:
            return None
        cancel = f"runwire run cancel {run['run_id']}"
        return (
            Stage.NODE_HUNG,
            f"Node {node['name']} has been running for {node['age_s']:.0f} s; its limit is {limit:.0f} s.",
            NextStep("Cancel the run, or stop its worker so that another resumes it.", cancel),
        )

    def _expected_s(self, run: Row) -> float:
        agent = self._agents.get(run["agent"])
        return RUN_EXPECTED_S if agent is None else agent.expected_or(RUN_EXPECTED_S)

    def _limit_s(self, agent_name: str, node_name: str) -> float:
        """The longest all tries of a node may take."""
        agent = self._agents.get(agent_name)
        node = agent.nodes.get(node_name) if agent is not None else None
        if node is None:
            return EXTERNAL_NODE_S  # an external orchestrator's: nothing is declared here
        return node.longest_s


def _standing_problem(run: Row) -> Finding | None:
    """Reported by the worker's watch, once a second while its event loop is blocked."""
    if run["blocked_node"] is None or run["blocked_age_s"] > NODE_GRACE_S:
        return None
    since_s = run["blocked_s"] + run["blocked_age_s"]
    worker, node, at = run["blocked_worker"], run["blocked_node"], run["blocked_at"]
    advice = "It is interrupted at its time-out. Let the node await, or make it a plain function, which has a thread."
    return (
        Stage.NODE_HUNG,
        f"Node {node} has blocked the event loop of worker {worker} for {since_s:.0f} s, in {at}.",
        NextStep(advice, f"runwire run cancel {run['run_id']}"),
    )


def _suspect_problem(run: Row) -> Finding | None:
    if not run["suspect"]:
        return None
    return (
        Stage.LEASE_LOST,
        f"{run['losses']} workers in a row died with the run. It is tried again by itself, and then failed.",
        NextStep(_READ_ENDS, f"runwire run cancel {run['run_id']}"),
    )


def _append_problem(run: Row, locks: list[Row], *, lock_s: float) -> Finding | None:
    blocked = [lock for lock in locks if lock["waits"].startswith("runwire append") and lock["waited_s"] > lock_s]
    if run["read_only"]:
        return (
            Stage.APPEND_FAILING,
            "The database takes no writes: it is read-only, or a standby.",
            NextStep("Point runwire at the primary.", "runwire doctor"),
        )
    if not run["has_partition"]:
        return (
            Stage.APPEND_FAILING,
            f"The partition for the run's day, {run['run_day']}, is missing, so its events cannot be stored.",
            NextStep(
                "The next append makes it. If none has, the service's database role may not: as the owner of the "
                "tables, make it now.",
                f"psql -c \"SELECT make_event_partition('{run['run_day']}')\"",
            ),
        )
    if blocked and not blocked[0]["held_by"].startswith("runwire append"):
        lock = blocked[0]
        return (
            Stage.APPEND_FAILING,
            f"Appends have waited {lock['waited_s']:.0f} s for a lock that session {lock['held_by_pid']} holds.",
            end_session(lock["held_by_pid"]),
        )
    return None


def _part_problem(parts: list[Row], locks: list[Row], *, lock_s: float) -> Finding | None:
    """All parts of a worker share a statement, so a lock of one holds up the others."""
    blocked = [lock for lock in locks if lock["waits"] == "runwire parts" and lock["waited_s"] > lock_s]
    if not parts or not blocked:
        return None
    lock = blocked[0]
    return (
        Stage.PARTS_STUCK,
        f"Bytes of parts have waited {lock['waited_s']:.0f} s for a lock that session {lock['held_by_pid']} holds.",
        end_session(lock["held_by_pid"]),
    )


def _deaf_problem(run: Row, deaf: list[Row]) -> Finding | None:
    """Viewers at a deaf process get events when it looks by itself, which it does after seconds of silence."""
    if not deaf or RunState(run["state"]).terminal:
        return None
    where = ", ".join(dict.fromkeys(row["process"] for row in deaf))
    return (
        Stage.API_DEAF,
        f"All of the run is published, but process {where} hears no notifications: viewers there see events late.",
        NextStep(
            "A pooler or a proxy before PostgreSQL passes none: set RUNWIRE_DATABASE_DIRECT_URL, or mend the way.",
            "runwire doctor",
        ),
    )


def _no_problem(run: Row, error: Row | None, parts: list[Row]) -> Finding:
    state = RunState(run["state"])
    if state is RunState.WAITING:
        return _waiting(run)
    if state is RunState.FAILED:
        cause, advice = why_failed(run["error_code"], last_error=None if error is None else error["fn"])
        return (
            Stage.FAILED,
            f"The run failed, and all of it is published: {cause}.",
            NextStep(advice, f"runwire run tail {run['run_id']}"),
        )
    about = f"is {state.value}" if state.terminal else f"goes on: its last event is {run['last_age_s'] or 0:.0f} s old"
    published = f"everything up to seq {run['published_seq']} is published"
    return (
        Stage.CLIENT_SIDE,
        f"The run {about}, and {published}.{_said_of_parts(parts)}",
        NextStep(
            "If a client does not see it, read the stream without that client, then look for a proxy that buffers.",
            f"runwire run tail {run['run_id']}",
        ),
    )


def _said_of_parts(parts: list[Row]) -> str:
    """The open part that got bytes last: what a reader of it should have."""
    if not parts:
        return ""
    part = min(parts, key=lambda one: one["quiet_s"])
    return f" Part {part['n']} is open and has {part['size']} bytes; nothing was stored for {part['quiet_s']:.0f} s."


def _waiting(run: Row) -> Finding:
    left_s = run["timer_left_s"]
    for_s = f"{run['waiting_s'] or 0:.0f} s"
    if run["waiting_for"] is None:
        return (
            Stage.WAITING,
            f"The run has slept for {for_s}, and goes on by itself in {max(left_s or 0, 0):.0f} s.",
            NextStep("Wait, or cancel the run.", f"runwire run cancel {run['run_id']}"),
        )
    names = run["waiting_for"].split()
    until = "" if left_s is None else f", and goes on without one in {max(left_s, 0):.0f} s"
    return (
        Stage.WAITING,
        f"The run has waited for signal {' or '.join(map(repr, names))} for {for_s}{until}.",
        NextStep("Send it, when what it stands for is true.", f"runwire run signal {run['run_id']} {names[0]}"),
    )


_READ_ENDS: Final = "Read what the workers' processes ended with: memory, a signal, an exit."

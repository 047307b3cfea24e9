"""What can go wrong, as types. Callers branch on the type and read the facts from its fields, never from the text."""

from __future__ import annotations


class RunwireError(Exception):
    """Base of every error runwire raises on purpose. `code` is stable and is what HTTP problems and metrics carry."""

    code = "internal"


class InvalidRequest(RunwireError):
    """The caller's input does not fit; `code` says which rule, `detail` says where. Nothing was changed."""

    code = "invalid_request"

    def __init__(self, detail: str, *, code: str = "invalid_request") -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code


class RunNotFound(RunwireError):
    code = "run_not_found"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"no run {run_id!r}")
        self.run_id = run_id


class Unauthenticated(RunwireError):
    """It is not known who calls; `code` says why: credentials missing, invalid or expired."""

    code = "credentials_missing"

    def __init__(self, detail: str, *, code: str) -> None:
        super().__init__(detail)
        self.code = code


class NotPermitted(RunwireError):
    """It is known who calls, and they may not; `scope` is what they lack, if that is it."""

    code = "scope_missing"

    def __init__(self, detail: str, *, code: str = "scope_missing", scope: str | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.scope = scope


class AuthUnavailable(RunwireError):
    """Who calls cannot be found out now: the keys that verify tokens cannot be had."""

    code = "auth_unavailable"


class UnknownAgent(RunwireError):
    code = "unknown_agent"

    def __init__(self, agent: str, *, known: tuple[str, ...]) -> None:
        super().__init__(f"no agent {agent!r}; known: {', '.join(known) or 'none'}")
        self.agent = agent
        self.known = known


class Overloaded(RunwireError):
    """This process has as much to do as it may; `code` says of what. Nothing was changed: come again later."""

    code = "too_many_requests"

    def __init__(self, detail: str, *, code: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.retry_after_s = retry_after_s


class SignalNotTaken(RunwireError):
    """The run's orchestrator lives elsewhere: it waits for nothing here, and no signal reaches it."""

    code = "signal_not_taken"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id!r} was started with `external`; signals are for runs that wait here")
        self.run_id = run_id


class TooManySignals(RunwireError):
    """The run has as many signals as it may that it has not taken. Nothing was stored."""

    code = "too_many_signals"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id!r} has a hundred signals that it has not taken")
        self.run_id = run_id


class StartConflict(RunwireError):
    """The run id or the idempotency key is taken by a start with another body. Nothing was started."""

    code = "start_conflict"

    def __init__(self, run_id: str, *, by: str) -> None:
        super().__init__(f"{by} was already used to start run {run_id!r} with another body")
        self.run_id = run_id
        self.by = by


class AppendError(RunwireError):
    """Nothing of this append was stored and nothing of it will be published."""

    code = "append_failed"

    def __init__(self, run_id: str, message: str) -> None:
        super().__init__(message)
        self.run_id = run_id


class RunClosed(AppendError):
    code = "run_closed"

    def __init__(self, run_id: str, *, state: str, last_seq: int) -> None:
        super().__init__(run_id, f"run {run_id!r} is {state}; its log ended at {last_seq}")
        self.state = state
        self.last_seq = last_seq


class FenceLost(AppendError):
    """Another owner has taken the run since: this one may append nothing more."""

    code = "fence_stale"

    def __init__(self, run_id: str, *, held: int | None, current: int | None, last_seq: int) -> None:
        super().__init__(run_id, f"fence {held} of run {run_id!r} is stale; the current one is higher")
        self.held = held
        self.current = current
        self.last_seq = last_seq


class SeqConflict(AppendError):
    code = "seq_conflict"

    def __init__(self, run_id: str, *, expected: int, actual: int) -> None:
        super().__init__(run_id, f"expected run {run_id!r} at seq {expected}, it is at {actual}")
        self.expected = expected
        self.actual = actual


class IllegalAppend(AppendError):
    """The events would break an invariant of the log (first event, terminal event, state transition)."""

    code = "illegal_append"


class IllegalBatch(IllegalAppend):
    """The batch is wrong whatever the log holds: no run would take it."""

    code = "illegal_batch"


class NotExternal(AppendError):
    """The run is walked by a worker of this service: nobody else appends to it."""

    code = "not_external"

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id, f"run {run_id!r} was not started with `external`; its own worker appends to it")


class StorageUnavailable(AppendError):
    """The database failed while appending; whether to try again is the caller's choice, nothing was published."""

    code = "storage_unavailable"


class PartitionMissing(StorageUnavailable):
    """The log has no partition for the run's day. Nothing was stored; once the partition is made, a repeat is."""

    code = "partition_missing"

    def __init__(self, run_id: str, message: str = "the log has no partition for the run's day") -> None:
        super().__init__(run_id, message)


class CursorPastTail(RunwireError):
    code = "cursor_past_tail"

    def __init__(self, run_id: str, *, cursor: int, last_seq: int) -> None:
        super().__init__(f"cursor {cursor} is past the tail of run {run_id!r}, which is {last_seq}")
        self.run_id = run_id
        self.cursor = cursor
        self.last_seq = last_seq


class CursorExpired(RunwireError):
    code = "cursor_expired"

    def __init__(self, run_id: str, *, earliest_seq: int) -> None:
        super().__init__(f"events of run {run_id!r} before {earliest_seq} are gone")
        self.run_id = run_id
        self.earliest_seq = earliest_seq


class RunStillOpen(RunwireError):
    """Only a closed run can be replayed; an open one has a stream."""

    code = "run_open"

    def __init__(self, run_id: str, *, state: str) -> None:
        super().__init__(f"run {run_id!r} is {state}, and only a run that is over can be replayed")
        self.run_id = run_id
        self.state = state


class TooManyReplays(RunwireError):
    """This process sends as many replays as it may; another may have room, or this one later."""

    code = "too_many_replays"

    def __init__(self, at_most: int) -> None:
        super().__init__(f"{at_most} runs are being replayed, which is the limit")
        self.at_most = at_most


class BusUnavailable(RunwireError):
    """The bus did not take a batch. The events stay unpublished and are tried again."""

    code = "bus_unavailable"


class DatabaseFailed(RunwireError):
    """PostgreSQL did not do what it was asked: base of everything that a database makes us raise.

    A loop waits each of them out. The text is of a bounded set: it quotes nothing that was stored or asked.
    """


class DatabaseUnavailable(DatabaseFailed):
    """No connection to PostgreSQL could be had, or the server did not carry out the statement; it may, the next time.

    `sqlstate` is what the server said, None when it said nothing.
    """

    code = "database_unavailable"

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class ReadTimedOut(DatabaseUnavailable):
    """A read took longer than it may, and was given up."""

    code = "read_timed_out"

    def __init__(self, within_s: float) -> None:
        super().__init__(f"the read took longer than {within_s:g} s")


class ConstraintViolated(DatabaseFailed):
    """The database refused a value: by a constraint, or because no column takes it. Nothing was stored."""

    code = "value_refused"

    def __init__(self, constraint: str) -> None:
        super().__init__(f"constraint {constraint or 'unknown'} holds")
        self.constraint = constraint


class ArchiveUnavailable(RunwireError):
    """Cold storage does not answer, or is not set up here; what is stored there is untouched."""

    code = "archive_unavailable"


class ArchiveCorrupt(ArchiveUnavailable):
    """What came back from cold storage is not what was put there. Another copy has to be found."""


class EmbeddedPostgresError(RunwireError):
    """The embedded PostgreSQL could not be found, started or reached; the text says what to do."""

    code = "embedded_postgres"


class MigrationError(RunwireError):
    code = "migration"


class GraphError(RunwireError):
    """An agent's graph cannot run as declared; `problems` lists every one found."""

    code = "invalid_graph"

    def __init__(self, agent: str, problems: tuple[str, ...]) -> None:
        # Its name may be what is wrong with it, and anything at all.
        shown = repr(agent) if type(agent) is str else "without a name"
        super().__init__(f"agent {shown}: " + "; ".join(problems))
        self.agent = agent
        self.problems = problems


class StateRefused(RunwireError):
    """A state that no checkpoint can hold: `bad_state`, or `state_too_large`."""

    code = "bad_state"

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class NodeFailed(RunwireError):
    """Raised by a node to fail with a bounded code of its own, e.g. `raise NodeFailed("unreachable")`.

    The code travels in the event log as `error:<code>:<fn>`; the optional detail goes nowhere but the traceback.
    """

    def __init__(self, code: str, detail: str = "", *, retry: bool = True) -> None:
        super().__init__(detail or code)
        self.code = code
        self.retry = retry


class ConfigurationError(RunwireError):
    """Settings that cannot work; `problems` lists every one found."""

    code = "configuration"

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems

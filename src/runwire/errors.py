"""The errors of runwire, as types. Callers branch on the type and read facts from its fields, never from the text."""

from __future__ import annotations


class RunwireError(Exception):
    """Base of every error that runwire raises on purpose. HTTP problems and metrics carry its stable `code`."""

    code = "internal"


class InvalidRequest(RunwireError):
    """The caller's input breaks a rule. `code` names the rule, `detail` the place. Nothing was changed."""

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
    """The caller is unknown. `code` gives the reason: credentials missing, invalid or expired."""

    code = "credentials_missing"

    def __init__(self, detail: str, *, code: str) -> None:
        super().__init__(detail)
        self.code = code


class NotPermitted(RunwireError):
    """The caller is known and lacks a permission. `scope` names the missing scope; None for any other reason."""

    code = "scope_missing"

    def __init__(self, detail: str, *, code: str = "scope_missing", scope: str | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.scope = scope


class AuthUnavailable(RunwireError):
    """The service cannot identify the caller now: the keys that verify tokens are not available."""

    code = "auth_unavailable"


class UnknownAgent(RunwireError):
    code = "unknown_agent"

    def __init__(self, agent: str, *, known: tuple[str, ...]) -> None:
        super().__init__(f"no agent {agent!r}; known: {', '.join(known) or 'none'}")
        self.agent = agent
        self.known = known


class Overloaded(RunwireError):
    """This process is at a limit, named by `code`. Nothing was changed. Try again after `retry_after_s` seconds."""

    code = "too_many_requests"

    def __init__(self, detail: str, *, code: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.retry_after_s = retry_after_s


class SignalNotTaken(RunwireError):
    """The run was started with `external`. Its orchestrator runs elsewhere, and no signal reaches it."""

    code = "signal_not_taken"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id!r} was started with `external`; signals are for runs that wait here")
        self.run_id = run_id


class TooManySignals(RunwireError):
    """The run has the maximum of signals that it has not taken yet. The signal was not stored."""

    code = "too_many_signals"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id!r} has a hundred signals that it has not taken yet")
        self.run_id = run_id


class StartConflict(RunwireError):
    """Another start, with another body, used the run id or the idempotency key. No run was started."""

    code = "start_conflict"

    def __init__(self, run_id: str, *, by: str) -> None:
        super().__init__(f"{by} was already used to start run {run_id!r} with another body")
        self.run_id = run_id
        self.by = by


class AppendError(RunwireError):
    """The append failed as a whole: none of its events is stored or will be published."""

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
    """Another owner has claimed the run. The holder of the old fence can no longer append."""

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
    """The events break an invariant of the log (first event, terminal event, state transition)."""

    code = "illegal_append"


class IllegalBatch(IllegalAppend):
    """The batch breaks a rule that holds for every log, so no run can accept it."""

    code = "illegal_batch"


class NotExternal(AppendError):
    """A worker of this service walks the run. Only that worker appends to it."""

    code = "not_external"

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id, f"run {run_id!r} was not started with `external`; its own worker appends to it")


class StorageUnavailable(AppendError):
    """The database failed during the append. Nothing was published. The caller decides whether to try again."""

    code = "storage_unavailable"


class PartitionMissing(StorageUnavailable):
    """The log has no partition for the run's day. Nothing was stored. A repeat succeeds once the partition exists."""

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
        super().__init__(f"run {run_id!r} is {state}, and only a run that has ended can be replayed")
        self.run_id = run_id
        self.state = state


class TooManyReplays(RunwireError):
    """This process is at its limit of replays. Try another process, or this one later."""

    code = "too_many_replays"

    def __init__(self, at_most: int) -> None:
        super().__init__(f"{at_most} replays are running, which is the limit")
        self.at_most = at_most


class BusUnavailable(RunwireError):
    """The bus did not accept a batch. The publisher tries its events again."""

    code = "bus_unavailable"


class DatabaseFailed(RunwireError):
    """PostgreSQL did not carry out a request. Base of every error that a database causes.

    A loop tries again until the error passes. The text is one of a bounded set and quotes no stored or sent value.
    """


class DatabaseUnavailable(DatabaseFailed):
    """No connection to PostgreSQL was available, or the server did not carry out the statement. A repeat may succeed.

    `sqlstate` is the server's code, or None when the server gave none.
    """

    code = "database_unavailable"

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class ReadTimedOut(DatabaseUnavailable):
    """A read exceeded its time limit and was cancelled."""

    code = "read_timed_out"

    def __init__(self, within_s: float) -> None:
        super().__init__(f"the read took longer than {within_s:g} s")


class ConstraintViolated(DatabaseFailed):
    """The database refused a value: it breaks a constraint, or fits no column. Nothing was stored."""

    code = "value_refused"

    def __init__(self, constraint: str) -> None:
        super().__init__(f"constraint {constraint or 'unknown'} refused a value")
        self.constraint = constraint


class ArchiveUnavailable(RunwireError):
    """Cold storage does not answer, or is not set up here. Its files are untouched."""

    code = "archive_unavailable"


class ArchiveCorrupt(ArchiveUnavailable):
    """Cold storage returned other bytes than were written. Restore the batch from another copy."""


class EmbeddedPostgresError(RunwireError):
    """The embedded PostgreSQL could not be found, started or reached. The text says what to do."""

    code = "embedded_postgres"


class MigrationError(RunwireError):
    code = "migration"


class GraphError(RunwireError):
    """An agent's graph cannot run as declared; `problems` lists every one found."""

    code = "invalid_graph"

    def __init__(self, agent: str, problems: tuple[str, ...]) -> None:
        # The name itself may be the mistake, and may be any object.
        shown = repr(agent) if type(agent) is str else "without a name"
        super().__init__(f"agent {shown}: " + "; ".join(problems))
        self.agent = agent
        self.problems = problems


class StateRefused(RunwireError):
    """No checkpoint can hold the state: `bad_state` or `state_too_large`."""

    code = "bad_state"

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class NodeFailed(RunwireError):
    """A node raises it to fail with a bounded code of its own, e.g. `raise NodeFailed("unreachable")`.

    The event log carries the code as `error:<code>:<fn>`. The optional detail appears only in the traceback.
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

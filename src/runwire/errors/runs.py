"""Errors of runs: starting them, appending to them, following them, and walking their graphs."""

from __future__ import annotations

from typing import ClassVar

from runwire.errors.kinds import LAST_SEQ, RUN_ID, STATE, ExitCode, Fact, Kind, RunwireError


class RunNotFound(RunwireError):
    kind = Kind("run_not_found", 404, "There is no run with this id.", counted="append_failures")
    facts = (RUN_ID,)
    exit_code = ExitCode.NOT_FOUND

    def __init__(self, run_id: str) -> None:
        super().__init__(f"no run {run_id!r}")
        self.run_id = run_id


class UnknownAgent(RunwireError):
    kind = Kind("unknown_agent", 422, "There is no agent with this name.")
    facts = (
        Fact("agent", "agent", str, "The agent that the request names."),
        Fact("known", "known", tuple, "The agents of the service."),
    )
    exit_code = ExitCode.USAGE

    def __init__(self, agent: str, *, known: tuple[str, ...]) -> None:
        super().__init__(f"no agent {agent!r}; known: {', '.join(known) or 'none'}")
        self.agent = agent
        self.known = known


class SignalNotAwaited(RunwireError):
    """No node of the run can ever wait for a signal of this name. The signal was not stored."""

    kind = Kind("signal_not_awaited", 409, "No node of the run can ever wait for a signal of this name.")
    facts = (RUN_ID,)

    def __init__(self, run_id: str) -> None:
        super().__init__(f"no node of run {run_id!r} can wait for a signal of this name")
        self.run_id = run_id


class SignalConflict(RunwireError):
    """The run has had another signal with this id: another name, or other data. The signal was not stored."""

    kind = Kind("signal_conflict", 409, "The run has had another signal with this id.")
    facts = (RUN_ID,)

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id!r} has had another signal with this id")
        self.run_id = run_id


class TooManySignals(RunwireError):
    """The run has the maximum of signals that it has not taken yet. The signal was not stored."""

    kind = Kind("too_many_signals", 409, "Too many signals are waiting for the run.")
    facts = (RUN_ID,)

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id!r} has a hundred signals that it has not taken yet")
        self.run_id = run_id


class StartConflict(RunwireError):
    """Another start, with another body, used the run id or the idempotency key. No run was started."""

    kind = Kind("start_conflict", 409, "Another start already used this run id or Idempotency-Key.")
    facts = (RUN_ID,)

    def __init__(self, run_id: str, *, by: str = "the runId or the Idempotency-Key") -> None:
        super().__init__(f"{by} was already used to start run {run_id!r} with another body")
        self.run_id = run_id
        self.by = by


class AppendError(RunwireError):
    """The append failed as a whole: none of its events is stored or will be published."""

    code = "append_failed"
    facts: ClassVar[tuple[Fact, ...]] = (RUN_ID,)

    def __init__(self, run_id: str, detail: str) -> None:
        super().__init__(detail)
        self.run_id = run_id


class RunClosed(AppendError):
    kind = Kind("run_closed", 409, "The run has ended.", counted="append_failures")
    facts = (RUN_ID, STATE, LAST_SEQ)

    def __init__(self, run_id: str, *, state: str, last_seq: int) -> None:
        super().__init__(run_id, f"run {run_id!r} is {state}; its log ended at {last_seq}")
        self.state = state
        self.last_seq = last_seq


class FenceStale(AppendError):
    """Another owner has claimed the run. The holder of the old fence can no longer append."""

    kind = Kind(
        "fence_stale",
        409,
        "Another owner has claimed the run. This fence is no longer valid.",
        counted="append_failures",
    )
    facts = (RUN_ID, LAST_SEQ)  # the current fence is its owner's secret

    def __init__(self, run_id: str, *, held: int | None, current: int | None = None, last_seq: int) -> None:
        super().__init__(run_id, f"fence {held} of run {run_id!r} is stale; the current one is higher")
        self.held = held
        self.current = current
        self.last_seq = last_seq


class SeqConflict(AppendError):
    kind = Kind("seq_conflict", 409, "The run's log is not at the seq that `ifSeq` names.", counted="append_failures")
    facts = (
        RUN_ID,
        Fact("ifSeq", "expected", int, "The seq that the append expected."),
        Fact("lastSeq", "actual", int, LAST_SEQ.meaning),
    )

    def __init__(self, run_id: str, *, expected: int, actual: int) -> None:
        super().__init__(run_id, f"expected run {run_id!r} at seq {expected}, it is at {actual}")
        self.expected = expected
        self.actual = actual


class IllegalAppend(AppendError):
    """The events break an invariant of the log (first event, terminal event, state transition)."""

    kind = Kind(
        "illegal_append", 409, "These events may not follow the events in the run's log.", counted="append_failures"
    )


class IllegalBatch(IllegalAppend):
    """The batch breaks a rule that holds for every log, so no run can accept it."""

    kind = Kind("illegal_batch", 422, "No run can accept this batch of events.")


class NotExternal(AppendError):
    """A worker of this service walks the run. Only that worker appends to it."""

    kind = Kind(
        "not_external", 409, "Only runs started with `external` accept events over HTTP.", counted="append_failures"
    )

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id, f"run {run_id!r} was not started with `external`; its own worker appends to it")


class StorageUnavailable(AppendError):
    """The database failed during the append. Nothing was published. The caller decides whether to try again."""

    kind = Kind(
        "storage_unavailable",
        503,
        "The database failed during the append. It is safe to repeat the append with `ifSeq`.",
        counted="append_failures",
    )


class PartitionMissing(StorageUnavailable):
    """The log has no partition for the run's day. Nothing was stored. A repeat succeeds once the partition exists."""

    kind = Kind(
        "partition_missing",
        503,
        "The log has no partition for the run's day. Nothing was stored.",
        counted="append_failures",
    )

    def __init__(self, run_id: str, detail: str = "the log has no partition for the run's day") -> None:
        super().__init__(run_id, detail)


class CursorPastTail(RunwireError):
    kind = Kind("cursor_past_tail", 400, "The cursor is past the end of the run's log.")
    facts = (RUN_ID, Fact("cursor", "cursor", int, "The cursor of the request."), LAST_SEQ)

    def __init__(self, run_id: str, *, cursor: int, last_seq: int) -> None:
        super().__init__(f"cursor {cursor} is past the tail of run {run_id!r}, which is {last_seq}")
        self.run_id = run_id
        self.cursor = cursor
        self.last_seq = last_seq


class CursorExpired(RunwireError):
    kind = Kind("cursor_expired", 410, "The events after the cursor are no longer available.")
    facts = (RUN_ID, Fact("earliestSeq", "earliest_seq", int, "The first seq that is still stored."))

    def __init__(self, run_id: str, *, earliest_seq: int) -> None:
        super().__init__(f"events of run {run_id!r} before {earliest_seq} are gone")
        self.run_id = run_id
        self.earliest_seq = earliest_seq


class CheckpointGone(RunwireError):
    """The id of a stream of many runs names positions that are not stored, or not for this caller and these runs."""

    kind = Kind("checkpoint_gone", 410, "The stream's cursor has expired. Open the stream again without Last-Event-ID.")

    def __init__(self) -> None:
        super().__init__("the positions that this cursor stands for are gone: open the stream again without it")


class RunStillOpen(RunwireError):
    """Only a run that has ended can be replayed, or lose its content. An open one has a stream."""

    kind = Kind("run_open", 409, "Only a run that has ended can be replayed, or lose its content.")
    facts = (RUN_ID, STATE)

    def __init__(self, run_id: str, *, state: str) -> None:
        super().__init__(f"run {run_id!r} is {state}, and has to end first")
        self.run_id = run_id
        self.state = state


class TooManyReplays(RunwireError):
    """This process is at its limit of replays. Try another process, or this one later."""

    kind = Kind("too_many_replays", 429, "Too many replays are running.")
    facts = (Fact("max", "at_most", int, "The limit."),)

    def __init__(self, at_most: int) -> None:
        super().__init__(f"{at_most} replays are running, which is the limit")
        self.at_most = at_most


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

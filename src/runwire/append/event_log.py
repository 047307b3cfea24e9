"""The event log's only writer. Appends that wait while a commit is under way share the next one (group commit)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Self

from runwire.append.days import MissingDays
from runwire.append.queue import Queue
from runwire.append.request import Appended, Change, Checkpoint, Companion, Group, Request, check_legal
from runwire.append.rota import Rota
from runwire.append.settings import DEFAULTS, AppendSettings
from runwire.clock import monotonic
from runwire.db import Attempts, ConstraintViolated, Database, NoPartition, Row, Session, load_sql
from runwire.duties import Duty
from runwire.errors import (
    AppendError,
    DatabaseFailed,
    DatabaseUnavailable,
    FenceStale,
    IllegalAppend,
    NotExternal,
    PartitionMissing,
    RunClosed,
    RunNotFound,
    RunwireError,
    SeqConflict,
    StorageUnavailable,
)
from runwire.model.event import NewEvent, Source
from runwire.model.run import RunState
from runwire.telemetry.asyncpg_spans import suppressed
from runwire.telemetry.logs import LogEvent, get_logger
from runwire.telemetry.metrics import Metrics

_SQL = load_sql("runwire.append", "append.sql")
_TERMINAL = frozenset(state.value for state in RunState if state.terminal)
_log = get_logger()

# A look-up by primary key per request is the best plan at every size, and planned once it serves for ever.
_PLANS = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
}


class EventLog:
    """Appends events durably, each run's in order, and says so only after the commit.

    One connection writes, and more when many appends wait. `on_committed` is called with the ids of runs that have new
    events. `give_way`, if given, is awaited before each flush, so that a publisher that is behind can hold appends
    back. Enter it to start, leave it to flush and stop.
    """

    def __init__(
        self,
        database: Database,
        *,
        metrics: Metrics,
        on_committed: Callable[[Sequence[str]], None],
        give_way: Callable[[], Awaitable[object]] | None = None,
        settings: AppendSettings = DEFAULTS,
    ) -> None:
        self._queue = Queue()
        self._rota = Rota(self._queue, writers=settings.append_connections, batch_max=settings.append_batch_max)
        attempts = database.attempts(Duty.APPEND)
        sessions = [database.session(f"append {n}", settings=_PLANS) for n in range(settings.append_connections)]
        self._lanes = [
            _Lane(
                session,
                attempts=attempts,
                queue=self._queue,
                rota=self._rota,
                metrics=metrics,
                on_committed=on_committed,
                give_way=give_way,
            )
            for session in sessions
        ]
        self._days = MissingDays(database)
        self._queue_max = settings.append_queue_max
        self._metrics = metrics
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(lane.run(), name="append") for lane in self._lanes]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._rota.close()
        await asyncio.gather(*self._tasks)

    def submit(
        self,
        run_id: str,
        events: Sequence[NewEvent],
        *,
        fence: int,
        source: Source,
        if_seq: int | None = None,
        change: Change | None = None,
        checkpoint: Checkpoint | None = None,
        companion: Companion | None = None,
    ) -> asyncio.Future[Appended]:
        """As `append`, without waiting: submissions of a run are stored in the order they were made."""
        check_legal(run_id, events, change)
        if len(self._queue) >= self._queue_max or self._rota.closing:
            self._metrics.append_failures["storage_unavailable"].inc()
            raise StorageUnavailable(run_id, "the append queue is full" if not self._rota.closing else "shutting down")
        waiter: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._queue.put(
            Request(run_id, fence, if_seq, source, events, change, checkpoint, waiter, monotonic(), companion)
        )
        self._rota.call()
        return waiter

    async def append(
        self,
        run_id: str,
        events: Sequence[NewEvent],
        *,
        fence: int,
        source: Source,
        if_seq: int | None = None,
        change: Change | None = None,
        checkpoint: Checkpoint | None = None,
        companion: Companion | None = None,
    ) -> Appended:
        """The seqs the events got, once they are committed. An empty batch checks the fence and is a heartbeat.

        `companion` stores rows of its caller in the same transaction; an error of the database there refuses the
        append as one of the append itself does.

        Raises RunNotFound, RunClosed, FenceStale, SeqConflict or IllegalAppend: nothing was stored. Raises
        StorageUnavailable when the database failed; if the connection broke during the commit, the append may have
        succeeded, and repeating it with `if_seq` is safe. A missing partition of the log is made, once, and the append
        repeated; PartitionMissing, a kind of StorageUnavailable, means that the day's partition could not be made;
        nothing was stored.
        """

        def submitted() -> asyncio.Future[Appended]:
            return self.submit(
                run_id,
                events,
                fence=fence,
                source=source,
                if_seq=if_seq,
                change=change,
                checkpoint=checkpoint,
                companion=companion,
            )

        try:
            return await submitted()
        except PartitionMissing:
            await self._days.make_for(run_id)
            return await submitted()


class _Lane:
    """One connection that stores the appends it takes."""

    def __init__(
        self,
        session: Session,
        *,
        attempts: Attempts,
        queue: Queue,
        rota: Rota,
        metrics: Metrics,
        on_committed: Callable[[Sequence[str]], None],
        give_way: Callable[[], Awaitable[object]] | None,
    ) -> None:
        self._session = session
        self._attempts = attempts
        self._queue = queue
        self._rota = rota
        self._metrics = metrics
        self._on_committed = on_committed
        self._give_way = give_way

    async def run(self) -> None:
        with suppressed():  # a span by hand stands in for sampled runs: one of each statement costs more than it
            while True:
                if not self._queue.ready:
                    if self._rota.closing:
                        break
                    await self._rota.rest()
                    continue
                if self._give_way is not None:
                    await self._give_way()
                try:
                    await self.flush()
                except Exception as error:  # noqa: BLE001  # a defect costs a batch, and not the lane
                    _log.error(LogEvent.TASK_FAILED, task="append", exc_info=error)
                # One loop tick for callers whose append is stored now: their next appends join those that waited
                # meanwhile, instead of alternating with them for ever in batches of half the size.
                await asyncio.sleep(0)
        await self._session.aclose()

    async def flush(self) -> None:
        """One step: stores at most one batch of waiting appends, and gives every caller its result."""
        groups = self._queue.take(self._rota.share)
        if not groups:
            return
        accompanied = [group for group in groups if group.requests[-1].companion]
        try:
            if accompanied:
                await self._flush([group for group in groups if not group.requests[-1].companion])
                for group in accompanied:  # a transaction each: what one stores beside its events costs no other
                    await self._flush([group])
            else:
                await self._flush(groups)
        finally:
            self._queue.done(groups)

    async def _flush(self, groups: list[Group]) -> None:
        if not groups:
            return
        try:
            await self._store(groups)
        except Exception as error:  # noqa: BLE001  # whatever it is, the callers must know and the lane must go on
            try:
                await self._blame(groups, error)
            finally:  # no caller waits for ever, whatever the result
                for request in [request for group in groups for request in group.requests]:
                    request.fail(StorageUnavailable(request.run_id, "appending failed"))

    async def _store(self, groups: list[Group]) -> None:
        started = monotonic()
        plain = not any(group.last.change or group.last.checkpoint for group in groups)
        if groups[0].last.companion:
            rows = await self._store_accompanied(groups[0])
        elif plain and len(groups) == 1 and groups[0].count == 1:
            rows = await self._session.fetch(_SQL["append_one"], *_single_arguments(groups[0]))
        elif plain:
            rows = await self._session.fetch(_SQL["append_plain"], *_arguments(groups))
        else:
            rows = await self._session.fetch(_SQL["append"], *_arguments(groups), *_extra_arguments(groups))
        if self._attempts.failures:
            self._attempts.succeeded()
        self._tell([groups[row[0]] for row in rows])
        for i, base, cancel, signals, *_ in rows:
            groups[i].fulfil(base, cancel_requested=cancel, signals=signals)
        if _log.is_enabled_for(logging.DEBUG):
            for i, base, *_ in rows:
                _log_events(groups[i], base, monotonic() - started)
        if len(rows) < len(groups):
            refused = set(range(len(groups))).difference(row[0] for row in rows)
            await self._refuse([groups[i] for i in sorted(refused)])

    async def _store_accompanied(self, group: Group) -> list[Row]:
        async with self._session.transaction() as transaction:
            rows = await transaction.fetch(_SQL["append"], *_arguments([group]), *_extra_arguments([group]))
            for _, base, _cancel, _signals, number in rows:
                await group.accompany(transaction, base, number)
        return rows

    def _tell(self, stored: list[Group]) -> None:
        """Metrics, logs and the publisher hear of a commit after it, never before."""
        now = monotonic()
        requests = [request for group in stored for request in group.requests]
        types = [event.type for request in requests for event in request.events]
        while types:  # one pass for each type there is; hashing a member of an enumeration is slower than all of this
            type_ = types[0]
            count = types.count(type_)
            self._metrics.events_appended[type_].inc(count)
            types = [other for other in types if other is not type_] if count < len(types) else []
        self._metrics.append_duration.observe_many([now - request.asked_at for request in requests])
        dirty = [group.head.run_id for group in stored if group.count]
        if dirty:
            self._on_committed(dirty)

    async def _refuse(self, groups: list[Group]) -> None:
        """Raises the refusal in single requests; the members of a group are first tried one by one."""
        alone = [group.head for group in groups if len(group.requests) == 1]
        try:
            rows = await self._session.fetch(_SQL["refused"], [request.run_id for request in alone])
        except DatabaseFailed as error:
            for request in alone:
                self._fail(request, StorageUnavailable(request.run_id, str(error)))
        else:
            now = {row["run_id"]: row for row in rows}
            for request in alone:
                self._fail(request, _why(request, now.get(request.run_id)))
        await self._one_by_one([group for group in groups if len(group.requests) > 1])

    async def _blame(self, groups: list[Group], error: Exception) -> None:
        """Handles a batch of which nothing was stored. A broken constraint has one culprit, so each request is tried
        alone.
        """
        several = len(groups) > 1 or len(groups[0].requests) > 1
        if isinstance(error, ConstraintViolated) and several:
            await self._one_by_one(groups)
            return
        if isinstance(error, DatabaseUnavailable):
            self._attempts.failed(error)
        elif not isinstance(error, RunwireError):
            _log.error(LogEvent.APPEND_FAILED, error_type=type(error).__name__)
        for group in groups:
            for request in group.requests:
                why: RunwireError
                if isinstance(error, NoPartition):
                    why = PartitionMissing(request.run_id)
                elif isinstance(error, ConstraintViolated):
                    why = IllegalAppend(request.run_id, f"the log does not allow this: {error.constraint}")
                elif request.companion and isinstance(error, RunwireError) and not isinstance(error, DatabaseFailed):
                    why = error  # what the companion says to its caller
                else:
                    why = StorageUnavailable(request.run_id, f"{type(error).__name__} while appending")
                self._fail(request, why)

    async def _one_by_one(self, groups: list[Group]) -> None:
        for request in [request for group in groups for request in group.requests]:
            single = [Group(request)]
            try:
                await self._store(single)
            except Exception as error:  # noqa: BLE001  # as in flush
                await self._blame(single, error)

    def _fail(self, request: Request, error: RunwireError) -> None:
        if isinstance(error, AppendError):
            self._metrics.append_failures[error.code].inc()
        request.fail(error)


def _log_events(group: Group, base: int, took_s: float) -> None:
    events = [event for request in group.requests for event in request.events]
    for seq, event in enumerate(events, base + 1):
        _log.debug(
            LogEvent.EVENTS_INSERTED,
            runId=group.head.run_id,
            seq=seq,
            type=event.type.value,
            lag_ms=round(took_s * 1000, 3),
        )


def _why(request: Request, now: Row | None) -> RunwireError:
    run_id = request.run_id
    if now is None:
        return RunNotFound(run_id)
    if request.source is Source.API and not now["external"]:
        return NotExternal(run_id)
    if now["state"] in _TERMINAL:
        return RunClosed(run_id, state=now["state"], last_seq=now["last_seq"])
    if now["fence"] != request.fence:
        return FenceStale(run_id, held=request.fence, current=now["fence"], last_seq=now["last_seq"])
    if request.if_seq is None or request.if_seq == now["last_seq"]:
        return StorageUnavailable(run_id, "the run changed while it was looked at")
    return SeqConflict(run_id, expected=request.if_seq, actual=now["last_seq"])


def _arguments(groups: list[Group]) -> tuple[list[object], ...]:
    heads = [group.requests[0] for group in groups]
    return (
        list(range(len(groups))),
        [head.run_id for head in heads],
        [head.fence for head in heads],
        [head.if_seq for head in heads],
        [group.count for group in groups],
        [group.encoded() for group in groups],
        [head.source.value for head in heads],
    )


def _single_arguments(group: Group) -> tuple[object, ...]:
    head = group.head
    (event,) = [event for request in group.requests for event in request.events]
    return (head.run_id, head.fence, head.if_seq, head.source.value, event.type.value, event.name, event.fn)


def _extra_arguments(groups: list[Group]) -> tuple[list[object], ...]:
    changes = [group.last.change for group in groups]
    checkpoints = [group.last.checkpoint for group in groups]
    return (
        _column([change and change.state.value for change in changes]),
        _column([change and change.waiting_for for change in changes]),
        _column([change and change.error_code for change in changes]),
        _column([checkpoint and checkpoint.node for checkpoint in checkpoints]),
        _column([checkpoint and checkpoint.next_node for checkpoint in checkpoints]),
        _column([checkpoint and checkpoint.state for checkpoint in checkpoints]),
        _column([checkpoint and checkpoint.followed_by for checkpoint in checkpoints]),
        _column([change and change.due for change in changes]),
        _column([checkpoint and checkpoint.on_timeout for checkpoint in checkpoints]),
        _column([group.numbered for group in groups]),
    )


def _column(values: list[object]) -> list[object]:
    """The values, or none where all are None: `unnest` fills a short array with NULL, and an element costs time."""
    return [] if values.count(None) == len(values) else values

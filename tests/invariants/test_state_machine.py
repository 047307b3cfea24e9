"""Random histories of appends, publishing, streams, faults and take-overs; each step is held against the model.

Every run tries the same ones. Others: RUNWIRE_INVARIANTS_SEED=<n>; more: RUNWIRE_INVARIANTS_EXAMPLES=<n>.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import pytest
import structlog
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from invariants.faults import PublisherCrashed
from invariants.model import RunModel
from invariants.world import HOLDING, REPLICAS, Client, World, labels_of
from postgres import cloned_database
from runwire.append import Appended, Change
from runwire.errors import (
    BusUnavailable,
    CursorPastTail,
    DatabaseUnavailable,
    RunClosed,
    RunNotFound,
    RunwireError,
    SeqConflict,
    StorageUnavailable,
)
from runwire.model.event import RUN_FINISHED, RUN_STARTED, NewEvent, Source, debug_trace, node_finished, node_started
from runwire.model.run import RunState
from runwire.orchestrate import StartRequest
from runwire.stream import Cursor
from runwire.stream.watches import LINGER_S
from runwire.telemetry.metrics import DisconnectReason
from waiting import eventually

T = TypeVar("T")

SEED = int(os.environ.get("RUNWIRE_INVARIANTS_SEED", "20250901"))
EXAMPLES = int(os.environ.get("RUNWIRE_INVARIANTS_EXAMPLES", "60"))
STEPS = 40

RUNS_MAX = 6
CLIENTS_MAX = 8

which = st.integers(0, 11)
replica = st.sampled_from(REPLICAS)
batch = st.lists(
    st.sampled_from(
        [debug_trace("step.done"), debug_trace("error:timeout:ping"), node_started("A"), node_finished("A")]
    ),
    min_size=1,
    max_size=4,
)
behind = st.integers(0, 5) | st.integers(0, 200)
"""How far from the tail a client attaches, as far as the log goes."""
outcomes = st.sampled_from([RunState.FINISHED, RunState.FAILED, RunState.CANCELLED])


@dataclass(frozen=True, slots=True)
class Moment:
    """An append and a publish step: who loses the message, and whether the publisher crashes before its commit."""

    events: list[NewEvent]
    lost_by: tuple[int, ...]
    crashes: bool


moments = st.builds(Moment, batch, st.sampled_from([(), (), (0,), (1,), (0, 1)]), st.sampled_from([False, False, True]))


class Pipeline(RuleBasedStateMachine):
    """Drives the stages of `world`; what they should hold is in its `runs`, what clients got in its `clients`."""

    world: ClassVar[World]
    loop: ClassVar[asyncio.AbstractEventLoop]

    def do(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 30))

    @initialize(first=st.sampled_from([1, 5, 90]), chunked=st.booleans())
    def begin(self, first: int, chunked: bool) -> None:
        """Two runs with a client each, so that every rule has something to do from the first step on."""
        self.do(self.world.begin())
        for n in REPLICAS:
            self.start_external_run(begun=True)
            run = self.world.runs[n]
            self._append(run, [debug_trace("step.done")] * first)
            while self._publish(n):
                pass
            self._connect(self._new_client(run, 0), n, chunked=chunked)

    def teardown(self) -> None:
        try:
            self.do(self._all_is_well_in_the_end())
        finally:
            self.do(self.world.end())

    # ------------------------------------------------------------------ runs and appends

    @precondition(lambda self: len(self.world.runs) < RUNS_MAX)
    @rule(begun=st.booleans())
    def start_external_run(self, begun: bool) -> None:
        run_id = self.world.new_run_id()
        started = self.do(
            self.world.control.start(StartRequest(agent="elsewhere", run_id=run_id, external=True, lease_s=3600))
        )
        assert (started.created, started.fence) == (True, 1)
        run = RunModel(run_id, external=True, fence=1)
        self.world.runs.append(run)
        if begun:
            self._append(run, [RUN_STARTED])

    @precondition(lambda self: self.world.runs)
    @rule(
        which=which,
        events=batch,
        fence_off=st.sampled_from([0, 0, 0, 0, -1, 1]),
        if_seq_off=st.sampled_from([None, None, 0, 0, -1, 1]),
        source=st.sampled_from([Source.API, Source.API, Source.API, Source.WORKER]),
        log=replica,
    )
    def append(  # noqa: PLR0917  # hypothesis calls it by keywords
        self, which: int, events: list[NewEvent], fence_off: int, if_seq_off: int | None, source: Source, log: int
    ) -> None:
        run = self._run(which)
        if not run.external and source is Source.WORKER and not fence_off:
            return  # what a walk appends, `walk_on` does
        if_seq = None if if_seq_off is None else run.last_seq + if_seq_off
        self._append(run, events, fence=run.fence + fence_off, if_seq=if_seq, source=source, log=log)

    @precondition(lambda self: self.world.runs)
    @rule(which=which, before=st.lists(st.just(debug_trace("last.words")), max_size=2), outcome=outcomes)
    def finish(self, which: int, before: list[NewEvent], outcome: RunState) -> None:
        self._append(self._run(which), [*before, RUN_FINISHED], outcome=outcome)

    @precondition(lambda self: self.world.runs)
    @rule(
        which=which,
        events=st.sampled_from(
            [
                [RUN_STARTED],
                [debug_trace("early"), RUN_STARTED],
                [RUN_FINISHED],
                [RUN_FINISHED, debug_trace("late")],
                [RUN_FINISHED, RUN_FINISHED],
                [],
            ]
        ),
        outcome=st.none() | outcomes,
    )
    def append_what_may_be_illegal(self, which: int, events: list[NewEvent], outcome: RunState | None) -> None:
        self._append(self._run(which), events, outcome=outcome)

    @rule(events=batch)
    def append_to_an_unknown_run(self, events: list[NewEvent]) -> None:
        with pytest.raises(RunNotFound):
            self.do(self.world.logs[0].append("nobody", events, fence=1, source=Source.API))

    @precondition(lambda self: self._open())
    @rule(which=which, publisher=replica, moments=st.lists(moments, min_size=1, max_size=4))
    def a_run_goes_on(self, which: int, publisher: int, moments: list[Moment]) -> None:
        """The most frequent step; messages may get lost and publishers crash between bus and commit."""
        run = _pick(self._open(), which)
        for moment in moments:
            self._append(run, moment.events)
            for reader in moment.lost_by:
                self.world.readers[reader].losses = 1
            if moment.crashes:
                self._publish_one(run, publisher, crashes=True)
                self._append(run, moment.events)  # so that what comes again comes together with something new
            self._publish_one(run, publisher)

    @precondition(lambda self: self._open())
    @rule(which=which, publisher=replica)
    def a_long_stretch_is_appended_and_published(self, which: int, publisher: int) -> None:
        """Longer than what streams read at once, and keep."""
        run = _pick(self._open(), which)
        self._append(run, [debug_trace(f"step.n{n}") for n in range(80)])
        self.world.publishers[publisher].mark_dirty([run.run_id], by="notify")
        while not self.world.bus.refuses_some and self._publish(publisher):
            pass

    @precondition(lambda self: self._open())
    @rule(which=which, one=batch, other=batch, expects=st.booleans())
    def two_replicas_append_at_once(
        self, which: int, one: list[NewEvent], other: list[NewEvent], expects: bool
    ) -> None:
        """Both succeed, one after the other; with `if_seq` one does, and the other is told."""
        run = _pick(self._open(), which)
        if_seq = run.last_seq if expects else None
        results = self.do(
            self._raced([self._send(run, events, if_seq=if_seq, log=n) for n, events in enumerate((one, other))], run)
        )
        pairs = zip(results, (one, other), strict=True)
        stored = [(result, events) for result, events in pairs if isinstance(result, Appended)]
        assert len(stored) == (1 if expects else 2), results
        for result, events in sorted(stored, key=lambda pair: pair[0].first_seq):
            assert (result.first_seq, result.last_seq) == (run.last_seq + 1, run.last_seq + len(events))
            run.store(events)
        assert all(isinstance(result, (Appended, SeqConflict)) for result in results)

    @precondition(lambda self: self._open())
    @rule(which=which, events=batch, outcome=st.none() | outcomes, log=replica)
    def the_answer_to_an_append_is_lost(
        self, which: int, events: list[NewEvent], outcome: RunState | None, log: int
    ) -> None:
        """The caller cannot know whether it happened; repeating it with `if_seq` tells, and never stores it twice."""
        run = _pick(self._open(), which)
        if outcome is not None:
            events = [*events, RUN_FINISHED]
        self.world.forgetful[log].answers_to_lose = 1
        base = run.last_seq
        with pytest.raises(StorageUnavailable):
            self.do(self._send(run, events, if_seq=base, outcome=outcome, log=log))
        run.store(events, outcome=outcome)
        with pytest.raises(RunClosed if run.closed else SeqConflict) as refused:
            self.do(self._send(run, events, if_seq=base, outcome=outcome, log=log))
        assert getattr(refused.value, "last_seq", getattr(refused.value, "actual", None)) == run.last_seq

    @precondition(lambda self: self._open())
    @rule(which=which, events=batch, log=replica)
    def the_appender_is_killed_while_it_waits(self, which: int, events: list[NewEvent], log: int) -> None:
        """Its caller is told, nothing is stored, and the same append again is stored once."""
        run = _pick(self._open(), which)
        error = self.do(self._killed_append(run, events, log=log))
        assert isinstance(error, StorageUnavailable), error
        self._append(run, events, if_seq=run.last_seq, log=log)

    @rule(log=replica)
    def idle_appenders_are_killed(self, log: int) -> None:
        """Nobody waits for anything: at most the next append on each connection fails."""
        self.do(self.world.terminate("runwire append%"))
        for lost in REPLICAS:
            for name in ("a", "b", "c", "d"):  # between them they use every connection
                self.do(_outlived(self.world.logs[lost].append(name, [], fence=1, source=Source.API)))
        with pytest.raises(RunNotFound):
            self.do(self.world.logs[log].append("nobody", [], fence=1, source=Source.API))

    # ------------------------------------------------------------------ walks and leases

    @precondition(lambda self: len(self.world.runs) < RUNS_MAX)
    @rule(worker=replica)
    def a_worker_claims_a_new_run(self, worker: int) -> None:
        world = self.world
        run = RunModel(world.new_run_id(), external=False, fence=0)
        self.do(world.control.start(StartRequest(agent=HOLDING, run_id=run.run_id)))
        world.runs.append(run)
        self._claim(run, worker)
        run.store([RUN_STARTED, node_started("Hold")])

    @precondition(lambda self: self._walked())
    @rule(which=which, exit_=st.sampled_from(["Hold", "END"]))
    def walk_on(self, which: int, exit_: str) -> None:
        run = self._walked()[which % len(self._walked())]
        gates = self.world.arrivals[run.run_id]
        arrived = len(gates)
        walking = self._active()
        gates[-1].set_result(exit_)
        if exit_ == "Hold":
            self.do(eventually(lambda: len(gates) > arrived, within_s=10))
            run.store([node_finished("Hold"), node_started("Hold")])
        else:
            self.do(eventually(lambda: self._active() < walking, within_s=10))
            run.store([node_finished("Hold"), RUN_FINISHED], outcome=RunState.FINISHED)

    @precondition(lambda self: self._walked())
    @rule(which=which, worker=replica, late_exit=st.sampled_from(["Hold", "END", None]))
    def a_run_is_taken_over(self, which: int, worker: int, late_exit: str | None) -> None:
        """Its lease ended; the old owner does not know yet, and may finish its node: it appends nothing more."""
        run = self._walked()[which % len(self._walked())]
        old = self.world.arrivals[run.run_id][-1]
        walking = self._active()
        self.do(
            self.world.database.execute(
                "UPDATE runs SET lease_until = now() - '1 s'::interval WHERE run_id = $1", run.run_id
            )
        )
        self._claim(run, worker)
        run.store([debug_trace("orchestrator.resumed"), node_started("Hold")])
        if late_exit is not None and not old.done():
            old.set_result(late_exit)
            self.do(eventually(lambda: self._active() <= walking, within_s=10))

    @precondition(lambda self: any(run.external and not run.closed for run in self.world.runs))
    @rule(which=which)
    def an_external_lease_ends(self, which: int) -> None:
        open_runs = [run for run in self.world.runs if run.external and not run.closed]
        run = open_runs[which % len(open_runs)]
        self.do(
            self.world.database.execute(
                "UPDATE runs SET lease_until = now() - '1 s'::interval WHERE run_id = $1", run.run_id
            )
        )
        assert self.do(self.world.reaper.reap()) == 1
        held = run.fence
        run.fence = self.do(self.world.database.fetchval("SELECT fence FROM runs WHERE run_id = $1", run.run_id))
        assert run.fence > held + 1  # not to be guessed by the one who held the run
        if not run.log:
            run.store([RUN_STARTED])
        run.store([debug_trace("error:lease_lost"), RUN_FINISHED], outcome=RunState.FAILED)
        self._append(run, [debug_trace("too.late")], fence=held)

    # ------------------------------------------------------------------ publishing

    @rule(to=st.sampled_from([(0, 1), (0, 1), (0, 1), (0,), (1,), ()]))
    def hints_go_to(self, to: tuple[int, ...]) -> None:
        self.world.hints_to = to

    @rule(publisher=replica)
    def publish(self, publisher: int) -> None:
        self._publish(publisher)

    @rule(publisher=replica)
    def sweep(self, publisher: int) -> None:
        self.do(self.world.publishers[publisher].sweep())

    @rule(publisher=replica)
    def idle_runs_are_parked(self, publisher: int) -> None:
        self.do(self.world.publishers[publisher].park_idle())

    @rule(publisher=replica)
    def sweep_and_publish(self, publisher: int) -> None:
        self.do(self.world.publishers[publisher].sweep())
        self._publish(publisher)

    @precondition(lambda self: self.world.runs)
    @rule(which=which)
    def the_bus_refuses_a_run(self, which: int) -> None:
        self.world.bus.refused_runs.add(self._run(which).run_id)

    @rule(batches=st.integers(1, 3))
    def the_bus_refuses_all(self, batches: int) -> None:
        self.world.bus.refusals = batches

    @rule()
    def the_bus_recovers(self) -> None:
        self.world.bus.recover()

    @rule(publisher=replica)
    def a_publisher_restarts(self, publisher: int) -> None:
        self.do(self.world.restart_publisher(publisher))

    @rule(publisher=replica, loses_database=st.booleans())
    def two_publishers_meet(self, publisher: int, loses_database: bool) -> None:
        """The second steps while the first is inside its bus call, whose database then may be gone."""
        self.do(self._publish_within_publish(publisher, loses_database=loses_database))

    @precondition(lambda self: self._open() and len(self.world.clients) < CLIENTS_MAX)
    @rule(which=which, events=batch, publisher=replica, behind=behind, streams=replica)
    def append_publish_and_attach_at_once(
        self, which: int, events: list[NewEvent], publisher: int, behind: int, streams: int
    ) -> None:
        run = _pick(self._open(), which)
        client = self._new_client(run, max(0, run.last_seq - behind))
        seqs = range(run.last_seq + 1, run.last_seq + 1 + len(events))
        run.store(events)  # before: it may be published before the append is answered

        async def all_at_once() -> Appended:
            appending = asyncio.ensure_future(self._send(run, events))
            publishing = asyncio.ensure_future(_outlived(self.world.publish(publisher)))
            client.connect(self.world.streams[streams], chunked=True)
            await asyncio.wait([appending, publishing])
            return await appending

        appended = self.do(all_at_once())
        assert range(appended.first_seq, appended.last_seq + 1) == seqs
        self.do(self.world.settle())

    # ------------------------------------------------------------------ the bus and the clients

    @rule(reader=replica, count=st.integers(1, 3))
    def messages_get_lost(self, reader: int, count: int) -> None:
        self.world.readers[reader].losses = count

    @precondition(lambda self: self.world.runs)
    @rule(which=which, reader=replica, message=st.integers(0, 20))
    def a_message_is_repeated(self, which: int, reader: int, message: int) -> None:
        async def repeat() -> None:
            self.world.readers[reader].repeat(self._run(which).run_id, message)
            await self.world.settle()

        self.do(repeat())

    @precondition(lambda self: self.world.runs and len(self.world.clients) < CLIENTS_MAX)
    @rule(which=which, behinds=st.lists(behind, min_size=1, max_size=3), streams=replica, chunked=st.booleans())
    def clients_attach(self, which: int, behinds: list[int], streams: int, chunked: bool) -> None:
        run = self._run(which)
        for behind in behinds:
            self._connect(self._new_client(run, max(0, run.last_seq - behind)), streams, chunked=chunked)

    @precondition(lambda self: self.world.runs)
    @rule(which=which, streams=replica, past=st.integers(1, 3))
    def a_client_asks_for_what_cannot_be(self, which: int, streams: int, past: int) -> None:
        run = self._run(which)
        with pytest.raises(CursorPastTail):
            self.do(self._try_attach(run.run_id, run.last_seq + past, streams))
        with pytest.raises(RunNotFound):
            self.do(self._try_attach("nobody", 0, streams))

    @precondition(lambda self: self._connected())
    @rule(which=which, arrived=st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    def a_client_drops(self, which: int, arrived: float) -> None:
        self.do(_pick(self._connected(), which).disconnect(arrived=arrived))

    @precondition(lambda self: self._away())
    @rule(which=which, streams=replica, chunked=st.booleans())
    def a_client_resumes(self, which: int, streams: int, chunked: bool) -> None:
        self._connect(_pick(self._away(), which), streams, chunked=chunked)

    @precondition(lambda self: self._connected())
    @rule(which=which)
    def a_client_stops_reading(self, which: int) -> None:
        wire = _pick(self._connected(), which).wire
        assert wire is not None
        wire.stalled = True

    @precondition(lambda self: any(client.wire and client.wire.stalled for client in self._connected()))
    @rule()
    def clients_read_again(self) -> None:
        for client in self._connected():
            assert client.wire is not None
            client.wire.flow()
        self.do(self._pace(0.0))

    @precondition(lambda self: any(client.wire and client.wire.stalled for client in self._connected()))
    @rule()
    def slow_clients_have_had_their_time(self) -> None:
        self.do(self._pace(1e6))

    @rule(streams=replica)
    def watches_without_clients_are_closed(self, streams: int) -> None:
        self.do(self.world.streams[streams].tend(self.loop.time() + LINGER_S + 1))

    @precondition(lambda self: self._connected())
    @rule(which=which, reason=st.sampled_from([DisconnectReason.DRAIN, DisconnectReason.ROTATE]))
    def a_stream_is_ended_resumably(self, which: int, reason: DisconnectReason) -> None:
        session = _pick(self._connected(), which).session
        assert session is not None
        session.ask_to_end(reason)
        self.do(self.world.settle())

    @rule(streams=replica)
    def streams_look_for_what_they_miss(self, streams: int) -> None:
        async def look() -> None:
            await self.world.look(streams)
            await self.world.settle()

        self.do(look())

    # ------------------------------------------------------------------ what must hold after every step

    @invariant()
    def nobody_saw_anything_wrong(self) -> None:
        assert not self.world.defects, "\n".join(self.world.defects)

    @invariant()
    def the_database_holds_what_the_model_holds(self) -> None:
        rows = self.do(
            self.world.database.fetch(
                "SELECT r.run_id, r.state::text, r.last_seq, r.fence, o.next_seq FROM runs AS r"
                " LEFT JOIN run_outbox AS o USING (run_id)"
            )
        )
        found = {row["run_id"]: row for row in rows}
        assert set(found) == {run.run_id for run in self.world.runs}
        events = self.do(
            self.world.database.fetch(
                "SELECT run_id, seq, type::text, coalesce(name, fn) AS label FROM run_events ORDER BY run_id, seq"
            )
        )
        for run in self.world.runs:
            row = found[run.run_id]
            own = [event for event in events if event["run_id"] == run.run_id]
            assert [event["seq"] for event in own] == list(range(1, len(own) + 1)), "seqs are dense"
            assert labels_of(own) == run.log
            assert (row["state"], row["last_seq"], row["fence"]) == (run.state.value, run.last_seq, run.fence)
            ends = [event["seq"] for event in own if event["type"] == "RunFinished"]
            assert ends == ([run.last_seq] if run.closed else []), "one terminal event, last"
            self._check_cursor(run, row["next_seq"])

    def _check_cursor(self, run: RunModel, next_seq: int | None) -> None:
        """Every event marked as published was on the bus; the outbox row goes exactly with the terminal event."""
        cursor = run.last_seq if next_seq is None else next_seq - 1
        assert run.cursor <= cursor <= run.offered, (run.run_id, run.cursor, cursor, run.offered)
        assert (next_seq is None) == (run.closed and cursor == run.last_seq)
        run.cursor = cursor

    @invariant()
    def ended_clients_were_told_the_truth(self) -> None:
        for client in self.world.clients:
            run = client.run
            if client.end is not None:
                assert client.cursor == run.last_seq
                assert client.end == {"runId": run.run_id, "state": run.state.value, "lastSeq": run.last_seq}

    async def _all_is_well_in_the_end(self) -> None:
        """The faults are over and everybody who waits has waited long enough: every client has everything."""
        world = self.world
        await world.publish_everything()
        assert [run.offered for run in world.runs] == [run.last_seq for run in world.runs]
        for reader in world.readers:
            reader.losses = 0
        for client in self._connected():
            assert client.wire is not None
            client.wire.flow()
        await self._pace(0.0)
        for n, client in enumerate(self._away()):
            client.connect(world.streams[n % 2], chunked=n % 3 == 0)

        async def complete() -> bool:
            for n in REPLICAS:
                await world.look(n)
            await world.settle()
            assert not world.defects, "\n".join(world.defects)
            missing = [(c.run.run_id, c.cursor, c.run.last_seq, c.end) for c in world.clients if not c.complete]
            assert not missing
            return True

        await eventually(complete, within_s=10)
        assert all(client.connected or client.end is not None for client in world.clients)
        open_runs = await world.database.fetch("SELECT run_id FROM run_outbox ORDER BY 1")
        assert [row["run_id"] for row in open_runs] == sorted(run.run_id for run in world.runs if not run.closed)

    # ------------------------------------------------------------------ how it is done

    def _run(self, which: int) -> RunModel:
        return _pick(self.world.runs, which)

    def _open(self) -> list[RunModel]:
        """External runs that have begun and are not over."""
        return [run for run in self.world.runs if run.external and run.log and not run.closed]

    def _walked(self) -> list[RunModel]:
        return [run for run in self.world.runs if not run.external and not run.closed]

    def _connected(self) -> list[Client]:
        return [client for client in self.world.clients if client.connected]

    def _away(self) -> list[Client]:
        return [client for client in self.world.clients if not client.connected and client.end is None]

    def _active(self) -> int:
        return sum(worker.active for worker in self.world.workers)

    def _send(
        self,
        run: RunModel,
        events: Sequence[NewEvent],
        *,
        fence: int | None = None,
        if_seq: int | None = None,
        outcome: RunState | None = None,
        source: Source = Source.API,
        log: int = 0,
    ) -> Awaitable[Appended]:
        starts = bool(events) and events[0] == RUN_STARTED
        change = Change(outcome) if outcome else Change(RunState.STARTED) if starts else None
        return self.world.logs[log].append(
            run.run_id, events, fence=run.fence if fence is None else fence, source=source, if_seq=if_seq, change=change
        )

    def _append(
        self,
        run: RunModel,
        events: Sequence[NewEvent],
        *,
        fence: int | None = None,
        if_seq: int | None = None,
        outcome: RunState | None = None,
        source: Source = Source.API,
        log: int = 0,
    ) -> None:
        """Appends, and checks that the caller hears what the model says."""
        fence = run.fence if fence is None else fence
        refusal = run.refusal(events, fence=fence, source=source, if_seq=if_seq, outcome=outcome)
        appending = self._send(run, events, fence=fence, if_seq=if_seq, outcome=outcome, source=source, log=log)
        if refusal is not None:
            with pytest.raises(RunwireError) as refused:
                self.do(appending)
            assert type(refused.value) is refusal, refused.value
            return
        appended = self.do(appending)
        assert (appended.first_seq, appended.last_seq) == (run.last_seq + 1, run.last_seq + len(events))
        run.store(events, outcome=outcome)

    async def _raced(self, appends: Sequence[Awaitable[Appended]], run: RunModel) -> list[Appended | BaseException]:
        """Both are under way in the database before either can go on."""
        async with self._row_locked(run) as waiting_for_it:
            racing = [asyncio.ensure_future(append) for append in appends]
            await eventually(lambda: waiting_for_it(len(racing)), within_s=10)
        return await asyncio.gather(*racing, return_exceptions=True)

    async def _killed_append(self, run: RunModel, events: Sequence[NewEvent], *, log: int) -> object:
        async with self._row_locked(run) as waiting_for_it:
            appending = asyncio.ensure_future(self._send(run, events, if_seq=run.last_seq, log=log))
            await eventually(lambda: waiting_for_it(1), within_s=10)
            await self.world.terminate("runwire append%", waiting_for="Lock")
            (outcome,) = await asyncio.gather(appending, return_exceptions=True)
        return outcome

    @asynccontextmanager
    async def _row_locked(self, run: RunModel) -> AsyncIterator[Callable[[int], Awaitable[bool]]]:
        """Inside, appends to the run wait for its row; what it gives says whether so many do."""
        database = self.world.database

        async def so_many_wait(count: int) -> bool:
            waiting: int = await database.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND datname = current_database() AND application_name LIKE 'runwire append%'"
            )
            return waiting == count

        async with database.transaction() as transaction:
            await transaction.execute("SELECT FROM runs WHERE run_id = $1 FOR UPDATE", run.run_id)
            yield so_many_wait

    def _end_lease(self, run: RunModel) -> None:
        aged = "UPDATE runs SET lease_until = now() - interval '1 s' WHERE run_id = $1"
        self.do(self.world.database.execute(aged, run.run_id))

    def _claim(self, run: RunModel, worker: int) -> None:
        gates = self.world.arrivals.setdefault(run.run_id, [])
        arrived = len(gates)
        assert self.do(self.world.workers[worker].claim()) == 1
        run.take_over()
        self.do(eventually(lambda: len(gates) > arrived, within_s=10))

    def _publish(self, publisher: int) -> int:
        """One step, which fails only when the bus does."""
        world = self.world
        faulty = world.bus.refuses_some
        published = 0
        try:
            published = self.do(world.publish(publisher))
        except BusUnavailable:
            assert faulty, "the bus was fine"
        self.do(world.settle())
        return published

    def _publish_one(self, run: RunModel, publisher: int, *, crashes: bool = False) -> None:
        self.world.publishers[publisher].mark_dirty([run.run_id], by="notify")
        self.world.bus.crash_after_taking = crashes
        self._publish(publisher)
        self.world.bus.crash_after_taking = False

    async def _publish_within_publish(self, publisher: int, *, loses_database: bool) -> None:
        world = self.world
        world.bus.held = release = asyncio.Event()
        world.bus.entered.clear()
        first = asyncio.ensure_future(world.publishers[publisher].publish_pending())
        entered = asyncio.ensure_future(world.bus.entered.wait())
        await asyncio.wait([first, entered], return_when=asyncio.FIRST_COMPLETED)
        if world.bus.entered.is_set():
            await asyncio.wait_for(_outlived(world.publish(1 - publisher)), 5)
            if loses_database:
                await world.terminate("runwire publish")
        world.bus.held = None
        release.set()
        entered.cancel()
        await _outlived(first)
        await world.settle()

    def _new_client(self, run: RunModel, at: int) -> Client:
        client = Client(run, start=at, on_defect=self.world.violation)
        self.world.clients.append(client)
        return client

    def _connect(self, client: Client, streams: int, *, chunked: bool) -> None:
        async def connect() -> None:
            client.connect(self.world.streams[streams], chunked=chunked)
            await self.world.settle()

        self.do(connect())

    async def _try_attach(self, run_id: str, cursor: int, streams: int) -> None:
        async with self.world.streams[streams].attach(run_id, cursor=Cursor(cursor)):
            raise AssertionError("attached")

    async def _pace(self, later_s: float) -> None:
        for streams in self.world.streams:
            streams.pace(self.loop.time() + later_s)
        await self.world.settle()


def _pick(among: Sequence[T], which: int) -> T:
    return among[which % len(among)]


async def _outlived(work: Awaitable[object]) -> None:
    """Ignores the result: the next steps check the state."""
    try:
        await work
    except (RunwireError, BusUnavailable, DatabaseUnavailable, PublisherCrashed):
        return


@pytest.fixture
def quiet() -> None:
    """Without log lines: there would be thousands."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


@pytest.mark.timeout(max(600, 15 * EXAMPLES))
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("bus", "share"), [("memory", 1.0), ("postgres", 0.5)])
def test_every_history_keeps_the_invariants(postgres_dsn: str, bus: str, share: float) -> None:
    print(f"RUNWIRE_INVARIANTS_SEED={SEED}")  # noqa: T201  # pytest shows it with a failure
    with asyncio.Runner() as runner:
        database = cloned_database(postgres_dsn)
        dsn = runner.run(database.__aenter__())
        try:
            world = World(dsn, bus=bus)
            runner.run(world.__aenter__())
            try:
                machine = seed(SEED)(type("PipelineMachine", (Pipeline,), {"world": world, "loop": runner.get_loop()}))
                run_state_machine_as_test(
                    machine,
                    settings=settings(
                        max_examples=max(1, int(EXAMPLES * share)),
                        stateful_step_count=STEPS,
                        deadline=None,
                        database=None,
                        print_blob=True,
                        suppress_health_check=list(HealthCheck),
                    ),
                )
            finally:
                runner.run(world.__aexit__(None, None, None))
        finally:
            runner.run(database.__aexit__(None, None, None))

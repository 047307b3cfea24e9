"""External orchestrators append under a fence and a lease; whose lease ends is fenced out, its run failed once."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from counting import count
from pipeline import Stages, raw, stages
from runwire.agents.golden import golden
from runwire.append import Appended, EventLog
from runwire.db import load_sql
from runwire.errors import (
    FenceStale,
    IllegalAppend,
    IllegalBatch,
    NotExternal,
    RunClosed,
    RunNotFound,
    SeqConflict,
)
from runwire.model.event import RUN_FINISHED, RUN_STARTED, NewEvent, debug_trace, node_finished, node_started
from runwire.model.run import RunState
from runwire.orchestrate import ExternalRuns, LeaseReaper, RunControl, StartRequest
from runwire.telemetry.traceparent import mint_trace, with_span
from runwire.telemetry.tracing import Tracing
from waiting import eventually

TAKE = load_sql("runwire.orchestrate", "orchestrate.sql")["take_expired_external"]
LOST = ["RunStarted", "DebugTrace error:lease_lost", "RunFinished"]


async def begun(s: Stages, run_id: str = "r", *, lease_s: float = 30.0) -> tuple[ExternalRuns, int]:
    """An external run with RunStarted, and its fence."""
    started = await s.control.start(StartRequest(agent="theirs", run_id=run_id, external=True, lease_s=lease_s))
    assert started.fence is not None
    external = ExternalRuns(s.database, s.log, metrics=s.metrics)
    await external.append(run_id, [RUN_STARTED], fence=started.fence)
    return external, started.fence


def reaper(s: Stages, owner: str = "w1") -> LeaseReaper:
    return LeaseReaper(s.database, s.log, metrics=s.metrics, owner=owner, poll_s=0.01)


async def labels(s: Stages, run_id: str = "r") -> list[str]:
    events = await s.events(run_id)
    assert [seq for seq, _, _ in events] == list(range(1, len(events) + 1))
    return [f"{type_} {label}" if label else type_ for _, type_, label in events]


async def expire(s: Stages, run_id: str = "r") -> None:
    await s.database.execute("UPDATE runs SET lease_until = now() - interval '1 s' WHERE run_id = $1", run_id)


async def lease_left_s(s: Stages, run_id: str = "r") -> float:
    left: float = await s.database.fetchval(
        "SELECT extract(epoch FROM lease_until - now())::float8 FROM runs WHERE run_id = $1", run_id
    )
    return left


# ------------------------------------------------------------------ appends


async def test_a_run_is_told_from_its_first_event_to_its_outcome(database: str) -> None:
    async with stages(database) as s:
        external, fence = await begun(s)
        appended = await external.append("r", [node_started("A"), node_finished("A")], fence=fence, if_seq=1)
        assert appended == Appended(2, 3, cancel_requested=False)
        await external.append("r", [RUN_FINISHED], fence=fence, outcome=RunState.FINISHED)
        view = await s.control.view("r")
        assert (view.state, view.outcome, view.last_seq) == ("finished", "finished", 4)
        assert count(s.metrics.runs_started["external"]) == 1
        assert count(s.metrics.runs_finished["external", "finished"]) == 1


@pytest.mark.parametrize("outcome", [RunState.FINISHED, RunState.FAILED, RunState.CANCELLED])
async def test_the_duration_of_a_run_is_observed_when_its_orchestrator_ends_it(
    database: str, outcome: RunState
) -> None:
    async with stages(database) as s:
        external, fence = await begun(s)
        await s.database.execute("UPDATE runs SET created_at = created_at - interval '100 s'")
        await external.append("r", [RUN_FINISHED], fence=fence, outcome=outcome)
        counts = {kind: histogram.count for kind, histogram in s.metrics.run_duration.items()}
        assert counts == {kind: int(kind == outcome) for kind in ("finished", "failed", "cancelled")}
        assert 100 <= s.metrics.run_duration[outcome].sum < 160
        with pytest.raises(RunClosed):
            await external.append("r", [RUN_FINISHED], fence=fence, outcome=outcome)
        assert s.metrics.run_duration[outcome].count == 1


async def test_an_append_of_a_sampled_run_has_a_span_of_its_own_below_its_request(database: str) -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing(exporter, dropped=lambda _: None, ratio=0.0)
    run, elsewhere, mistaken = mint_trace(sampled=True), mint_trace(sampled=True), "not a traceparent"
    within_the_run = with_span(str(run), "00f067aa0ba902b7")
    async with stages(database) as s:
        external = ExternalRuns(s.database, s.log, metrics=s.metrics, spans=tracing)
        asked = StartRequest(agent="theirs", run_id="r", external=True, traceparent=str(run), sampled=True)
        fence = (await s.control.start(asked)).fence or 0
        await external.append("r", [RUN_STARTED, node_started("A")], fence=fence, requested_by=within_the_run)
        await external.append("r", [], fence=fence, requested_by=within_the_run)  # a heartbeat creates nothing
        await external.append("r", [debug_trace("x")], fence=fence, requested_by=str(elsewhere))
        for requested_by in (None, mistaken, str(mint_trace(sampled=False))):
            await external.append("r", [debug_trace("x")], fence=fence, requested_by=requested_by)
        with pytest.raises(FenceStale):
            await external.append("r", [debug_trace("x")], fence=fence + 1)
        await s.control.start(StartRequest(agent="theirs", run_id="quiet", external=True, traceparent=None))
        await external.append("quiet", [RUN_STARTED], fence=1, requested_by=str(elsewhere))
    assert tracing.flush(within_s=5)
    spans = exporter.get_finished_spans()
    tracing.shutdown()
    assert {(span.name, span.kind, span.context.trace_id) for span in spans} == {
        ("create runwire.events", SpanKind.PRODUCER, int(run.trace_id, 16))
    }
    found = [
        (
            f"{span.parent.span_id:016x}" if span.parent else "",
            [f"{link.context.trace_id:032x}" for link in span.links],
            (span.attributes or {})["messaging.batch.message_count"],
            (span.attributes or {}).get("error.type"),
        )
        for span in spans
    ]
    below_start: tuple[str, list[str], int, None] = (run.span_id, [], 1, None)
    assert found == [
        ("00f067aa0ba902b7", [], 2, None),
        (run.span_id, [elsewhere.trace_id], 1, None),
        below_start,
        below_start,
        below_start,
        (run.span_id, [], 1, "fence_stale"),
    ]


@pytest.mark.parametrize("outcome", [RunState.FAILED, RunState.CANCELLED])
async def test_a_run_ends_as_its_orchestrator_says(database: str, outcome: RunState) -> None:
    async with stages(database) as s:
        external, fence = await begun(s)
        await external.append("r", [debug_trace("bye"), RUN_FINISHED], fence=fence, outcome=outcome)
        assert (await s.control.view("r")).outcome == outcome


async def test_the_first_event_is_run_started_and_there_is_only_one(database: str) -> None:
    async with stages(database) as s:
        external = ExternalRuns(s.database, s.log, metrics=s.metrics)
        fence = (await s.control.start(StartRequest(run_id="r", external=True))).fence or 0
        with pytest.raises(IllegalAppend):
            await external.append("r", [node_started("A")], fence=fence)
        await external.append("r", [RUN_STARTED, node_started("A")], fence=fence)
        with pytest.raises(IllegalAppend):
            await external.append("r", [RUN_STARTED], fence=fence)
        with pytest.raises(IllegalBatch):
            await external.append("r", [node_finished("A"), RUN_STARTED], fence=fence)
        assert await labels(s) == ["RunStarted", "NodeStarted A"]
        assert count(s.metrics.runs_started["external"]) == 1


@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        ([RUN_FINISHED], None),
        ([], RunState.FINISHED),
        ([debug_trace("x")], RunState.FAILED),
        ([RUN_FINISHED, debug_trace("x")], RunState.FINISHED),
        ([RUN_STARTED, RUN_FINISHED], RunState.FINISHED),
    ],
)
async def test_run_finished_and_the_outcome_go_together_and_last(
    database: str, events: list[NewEvent], outcome: RunState | None
) -> None:
    async with stages(database) as s:
        external, fence = await begun(s)
        with pytest.raises(IllegalBatch):
            await external.append("r", events, fence=fence, outcome=outcome)
        assert await labels(s) == ["RunStarted"]


async def test_a_batch_that_expects_another_seq_is_refused_with_the_real_one(database: str) -> None:
    async with stages(database) as s:
        external, fence = await begun(s)
        with pytest.raises(SeqConflict) as refused:
            await external.append("r", [debug_trace("x")], fence=fence, if_seq=0)
        assert (refused.value.expected, refused.value.actual) == (0, 1)
        assert (await external.append("r", [debug_trace("x")], fence=fence, if_seq=1)).last_seq == 2


async def test_a_stale_or_invented_fence_appends_nothing(database: str) -> None:
    async with stages(database) as s:
        external, fence = await begun(s)
        for wrong in (fence - 1, fence + 1, 2**53 - 1):
            with pytest.raises(FenceStale):
                await external.append("r", [debug_trace("x")], fence=wrong)
        assert await labels(s) == ["RunStarted"]


async def test_a_run_of_our_own_workers_takes_nothing_from_outside(database: str) -> None:
    async with stages(database, golden) as s:
        await s.control.start(StartRequest(run_id="r"))
        external = ExternalRuns(s.database, s.log, metrics=s.metrics)
        for fence in (0, 1):
            with pytest.raises(NotExternal):
                await external.append("r", [RUN_STARTED], fence=fence)
        with pytest.raises(RunNotFound):
            await external.append("nobody", [RUN_STARTED], fence=1)


async def test_a_closed_run_takes_nothing_more_not_even_a_heartbeat(database: str) -> None:
    async with stages(database) as s:
        external, fence = await begun(s)
        await external.append("r", [RUN_FINISHED], fence=fence, outcome=RunState.CANCELLED)
        for events in ([], [debug_trace("x")]):
            with pytest.raises(RunClosed) as refused:
                await external.append("r", events, fence=fence)
            assert (refused.value.state, refused.value.last_seq) == ("cancelled", 2)


async def test_a_heartbeat_renews_the_lease_and_hears_of_a_cancellation(database: str) -> None:
    async with stages(database) as s:
        external, fence = await begun(s, lease_s=60)
        await s.database.execute("UPDATE runs SET lease_until = now() + interval '1 s'")
        beat = await external.append("r", [], fence=fence)
        assert (beat.last_seq, beat.cancel_requested) == (1, False)
        assert await lease_left_s(s) > 55
        await s.control.cancel("r")
        assert (await external.append("r", [], fence=fence)).cancel_requested
        assert await labels(s) == ["RunStarted"]


async def test_a_heartbeat_with_a_stale_fence_renews_nothing(database: str) -> None:
    async with stages(database) as s:
        external, fence = await begun(s, lease_s=60)
        await s.database.execute("UPDATE runs SET lease_until = now() + interval '1 s'")
        with pytest.raises(FenceStale):
            await external.append("r", [], fence=fence - 1)
        assert await lease_left_s(s) < 2


# ------------------------------------------------------------------ leases that end


async def test_a_run_whose_lease_ended_is_failed_exactly_once(database: str) -> None:
    async with stages(database) as s:
        await begun(s)
        assert await reaper(s).reap() == 0
        await expire(s)
        assert await reaper(s).reap() == 1
        assert await reaper(s).reap() == 0
        assert await labels(s) == LOST
        view = await s.control.view("r")
        assert (view.state, view.error_code) == ("failed", "lease_lost")
        assert count(s.metrics.runs_finished["external", "failed"]) == 1


async def test_a_run_that_never_began_is_failed_with_a_whole_log(database: str) -> None:
    async with stages(database) as s:
        await s.control.start(StartRequest(agent="theirs", run_id="r", external=True))
        await expire(s)
        assert await reaper(s).reap() == 1
        assert await labels(s) == LOST
        assert (await s.control.view("r")).error_code == "lease_lost"


async def test_the_orchestrator_that_comes_back_late_is_fenced_out(database: str) -> None:
    async with stages(database) as s:
        external, fence = await begun(s)
        await expire(s)
        taken = await s.database.fetch(TAKE, "w0", 10)  # half of a reaper's step
        assert [row["run_id"] for row in taken] == ["r"]
        for events in ([], [node_started("A")]):
            with pytest.raises(FenceStale):
                await external.append("r", events, fence=fence)
        assert await labels(s) == ["RunStarted"]


async def test_an_orchestrator_in_time_is_left_alone_even_when_it_was_late_before(database: str) -> None:
    async with stages(database) as s:
        external, fence = await begun(s)
        await expire(s)
        await external.append("r", [], fence=fence)
        assert await reaper(s).reap() == 0
        assert (await s.control.view("r")).state == "started"


async def test_reapers_at_the_same_moment_fail_each_run_once(database: str) -> None:
    async with stages(database) as s:
        run_ids = [f"r{n}" for n in range(30)]
        for run_id in run_ids:
            await begun(s, run_id)
        await s.database.execute("UPDATE runs SET lease_until = now() - interval '1 s'")
        reaped = await asyncio.gather(*(reaper(s, owner=f"w{n}").reap() for n in range(4)))
        assert sum(reaped) == 30
        for run_id in run_ids:
            assert await labels(s, run_id) == LOST
        assert count(s.metrics.runs_finished["external", "failed"]) == 30


@pytest.mark.parametrize("began", [True, False])
async def test_a_reaper_that_dies_half_way_is_followed_by_another(database: str, began: bool) -> None:
    async with stages(database) as s:
        if began:
            await begun(s, lease_s=3600)
        else:
            await s.control.start(StartRequest(agent="theirs", run_id="r", external=True, lease_s=3600))
        await expire(s)
        async with EventLog(s.database, metrics=s.metrics, on_committed=s.committed.extend) as closed:
            pass
        dying = LeaseReaper(s.database, closed, metrics=s.metrics, owner="dying")
        assert await dying.reap() == 1
        assert await reaper(s).reap() == 0
        assert (await s.control.view("r")).outcome is None
        assert 0 < await lease_left_s(s) <= 30
        await expire(s)
        assert await reaper(s).reap() == 1
        assert await labels(s) == LOST


async def test_a_run_that_its_reaper_began_is_not_kept_for_its_orchestrators_long_lease(database: str) -> None:
    """The reaper appends twice to a run that never began; one that dies in between is followed within its own lease."""
    async with stages(database) as s:
        await s.control.start(StartRequest(agent="theirs", run_id="r", external=True, lease_s=3600))
        await expire(s)
        # The second append fails as if the server had stopped.
        await s.database.execute(
            "CREATE FUNCTION stop_here() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'died' USING ERRCODE = '57P01'; END $$"
        )
        await s.database.execute(
            "CREATE TRIGGER dies BEFORE UPDATE ON runs FOR EACH ROW WHEN (NEW.state = 'failed') "
            "EXECUTE FUNCTION stop_here()"
        )
        await reaper(s).reap()
        assert await labels(s) == ["RunStarted"]
        await s.database.execute("DROP TRIGGER dies ON runs")
        assert 0 < await lease_left_s(s) <= 30
        await expire(s)
        assert await reaper(s).reap() == 1
        assert await labels(s) == LOST


async def test_a_run_deleted_while_it_was_reaped_does_not_stop_the_reaper(database: str) -> None:
    async with stages(database, append_connections=1) as s:
        await begun(s)
        await begun(s, "other")
        await s.database.execute("UPDATE runs SET lease_until = now() - interval '1 s'")
        await s.database.execute(
            "CREATE FUNCTION vanish() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN DELETE FROM runs WHERE run_id = OLD.run_id; RETURN NULL; END $$"
        )
        await s.database.execute(
            "CREATE TRIGGER vanishes BEFORE UPDATE ON runs FOR EACH ROW "
            "WHEN (OLD.run_id = 'r' AND NEW.last_seq > OLD.last_seq) EXECUTE FUNCTION vanish()"
        )
        assert await reaper(s).reap() == 2
        assert await labels(s, "other") == LOST


async def test_the_reapers_loop_outlives_a_lost_connection(database: str) -> None:
    async with stages(database) as s:
        loop = asyncio.create_task(reaper(s).run())
        await begun(s)
        killer = await raw(database)
        await killer.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await killer.execute("UPDATE runs SET lease_until = now() - interval '1 s'")
        await eventually(lambda: count(s.metrics.runs_finished["external", "failed"]) == 1, within_s=20)
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        assert await labels(s) == LOST
        await killer.close()


async def test_fences_cannot_be_guessed_and_a_repeated_start_never_tells_the_reapers(database: str) -> None:
    async with stages(database) as s:
        control = RunControl(s.database, s.agents, on_claimable=lambda _agent: None, on_cancel=lambda _run: None)
        starts = [StartRequest(agent="theirs", run_id=f"r{n}", external=True, lease_s=30.0) for n in range(20)]
        fences = [(await control.start(start)).fence or 0 for start in starts]
        assert len(set(fences)) == 20
        assert all(2**51 <= fence < 2**52 for fence in fences)
        assert (await control.start(starts[0])).fence == fences[0]
        await expire(s, "r0")
        assert (await control.start(starts[0])).fence == fences[0]  # nobody has taken it yet
        (taken,) = await s.database.fetch(TAKE, "w0", 10)
        assert fences[0] + 1 < taken["fence"] < 2**53
        again = await control.start(starts[0])
        assert (again.created, again.fence) == (False, None)
        external = ExternalRuns(s.database, s.log, metrics=s.metrics)
        for guess in (fences[0], fences[0] + 1, fences[0] + 2):
            with pytest.raises(FenceStale):
                await external.append("r0", [RUN_STARTED], fence=guess)
        await expire(s, "r0")
        assert await reaper(s).reap() == 1
        assert (await control.start(starts[0])).fence is None

"""Signals with data, waits for one of several, and timers: with what a run goes on, and that it does so once."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import logging
from typing import Any

import pytest

from orchestrate.waiting_agents import Order, chatting, note, reviewing, sleeping
from pipeline import Stages, stages
from runwire import Context, NodeFailed, Sleep
from runwire.agents.golden import golden
from runwire.append import Change
from runwire.db import load_sql
from runwire.errors import InvalidRequest, RunClosed, SignalConflict, SignalNotAwaited, TooManySignals
from runwire.model.event import RUN_FINISHED, Source
from runwire.model.run import RunState
from runwire.orchestrate import ExternalRuns, StartRequest
from waiting import eventually

CLAIM = load_sql("runwire.orchestrate", "orchestrate.sql")["claim"]
BY_ANN = b'{"by": "Ann", "comment": "Go ahead."}'


async def begin(s: Stages, agent: str, *, state: RunState = RunState.WAITING) -> str:
    run_id = (await s.control.start(StartRequest(agent=agent))).run_id
    await step(s)
    assert (await s.control.view(run_id)).state is state
    return run_id


async def step(s: Stages, *, worker_id: str = "w1") -> int:
    """Claims what there is and walks it as far as it goes: how many runs."""
    worker = s.worker(worker_id=worker_id)
    claimed = await worker.claim()
    await eventually(lambda: worker.active == 0)
    return claimed


async def due(s: Stages, run_id: str, *, ago_s: float = 0.0) -> None:
    """Lets the time of the run's timer come."""
    await s.database.execute(
        "UPDATE runs SET wake_at = clock_timestamp() - $2::float8 * interval '1 second' WHERE run_id = $1",
        run_id,
        ago_s,
    )


async def heard(s: Stages, run_id: str) -> list[Any]:
    found: list[Any] = json.loads((await s.control.state(run_id)).state or b"{}")["heard"]
    return found


async def stored(s: Stages) -> list[Any]:
    rows = await s.database.fetch("SELECT signal, signal_id, data FROM run_signals WHERE data IS NOT NULL ORDER BY n")
    return [tuple(row.values()) for row in rows]


# ------------------------------------------------------------------ data


async def test_the_node_that_goes_on_gets_the_signal_with_its_data(database: str) -> None:
    async with stages(database, reviewing()) as s:
        run_id = await begin(s, "reviewing")
        view = await s.control.view(run_id)
        assert view.waiting_for == "approved rejected"
        assert view.waiting_since is not None
        assert view.waiting_until is not None
        assert view.waiting_until - view.waiting_since == pytest.approx(3_600_000, abs=100)
        await s.control.signal(run_id, "rejected", data=BY_ANN, signal_id="one")
        assert await step(s) == 1
        view = await s.control.view(run_id)
        assert (view.state, view.waiting_for, view.waiting_until) == ("finished", None, None)
        assert await heard(s, run_id) == [["rejected", "Ann", "Go ahead.", "one"]]
        assert await stored(s) == []  # its data has gone with it


async def test_a_signal_that_comes_early_waits_with_its_data(database: str) -> None:
    async with stages(database, reviewing()) as s:
        run_id = (await s.control.start(StartRequest(agent="reviewing"))).run_id
        await s.control.signal(run_id, "approved", data=BY_ANN)
        await s.control.signal(run_id, "approved", data=b'{"by": "Bob"}')  # counts once: the second
        await step(s)
        await step(s)
        assert await heard(s, run_id) == [["approved", "Bob", "", None]]


async def test_a_signal_is_given_again_to_a_retry_and_to_the_worker_that_resumes(database: str) -> None:
    tries: list[str] = []

    def decide(ctx: Context, order: Order) -> None:
        note(ctx, order)
        tries.append("try")
        if len(tries) < 3:
            raise NodeFailed("no_luck")

    async with stages(database, reviewing(decide)) as s:
        run_id = await begin(s, "reviewing")
        await s.control.signal(run_id, "approved", data=BY_ANN)
        # A worker takes the run and the signal, and dies before it does anything.
        (row,) = await s.database.fetch(CLAIM, ["reviewing"], 10, "dead", 30.0)
        assert (row["signal"], row["signal_data"]) == ("approved", BY_ANN)
        await s.database.execute("UPDATE runs SET lease_until = now() - interval '1 s'")
        tries.append("lost")
        assert await step(s) == 1
        assert tries == ["lost", "try", "try"]
        assert (await s.control.view(run_id)).state == "finished"
        assert await heard(s, run_id) == [["approved", "Ann", "Go ahead.", None]]


async def test_messages_are_taken_in_the_order_they_came_each_once(database: str) -> None:
    async with stages(database, chatting()) as s:
        run_id = await begin(s, "chatting")
        for n in range(5):
            await s.control.signal(run_id, "message", data=b"%d" % n, signal_id=f"m{n}")
        await s.control.signal(run_id, "bye")
        while await step(s):
            pass
        assert await heard(s, run_id) == [0, 1, 2, 3, 4, "bye"]
        assert (await s.control.view(run_id)).state == "finished"


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b'{"by": 7}', "Expected `str`, got `int` - at `$.by`"),
        (b"{}", "Object missing required field `by`"),
        (None, "Expected `object`, got `null`"),
        (b'"canary"', "Expected `object`, got `str`"),
    ],
)
async def test_data_that_does_not_fit_is_refused_at_once_and_not_quoted(
    database: str, data: bytes | None, where: str
) -> None:
    async with stages(database, reviewing()) as s:
        run_id = await begin(s, "reviewing")
        with pytest.raises(InvalidRequest) as refused:
            await s.control.signal(run_id, "approved", data=data)
        assert (refused.value.code, refused.value.detail) == ("invalid_signal", f"data: {where}")
        assert await step(s) == 0


async def test_data_has_its_bounds(database: str) -> None:
    async with stages(database, chatting()) as s:
        run_id = await begin(s, "chatting")
        await s.control.signal(run_id, "message", data=b'"' + b"x" * (64 * 1024 - 2) + b'"')
        for data, code in (
            (b'"' + b"x" * (64 * 1024 - 1) + b'"', "signal_too_large"),
            (b"[" * 101 + b"]" * 101, "invalid_request"),
            (b"{", "malformed_json"),
        ):
            with pytest.raises(InvalidRequest) as refused:
                await s.control.signal(run_id, "message", data=data)
            assert refused.value.code == code


async def test_a_signal_that_no_node_can_await_is_refused(database: str) -> None:
    async with stages(database, reviewing(), golden) as s:
        run_id = await begin(s, "reviewing")
        with pytest.raises(SignalNotAwaited):
            await s.control.signal(run_id, "message")
        assert (await s.control.view(run_id)).state == "waiting"
        straight = (await s.control.start(StartRequest(agent="golden"))).run_id
        with pytest.raises(SignalNotAwaited):
            await s.control.signal(straight, "approved")


# ------------------------------------------------------------------ ids


async def test_an_id_makes_a_repeat_harmless_and_other_data_a_conflict(database: str) -> None:
    async with stages(database, chatting()) as s:
        run_id = await begin(s, "chatting")
        for same in (b'{"a": 1, "b": 2}', b'{"b":2,"a":1}'):
            assert (await s.control.signal(run_id, "message", data=same, signal_id="one")).state == "waiting"
        others: list[tuple[str, bytes | None]] = [("message", b"1"), ("bye", b'{"a": 1, "b": 2}'), ("message", None)]
        for name, data in others:
            with pytest.raises(SignalConflict):
                await s.control.signal(run_id, name, data=data, signal_id="one")
        await s.control.signal(run_id, "bye", signal_id="two")
        while await step(s):
            pass
        assert (await s.control.view(run_id)).state == "finished"
        assert await heard(s, run_id) == [{"a": 1, "b": 2}, "bye"]
        # The run is over, and the sender has lost the answer.
        assert (await s.control.signal(run_id, "bye", signal_id="two")).state == "finished"
        with pytest.raises(SignalConflict):
            await s.control.signal(run_id, "bye", data=b"1", signal_id="two")
        with pytest.raises(RunClosed):
            await s.control.signal(run_id, "bye", signal_id="three")


async def test_ids_are_bounded(database: str) -> None:
    async with stages(database, chatting()) as s:
        run_id = await begin(s, "chatting")
        await s.control.signal(run_id, "bye")
        for n in range(99):
            await s.control.signal(run_id, "message", data=b"1", signal_id=f"m{n}")
        with pytest.raises(TooManySignals):
            await s.control.signal(run_id, "message", signal_id="m99")
        await s.control.signal(run_id, "message", data=b"1", signal_id="m7")  # it is there already
        await s.database.execute(
            "UPDATE run_signals SET taken_at = now(), n = n - 2000 WHERE run_id = $1 AND signal_id <> 'm98'", run_id
        )
        await step(s)
        await step(s)
        kept = await s.database.fetch("SELECT signal_id FROM run_signals WHERE signal_id IS NOT NULL")
        assert [row["signal_id"] for row in kept] == ["m98"]


# ------------------------------------------------------------------ timers


async def test_a_wait_that_nobody_ends_goes_on_at_its_time_out_once(database: str) -> None:
    async with stages(database, reviewing()) as s:
        run_id = await begin(s, "reviewing")
        assert await step(s) == 0
        await due(s, run_id, ago_s=2)
        workers = [s.worker(worker_id=f"w{n}") for n in range(3)]
        assert sum(await asyncio.gather(*(worker.claim() for worker in workers))) == 1
        await eventually(lambda: all(worker.active == 0 for worker in workers))
        assert await heard(s, run_id) == ["timeout"]
        labels = [label for _, type_, label in await s.events(run_id) if type_ == "NodeStarted"]
        assert labels == ["Ask", "Escalate", "Report"]
        assert s.metrics.timer_lateness.count == 1
        assert 2 <= s.metrics.timer_lateness.sum < 60


async def test_a_time_out_that_has_won_is_remembered_when_its_worker_dies(database: str) -> None:
    async with stages(database, reviewing()) as s:
        run_id = await begin(s, "reviewing")
        await due(s, run_id)
        (row,) = await s.database.fetch(CLAIM, ["reviewing"], 10, "dead", 30.0)
        assert (row["next_node"], row["signal"]) == ("Escalate", None)
        await s.control.signal(run_id, "approved", data=BY_ANN)  # too late for this wait
        await s.database.execute("UPDATE runs SET lease_until = now() - interval '1 s'")
        assert await step(s) == 1
        assert await heard(s, run_id) == ["timeout"]


async def test_a_signal_that_is_there_wins_over_a_timer_that_is_due(database: str) -> None:
    async with stages(database, reviewing()) as s:
        run_id = await begin(s, "reviewing")
        await s.control.signal(run_id, "approved", data=BY_ANN)
        await due(s, run_id)
        assert await step(s) == 1
        assert await heard(s, run_id) == [["approved", "Ann", "Go ahead.", None]]
        assert s.metrics.timer_lateness.count == 0


async def test_a_signal_and_a_time_out_at_the_same_moment_are_one(database: str) -> None:
    async with stages(database, reviewing()) as s:
        runs = [await begin(s, "reviewing") for _ in range(10)]
        for run_id in runs:
            await due(s, run_id)
        workers = [s.worker(worker_id=f"w{n}") for n in range(2)]

        async def signal(run_id: str) -> None:
            with contextlib.suppress(RunClosed):
                await s.control.signal(run_id, "approved", data=BY_ANN)

        await asyncio.gather(*(signal(run_id) for run_id in runs), *(worker.claim() for worker in workers))
        await eventually(lambda: all(worker.active == 0 for worker in workers))
        while await step(s):
            pass
        for run_id in runs:
            assert await heard(s, run_id) in (["timeout"], [["approved", "Ann", "Go ahead.", None]])


@pytest.mark.parametrize(
    "sleep",
    [
        Sleep("Wake", for_s=0),
        Sleep("Wake", until=dt.datetime(2001, 1, 1, tzinfo=dt.UTC)),
    ],
    ids=["no time", "a time that has passed"],
)
async def test_a_sleep_that_is_due_at_once_ends_at_once(database: str, sleep: Sleep) -> None:
    async with stages(database, sleeping(lambda: sleep)) as s:
        run_id = await begin(s, "sleeping")
        assert await step(s) == 1
        assert await heard(s, run_id) == ["woken"]


async def test_a_sleep_lasts_until_its_time_and_hears_no_signal(database: str) -> None:
    until = dt.datetime(2199, 1, 1, 12, 0, 0, 500_000, tzinfo=dt.UTC)
    async with stages(database, sleeping(lambda: Sleep("Wake", until=until))) as s:
        run_id = await begin(s, "sleeping")
        view = await s.control.view(run_id)
        assert (view.waiting_for, view.waiting_until) == (None, int(until.timestamp() * 1000))
        await s.control.signal(run_id, "anything")
        assert await step(s) == 0
        await due(s, run_id)
        assert await step(s) == 1
        assert await heard(s, run_id) == ["woken"]


async def test_a_worker_rests_until_the_next_timer_is_due_and_no_longer(database: str) -> None:
    async with stages(database, sleeping(lambda: Sleep("Wake", for_s=0.4))) as s:
        run_id = (await s.control.start(StartRequest(agent="sleeping"))).run_id
        worker = s.worker(worker_poll_s=60)
        loop = asyncio.create_task(worker.run())
        try:

            async def over() -> bool:
                return (await s.control.view(run_id)).state == "finished"

            await eventually(over, within_s=20)  # by its poll it would be a minute
        finally:
            await worker.drain(within_s=5)
            await loop
        assert s.metrics.timer_lateness.count == 1


async def test_many_timers_of_two_workers_each_fire_once_and_none_before_its_time(database: str) -> None:
    lengths = iter(range(10_000))
    async with stages(database, sleeping(lambda: Sleep("Wake", for_s=1 + next(lengths) % 10 / 10))) as s:
        for _ in range(120):
            await s.control.start(StartRequest(agent="sleeping"))
        workers = [s.worker(worker_id=f"w{n}", worker_poll_s=60) for n in range(2)]
        loops = [asyncio.create_task(worker.run()) for worker in workers]
        try:

            async def all_over() -> bool:
                return not await s.database.fetchval("SELECT EXISTS (SELECT FROM runs WHERE finished_at IS NULL)")

            await eventually(all_over, within_s=40)
        finally:
            for worker in workers:
                await worker.drain(within_s=5)
            await asyncio.gather(*loops)
        assert s.metrics.timer_lateness.count == 120
        slept = await s.database.fetch(
            "SELECT count(*) AS woken, (max(ts_us) - min(ts_us)) / 1e6 AS slept_s FROM run_events "
            "WHERE type = 'NodeFinished' GROUP BY run_id"
        )
        assert {row["woken"] for row in slept} == {2}
        assert min(row["slept_s"] for row in slept) >= 1.0


async def test_a_sleeping_run_is_over_when_its_cancellation_is_answered(database: str) -> None:
    async with stages(database, sleeping(lambda: Sleep("Wake", for_s=3600)), reviewing()) as s:
        for agent in ("sleeping", "reviewing"):
            run_id = await begin(s, agent)
            view = await s.control.cancel(run_id)
            assert (view.state, view.waiting_for, view.waiting_until) == ("cancelled", None, None)
        assert await s.database.fetchval("SELECT count(*) FROM runs WHERE wake_at IS NOT NULL") == 0
        assert await step(s) == 0


async def test_a_jump_of_this_machine_s_clock_fires_no_timer(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stages(database, sleeping(lambda: Sleep("Wake", for_s=3600))) as s:
        run_id = await begin(s, "sleeping")
        for jump_s in (86_400 * 400, -86_400 * 400):
            now_ns = int((dt.datetime.now(dt.UTC).timestamp() + jump_s) * 1e9)
            with monkeypatch.context() as patched:
                patched.setattr("time.time", lambda now_ns=now_ns: now_ns / 1e9)
                patched.setattr("time.time_ns", lambda now_ns=now_ns: now_ns)
                assert await step(s) == 0
        assert (await s.control.view(run_id)).state == "waiting"


# ------------------------------------------------------------------ external runs


async def test_an_external_run_gets_its_signals_with_every_append_until_it_takes_them(database: str) -> None:
    async with stages(database) as s:
        external = ExternalRuns(s.database, s.log, metrics=s.metrics)
        fence = await s.started_run("r")
        assert not (await external.append("r", [], fence=fence)).signals
        await s.control.signal("r", "go", data=BY_ANN, signal_id="one")
        await s.control.signal("r", "stop")
        for _ in range(2):
            assert (await external.append("r", [], fence=fence)).signals
            first, second = await external.signals("r")
            assert (first.n, first.name, first.data, first.id) == (1, "go", BY_ANN, "one")
            assert (second.n, second.name, second.data, second.id) == (2, "stop", None, None)
        (left,) = await external.signals("r", taken=1)
        assert left.n == 2
        await s.control.signal("r", "go", data=BY_ANN, signal_id="one")  # a repeat of one that was taken
        assert await external.signals("r", taken=2) == []
        assert not (await external.append("r", [], fence=fence)).signals
        await s.control.signal("r", "stop")
        (again,) = await external.signals("r", taken=2)
        assert (again.n, again.name) == (3, "stop")
        await s.log.append("r", [RUN_FINISHED], fence=fence, source=Source.API, change=Change(RunState.FINISHED))
        assert await stored(s) == []


async def test_an_answer_has_a_bounded_amount_of_signals(database: str) -> None:
    async with stages(database) as s:
        external = ExternalRuns(s.database, s.log, metrics=s.metrics)
        await s.started_run("r")
        big = b'"' + b"x" * (64 * 1024 - 2) + b'"'
        for n in range(9):
            await s.control.signal("r", "go", data=big, signal_id=f"s{n}")
        taken = 0
        batches = []
        while received := await external.signals("r", taken=taken):
            assert sum(len(one.data or b"") for one in received) <= 256 * 1024
            batches.append([one.n for one in received])
            taken = received[-1].n
        assert batches == [[1, 2, 3, 4], [5, 6, 7, 8], [9]]


# ------------------------------------------------------------------ content


async def test_the_data_of_a_signal_is_in_no_event_and_in_no_line_of_the_log(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with stages(database, reviewing()) as s:
        run_id = await begin(s, "reviewing")
        await s.control.signal(run_id, "approved", data=b'{"by": "canary", "comment": "canary"}', signal_id="canary")
        await step(s)
        assert (await s.control.view(run_id)).state == "finished"
        assert "canary" not in str(await s.events(run_id))
    assert "canary" not in caplog.text

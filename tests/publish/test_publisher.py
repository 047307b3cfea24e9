"""The publisher puts every event on the bus, each run's in order, whoever else publishes and whatever fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit

import pytest

from counting import count
from pipeline import RecordingBus, Stages, raw, stages
from runwire.append import Change
from runwire.bus import Published
from runwire.db import load_sql
from runwire.errors import BusUnavailable, DatabaseUnavailable
from runwire.model.event import RUN_FINISHED, Source, debug_trace
from runwire.model.run import RunState
from runwire.publish import Publisher
from runwire.publish.publisher import SETTINGS, SWEEP_SETTINGS
from waiting import eventually


async def written(s: Stages, run_id: str, *, events: int) -> int:
    """A begun run with so many events in its log; its fence."""
    fence = await s.started_run(run_id)
    if events > 1:
        traces = [debug_trace(f"t{n}") for n in range(events - 1)]
        await s.log.append(run_id, traces, fence=fence, source=Source.API)
    return fence


async def drained(publisher: Publisher) -> int:
    total = 0
    while published := await publisher.publish_pending():
        total += published
    return total


async def cursor(s: Stages, run_id: str) -> int | None:
    found: int | None = await s.database.fetchval("SELECT next_seq FROM run_outbox WHERE run_id = $1", run_id)
    return found


class GatedBus(RecordingBus):
    """A bus whose first batch is taken only when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = asyncio.Event()
        self.open = asyncio.Event()

    async def publish(self, messages: Sequence[Published]) -> None:
        self.entered.set()
        await self.open.wait()
        await super().publish(messages)


async def test_each_run_goes_out_in_order_and_its_cursor_moves(database: str) -> None:
    async with stages(database) as s:
        for n in range(3):
            await written(s, f"r{n}", events=5)
        bus = RecordingBus()
        publisher = s.publisher(bus)
        publisher.mark_dirty([f"r{n}" for n in range(3)], by="local")
        assert await drained(publisher) == 15
        assert [bus.seqs(f"r{n}") for n in range(3)] == [[1, 2, 3, 4, 5]] * 3
        assert await cursor(s, "r0") == 6
        assert await publisher.publish_pending() == 0
        await publisher.aclose()


async def test_a_step_takes_its_share_and_leaves_the_rest_dirty(database: str) -> None:
    async with stages(database) as s:
        await written(s, "long", events=25)
        await written(s, "short", events=2)
        bus = RecordingBus()
        publisher = s.publisher(bus, publish_batch_events=20)
        publisher.mark_dirty(["long", "short"], by="local")
        assert await publisher.publish_pending() == 12  # ten of each at most: the long one starves nobody
        assert bus.seqs("short") == [1, 2]
        assert await drained(publisher) == 15
        assert bus.seqs("long") == list(range(1, 26))
        await publisher.aclose()


async def test_two_publishers_never_publish_one_run_at_once(database: str) -> None:
    async with stages(database) as s:
        fence = await written(s, "r", events=3)
        held, other = GatedBus(), RecordingBus()
        first, second = s.publisher(held), s.publisher(other)
        first.mark_dirty(["r"], by="local")
        step = asyncio.create_task(first.publish_pending())
        await held.entered.wait()  # the first has claimed the run and is handing it to the bus
        await s.log.append("r", [debug_trace("later")], fence=fence, source=Source.API)
        second.mark_dirty(["r"], by="notify")
        assert await second.publish_pending() == 0
        assert other.messages == []
        held.open.set()
        assert await step == 3
        await second.sweep()  # what was locked is found again
        assert await second.publish_pending() == 1
        assert (held.seqs("r"), other.seqs("r")) == ([1, 2, 3], [4])
        await first.aclose()
        await second.aclose()


async def test_when_the_bus_fails_the_cursor_stays_and_everything_goes_out_later(database: str) -> None:
    async with stages(database) as s:
        await written(s, "r", events=3)
        bus = RecordingBus(refuse=lambda _message: True)
        publisher = s.publisher(bus)
        publisher.mark_dirty(["r"], by="local")
        with pytest.raises(BusUnavailable):
            await publisher.publish_pending()
        assert await cursor(s, "r") == 1
        bus.refuse = lambda _message: False
        assert await drained(publisher) == 3
        assert bus.seqs("r") == [1, 2, 3]
        await publisher.aclose()


def reasons(s: Stages) -> dict[str, int]:
    """Failed steps by reason."""
    return {reason: int(count(counter)) for reason, counter in s.metrics.publish_failures.items()}


async def test_one_poisoned_run_never_stops_the_others(database: str) -> None:
    async with stages(database) as s:
        for n in range(4):
            await written(s, f"r{n}", events=2)
        await written(s, "poisoned", events=2)
        bus = RecordingBus(refuse=lambda message: message.run_id == "poisoned")
        publisher = s.publisher(bus)
        publisher.mark_dirty(["r0", "poisoned", "r1", "r2", "r3"], by="local")
        for _ in range(20):
            try:
                await publisher.publish_pending()
            except BusUnavailable:
                continue
        assert {f"r{n}": set(bus.seqs(f"r{n}")) for n in range(4)} == {f"r{n}": {1, 2} for n in range(4)}
        assert [await cursor(s, f"r{n}") for n in range(4)] == [3] * 4
        assert await cursor(s, "poisoned") == 1
        assert reasons(s)["poisoned"] >= 2
        assert reasons(s)["bus"] == 1  # the first, in which it was not known whose fault it is
        await publisher.aclose()


async def test_in_an_outage_no_run_counts_as_poisoned_though_it_fails_alone(database: str) -> None:
    async with stages(database) as s:
        await written(s, "r", events=2)
        away = True
        bus = RecordingBus(refuse=lambda _message: away)
        publisher = s.publisher(bus)
        publisher.mark_dirty(["r"], by="local")
        for _ in range(2):
            with pytest.raises(BusUnavailable):
                await publisher.publish_pending()
        assert reasons(s) == {"bus": 2, "database": 0, "poisoned": 0}
        away = False
        assert await drained(publisher) == 2
        await publisher.aclose()


async def test_the_outbox_row_goes_with_the_terminal_event(database: str) -> None:
    async with stages(database) as s:
        fence = await written(s, "r", events=2)
        publisher = s.publisher(RecordingBus())
        publisher.mark_dirty(["r"], by="local")
        await publisher.publish_pending()
        assert await cursor(s, "r") == 3
        await s.log.append("r", [RUN_FINISHED], fence=fence, source=Source.API, change=Change(RunState.FINISHED))
        publisher.mark_dirty(["r"], by="local")
        assert await publisher.publish_pending() == 1
        assert await cursor(s, "r") is None
        assert await publisher.sweep() == 0
        await publisher.aclose()


async def test_the_terminal_event_says_on_the_bus_how_its_run_ended(database: str) -> None:
    async with stages(database) as s:
        fence = await written(s, "r", events=3)
        bus = RecordingBus()
        publisher = s.publisher(bus)
        publisher.mark_dirty(["r"], by="local")
        await drained(publisher)
        await s.log.append("r", [RUN_FINISHED], fence=fence, source=Source.API, change=Change(RunState.FAILED))
        publisher.mark_dirty(["r"], by="local")
        await drained(publisher)
        assert [message.outcome for message in bus.messages] == [None, "failed"]
        await publisher.aclose()


async def test_the_sweep_finds_what_every_hint_lost_and_says_so(database: str) -> None:
    async with stages(database) as s:
        await written(s, "r", events=2)
        bus = RecordingBus()
        publisher = s.publisher(bus)
        assert await publisher.publish_pending() == 0
        assert await publisher.sweep() == 1
        assert await drained(publisher) == 2
        told = s.metrics.out.registry.get_sample_value
        assert told("runwire_outbox_wakeups_total", {"by": "poll"}) == 1
        publisher.mark_dirty(["r"], by="notify")
        publisher.mark_dirty(["r"], by="local")  # known already: no news
        assert told("runwire_outbox_wakeups_total", {"by": "notify"}) == 1
        assert told("runwire_outbox_wakeups_total", {"by": "local"}) == 0
        await publisher.aclose()


async def test_finished_runs_never_starve_new_ones(database: str) -> None:
    """Ten thousand finished runs before it, and a new run is found and published by look-ups alone."""
    async with stages(database) as s:
        await s.database.execute(
            "INSERT INTO runs (run_id, agent, state, last_seq, started_at, finished_at, request_hash, input) "
            "SELECT 'old-' || n, 'x', 'finished', 2, now(), now(), '', '' FROM generate_series(1, 10000) AS n"
        )
        await s.database.execute(
            "INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source) "
            "SELECT run_day, run_id, n, 0, CASE n WHEN 1 THEN 'RunStarted' ELSE 'RunFinished' END::event_type, 'api' "
            "FROM runs, generate_series(1, 2) AS n"
        )
        await written(s, "new", events=2)
        await s.database.execute("ANALYZE")
        bus = RecordingBus()
        publisher = s.publisher(bus)
        assert await publisher.sweep() == 1
        assert await publisher.publish_pending() == 2
        assert bus.seqs("new") == [1, 2]
        claim = load_sql("runwire.publish", "publish.sql")["claim"]
        async with s.database.transaction() as tx:
            for name, value in SETTINGS.items():
                await tx.execute(f"SET LOCAL {name} = '{value}'")
            await tx.execute("PREPARE c (text[], int, text) AS " + claim)
            plan = "\n".join(row[0] for row in await tx.fetch("EXPLAIN EXECUTE c ('{new}', 10, 'p')"))
        assert "Seq Scan on run_events" not in plan
        await publisher.aclose()


@pytest.mark.parametrize("statement", ["unpublished", "park"])
async def test_a_sweep_looks_runs_up_by_key_though_the_database_believes_there_are_few(
    database: str, statement: str
) -> None:
    """After a start the statistics are those of an empty database, and comparing each with each looked cheap."""
    async with stages(database) as s:
        await s.database.execute("ANALYZE")
        await s.database.execute(
            "WITH made AS (INSERT INTO runs (run_id, agent, state, last_seq, started_at, request_hash, input) "
            "SELECT 'run-' || n, 'x', 'started', 2, now(), '', '' FROM generate_series(1, 300) AS n "
            "RETURNING run_id, run_day) "
            "INSERT INTO run_outbox (run_id, run_day, next_seq) SELECT run_id, run_day, 3 FROM made"
        )
        sql = load_sql("runwire.publish", "publish.sql")[statement]
        arguments = {"unpublished": "(int, text) AS", "park": "(real, int) AS"}[statement]
        given = {"unpublished": "(10000, 'p')", "park": "(60, 500)"}[statement]
        async with s.database.transaction() as tx:
            for name, value in SWEEP_SETTINGS.items():
                await tx.execute(f"SET LOCAL {name} = '{value}'")
            await tx.execute(f"PREPARE s {arguments} {sql}")
            plan = "\n".join(row[0] for row in await tx.fetch(f"EXPLAIN (ANALYZE) EXECUTE s {given}"))
        assert "Seq Scan on runs" not in plan, plan


async def test_the_lag_is_measured_by_the_databases_clock(database: str) -> None:
    async with stages(database) as s:
        await written(s, "r", events=1)
        await s.database.execute("UPDATE run_events SET ts_us = ts_us - 3000000")
        publisher = s.publisher(RecordingBus())
        publisher.mark_dirty(["r"], by="local")
        await publisher.publish_pending()
        text = s.metrics.exposition()[0].decode()
        assert 'runwire_publish_lag_seconds_bucket{le="2.5"} 0' in text
        assert 'runwire_publish_lag_seconds_bucket{le="5.0"} 1' in text
        await publisher.aclose()


async def test_while_the_database_is_away_nothing_is_forgotten(database: str, postgres_dsn: str) -> None:
    async with stages(database) as s:
        await written(s, "r", events=2)
        bus = RecordingBus()
        publisher = s.publisher(bus)
        publisher.mark_dirty(["r"], by="local")
        name = urlsplit(database).path.removeprefix("/")
        admin = await raw(postgres_dsn)
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        with pytest.raises(DatabaseUnavailable):
            await publisher.publish_pending()
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await admin.close()
        assert await drained(publisher) == 2
        assert bus.seqs("r") == [1, 2]
        await publisher.aclose()


async def test_after_a_crash_between_bus_and_commit_the_events_go_out_again(database: str) -> None:
    class CrashingBus(RecordingBus):
        async def publish(self, messages: Sequence[Published]) -> None:
            await super().publish(messages)
            raise asyncio.CancelledError  # the process is gone, after the bus has everything

    async with stages(database) as s:
        await written(s, "r", events=2)
        crashing, bus = CrashingBus(), RecordingBus()
        first = s.publisher(crashing)
        first.mark_dirty(["r"], by="local")
        with pytest.raises(asyncio.CancelledError):
            await first.publish_pending()
        await first.aclose()
        second = s.publisher(bus)

        async def found_again() -> bool:  # once the server has noticed and let go of the row
            await second.sweep()
            return await second.publish_pending() == 2

        await eventually(found_again)
        assert (crashing.seqs("r"), bus.seqs("r")) == ([1, 2], [1, 2])
        await second.aclose()


async def test_a_new_run_is_claimed_by_index_however_many_are_finished(database: str) -> None:
    async with stages(database) as s:
        await s.database.execute(
            "INSERT INTO runs (run_id, agent, state, last_seq, started_at, finished_at, request_hash, input) "
            "SELECT 'old-' || n, 'x', 'finished', 2, now(), now(), '', '' FROM generate_series(1, 10000) AS n"
        )
        await s.database.execute("INSERT INTO runs (run_id, agent, request_hash, input) VALUES ('new', 'x', '', '')")
        await s.database.execute("ANALYZE")
        claim = load_sql("runwire.orchestrate", "orchestrate.sql")["claim"]
        async with s.database.transaction() as tx:
            await tx.execute("PREPARE c (text[], int, text, real) AS " + claim)
            plan = "\n".join(row[0] for row in await tx.fetch("EXPLAIN (ANALYZE) EXECUTE c ('{x}', 10, 'w', 30)"))
        assert "Seq Scan on runs" not in plan
        sweep = load_sql("runwire.publish", "publish.sql")["unpublished"].replace("$1", "100").replace("$2", "'p'")
        plan = "\n".join(row[0] for row in await s.database.fetch("EXPLAIN " + sweep))
        assert "Seq Scan on runs" not in plan

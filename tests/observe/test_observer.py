"""The observer tells what is stuck and what is broken, from the database alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from orchestrate.waiting_agents import reviewing
from pipeline import RecordingBus, Stages, raw, stages
from runwire.agents.golden import golden
from runwire.append import Change
from runwire.clock import monotonic
from runwire.db import Database
from runwire.errors import DatabaseUnavailable
from runwire.model.event import RUN_FINISHED, Source, debug_trace
from runwire.model.run import RunState
from runwire.observe import Observer, ObserverMetrics
from runwire.observe.audit import Audit
from runwire.observe.metrics import DatabaseLimit
from runwire.observe.settings import ObserverSettings
from runwire.orchestrate import StartRequest
from runwire.telemetry.exposition import Exposition
from telemetry.tables import code, table
from waiting import eventually

OBSERVED = {
    code(row[0]).removeprefix("runwire_").removesuffix("_total") for row in table("Metrics") if row[5] == "observer"
}


class Watched:
    def __init__(self, s: Stages) -> None:
        self.stages = s
        self.metrics = ObserverMetrics(s.metrics.out)
        self.observer = Observer(s.database, self.metrics)

    def value(self, name: str, **labels: str) -> float:
        found = self.stages.metrics.out.registry.get_sample_value(f"runwire_{name}", labels)
        assert found is not None, name
        return found

    def violations(self) -> dict[str, float]:
        found = {
            kind: self.value("invariant_violating_runs", invariant=kind)
            for kind in ("density", "single_terminal", "published_prefix", "cursor_within_log")
        }
        return {kind: count for kind, count in found.items() if count}


@asynccontextmanager
async def watched(dsn: str) -> AsyncIterator[Watched]:
    async with stages(dsn) as s:
        yield Watched(s)


async def test_the_backlog_and_its_age_are_what_is_not_published(database: str) -> None:
    async with watched(database) as w:
        s = w.stages
        fence = await s.started_run("a")
        await s.started_run("b")
        await s.log.append("a", [debug_trace("x"), debug_trace("y")], fence=fence, source=Source.API)
        await s.database.execute("UPDATE run_events SET ts_us = ts_us - 7000000 WHERE run_id = 'b'")
        await w.observer.observe()
        assert w.value("outbox_backlog_events") == 4
        assert 7 <= w.value("outbox_oldest_age_seconds") < 60
        publisher = s.publisher(RecordingBus())
        publisher.mark_dirty(["a", "b"], by="local")
        await publisher.publish_pending()
        await publisher.aclose()
        await w.observer.observe()
        assert w.value("outbox_backlog_events") == 0
        assert w.value("outbox_oldest_age_seconds") == 0


async def test_runs_that_nobody_claims_are_told_by_agent(database: str) -> None:
    async with stages(database, reviewing(), golden) as s:
        metrics = ObserverMetrics(s.metrics.out, agents=["reviewing", "golden"])
        observer = Observer(s.database, metrics)

        async def seen() -> dict[str, float]:
            await observer.observe()
            names = ("reviewing", "golden", "other")
            found = {
                name: s.metrics.out.registry.get_sample_value("runwire_run_oldest_unclaimed_seconds", {"agent": name})
                for name in names
            }
            return {name: value for name, value in found.items() if value}

        await s.started_run("external")  # its orchestrator has it
        worker = s.worker()
        run_id = (await s.control.start(StartRequest(agent="reviewing"))).run_id
        await worker.claim()
        await eventually(lambda: worker.active == 0)
        assert await seen() == {}, "a run that waits for its signal needs no worker"
        await s.control.signal(run_id, "approved", data=b'{"by": "Ann"}')
        await s.database.execute("UPDATE run_signals SET sent_at = sent_at - interval '60 s'")
        await s.database.execute(
            "UPDATE runs SET waiting_since = waiting_since - interval '90 s' WHERE run_id = $1", run_id
        )
        for name in ("gone", "gone too"):
            pending = (await s.control.start(StartRequest(agent="golden"))).run_id
            await s.database.execute(
                "UPDATE runs SET agent = $2, created_at = created_at - interval '600 s' WHERE run_id = $1",
                pending,
                name,
            )
        assert await seen() == {"reviewing": pytest.approx(60, abs=20), "other": pytest.approx(600, abs=20)}
        lost = (await s.control.start(StartRequest(agent="golden"))).run_id
        await s.database.execute(
            "UPDATE runs SET state = 'started', started_at = now(), last_seq = 1, lease_owner = 'dead', "
            "lease_until = now() - interval '30 s' WHERE run_id = $1",
            lost,
        )
        assert (await seen())["golden"] == pytest.approx(30, abs=20)
        await s.database.execute(
            "INSERT INTO run_losses (run_id, losses, seq, fence, worker_id, alone_s) "
            "SELECT run_id, 2, last_seq, fence, 'w0', 60 FROM runs WHERE run_id = $1",
            lost,
        )
        assert "golden" not in await seen(), "a suspect pauses on purpose"


async def test_runs_that_go_on_for_longer_than_their_agent_expects_are_counted_by_agent(database: str) -> None:
    async with stages(database) as s:
        metrics = ObserverMetrics(s.metrics.out, agents=["long", "short"])
        observer = Observer(s.database, metrics, expected_s={"long": 3600.0, "short": 60.0})

        async def overdue_after(minutes: int) -> dict[str, float]:
            await s.database.execute("UPDATE runs SET started_at = now() - $1 * interval '1 minute'", minutes)
            await observer.observe()
            names = ("long", "short", "other")
            found = {
                name: s.metrics.out.registry.get_sample_value("runwire_runs_overdue", {"agent": name}) for name in names
            }
            return {name: value for name, value in found.items() if value}

        for run_id, agent in (("a", "long"), ("b", "short"), ("c", "unheard of"), ("d", "too")):
            await s.started_run(run_id)
            await s.database.execute("UPDATE runs SET agent = $2 WHERE run_id = $1", run_id, agent)
        assert await overdue_after(0) == {}
        assert await overdue_after(9) == {"short": 1}
        assert await overdue_after(50) == {"short": 1, "other": 2}, "a run of `long` may take an hour"
        assert await overdue_after(61) == {"short": 1, "long": 1, "other": 2}
        await s.database.execute("UPDATE runs SET waited_s = 3600 WHERE run_id = 'a'")
        assert await overdue_after(61) == {"short": 1, "other": 2}, "the time it waited does not count"


async def test_days_ahead_without_a_partition_are_counted_as_far_as_there_must_be_some(database: str) -> None:
    async with watched(database) as w:
        await w.observer.observe()
        assert w.value("event_partitions_missing") == 0
        await w.stages.database.execute(
            """DO $$ BEGIN EXECUTE 'DROP TABLE run_events_' ||
               to_char((now() AT TIME ZONE 'UTC')::date + 2, 'YYYYMMDD'); END $$"""
        )
        await w.observer.observe()
        assert w.value("event_partitions_missing") == 0, "one day ahead is enough here"
        await Observer(w.stages.database, w.metrics, days_ahead=7).observe()
        assert w.value("event_partitions_missing") == 1


async def test_the_limits_of_postgresql_are_shares(database: str) -> None:
    async with watched(database) as w:
        await w.observer.observe()
        shares = {limit: w.value("database_used_ratio", limit=limit) for limit in DatabaseLimit}
    assert 0 < shares[DatabaseLimit.CONNECTIONS] < 1
    assert 0 < shares[DatabaseLimit.TRANSACTION_IDS] < 0.1
    assert 0 <= shares[DatabaseLimit.NOTIFICATIONS] < 0.1


async def test_the_database_s_size_is_a_share_of_what_it_may_take(database: str) -> None:
    async with stages(database) as s:
        metrics = ObserverMetrics(s.metrics.out)
        await Observer(s.database, metrics, settings=ObserverSettings(database_max_bytes=2**40)).observe()
        found = s.metrics.out.registry.get_sample_value
        size = found("runwire_database_size_bytes") or 0.0
        assert size > 2**20
        assert found("runwire_database_used_ratio", {"limit": "size"}) == pytest.approx(size / 2**40)


async def test_the_oldest_transaction_of_the_database_is_seen_prepared_or_open(database: str) -> None:
    async with watched(database) as w:
        await w.observer.observe()
        assert w.value("database_oldest_transaction_seconds") < 1
        assert w.value("database_standby_lag_seconds") == w.value("database_slot_retained_bytes") == 0
        forgotten = await raw(database)
        await forgotten.execute("BEGIN")
        await forgotten.execute("SELECT 1 FROM runs")

        async def seen() -> bool:
            await w.observer.observe()
            return w.value("database_oldest_transaction_seconds") > 1

        await eventually(seen, within_s=30)
        await forgotten.execute("SET application_name = 'pg_dump'")
        await w.observer.observe()
        assert w.value("database_oldest_transaction_seconds") < 1, "a backup takes as long as it takes"
        await forgotten.close()


async def test_runs_are_counted_by_state_with_the_age_of_the_oldest(database: str) -> None:
    async with watched(database) as w:
        await w.stages.started_run("a")
        await w.stages.database.execute("UPDATE runs SET started_at = now() - interval '11 minutes'")
        await w.stages.started_run("b")
        await w.observer.observe()
        assert w.value("runs_active", state="started") == 2
        assert w.value("run_oldest_age_seconds", state="started") >= 660
        assert w.value("runs_active", state="pending") == 0
        assert w.value("run_oldest_age_seconds", state="waiting") == 0


async def test_a_run_that_goes_on_after_a_long_wait_is_as_young_as_its_work(database: str) -> None:
    async with watched(database) as w:
        await w.stages.started_run("a")
        move = "UPDATE runs SET state = $1::text::run_state, waiting_for = $2"
        await w.stages.database.execute(move, "waiting", "approved")
        await w.stages.database.execute(
            "UPDATE runs SET started_at = now() - interval '61 minutes', waiting_since = now() - interval '60 minutes'"
        )
        await w.observer.observe()
        assert 3600 <= w.value("run_oldest_age_seconds", state="waiting") < 3660
        await w.stages.database.execute(move, "started", None)
        await w.observer.observe()
        assert 60 <= w.value("run_oldest_age_seconds", state="started") < 120
        assert w.value("run_oldest_age_seconds", state="waiting") == 0


async def test_ages_grow_between_two_looks_until_the_next_is_overdue(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("runwire.observe.metrics.monotonic", lambda: now)
    async with watched(database) as w:
        await w.stages.started_run("a")
        publisher = w.stages.publisher(RecordingBus(), publisher_id="p1")
        await publisher.heartbeat()
        await publisher.aclose()
        await w.stages.database.execute("UPDATE run_events SET ts_us = ts_us - 6000000")
        await w.stages.database.execute("UPDATE publishers SET heartbeat_at = now() - interval '6 s'")
        await w.stages.database.execute("UPDATE runs SET started_at = now() - interval '6 s'")
        await w.observer.observe()

        def ages() -> list[float]:
            return [
                w.value("outbox_oldest_age_seconds"),
                w.value("publisher_heartbeat_age_seconds"),
                w.value("run_oldest_age_seconds", state="started"),
            ]

        seen = ages()
        now += 4
        assert ages() == pytest.approx([age + 4 for age in seen])
        assert w.value("run_oldest_age_seconds", state="waiting") == 0
        now += 20  # nobody has looked for nearly five times the period
        assert ages() == pytest.approx([age + 10 for age in seen])
        await w.stages.database.execute("UPDATE run_outbox SET next_seq = 2")
        await w.observer.observe()
        now += 4
        assert w.value("outbox_oldest_age_seconds") == 0


async def test_an_observer_that_is_cut_off_does_not_outvote_one_that_looks(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("runwire.observe.metrics.monotonic", lambda: now)
    async with watched(database) as w:
        here, there = w.metrics, ObserverMetrics(Exposition())
        await w.stages.started_run("a")
        await w.stages.database.execute("UPDATE run_events SET ts_us = ts_us - 20000000")
        await w.observer.observe()
        async with Database(database, pool_size=2) as elsewhere:
            cut_off = Observer(elsewhere, there)
            await cut_off.observe()
        assert highest("outbox_backlog_events", here, there) == 1
        publisher = w.stages.publisher(RecordingBus())
        await publisher.sweep()
        await publisher.publish_pending()
        await publisher.aclose()
        with pytest.raises(DatabaseUnavailable):
            await cut_off.observe()
        now += 29
        await w.observer.observe()
        assert highest("outbox_backlog_events", here, there) == 1  # it may only be slow
        now += 2
        for name in ("outbox_backlog_events", "outbox_oldest_age_seconds"):
            assert highest(name, here, there) == highest(name, here) == 0
        left = {name for name in exported(there) if not name.startswith("invariant_violations")}
        assert left == {"observer_last_success_timestamp_seconds"}
        async with Database(database, pool_size=2) as elsewhere:
            await Observer(elsewhere, there).observe()
        assert exported(there).keys() == exported(here).keys()


def highest(name: str, *scraped: ObserverMetrics) -> float:
    """The result of `max by (job)` over the series of these processes."""
    return max(found[name] for metrics in scraped if name in (found := exported(metrics)))


def exported(metrics: ObserverMetrics) -> dict[str, float]:
    """The highest sample of each name that only an observer exports."""
    found: dict[str, float] = {}
    for family in metrics.out.registry.collect():
        for sample in family.samples:
            name = sample.name.removeprefix("runwire_")
            if name.removesuffix("_total") in OBSERVED:
                found[name] = max(sample.value, found.get(name, 0.0))
    return found


async def test_an_event_on_its_way_when_the_observer_looked_does_not_seem_to_be_stuck(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("runwire.observe.metrics.monotonic", lambda: now)
    async with watched(database) as w:
        w.metrics.oldest_age.set(0.003)
        now += 4.9
        assert w.value("outbox_oldest_age_seconds") == 0.003
        w.metrics.oldest_age.set(5.0)  # an event that has waited for a whole period is not on its way any more
        now += 4.9
        assert w.value("outbox_oldest_age_seconds") == pytest.approx(9.9)


async def test_the_only_publisher_may_be_replaced_without_an_alarm(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watched(database) as w:
        monkeypatch.setattr("runwire.observe.observer.monotonic", lambda: monotonic() + 3600)
        publisher = w.stages.publisher(RecordingBus(), publisher_id="p1")
        await publisher.heartbeat()
        await w.observer.observe()
        await publisher.retire()
        await publisher.aclose()
        await w.observer.observe()
        assert w.value("publisher_heartbeat_age_seconds") < 60


async def test_a_publisher_is_alive_while_its_heartbeat_is_young(database: str) -> None:
    async with watched(database) as w:
        await w.observer.observe()
        assert w.value("publishers") == 0
        publisher = w.stages.publisher(RecordingBus(), publisher_id="p1")
        await publisher.heartbeat()
        await w.observer.observe()
        assert w.value("publishers") == 1
        assert w.value("publisher_heartbeat_age_seconds") < 5
        await w.stages.database.execute("UPDATE publishers SET heartbeat_at = now() - interval '16 s'")
        await w.observer.observe()
        assert w.value("publishers") == 0
        assert w.value("publisher_heartbeat_age_seconds") >= 16
        await publisher.retire()
        await publisher.aclose()
        assert await w.stages.database.fetchval("SELECT count(*) FROM publishers") == 0


async def test_a_sound_log_has_no_violations(database: str) -> None:
    async with watched(database) as w:
        s = w.stages
        fence = await s.started_run("closed")
        await s.started_run("open")
        await s.log.append("closed", [RUN_FINISHED], fence=fence, source=Source.API, change=Change(RunState.FINISHED))
        publisher = s.publisher(RecordingBus())
        publisher.mark_dirty(["open", "closed"], by="local")
        await publisher.publish_pending()
        await publisher.aclose()
        await w.observer.observe()
        assert w.violations() == {}


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("DELETE FROM run_events WHERE run_id = 'r' AND seq = 2", {"density": 1}),
        ("DELETE FROM run_events WHERE run_id = 'r' AND seq = 1", {"density": 1}),
        ("UPDATE runs SET last_seq = 9 WHERE run_id = 'r'", {"density": 1}),
        ("DELETE FROM run_outbox WHERE run_id = 'r'", {"published_prefix": 1}),
        ("UPDATE run_outbox SET next_seq = 9 WHERE run_id = 'r'", {"cursor_within_log": 1}),
        ("UPDATE runs SET state = 'failed', finished_at = now() WHERE run_id = 'r'", {"single_terminal": 1}),
    ],
)
async def test_each_broken_invariant_is_found_counted_once_and_cleared_when_mended(
    database: str, damage: str, found: dict[str, float]
) -> None:
    async with watched(database) as w:
        fence = await w.stages.started_run("r")
        await w.stages.started_run("sound")
        await w.stages.log.append("r", [debug_trace("x"), debug_trace("y")], fence=fence, source=Source.API)
        connection = await raw(database)
        await connection.execute("CREATE TABLE kept AS SELECT * FROM run_events WHERE run_id = 'r'")
        await connection.execute(damage)
        for _ in range(2):
            await w.observer.observe()
            assert w.violations() == found
        (kind,) = found
        assert w.value("invariant_violations_total", invariant=kind) == 1
        await connection.execute("ALTER TABLE runs DISABLE TRIGGER runs_transition")
        await connection.execute(
            "UPDATE runs SET state = 'started', finished_at = NULL, last_seq = 3 WHERE run_id = 'r'"
        )
        await connection.execute("INSERT INTO run_events SELECT * FROM kept ON CONFLICT DO NOTHING")
        await connection.execute("UPDATE run_outbox SET next_seq = 1")
        await connection.execute(
            "INSERT INTO run_outbox (run_id, run_day) SELECT run_id, run_day FROM runs ON CONFLICT DO NOTHING"
        )
        await connection.close()
        await w.observer.observe()
        assert w.violations() == {}


async def test_a_gap_is_known_to_an_observer_that_starts_later(database: str) -> None:
    async with watched(database) as w:
        await gap(w.stages)
        await w.observer.observe()
    async with watched(database) as later:
        await later.stages.database.execute("UPDATE runs SET finished_at = finished_at - interval '1 h'")
        await later.observer.observe()
        assert later.violations() == {"density": 1}
        assert later.value("invariant_violations_total", invariant="density") == 0, "counted once, by the first"
        connection = await raw(database)
        await connection.execute("INSERT INTO run_events SELECT * FROM kept")
        await connection.close()
        await later.observer.observe()
        assert later.violations() == {}
        assert await later.stages.database.fetchval("SELECT count(*) FROM audit_findings") == 0


async def test_a_finding_that_somebody_acknowledged_is_told_no_more_until_it_comes_back(database: str) -> None:
    async with watched(database) as w:
        await gap(w.stages)
        await w.observer.observe()
        await w.stages.database.execute("UPDATE audit_findings SET acknowledged_at = now()")
        for _ in range(2):
            await w.observer.observe()
            assert w.violations() == {}
        connection = await raw(database)
        await connection.execute("INSERT INTO run_events SELECT * FROM kept")
        await w.observer.observe()
        assert await connection.fetchval("SELECT count(*) FROM audit_findings") == 0
        await connection.execute("DELETE FROM run_events WHERE run_id = 'r' AND seq = 2")
        await connection.close()
        await w.observer.observe()
        assert w.violations() == {"density": 1}


async def gap(s: Stages) -> None:
    """A finished run `r` without its second event, which the table `kept` has."""
    fence = await s.started_run("r")
    await s.log.append(
        "r", [debug_trace("x"), RUN_FINISHED], fence=fence, source=Source.API, change=Change(RunState.FINISHED)
    )
    publisher = s.publisher(RecordingBus())
    publisher.mark_dirty(["r"], by="local")
    await publisher.publish_pending()
    await publisher.aclose()
    await s.database.execute("CREATE TABLE kept AS SELECT * FROM run_events WHERE run_id = 'r' AND seq = 2")
    await s.database.execute("DELETE FROM run_events WHERE run_id = 'r' AND seq = 2")


async def test_the_audit_tells_within_which_time_it_has_looked_at_every_run(database: str) -> None:
    async with watched(database) as w:
        await w.stages.database.execute(
            "INSERT INTO runs (run_id, agent, state, last_seq, started_at, finished_at, request_hash, input) "
            "SELECT 'old-' || n, 'x', 'finished', 10, now(), now() - interval '1 day', '', '' "
            "FROM generate_series(1, 30) AS n"
        )
        back = "begun_at = now() - interval '1 h', covered_since = now() - interval '2 h'"
        await w.stages.database.execute(f"UPDATE audit_progress SET {back}")  # noqa: S608  # ours
        first, second = (Audit(w.stages.database, w.metrics, budget_events=300) for _ in range(2))
        ages = []
        for audit in (first, second, first, second, first):
            await audit.step()
            ages.append(w.value("audit_coverage_age_seconds"))
        assert ages[0] == pytest.approx(7200, abs=60)
        assert ages[-1] == pytest.approx(3600, abs=60), "two observers walk on together, from the last one's end"
        assert min(ages[:4]) >= 7200


async def test_the_audit_reaches_every_run_within_its_budget(database: str) -> None:
    async with watched(database) as w:
        await w.stages.database.execute(
            "INSERT INTO runs (run_id, agent, state, last_seq, started_at, finished_at, request_hash, input) "
            "SELECT 'old-' || n, 'x', 'finished', 10, now(), now() - interval '1 day', '', '' "
            "FROM generate_series(1, 30) AS n"
        )
        audit = Audit(w.stages.database, w.metrics, budget_events=200)
        steps = 0
        known = 0.0
        while known < 60:  # none of them has a single event: density and the terminal event
            looked = await audit.step()
            known = sum(w.violations().values())
            assert looked <= 10 + known
            steps += 1
            assert steps < 10


async def test_an_observer_of_a_database_that_takes_no_writes_counts_as_one_that_sees_nothing(database: str) -> None:
    async with watched(database) as w:
        name = await w.stages.database.fetchval("SELECT current_database()")
        await w.stages.database.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    async with watched(database) as later:
        with pytest.raises(DatabaseUnavailable):
            await later.observer.observe()
        assert later.value("observer_last_success_timestamp_seconds") == 0, "ObserverStale looks at this"


async def test_when_the_database_is_away_the_last_success_stays_what_it_was(database: str) -> None:
    async with watched(database) as w:
        await w.observer.observe()
        before = w.value("observer_last_success_timestamp_seconds")
        assert before > 0
        await w.stages.database.__aexit__()
        with pytest.raises(DatabaseUnavailable):
            await w.observer.observe()
        assert w.value("observer_last_success_timestamp_seconds") == before

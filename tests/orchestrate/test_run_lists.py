"""Runs are found by session, labels, error code and time, the latest created or ended first, by reading an index."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, replace
from typing import Any

import asyncpg
import msgspec
import pytest

from pipeline import Stages, raw, stages
from runwire.agents.golden import golden
from runwire.append import Change
from runwire.db import Row
from runwire.errors import InvalidRequest, StartConflict
from runwire.model.event import RUN_FINISHED, RUN_STARTED, Source
from runwire.model.labels import checked_labels, checked_session, parsed_labels
from runwire.model.run import RunState
from runwire.orchestrate import RunFilter, RunOrder, StartRequest
from runwire.orchestrate.run_view import ALL_RUNS, SCAN_MAX, RunReader


async def pages(
    s: Stages,
    wanted: RunFilter = ALL_RUNS,
    *,
    order: RunOrder = RunOrder.CREATED,
    limit: int = 3,
    tenant: str = "default",
) -> list[list[str]]:
    """The run ids of every page, in order."""
    found: list[list[str]] = []
    cursor = None
    while True:
        page = await s.control.page(wanted, order=order, cursor=cursor, limit=limit, tenant=tenant)
        found.append([run.run_id for run in page.runs])
        cursor = page.next_cursor
        if cursor is None:
            return found


async def listed(s: Stages, wanted: RunFilter = ALL_RUNS, **asked: Any) -> list[str]:
    return [run for page in await pages(s, wanted, **asked) for run in page]


# ------------------------------------------------------------------ sessions and labels of a run


async def test_a_run_shows_the_session_and_the_labels_of_its_start(database: str) -> None:
    async with stages(database, golden) as s:
        labels = {"team": "search", "app.kubernetes.io/name": "café ☕", "empty": ""}
        await s.control.start(StartRequest(run_id="r", session="chat:17", labels=labels))
        await s.control.start(StartRequest(run_id="plain"))
        view = await s.control.view("r")
        assert (view.session, view.labels) == ("chat:17", labels)
        plain = await s.control.view("plain")
        assert (plain.session, plain.labels) == (None, {})
        assert [(run.session, run.labels) for run in (await s.control.page()).runs] == [
            (None, {}),
            ("chat:17", labels),
        ]


async def test_a_start_with_another_session_or_label_is_another_start(database: str) -> None:
    async with stages(database, golden) as s:
        first = StartRequest(run_id="r", session="s", labels={"a": "1", "b": "2"})
        assert (await s.control.start(first)).created
        again = await s.control.start(replace(first, labels={"b": "2", "a": "1"}))
        assert not again.created
        for other in (replace(first, session="t"), replace(first, session=None), replace(first, labels={"a": "1"})):
            with pytest.raises(StartConflict):
                await s.control.start(other)


def test_a_start_without_them_has_the_hash_it_had_before_there_were_any() -> None:
    known = "d65f062a26d0ad80ec8d4363dd10d8670bfb534f33de1c164405bec93f44997f"
    assert StartRequest(run_id="r", input={"n": 1}).fingerprint().hex() == known


@pytest.mark.parametrize("session", ["", "a b", "x" * 129, "é", "a\n"])
async def test_a_session_that_does_not_fit_starts_nothing(database: str, session: str) -> None:
    async with stages(database, golden) as s:
        with pytest.raises(InvalidRequest) as refused:
            await s.control.start(StartRequest(session=session))
        assert refused.value.code == "invalid_session"
        assert await listed(s) == []


BAD_LABELS: list[dict[str, str]] = [
    {"": "x"},
    {"-a": "x"},
    {"a.": "x"},
    {"a:b": "x"},
    {"a b": "x"},
    {"é": "x"},
    {"a" * 64: "x"},
    {"a": "x" * 257},
    {"a": "é" * 129},
    {"a": "x\x00"},
    {"a": "x\ny"},
    {"a": "\x1b[31m"},
    {"a": "\ud800"},
    {f"k{n}": "" for n in range(17)},
]


@pytest.mark.parametrize("labels", BAD_LABELS)
async def test_labels_that_do_not_fit_start_nothing(database: str, labels: dict[str, str]) -> None:
    async with stages(database, golden) as s:
        with pytest.raises(InvalidRequest) as refused:
            await s.control.start(StartRequest(labels=labels))
        assert refused.value.code == "invalid_labels"
        assert await listed(s) == []


def test_the_longest_session_and_labels_fit() -> None:
    assert checked_session("s" * 128) == "s" * 128
    labels = {f"{n:02}".ljust(63, "k"): "é" * 128 for n in range(16)}
    assert checked_labels(labels) == labels


def test_labels_are_read_from_texts_of_which_the_first_colon_parts_key_and_value() -> None:
    assert parsed_labels(["a:1", "b:x:y", "c:", "a:1"]) == {"a": "1", "b": "x:y", "c": ""}
    for texts in (["a"], [":"], ["a:1", "a:2"], ["a=1"]):
        with pytest.raises(InvalidRequest):
            parsed_labels(texts)


async def test_the_database_itself_bounds_labels(database: str) -> None:
    connection = await raw(database)
    try:
        for labels in ('{"' + "k" * 64 + '": ""}', '{"k": "' + "v" * 257 + '"}'):
            with pytest.raises(asyncpg.CheckViolationError):
                await connection.execute(
                    "INSERT INTO runs (run_id, agent, request_hash, input, labels) VALUES ('r', 'x', '', '', $1)",
                    labels,
                )
    finally:
        await connection.close()


# ------------------------------------------------------------------ lists


@dataclass(frozen=True)
class Told:
    """A run as the model knows it. Times are in seconds since the first run's creation."""

    run_id: str
    tenant: str
    agent: str
    state: str
    session: str | None
    labels: dict[str, str]
    error: str | None
    created_s: int
    ended_s: int | None


EPOCH_S = 1_700_000_000
INSERT = """
INSERT INTO runs (run_id, tenant, agent, state, last_seq, session, labels, error_code, request_hash, input,
                  created_at, started_at, finished_at, waiting_for)
SELECT r.run_id, r.tenant, r.agent, r.state::run_state, CASE WHEN r.state = 'pending' THEN 0 ELSE 1 END, r.session,
       r.labels::jsonb, r.error, '', '', to_timestamp(r.created_s),
       CASE WHEN r.state <> 'pending' THEN to_timestamp(r.created_s) END, to_timestamp(r.ended_s),
       CASE WHEN r.state = 'waiting' THEN 'go' END
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[],
            $9::bigint[]) AS r (run_id, tenant, agent, state, session, labels, error, created_s, ended_s)
"""


def some_runs(count: int, rng: random.Random) -> list[Told]:
    runs = []
    for n in range(count):
        state = rng.choice(list(RunState))
        created_s = n // 3  # some of the same moment
        runs.append(
            Told(
                run_id=f"r{rng.randrange(10**6):06}-{n}",
                tenant=rng.choice(["default", "default", "default", "other"]),
                agent=rng.choice(["golden", "explore"]),
                state=state.value,
                session=rng.choice([None, "s1", "s2"]),
                labels={key: rng.choice("xyz") for key in ("env", "team") if rng.random() < 0.6},
                error=rng.choice(["boom", "node_timeout"]) if state is RunState.FAILED else None,
                created_s=created_s,
                ended_s=created_s + rng.randrange(40) if state.terminal else None,
            )
        )
    return runs


async def insert(connection: asyncpg.Connection[asyncpg.Record], runs: list[Told]) -> None:
    await connection.execute(
        INSERT,
        *zip(
            *(
                (
                    run.run_id,
                    run.tenant,
                    run.agent,
                    run.state,
                    run.session,
                    msgspec.json.encode(run.labels).decode(),
                    run.error,
                    EPOCH_S + run.created_s,
                    None if run.ended_s is None else EPOCH_S + run.ended_s,
                )
                for run in runs
            ),
            strict=True,
        ),
    )


def expected(runs: list[Told], wanted: RunFilter, order: RunOrder, tenant: str) -> list[str]:
    """The list, by the plainest means."""

    def matches(run: Told) -> bool:
        created_ms = (EPOCH_S + run.created_s) * 1000
        return (
            run.tenant == tenant
            and (order is RunOrder.CREATED or run.ended_s is not None)
            and wanted.state in (None, run.state)
            and wanted.agent in (None, run.agent)
            and wanted.session in (None, run.session)
            and wanted.error_code in (None, run.error)
            and wanted.labels.items() <= run.labels.items()
            and (wanted.from_ms is None or created_ms >= wanted.from_ms)
            and (wanted.until_ms is None or created_ms < wanted.until_ms)
        )

    def key(run: Told) -> tuple[int, str]:
        return (run.created_s if order is RunOrder.CREATED else run.ended_s or 0), run.run_id

    return [run.run_id for run in sorted(filter(matches, runs), key=key, reverse=True)]


def some_filter(rng: random.Random) -> RunFilter:
    def perhaps(*values: Any) -> Any:
        return rng.choice(values) if rng.random() < 0.4 else None

    from_s, until_s = perhaps(0, 7, 20), perhaps(10, 20, 31)
    return RunFilter(
        state=perhaps(*RunState),
        agent=perhaps("golden", "explore", "nobody"),
        session=perhaps("s1", "s2", "s3"),
        labels={key: rng.choice("xyz") for key in ("env", "team") if rng.random() < 0.35},
        error_code=perhaps("boom", "node_timeout"),
        from_ms=None if from_s is None else (EPOCH_S + from_s) * 1000,
        until_ms=None if until_s is None else (EPOCH_S + until_s) * 1000,
    )


@pytest.mark.parametrize("seed", range(3))
async def test_lists_are_those_of_the_model_whatever_they_are_filtered_by(database: str, seed: int) -> None:
    rng = random.Random(seed)  # repeatable
    runs = some_runs(120, rng)
    async with stages(database, golden) as s:
        connection = await raw(database)
        await insert(connection, runs)
        await connection.close()
        for _ in range(60):
            wanted, order, tenant = some_filter(rng), rng.choice(list(RunOrder)), rng.choice(["default", "other"])
            found = await pages(s, wanted, order=order, limit=rng.randrange(1, 9), tenant=tenant)
            assert [run for page in found for run in page] == expected(runs, wanted, order, tenant), (wanted, order)


async def test_pages_do_not_shift_while_runs_start_and_end(database: str) -> None:
    async with stages(database, golden) as s:

        async def end(run_id: str) -> None:
            await s.log.append(run_id, [RUN_FINISHED], fence=1, source=Source.API, change=Change(RunState.FINISHED))

        async def start(run_id: str) -> None:
            request = StartRequest(agent="x", run_id=run_id, external=True, session="s", labels={"k": "v"})
            await s.control.start(request)
            begun = Change(RunState.STARTED)
            await s.log.append(run_id, [RUN_STARTED], fence=1, source=Source.API, change=begun)

        for n in range(12):
            await start(f"r{n:02}")
        for n in range(8):
            await end(f"r{n:02}")
        for wanted in (RunFilter(session="s"), RunFilter(labels={"k": "v"}), ALL_RUNS):
            for order in RunOrder:
                there = await listed(s, wanted, order=order)
                seen: list[str] = []
                cursor = None
                while True:
                    page = await s.control.page(wanted, order=order, cursor=cursor, limit=2)
                    seen += [run.run_id for run in page.runs]
                    cursor = page.next_cursor
                    if cursor is None:
                        break
                    fresh = f"n{len(seen)}-{order}-{len(wanted.labels)}-{wanted.session}"
                    await start(fresh)
                    await end(fresh)
                assert seen == there


async def test_a_cursor_of_one_order_is_refused_by_the_other(database: str) -> None:
    async with stages(database, golden) as s:
        runs = some_runs(30, random.Random(1))
        connection = await raw(database)
        await insert(connection, runs)
        await connection.close()
        for order, other in ((RunOrder.CREATED, RunOrder.ENDED), (RunOrder.ENDED, RunOrder.CREATED)):
            cursor = (await s.control.page(order=order, limit=1)).next_cursor
            assert cursor is not None
            with pytest.raises(InvalidRequest) as refused:
                await s.control.page(order=other, cursor=cursor)
            assert refused.value.code == "invalid_cursor"


async def test_a_page_looks_at_a_bounded_number_of_runs_and_the_next_goes_on(database: str) -> None:
    async with stages(database, golden) as s:
        connection = await raw(database)
        count = 2 * SCAN_MAX + 10
        await connection.execute(
            "INSERT INTO runs (run_id, agent, session, request_hash, input, created_at) "
            "SELECT 'r' || n, CASE WHEN n = 1 THEN 'rare' ELSE 'x' END, 's', '', '', now() - n * interval '1 s' "
            "FROM generate_series($1::int, 1, -1) AS n",
            count,
        )
        await connection.close()
        assert await pages(s, RunFilter(session="s", agent="nobody")) == [[], [], []]
        assert await pages(s, RunFilter(session="s", agent="rare")) == [["r1"], [], []]


# ------------------------------------------------------------------ which index a list reads

MANY = 40_000
FILL = f"""
INSERT INTO runs (run_id, agent, state, last_seq, session, labels, error_code, request_hash, input,
                  created_at, started_at, finished_at)
SELECT 'r' || n, 'a' || n % 5, CASE WHEN n % 10 = 0 THEN 'failed' ELSE 'finished' END::run_state, 1, 's' || n / 20,
       CASE WHEN n % 4 = 0 THEN jsonb_build_object('env', 'e' || n % 8, 'user', 'u' || n / 40) ELSE '{{}}' END,
       CASE WHEN n % 10 = 0 THEN 'boom' END, '', '', t, t, t + interval '1 s'
FROM generate_series(1, {MANY}) AS n, LATERAL (SELECT now() - ({MANY} - n) * interval '1 s' AS t) AS moment
"""  # noqa: S608
READ = """
SELECT c.relname, pg_stat_get_xact_tuples_returned(c.oid) AS read FROM pg_class AS c
WHERE c.relkind IN ('r', 'i') AND c.relname ~ '^run(s|_labels)' AND pg_stat_get_xact_tuples_returned(c.oid) > 0
"""
"""Rows that this connection read of each index, and by sequential scans of each table, as far as it was not flushed."""


async def rows_read(connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, int]:
    return {row["relname"]: row["read"] for row in await connection.fetch(READ)}


class OnConnection:
    """Runs statements on one connection, in the transaction it is in."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection

    async def fetch(self, sql: str, *args: object, within_s: float | None = None) -> list[Row]:
        return await self._connection.fetch(sql, *args, timeout=within_s)

    async def fetchrow(self, sql: str, *args: object) -> Row | None:
        return await self._connection.fetchrow(sql, *args)

    async def execute(self, sql: str, *args: object) -> str:
        return await self._connection.execute(sql, *args)

    async def in_transaction(self, work: Any) -> Any:
        raise NotImplementedError


LISTS: list[tuple[RunFilter, RunOrder, str]] = [
    (RunFilter(session="s77"), RunOrder.CREATED, "runs_listed_by_session"),
    (RunFilter(session="s77"), RunOrder.ENDED, "runs_ended_by_session"),
    (RunFilter(labels={"env": "e4"}), RunOrder.CREATED, "run_labels_listed"),
    (RunFilter(labels={"env": "e4"}), RunOrder.ENDED, "run_labels_ended"),
    (RunFilter(labels={"env": "e4", "user": "u9"}), RunOrder.CREATED, "run_labels_listed"),
    (RunFilter(error_code="boom"), RunOrder.CREATED, "runs_listed_by_error"),
    (RunFilter(error_code="boom"), RunOrder.ENDED, "runs_ended_by_error"),
    (RunFilter(), RunOrder.ENDED, "runs_ended"),
    (RunFilter(state=RunState.FAILED), RunOrder.ENDED, "runs_ended"),
    (RunFilter(), RunOrder.CREATED, "runs_listed"),
    (RunFilter(agent="a3"), RunOrder.CREATED, "runs_listed_by_agent"),
    (RunFilter(state=RunState.FAILED), RunOrder.CREATED, "runs_listed_by_state"),
    (RunFilter(session="s70", state=RunState.FAILED), RunOrder.CREATED, "runs_listed_by_session"),
    (RunFilter(labels={"env": "e4"}, agent="a4"), RunOrder.ENDED, "run_labels_ended"),
    (RunFilter(error_code="boom", agent="a0", state=RunState.FAILED), RunOrder.CREATED, "runs_listed_by_error"),
    (RunFilter(agent="a0", state=RunState.FAILED), RunOrder.CREATED, "runs_listed_by_agent"),
]


async def test_a_page_reads_an_index_and_no_more_than_it_has_to(database: str) -> None:
    async with stages(database, golden) as s:
        connection = await raw(database)
        await connection.execute(FILL)
        await connection.execute("ANALYZE runs, run_labels")
        middle_ms = int(
            await connection.fetchval("SELECT extract(epoch FROM created_at) * 1000 FROM runs WHERE run_id = 'r9000'")
        )
        reader = RunReader(OnConnection(connection))
        for wanted, order, index in LISTS:
            second = (await reader.page(wanted, order=order, limit=20)).next_cursor
            for until_ms, cursor in ((None, None), (middle_ms, None), (None, second)):
                async with connection.transaction():
                    before = await rows_read(connection)
                    asked = replace(wanted, until_ms=until_ms)
                    page = await reader.page(asked, order=order, limit=20, cursor=cursor)
                    read = {name: n - before.get(name, 0) for name, n in (await rows_read(connection)).items()}
                    read = {name: n for name, n in read.items() if n}
                told = (wanted, order, until_ms, cursor, read)
                assert index in read, told
                assert {"runs", "run_labels"}.isdisjoint(read), f"read a whole table: {told}"
                assert len(page.runs) <= 20
                if until_ms is None or order is RunOrder.CREATED:
                    assert sum(read.values()) < 3500, told
        await connection.close()
        found = await asyncio.wait_for(s.control.page(RunFilter(labels={"env": "e4", "user": "u9"})), 5)
        assert {run.labels["user"] for run in found.runs} == {"u9"}

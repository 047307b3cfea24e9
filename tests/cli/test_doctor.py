"""`runwire doctor` finds what is wrong, and says what to do. And `runwire migrate`, which it asks for."""

from __future__ import annotations

import asyncio
import json
import re
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from cli.command import Result, ran_beside
from nats_server import nats_server
from pipeline import raw
from postgres import with_database
from runwire.bus import nats_check
from runwire.cli import process_check
from runwire.cli.content_check import examine_content
from runwire.cli.proxy_check import Arrivals, judged
from runwire.content.settings import ContentSettings
from runwire.db import health
from runwire.db.health import Finding, examine

Capsys = pytest.CaptureFixture[str]


def failed(findings: list[Finding]) -> dict[str, str]:
    """The failing checks with their remedies; the tests' PostgreSQL is not durable, on purpose."""
    return {found.check: found.remedy for found in findings if not found.ok and found.check != "durability"}


async def broken(dsn: str, sql: str) -> dict[str, str]:
    connection = await raw(dsn)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
    return failed(await examine(dsn))


async def test_a_database_as_it_should_be_has_nothing_wrong(database: str) -> None:
    assert failed(await examine(database)) == {}


async def test_a_server_that_may_lose_commits_is_told(database: str) -> None:
    durability = next(found for found in await examine(database) if found.check == "durability")
    assert not durability.ok
    assert durability.seen == "fsync, full_page_writes off"
    assert "fsync = on" in durability.remedy


async def test_a_missing_migration_is_told(database: str) -> None:
    found = await broken(database, "DELETE FROM runwire_migrations WHERE name LIKE '0001%'")
    assert found == {"migrations": "run `runwire migrate`"}


async def test_a_schema_of_another_version_is_told(database: str) -> None:
    found = await broken(database, "INSERT INTO runwire_migrations VALUES ('9999_later', 'x')")
    assert "version of runwire" in found["migrations"]


async def test_a_dropped_table_is_told(database: str) -> None:
    assert list(await broken(database, "DROP TABLE run_signals")) == ["tables"]


async def test_an_invalid_index_is_told_with_the_statement_that_mends_it(database: str) -> None:
    sql = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'runs_listed'::regclass"
    assert await broken(database, sql) == {"indexes": "REINDEX INDEX CONCURRENTLY runs_listed"}


async def test_a_missing_partition_is_told_before_its_day(database: str) -> None:
    sql = """DO $$ BEGIN EXECUTE 'DROP TABLE run_events_' ||
             to_char((now() AT TIME ZONE 'UTC')::date + 1, 'YYYYMMDD'); END $$"""
    assert "ensure_event_partitions" in (await broken(database, sql))["partitions"]


async def test_notifications_that_do_not_come_are_told(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "NOTIFY_WITHIN_S", 0.0)
    assert "transaction mode" in failed(await examine(database))["notifications"]


async def test_an_old_server_is_told(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "OLDEST_VERSION", 99)
    assert failed(await examine(database)) == {"version": "upgrade to PostgreSQL 99 or later"}


async def test_a_database_that_does_not_exist_is_told(database: str) -> None:
    (found,) = await examine(with_database(database, "nowhere"))
    assert (found.ok, found.seen) == (
        False,
        'cannot connect to PostgreSQL: database "nowhere" does not exist',
    )


async def test_the_command_prints_findings_and_remedies_and_ends_with_1(
    capsys: Capsys, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    text = await ran_beside(capsys, "doctor")
    assert (text.code, text.err) == (1, "")
    assert "FAIL durability" in text.out
    assert "-> set fsync = on" in text.out
    as_json = (await ran_beside(capsys, "doctor", "--json")).lines[0]
    assert (as_json["ok"], len(as_json["checks"])) == (False, 8)


async def test_a_bus_that_carries_messages_is_told_from_one_that_does_not(
    capsys: Capsys, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    async with nats_server() as nats:
        monkeypatch.setenv("RUNWIRE_BUS", nats.url)
        result = (await ran_beside(capsys, "doctor", "--json")).lines[0]["checks"][-1]
        assert (result["check"], result["ok"]) == ("bus", True)
        assert re.fullmatch(r"NATS [0-9.]+, a message took [0-9.]+ ms", result["seen"])
    monkeypatch.setattr(nats_check, "CONNECT_WITHIN_S", 0.5)
    monkeypatch.setenv("RUNWIRE_BUS", "nats://doctor:hunter2@127.0.0.1:1")
    told = await ran_beside(capsys, "doctor", "--json")
    result = told.lines[0]["checks"][-1]
    assert (result["check"], result["ok"]) == ("bus", False)
    assert "start nats-server" in result["remedy"]
    assert "hunter2" not in told.out + told.err


async def test_an_embedded_database_is_migrated_and_then_found_healthy(
    capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    here = ("--data-dir", str(tmp_path))
    checked = await ran_beside(capsys, "migrate", "--check", *here)
    assert (checked.code, checked.out.splitlines()[0]) == (1, "pending 0001_pipeline")
    applied = await ran_beside(capsys, "migrate", *here)
    assert (applied.code, applied.out.splitlines()[0]) == (0, "applied 0001_pipeline")
    assert (await ran_beside(capsys, "migrate", *here)).out == "up to date\n"
    assert (await ran_beside(capsys, "migrate", "--check", "--json", *here)).lines == [{"applied": [], "pending": []}]
    result = await ran_beside(capsys, "doctor", *here)
    assert result.code == 0, result.out


@asynccontextmanager
async def buffering_proxy(upstream: str) -> AsyncIterator[str]:
    """A proxy that sends an answer when it has it all."""

    async def pass_on(request: web.Request) -> web.Response:
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                request.method,
                upstream + request.path_qs,
                data=await request.read(),
                headers={k: v for k, v in request.headers.items() if k != "Host"},
            ) as answer,
        ):
            return web.Response(
                status=answer.status,
                body=await answer.read(),
                headers={"Content-Type": answer.headers.get("Content-Type", "text/plain")},
            )

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", pass_on)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def of_url(result: Result) -> dict[str, bool]:
    return {found["check"]: found["ok"] for found in json.loads(result.out)["checks"]}


async def test_a_stream_that_comes_as_it_is_made_is_fine(
    capsys: Capsys, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    result = await ran_beside(capsys, "doctor", url, "--json")
    assert (result.code, of_url(result)) == (0, {"service": True, "buffering": True})


async def test_a_proxy_that_holds_the_stream_back_is_told_with_its_setting(
    capsys: Capsys, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    async with buffering_proxy(url) as proxied:
        result = await ran_beside(capsys, "doctor", proxied, "--json")
    assert (result.code, of_url(result)) == (1, {"service": True, "buffering": False})
    assert "proxy_buffering off" in result.out
    assert "X-Accel-Buffering" in result.out


async def test_a_service_that_is_not_there_is_told(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setattr("runwire.cli.proxy_check.RETRY_S", 0.1)
    result = await ran_beside(capsys, "doctor", "http://127.0.0.1:1")
    assert result.code == 1
    assert "FAIL service" in result.out


def test_what_came_in_one_go_was_held_back_whatever_the_clocks_say() -> None:
    made = (1_000, 1_500, 2_000)
    assert not judged(Arrivals(made, (90_000, 90_001, 90_002))).ok
    assert judged(Arrivals(made, (90_000, 90_400, 90_990))).ok
    assert "2 connections" in judged(Arrivals(made, (5, 500, 1_000)), connections=2).seen


def test_a_process_takes_all_the_descriptors_it_may_have_and_few_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard - 1, hard))
        assert process_check.take_descriptors() == hard
        found = process_check.examine_process()
        assert found.ok
        assert f"{hard:,} descriptors" in found.seen
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    monkeypatch.setattr(process_check, "take_descriptors", lambda: 1024)
    found = process_check.examine_process()
    assert not found.ok
    assert "ulimit" in found.remedy


def test_an_installation_without_its_compiled_parts_works_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runwire.stream.fanout.outlet.Socket", None)
    found = process_check.examine_process()
    assert found.ok
    assert "in Python" in found.seen
    assert "C compiler" in found.remedy


def test_a_content_store_that_keeps_what_is_put_there_is_left_as_it_was(tmp_path: Path) -> None:
    [found] = asyncio.run(examine_content(ContentSettings(content_url=str(tmp_path))))
    assert found.ok
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_a_content_store_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("not a folder")
    [found] = await examine_content(ContentSettings(content_url=str(tmp_path / "store")))
    assert not found.ok
    assert "RUNWIRE_CONTENT_URL" in found.remedy


async def test_without_a_content_store_there_is_nothing_to_check() -> None:
    assert await examine_content(ContentSettings()) == []

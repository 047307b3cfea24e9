"""Behind PgBouncer in transaction mode: what needs no session goes through it, what needs one goes past it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from runwire.assembly import Assembly
from runwire.client import Client
from runwire.db import Database
from runwire.db.health import examine, examine_pooler
from runwire.settings import Settings
from waiting import eventually

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def started(database: str, folder: Path, *, port: int) -> subprocess.Popen[bytes]:
    """A pooler with two connections to the database's server."""
    if PROGRAM is None:
        pytest.skip("pgbouncer is not installed: scripts/system-programs.sh")
    server = parse_qs(urlsplit(database).query)
    folder.chmod(0o755)
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = host={server['host'][0]} port={server['port'][0]} user={urlsplit(database).username}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        "pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 200\n"
    )
    sockets = Path(server["host"][0])
    owner = sockets.stat()  # PgBouncer does not run as root; PostgreSQL's user may use its socket, once it gets there
    if os.geteuid() == 0:
        for above in sockets.parents[:2]:
            above.chmod(above.stat().st_mode | 0o011)
    user, group = (owner.st_uid, owner.st_gid) if os.geteuid() == 0 else (None, None)
    return subprocess.Popen(
        [PROGRAM, "-q", str(config)],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=user,
        group=group,
        extra_groups=None if user is None else [],
    )


@pytest.fixture
async def pooled(database: str) -> AsyncIterator[str]:
    """The DSN of the database by way of a pooler."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    parts = urlsplit(database)
    dsn = f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}"

    async def answers() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"pgbouncer ended with {process.returncode}")
        try:
            connection = await asyncpg.connect(dsn, statement_cache_size=0, timeout=5)
        except (OSError, asyncpg.PostgresError):
            return False
        await connection.close()
        return True

    with tempfile.TemporaryDirectory(prefix="runwire-pgbouncer-") as folder:
        process = started(database, Path(folder), port=port)
        try:
            await eventually(answers, within_s=20)
            yield dsn
        finally:
            process.kill()
            process.wait()


async def test_statements_of_many_tasks_get_their_own_answers_and_settings(database: str, pooled: str) -> None:
    async with Database(pooled, direct_dsn=database, pool_size=20) as through:

        async def ask(n: int) -> tuple[int, str, str]:
            row = await through.fetchrow(
                "SELECT $1::int AS n, current_setting('jit') AS jit, current_setting('timezone')", n
            )
            assert row is not None
            return tuple(row)

        for _ in range(5):
            assert await asyncio.gather(*(ask(n) for n in range(40))) == [(n, "off", "UTC") for n in range(40)]
        async with through.transaction() as tx:
            assert [tuple(row) for row in await tx.fetch("SELECT current_setting('jit')")] == [("off",)]


async def test_sessions_go_past_the_pooler_and_keep_their_settings(database: str, pooled: str) -> None:
    async with Database(pooled, direct_dsn=database) as through:
        session = through.session("publish", settings={"plan_cache_mode": "force_generic_plan"})
        pids = {row[0] for _ in range(5) for row in await session.fetch("SELECT pg_backend_pid()")}
        assert len(pids) == 1
        assert (await session.fetch("SELECT current_setting('plan_cache_mode')"))[0][0] == "force_generic_plan"
        await session.aclose()


async def test_the_doctor_tells_a_pooler_from_a_database(database: str, pooled: str) -> None:
    assert (await examine_pooler(pooled)).ok
    refused = await examine_pooler("postgresql://nobody@127.0.0.1:1/none", within_s=0.5)
    assert not refused.ok
    assert "RUNWIRE_DATABASE_DIRECT_URL" in refused.remedy
    wrong = [found for found in await examine(pooled) if found.check == "notifications" and not found.ok]
    assert all("RUNWIRE_DATABASE_DIRECT_URL" in found.remedy for found in wrong)


async def test_a_whole_process_runs_behind_the_pooler(database: str, pooled: str) -> None:
    settings = Settings(database_url=pooled, database_direct_url=database, bus="postgres", port=0, admin_port=0)
    async with Assembly(settings) as process, Client(process.url) as client:
        runs = [await client.start("golden") for _ in range(5)]
        for run in runs:
            assert [event.seq async for event in client.stream(run)] == list(range(1, 14))

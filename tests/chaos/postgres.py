"""Two PostgreSQL servers, one following the other, that can be killed, promoted, filled up and sent to another time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from crash.fleet import free_port
from runwire.db.embedded_binaries import Binaries, find_binaries
from waiting import eventually

USER = "runwire"
FILESYSTEM_MIB = 1500
CONNECTIONS_MAX = 100
SETTINGS: Mapping[str, str] = {
    "listen_addresses": "'127.0.0.1'",
    "unix_socket_directories": "''",
    "max_connections": str(CONNECTIONS_MAX),
    "shared_buffers": "128MB",
    "max_wal_size": "256MB",
    "wal_keep_size": "128MB",
    "checkpoint_timeout": "30s",
    "wal_level": "replica",
    "hot_standby": "on",
    "wal_sender_timeout": "0",  # is by the wall clock: a standby that is being made would be cut off when that jumps
    "wal_receiver_timeout": "0",
    "tcp_keepalives_idle": "5",
    "jit": "off",
    "timezone": "'UTC'",
    "log_min_error_statement": "panic",
}


@dataclass(slots=True)
class Server:
    """One server: a data directory on a file system of its own, where it can be mounted, and a port that stays."""

    folder: Path
    binaries: Binaries
    environment: Mapping[str, str]
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def dsn(self) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{USER}"

    def run(self, program: str, *arguments: str | Path) -> None:
        done = subprocess.run(  # a second or two, of a test
            [*_unprivileged(), self.binaries.bin_dir / program, *arguments],
            cwd="/",
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"

    def start(self) -> None:
        """Starts the process; whether it takes connections is another matter."""
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *_unprivileged(),
                    "env",  # for the server alone: what is loaded here must not be loaded as root before
                    *(f"{name}={value}" for name, value in self.environment.items()),
                    self.binaries.postgres,
                    "-D",
                    self.data,
                    "-p",
                    str(self.port),
                ],
                cwd="/",
                env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL to the postmaster; its children notice and end."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    async def answers(self, question: str = "SELECT 1") -> Any:
        """The answer, or None while there is none."""
        try:
            connection = await asyncpg.connect(self.dsn, timeout=3)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return None
        try:
            return await connection.fetchval(question, timeout=5)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return None
        finally:
            connection.terminate()

    async def execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.dsn, timeout=10)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    async def ready(self, *, within_s: float = 60) -> None:
        """Returns when it answers; starts it again when it has ended by itself, as an init system does."""

        async def answers() -> Any:
            if not self.running:
                (self.data / "postmaster.pid").unlink(missing_ok=True)
                self.start()
                await asyncio.sleep(0.3)  # between two starts, as an init system has it
            return await self.answers()

        await eventually(answers, within_s=within_s)

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Inside the block not a byte more fits on its file system."""
        ballast = self.folder / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0" * (1 << 20)):
                pass
        try:
            yield
        finally:
            ballast.unlink()


class Cluster:
    """A primary with a synchronous standby: what was acknowledged survives the loss of the primary."""

    def __init__(self, servers: tuple[Server, Server]) -> None:
        self.primary, self.standby = servers

    async def start(self) -> None:
        primary = self.primary
        primary.run("initdb", "-D", primary.data, "-U", USER, "--auth", "trust", "--encoding", "UTF8", "--locale", "C")
        with (primary.data / "postgresql.auto.conf").open("a") as conf:
            conf.writelines(f"{name} = {value}\n" for name, value in SETTINGS.items())
        with (primary.data / "pg_hba.conf").open("a") as conf:
            conf.write("host replication all 127.0.0.1/32 trust\n")
        primary.start()
        await eventually(lambda: _admin(primary.port, "SELECT 1"), within_s=30)
        await _admin(primary.port, f"CREATE DATABASE {USER}")

    async def follow(self) -> None:
        """Makes the standby anew from the primary. Returns when every commit waits for it."""
        standby, primary = self.standby, self.primary
        if standby.running:
            standby.kill()
        shutil.rmtree(standby.data, ignore_errors=True)
        await asyncio.to_thread(
            standby.run, "pg_basebackup", "-d", primary.dsn, "-D", standby.data, "-R", "-X", "stream", "-c", "fast"
        )
        with (standby.data / "postgresql.auto.conf").open("a") as conf:
            conf.write(
                f"primary_conninfo = 'host=127.0.0.1 port={primary.port} user={USER} application_name=standby'\n"
            )
            conf.write("synchronous_standby_names = ''\n")
        standby.start()
        streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
        await eventually(lambda: primary.answers(streaming), within_s=60)
        await primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        await primary.execute("SELECT pg_reload_conf()")
        synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        await eventually(lambda: primary.answers(synchronous), within_s=60)

    async def unfollow(self) -> None:
        """The primary goes on alone, without waiting for anybody."""
        await self.primary.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        await self.primary.execute("SELECT pg_reload_conf()")

    async def fail_over(self) -> None:
        """Kills the primary and promotes the standby, which is the primary then."""
        self.primary.kill()
        self.primary, self.standby = self.standby, self.primary
        self.primary.run("pg_ctl", "promote", "-D", self.primary.data, "-w")
        await eventually(lambda: self.primary.answers("SELECT NOT pg_is_in_recovery()"), within_s=60)

    def stop(self) -> None:
        for server in (self.primary, self.standby):
            if server.running:
                server.kill()


@asynccontextmanager
async def cluster(*, environment: Mapping[str, str]) -> AsyncIterator[Cluster]:
    """A primary that takes connections; `follow` gives it its standby. Nothing is left afterwards."""
    with tempfile.TemporaryDirectory(prefix="runwire-chaos-") as folder:
        base = Path(folder)
        base.chmod(0o755)  # noqa: ASYNC240  # takes no time
        binaries = find_binaries()
        servers = tuple(Server(base / name, binaries, environment) for name in ("a", "b"))
        with contextlib.ExitStack() as mounts:
            for server in servers:
                mounts.enter_context(_file_system(server.folder))
            both = Cluster((servers[0], servers[1]))
            try:
                await both.start()
                yield both
            finally:
                both.stop()
                await eventually(lambda: not _busy(base), within_s=20)


@contextmanager
def _file_system(folder: Path) -> Iterator[None]:
    """A file system of bounded size at `folder`; only root may have one."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={FILESYSTEM_MIB}m", "tmpfs", folder], check=True)
    try:
        shutil.chown(folder, "nobody")
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _busy(base: Path) -> bool:
    """Whether a process still works under `base`."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and (entry / "cwd").readlink().is_relative_to(base):
                return True
    return False


async def _admin(port: int, statement: str) -> Any:
    try:
        connection = await asyncpg.connect(f"postgresql://{USER}@127.0.0.1:{port}/postgres", timeout=3)
    except (OSError, TimeoutError, asyncpg.PostgresError):
        return None
    try:
        return await connection.execute(statement)
    finally:
        await connection.close()


def _unprivileged() -> list[str]:
    """PostgreSQL does not run as root; and it ends when the test does, however that ends."""
    nobody = pwd.getpwnam("nobody")
    return [
        "setpriv",
        f"--reuid={nobody.pw_uid}",
        f"--regid={nobody.pw_gid}",
        "--clear-groups",
        "--pdeathsig=QUIT",
        "--",
    ]

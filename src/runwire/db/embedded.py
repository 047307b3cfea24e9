"""An embedded PostgreSQL: a server of our own as a child process, for when no DATABASE_URL names another.

It listens on no network address, only on a Unix socket in a folder of mode 0700, and trusts all who can reach it: the
user who runs runwire, and root. A password would add a secret to keep in a file beside the socket, behind the same
folder; `peer` would need every user id to have a name, which containers often do not give.

"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

import asyncpg

from runwire.clock import monotonic
from runwire.db.embedded_binaries import Binaries, find_binaries
from runwire.db.embedded_cluster import PORT, SUPERUSER, Cluster, EmbeddedOptions
from runwire.db.embedded_lock import POLL_S, LockFile, alone
from runwire.db.embedded_process import Child, Identity, choose_identity, is_postmaster
from runwire.errors import EmbeddedPostgresError

__all__ = ["EmbeddedOptions", "EmbeddedPostgres"]

DATABASE = "runwire"
RESTART_PAUSE_S = (0.0, 0.5, 2.0, 5.0)  # then the last one again, until it starts

DEFAULT_SETTINGS: Mapping[str, str] = {
    "jit": "off",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "wal_level": "minimal",  # nothing replicates from an embedded server
    "max_wal_senders": "0",
    "timezone": "UTC",
    "logging_collector": "on",
    "log_filename": "postgresql-%a.log",  # a week of days, each overwritten a week later
    "log_truncate_on_rotation": "on",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_timezone": "UTC",
    # The log gets no stored content: no row values, parameters or statement texts.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "log_parameter_max_length": "0",
}

SHARED_POLL_S = 0.25
"""Seconds between the checks of processes that share a server."""

log = logging.getLogger(__name__)


class EmbeddedPostgres:
    """The server of one data directory: started, or found running and shared. The process that started it stops it.

    If the server ends by itself, or because its owner ended, its owner or a process that shares it starts it again at
    the same DSN, and owns it from then on.
    """

    def __init__(self, options: EmbeddedOptions) -> None:
        self._options = options
        self._cluster = Cluster(options)
        self._child: Child | None = None
        self._pid: int | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def dsn(self) -> str:
        """Of database `runwire`. It holds no secret and works on this machine, for this user and root."""
        if self._cluster.socket_dir is None:
            raise EmbeddedPostgresError("the embedded PostgreSQL is not started")
        return _dsn(self._cluster.socket_dir, DATABASE)

    @property
    def pid(self) -> int | None:
        """The postmaster's; None before start and after stop."""
        return self._pid

    @property
    def owned(self) -> bool:
        """Whether this object started the server, and so will stop it."""
        return self._child is not None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> str:
        """The DSN of database `runwire`, created when absent, on a server that answers.

        Raises EmbeddedPostgresError when there are no binaries or no server in time; then none is left.
        """
        binaries = find_binaries(self._options.bin_dir)
        identity = choose_identity(self._cluster.path, run_as=self._options.run_as, program=binaries.postgres)
        try:
            await self._start(binaries, identity)
            await self._ensure_database()
        except BaseException:
            await self.stop()
            raise
        atexit.register(self._interrupt)
        self._watch = asyncio.create_task(self._keep_running(binaries, identity), name="embedded-postgres")
        return self.dsn

    async def stop(self) -> None:
        """Returns when the server we own has shut down; a server owned by another is only let go of."""
        if self._watch is not None:
            if not self._watch.done():  # it is, when the loop that started the server has ended
                self._watch.cancel()
                await asyncio.wait([self._watch])
            self._watch = None
        if self._child is not None:
            await self._child.shut_down(within_s=self._options.stop_timeout_s)
        atexit.unregister(self._interrupt)
        if self._cluster.has_temporary:
            async with alone(self._cluster.start_lock):  # one that shared the server may have started it again, there
                self._cluster.forget_socket()
        self._cluster.socket_dir = self._child = self._pid = None

    def _interrupt(self) -> None:
        if self._child is not None:
            self._child.signal(signal.SIGINT)

    async def _start(self, binaries: Binaries, identity: Identity) -> None:
        self._cluster.begin_start()
        try:
            async with asyncio.timeout(self._options.start_timeout_s):
                self._cluster.make_folders(identity)
                async with alone(self._cluster.start_lock):
                    if await self._found_running():
                        return
                    if not self._cluster.path.exists():
                        await self._cluster.initialise(binaries, identity)
                    await self._launch(binaries, identity)
        except TimeoutError as late:
            raise self._cluster.failure(f"did not start in {self._options.start_timeout_s:g} s") from late
        except OSError as refused:
            raise self._cluster.failure(f"could not be started: {refused}") from refused

    async def _found_running(self) -> bool:
        """True with a server that answered; False once it is certain that none runs or is going down."""
        while found := self._cluster.running():
            if found.status == "ready" and await self._answers(found):
                self._child, self._pid, self._cluster.socket_dir = None, found.pid, found.socket_dir
                return True
            await asyncio.sleep(POLL_S)
        await self._cluster.give_up_lock()
        return False

    async def _answers(self, found: LockFile) -> bool:
        try:
            connection = await asyncpg.connect(_dsn(found.socket_dir, "postgres"), timeout=5)
            try:
                serves = await connection.fetchval("SHOW data_directory", timeout=5)
            finally:
                connection.terminate()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            return False  # it goes down at this moment, perhaps
        return str(serves) == str(self._cluster.path)

    async def _launch(self, binaries: Binaries, identity: Identity) -> None:
        self._cluster.socket_dir = str(self._cluster.make_socket_dir(identity))
        settings = {**DEFAULT_SETTINGS, **self._options.settings}
        settings |= {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": self._cluster.socket_dir,
            "unix_socket_permissions": "0700",
        }
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command: list[str | Path] = [binaries.postgres, "-D", self._cluster.path, *flags]
        child = Child(command, identity=identity, output=self._cluster.fresh_log())
        self._child, self._pid = child, child.pid
        while not self._is_ready(child):
            if child.exit_code is not None:
                raise self._cluster.failure(f"ended with {child.exit_code} while it started")
            await asyncio.sleep(POLL_S)

    def _is_ready(self, child: Child) -> bool:
        now = LockFile.read(self._cluster.lock_path)
        return now is not None and (now.pid, now.status) == (child.pid, "ready")

    async def _ensure_database(self) -> None:
        assert self._cluster.socket_dir is not None  # noqa: S101  # set by whichever way the server was had
        connection = await asyncpg.connect(_dsn(self._cluster.socket_dir, "postgres"), timeout=10)
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                with contextlib.suppress(asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
                    await connection.execute(f'CREATE DATABASE "{DATABASE}"')
        finally:
            await connection.close()

    async def _keep_running(self, binaries: Binaries, identity: Identity) -> None:
        failures = 0
        while True:
            why = await self._ended()
            began = monotonic()
            log.warning("%s, starting it again", why)
            await asyncio.sleep(RESTART_PAUSE_S[min(failures, len(RESTART_PAUSE_S) - 1)])
            try:
                await self._start(binaries, identity)
            except EmbeddedPostgresError as failed:
                failures += 1
                log.error("%s", failed)  # noqa: TRY400  # the text is the whole story
                continue
            failures = 0
            log.warning("embedded PostgreSQL runs again after %.2f s", monotonic() - began)

    async def _ended(self) -> str:
        """The reason why the server ended."""
        if self._child is not None:
            return f"embedded PostgreSQL ended with {await self._child.exited()}"
        # Nothing announces the end of another's child.
        while self._pid is not None and is_postmaster(self._pid, cluster=self._cluster.path):  # noqa: ASYNC110
            await asyncio.sleep(SHARED_POLL_S)
        return "embedded PostgreSQL was stopped by the process that had started it"


_TOLD_OTHERWISE: Final = {
    "PGSSLMODE": "sslmode=disable",
    "PGSSLNEGOTIATION": "sslnegotiation=postgres",
    "PGTARGETSESSIONATTRS": "target_session_attrs=any",
    "PGPASSFILE": "passfile=/nonexistent",
    "PGGSSLIB": "gsslib=gssapi",
}


def _dsn(socket_dir: str, database: str) -> str:
    url = f"postgresql://{SUPERUSER}@/{database}?host={quote(socket_dir, safe='/')}&port={PORT}"
    # Else these, which are about another server, would be read by our connections to this one, too.
    return url + "".join(f"&{told}" for variable, told in _TOLD_OTHERWISE.items() if variable in os.environ)

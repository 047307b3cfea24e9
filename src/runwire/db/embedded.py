"""An embedded PostgreSQL: a server of our own as a child process, for when no DATABASE_URL names another.

It listens on no network address, only on a Unix socket in a folder of mode 0700, and trusts all who can reach it: the
user who runs runwire, and root. A password would add a secret to keep in a file beside the socket, behind the same
folder; `peer` would need every user id to have a name, which containers often do not give.

    data_dir/          ours, mode 0700; as root nobody else passes it, not even the server's own user
        data/          the cluster, with its log/
        socket/        the socket (elsewhere when this path is too long for one)
        start.lock     held while a server is looked for and started
        start.log      what the programs printed before the server's own log began
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

import asyncpg

from runwire.clock import monotonic
from runwire.db.embedded_binaries import Binaries, find_binaries
from runwire.db.embedded_lock import POLL_S, LockFile, alone, disown, ended
from runwire.db.embedded_process import Child, Identity, check_named, choose_identity, is_postmaster
from runwire.errors import EmbeddedPostgresError

DATABASE = "runwire"
SUPERUSER = "runwire"
PORT = 5432  # names the socket file; nothing listens on it
LONGEST_SOCKET_PATH = 103  # bytes of sockaddr_un.sun_path on macOS, less its NUL; Linux has 107
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


@dataclass(frozen=True, slots=True)
class EmbeddedOptions:
    """`data_dir` becomes the server's own folder; `bin_dir` holds `postgres` and `initdb` (None: look).

    `settings` are PostgreSQL's, over DEFAULT_SETTINGS. `run_as` is whom the server runs as when we are root.
    """

    data_dir: Path
    bin_dir: Path | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    run_as: str = "nobody"
    start_timeout_s: float = 120.0  # a crash may leave gigabytes of WAL to read
    stop_timeout_s: float = 20.0


class EmbeddedPostgres:
    """The server of one data directory: started, or found running and shared. The process that started it stops it.

    If the server ends by itself, or because its owner ended, its owner or a process that shares it starts it again at
    the same DSN, and owns it from then on.
    """

    def __init__(self, options: EmbeddedOptions) -> None:
        self._options = options
        self._root = options.data_dir.resolve()
        self._cluster = self._root / "data"
        self._lock_path = self._cluster / "postmaster.pid"
        self._child: Child | None = None
        self._pid: int | None = None
        self._socket_dir: str | None = None
        self._temporary: Path | None = None
        self._watch: asyncio.Task[None] | None = None
        self._logged: dict[Path, int] = {}
        """Lengths of the server's logs before the newest start, so that older lines do not explain its failure."""

    @property
    def dsn(self) -> str:
        """Of database `runwire`. It holds no secret and works on this machine, for this user and root."""
        if self._socket_dir is None:
            raise EmbeddedPostgresError("the embedded PostgreSQL is not started")
        return _dsn(self._socket_dir, DATABASE)

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
        identity = choose_identity(self._cluster, run_as=self._options.run_as, program=binaries.postgres)
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
            await self._shut_down(self._child)
        atexit.unregister(self._interrupt)
        if self._temporary is not None:
            async with alone(self._root / "start.lock"):  # one that shared the server may have started it again, there
                found = LockFile.read(self._lock_path)
                if found is None or not is_postmaster(found.pid, cluster=self._cluster):
                    shutil.rmtree(self._temporary, ignore_errors=True)
        self._child = self._pid = self._socket_dir = self._temporary = None

    async def _shut_down(self, child: Child) -> None:
        # Fast shutdown, then immediate, then none at all; the next start recovers from either.
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            child.signal(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.exited(), self._options.stop_timeout_s)
                return

    def _interrupt(self) -> None:
        if self._child is not None:
            self._child.signal(signal.SIGINT)

    async def _start(self, binaries: Binaries, identity: Identity) -> None:
        self._logged = {file: file.stat().st_size for file in self._logs()}
        try:
            async with asyncio.timeout(self._options.start_timeout_s):
                self._make_folders(identity)
                async with alone(self._root / "start.lock"):
                    if await self._found_running():
                        return
                    if not self._cluster.exists():
                        await self._initialise(binaries, identity)
                    await self._launch(binaries, identity)
        except TimeoutError as late:
            raise self._failure(f"did not start in {self._options.start_timeout_s:g} s") from late
        except OSError as refused:
            raise self._failure(f"could not be started: {refused}") from refused

    def _make_folders(self, identity: Identity) -> None:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Without the capability the server's user has to pass here by permission.
        self._root.chmod(0o711 if identity.changes_user and identity.capability < 0 else 0o700)

    async def _found_running(self) -> bool:
        """True with a server that answered; False once it is certain that none runs or is going down."""
        while (found := LockFile.read(self._lock_path)) and is_postmaster(found.pid, cluster=self._cluster):
            if found.status == "ready" and await self._answers(found):
                self._child, self._pid, self._socket_dir = None, found.pid, found.socket_dir
                return True
            await asyncio.sleep(POLL_S)
        await ended(self._cluster)
        if found is not None:
            disown(self._lock_path, found)
        elif self._cluster.exists():
            self._lock_path.unlink(missing_ok=True)  # cut off while it was written
        return False

    async def _clear(self, cluster: Path) -> None:
        await ended(cluster)
        shutil.rmtree(cluster, ignore_errors=True)

    async def _answers(self, found: LockFile) -> bool:
        try:
            connection = await asyncpg.connect(_dsn(found.socket_dir, "postgres"), timeout=5)
            try:
                serves = await connection.fetchval("SHOW data_directory", timeout=5)
            finally:
                connection.terminate()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            return False  # it goes down at this moment, perhaps
        return str(serves) == str(self._cluster)

    async def _initialise(self, binaries: Binaries, identity: Identity) -> None:
        new = self._root / "data.new"
        await self._clear(new)  # of an initdb that was killed
        new.mkdir(mode=0o700)
        identity.own(new)
        locale = ["--locale=C"]
        if binaries.major >= 17:
            locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        fast = ["--no-sync"] if self._options.settings.get("fsync") == "off" else []
        child = Child(
            [
                binaries.initdb,
                f"--pgdata={new}",
                f"--username={SUPERUSER}",
                "--encoding=UTF8",
                *locale,
                "--data-checksums",
                "--auth-local=trust",
                "--auth-host=reject",
                "--no-instructions",
                *fast,
            ],
            identity=identity,
            output=self._fresh_log(),
        )
        try:
            code = await child.exited()
        except BaseException:
            await self._shut_down(child)
            await self._clear(new)
            raise
        if code != 0:
            if not identity.changes_user:
                check_named(os.geteuid())
            raise self._failure(f"could not be initialised (initdb ended with {code})")
        new.rename(self._cluster)  # a data directory is whole or not there

    async def _launch(self, binaries: Binaries, identity: Identity) -> None:
        self._socket_dir = str(self._make_socket_dir(identity))
        settings = {**DEFAULT_SETTINGS, **self._options.settings}
        settings |= {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": self._socket_dir,
            "unix_socket_permissions": "0700",
        }
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        child = Child([binaries.postgres, "-D", self._cluster, *flags], identity=identity, output=self._fresh_log())
        self._child, self._pid = child, child.pid
        while not self._is_ready(child):
            if child.exit_code is not None:
                raise self._failure(f"ended with {child.exit_code} while it started")
            await asyncio.sleep(POLL_S)

    def _is_ready(self, child: Child) -> bool:
        now = LockFile.read(self._lock_path)
        return now is not None and (now.pid, now.status) == (child.pid, "ready")

    def _make_socket_dir(self, identity: Identity) -> Path:
        if self._socket_dir is not None:  # who shared the server, or had it, knows it by this one
            folder = Path(self._socket_dir)
            if folder.parent != self._root:
                self._temporary = folder.parent
                folder.parent.mkdir(mode=0o700, exist_ok=True)
                folder.parent.chmod(self._root.stat().st_mode & 0o777)
        else:
            parent = self._root
            if len(os.fsencode(parent / "socket" / f".s.PGSQL.{PORT}")) > LONGEST_SOCKET_PATH:
                parent = self._temporary = Path(tempfile.mkdtemp(prefix="runwire-", dir="/tmp"))  # the short one
                parent.chmod(self._root.stat().st_mode & 0o777)
            folder = parent / "socket"
        # Made anew: what a killed server left holds a pid that may be another process's by now.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        identity.own(folder)
        return folder

    async def _ensure_database(self) -> None:
        assert self._socket_dir is not None  # noqa: S101  # set by whichever way the server was had
        connection = await asyncpg.connect(_dsn(self._socket_dir, "postgres"), timeout=10)
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
        while self._pid is not None and is_postmaster(self._pid, cluster=self._cluster):  # noqa: ASYNC110
            await asyncio.sleep(SHARED_POLL_S)
        return "embedded PostgreSQL was stopped by the process that had started it"

    def _logs(self) -> list[Path]:
        return sorted((self._cluster / "log").glob("*.log"), key=lambda file: file.stat().st_mtime)

    def _fresh_log(self) -> Path:
        path = self._root / "start.log"
        path.write_bytes(b"")
        return path

    def _failure(self, what: str) -> EmbeddedPostgresError:
        """An error whose text ends in what PostgreSQL said last, and says where the rest is."""
        printed, logs = self._root / "start.log", self._cluster / "log"
        since = {printed: 0, **{file: self._logged.get(file, 0) for file in self._logs()[-1:]}}
        said = [line.strip() for file, at in since.items() if file.exists() for line in _lines(file, after=at)]
        fatal = [line for line in said if "FATAL" in line or "error:" in line] or said
        reason = f": {fatal[-1]}" if fatal else ""
        return EmbeddedPostgresError(
            f"the embedded PostgreSQL in {self._root} {what}{reason} (see {printed} and {logs})"
        )


def _lines(file: Path, *, after: int) -> list[str]:
    """The text after so many bytes of the file; all of it when the file was started again."""
    content = file.read_bytes()
    new = content[after:] if len(content) >= after else content
    return [line for line in new.decode(errors="replace").splitlines() if line]


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

"""The folders of an embedded PostgreSQL: its cluster, its socket, and what its programs said.

data_dir/          ours, mode 0700; as root nobody else passes it, not even the server's own user
data/          the cluster, with its log/
socket/        the socket (elsewhere when this path is too long for one)
start.lock     held while a server is looked for and started
start.log      what the programs printed before the server's own log began
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from runwire.db.embedded_binaries import Binaries
from runwire.db.embedded_lock import LockFile, disown, ended
from runwire.db.embedded_process import Child, Identity, check_named, is_postmaster
from runwire.errors import EmbeddedPostgresError

SUPERUSER: Final = "runwire"
PORT: Final = 5432
"""It names the socket file; nothing listens on it."""
LONGEST_SOCKET_PATH: Final = 103
"""Bytes of sockaddr_un.sun_path on macOS, less its NUL; Linux has 107."""


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


class Cluster:
    """The folders below one data directory. It starts no server."""

    def __init__(self, options: EmbeddedOptions) -> None:
        self._options = options
        self.root = options.data_dir.resolve()
        self.path = self.root / "data"
        self.lock_path = self.path / "postmaster.pid"
        self.start_lock = self.root / "start.lock"
        self.socket_dir: str | None = None
        """The folder of the socket, once a server runs or was found."""
        self._temporary: Path | None = None
        self._logged: dict[Path, int] = {}
        """Lengths of the server's logs before the newest start, so that older lines do not explain its failure."""

    def running(self) -> LockFile | None:
        """The lock of a server that runs here; None when none does."""
        found = LockFile.read(self.lock_path)
        return found if found is not None and is_postmaster(found.pid, cluster=self.path) else None

    async def give_up_lock(self) -> None:
        """Returns when the last process of an earlier server has ended, and nothing of its lock is in the way."""
        found = LockFile.read(self.lock_path)
        await ended(self.path)
        if found is not None:
            disown(self.lock_path, found)
        elif self.path.exists():
            self.lock_path.unlink(missing_ok=True)  # cut off while it was written

    def begin_start(self) -> None:
        """Notes what the logs had before a start."""
        self._logged = {file: file.stat().st_size for file in self._logs()}

    def make_folders(self, identity: Identity) -> None:
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Without the capability the server's user has to pass here by permission.
        self.root.chmod(0o711 if identity.changes_user and identity.capability < 0 else 0o700)

    async def initialise(self, binaries: Binaries, identity: Identity) -> None:
        new = self.root / "data.new"
        await _clear(new)  # of an initdb that was killed
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
            output=self.fresh_log(),
        )
        try:
            code = await child.exited()
        except BaseException:
            await child.shut_down(within_s=self._options.stop_timeout_s)
            await _clear(new)
            raise
        if code != 0:
            if not identity.changes_user:
                check_named(os.geteuid())
            raise self.failure(f"could not be initialised (initdb ended with {code})")
        new.rename(self.path)  # a data directory is whole or not there

    def make_socket_dir(self, identity: Identity) -> Path:
        if self.socket_dir is not None:  # who shared the server, or had it, knows it by this one
            folder = Path(self.socket_dir)
            if folder.parent != self.root:
                self._temporary = folder.parent
                folder.parent.mkdir(mode=0o700, exist_ok=True)
                folder.parent.chmod(self.root.stat().st_mode & 0o777)
        else:
            parent = self.root
            if len(os.fsencode(parent / "socket" / f".s.PGSQL.{PORT}")) > LONGEST_SOCKET_PATH:
                parent = self._temporary = Path(tempfile.mkdtemp(prefix="runwire-", dir="/tmp"))  # the short one
                parent.chmod(self.root.stat().st_mode & 0o777)
            folder = parent / "socket"
        # Made anew: what a killed server left holds a pid that may be another process's by now.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        identity.own(folder)
        return folder

    @property
    def has_temporary(self) -> bool:
        """Whether the socket's folder is elsewhere, and has to be removed."""
        return self._temporary is not None

    def forget_socket(self) -> None:
        """Removes a socket's folder that is elsewhere, unless a server runs there."""
        if self._temporary is not None and self.running() is None:
            shutil.rmtree(self._temporary, ignore_errors=True)
        self.socket_dir = self._temporary = None

    def _logs(self) -> list[Path]:
        return sorted((self.path / "log").glob("*.log"), key=lambda file: file.stat().st_mtime)

    def fresh_log(self) -> Path:
        path = self.root / "start.log"
        path.write_bytes(b"")
        return path

    def failure(self, what: str) -> EmbeddedPostgresError:
        """An error whose text ends in what PostgreSQL said last, and says where the rest is."""
        printed, logs = self.root / "start.log", self.path / "log"
        since = {printed: 0, **{file: self._logged.get(file, 0) for file in self._logs()[-1:]}}
        said = [line.strip() for file, at in since.items() if file.exists() for line in _lines(file, after=at)]
        fatal = [line for line in said if "FATAL" in line or "error:" in line] or said
        reason = f": {fatal[-1]}" if fatal else ""
        return EmbeddedPostgresError(
            f"the embedded PostgreSQL in {self.root} {what}{reason} (see {printed} and {logs})"
        )


async def _clear(cluster: Path) -> None:
    await ended(cluster)
    shutil.rmtree(cluster, ignore_errors=True)


def _lines(file: Path, *, after: int) -> list[str]:
    """The text after so many bytes of the file; all of it when the file was started again."""
    content = file.read_bytes()
    new = content[after:] if len(content) >= after else content
    return [line for line in new.decode(errors="replace").splitlines() if line]

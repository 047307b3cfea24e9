"""A child process that cannot outlive this one, and what the system knows of a data directory's processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from runwire.db import embedded_child
from runwire.errors import ConfigurationError, EmbeddedPostgresError

CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAP_SETPCAP = 8


@dataclass(frozen=True, slots=True)
class Identity:
    """The user that the server runs as. `capability` lets that user pass through folders only root may enter."""

    uid: int = embedded_child.NO_USER
    gid: int = embedded_child.NO_USER
    capability: int = embedded_child.NO_CAPABILITY

    @property
    def changes_user(self) -> bool:
        return self.uid != embedded_child.NO_USER

    def own(self, path: Path) -> None:
        """Gives `path` to this user, when that is not who we are already."""
        if self.changes_user:
            os.chown(path, self.uid, self.gid)


def choose_identity(cluster: Path, *, run_as: str, program: Path) -> Identity:
    """Ourselves, or as root the user who owns `cluster` already, else the user named `run_as`."""
    if os.geteuid() != 0:
        return Identity()
    capability = _passing_capability(program)
    if cluster.exists() and (owner := cluster.stat()).st_uid != 0:
        return Identity(owner.st_uid, owner.st_gid, capability)
    try:
        user = pwd.getpwnam(run_as)
    except KeyError as missing:
        raise EmbeddedPostgresError(
            f"PostgreSQL does not run as root and there is no user {run_as!r} to run it as"
        ) from missing
    return Identity(user.pw_uid, user.pw_gid, capability)


def check_named(uid: int) -> None:
    """Raises ConfigurationError for a uid that /etc/passwd does not know: `initdb` refuses it, where it cannot be given
    another's name.
    """
    try:
        pwd.getpwuid(uid)
    except KeyError:
        lacking = f"the embedded PostgreSQL needs a user with a name, and uid {uid} has none"
        raise ConfigurationError((f"{lacking}: run as another user, or set DATABASE_URL",)) from None


def _passing_capability(program: Path) -> int:
    if sys.platform != "linux":
        return embedded_child.NO_CAPABILITY
    status = Path("/proc/self/status").read_text()
    held = int(status.partition("CapPrm:")[2].split()[0], 16)
    # The first is the weaker, but cannot run programs installed for root alone, and containers often lack it.
    for_all = program.stat().st_mode & 0o001
    choices = [CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE] if for_all else [CAP_DAC_OVERRIDE]
    for capability in choices:
        if held & (1 << capability) and held & (1 << CAP_SETPCAP):
            return capability
    return embedded_child.NO_CAPABILITY


class Child:
    """A running program that gets SIGINT when this process dies, however it dies (on Linux)."""

    def __init__(self, command: Sequence[str | Path], *, identity: Identity, output: Path) -> None:
        """Returns once the process exists. The file `output` gets all that it prints."""
        self._started: Future[subprocess.Popen[bytes]] = Future()
        self._exited: Future[int] = Future()
        # From here no waiter's cancellation can cancel it for the others.
        self._exited.set_running_or_notify_cancel()
        # Linux sends the parent-death signal when the *thread* that spawned dies. So the thread that spawns
        # then waits for the child as long as it lives, whichever thread or event loop asked for it.
        threading.Thread(
            target=self._spawn_and_wait,
            args=(command, identity, output),
            name="runwire-postgres",
            daemon=True,
        ).start()
        self._process = self._started.result()

    def _spawn_and_wait(self, command: Sequence[str | Path], identity: Identity, output: Path) -> None:
        way = [sys.executable, "-I", "-S", embedded_child.__file__]
        who = [str(n) for n in (os.getpid(), identity.uid, identity.gid, identity.capability)]
        try:
            with output.open("ab") as log:
                process = subprocess.Popen(  # noqa: S603  # our own interpreter and programs we looked up
                    [*way, *who, *command],
                    executable=_interpreter(),
                    cwd="/",
                    env=_clean_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for runwire, which drains first
                )
        except BaseException as failed:  # noqa: BLE001  # handed to the thread that waits for it
            self._started.set_exception(failed)
            return
        self._started.set_result(process)
        self._exited.set_result(process.wait())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._exited.result() if self._exited.done() else None

    async def exited(self) -> int:
        """The exit code, once there is one."""
        return await asyncio.wrap_future(self._exited)

    def signal(self, number: signal.Signals) -> None:
        """Sends `number`; nothing happens when the process has ended."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def shut_down(self, *, within_s: float) -> None:
        """Fast shutdown, then immediate, then none at all, each after `within_s`; the next start recovers from any."""
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            self.signal(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.exited(), within_s)
                return


def _interpreter() -> str:
    """Ourselves, by the kernel's own link where the path is closed to who we have become, as below `/root`."""
    return sys.executable if os.access(sys.executable, os.X_OK) else "/proc/self/exe"


def _clean_environment() -> dict[str, str]:
    """This environment less PG*, which would steer the server, and with one language and time zone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return kept | {"LANG": "C", "LC_ALL": "C", "TZ": "UTC"}


def is_postmaster(pid: int, *, cluster: Path) -> bool:
    """Whether process `pid` is alive and serves `cluster`. Elsewhere than on Linux: whether it is alive."""
    if sys.platform == "linux":
        return _works_in(pid, cluster)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def servers_in(cluster: Path) -> list[int]:
    """Pids of the PostgreSQL processes at work in `cluster`; none is ever found elsewhere than on Linux."""
    if sys.platform != "linux":
        return []
    return [pid for pid in _all_pids() if _works_in(pid, cluster)]


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _works_in(pid: int, cluster: Path) -> bool:
    # A process that has ended but was not collected yet has neither link, and another user's hides them.
    try:
        process = Path(f"/proc/{pid}")
        program = str((process / "exe").readlink()).removesuffix(" (deleted)")
        return program.endswith("/postgres") and (process / "cwd").readlink() == cluster
    except OSError:
        return False

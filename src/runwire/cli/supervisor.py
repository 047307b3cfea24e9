"""`serve --processes N`: so many processes on one API port, one per core; those that end are started again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from errno import errorcode
from math import inf
from typing import Final

from runwire.bus.kinds import KINDS
from runwire.cli.database import database_of
from runwire.cli.heartbeat import BEAT_S, STARTING_S, Ear, Phase
from runwire.clock import longest_pause_s, monotonic, wait_until_set
from runwire.errors import ConfigurationError, ExitCode
from runwire.settings import Settings
from runwire.telemetry.logs import LogEvent, get_logger

_PAUSE_FIRST_S: Final = 0.5
_PAUSE_MAX_S: Final = 30.0
STEADY_S: Final = 60.0
"""A process that ran for so many seconds before it ended restarts at once, as if it had never failed."""
GRACE_S: Final = 15.0
"""Seconds after the drain until a process that does not end is killed."""

SERVE: Final = (sys.executable, "-m", "runwire", "serve")

_log = get_logger()


async def supervise(settings: Settings) -> int:
    """Runs the processes until SIGTERM or SIGINT, and returns what `serve` should end with.

    Raises ConfigurationError, or OSError when the port is taken.
    """
    if settings.bus is not None and KINDS[settings.bus_name].one_process:
        raise ConfigurationError((f"the {settings.bus_name} bus works in one process only: set bus to postgres",))
    async with database_of(settings) as dsn:
        with _reserved(settings.host, settings.port) as port:
            return await Supervisor(settings, dsn=dsn, port=port).run()


class Supervisor:
    """Starts, restarts and stops the serving processes, and serves nothing itself. They share its output streams.

    One that is deaf, or starts or drains for too long, is killed. The others go on, whatever becomes of one.
    """

    def __init__(self, settings: Settings, *, dsn: str, port: int, program: tuple[str, ...] = SERVE) -> None:
        """`program` is what a process runs."""
        self._settings = settings
        self._program = program
        self._dsn = dsn
        self._port = port
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._refused = False
        self._ever_served = False
        self._replaced: Counter[int] = Counter()

    async def run(self) -> int:
        self._heed_signals()
        async with asyncio.TaskGroup() as places:
            for place in range(self._settings.processes):
                places.create_task(self._kept_running(place), name=f"process {place}")
        return ExitCode.USAGE if self._refused else ExitCode.OK

    def stop(self) -> None:
        """Tells every process to drain and end."""
        self._stopping.set()
        for process in self._running.values():
            if process.returncode is None:
                process.terminate()

    def reload(self) -> None:
        """Tells every process to read its certificate again."""
        for process in self._running.values():
            if process.returncode is None:
                process.send_signal(signal.SIGHUP)

    # ------------------------------------------------------------------ one place, and who is in it

    async def _kept_running(self, place: int) -> None:
        failures = 0
        while not self._stopping.is_set():
            began = monotonic()
            try:
                code: int | None = await self._lived(place)
                why = ""
            except OSError as error:  # the system has no room for it: no process, no memory, no descriptor
                code, why = None, errorcode.get(error.errno or 0, type(error).__name__)
            if self._stopping.is_set():
                return
            if code == ExitCode.USAGE and not self._ever_served:  # trying again does not help
                self._refused = True
                self.stop()
                return
            failures = 0 if monotonic() - began >= STEADY_S else failures + 1
            again_in_s = longest_pause_s(failures, first_s=_PAUSE_FIRST_S, longest_s=_PAUSE_MAX_S)
            if code is None:
                _log.error(LogEvent.PROCESS_NOT_STARTED, process=place, why=why, again_in_s=again_in_s)
            else:
                _log.warning(LogEvent.PROCESS_ENDED, process=place, code=code, again_in_s=again_in_s)
            await wait_until_set(self._stopping, within_s=again_in_s)

    async def _lived(self, place: int) -> int:
        """Runs one process to its end and returns its exit code, negative for a signal."""
        with Ear() as ear:
            process = await asyncio.create_subprocess_exec(
                *self._program,
                env={**self._environment(place), **ear.environment},
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(ear.descriptor,),
            )
            ear.close_other_end()
            self._running[place] = process
            if self._stopping.is_set():
                process.terminate()
            ended = asyncio.ensure_future(process.wait())
            others = {asyncio.ensure_future(self._overdue(place)), asyncio.ensure_future(self._unfit(place, ear))}
            try:
                await asyncio.wait({ended, *others}, return_when=asyncio.FIRST_COMPLETED)
                if not ended.done():
                    process.kill()
                return await ended
            finally:
                for other in others:
                    other.cancel()
                if process.returncode is None:
                    process.kill()

    async def _unfit(self, place: int, ear: Ear) -> None:
        """Returns when the process in that place is to be replaced: it is deaf, or starts or drains for too long."""
        while True:
            ear.listen()
            self._ever_served |= ear.phase is Phase.SERVING
            if ear.is_deaf:
                silent_s = round(ear.silent_s, 1)
                self._replaced[place] += 1
                _log.error(LogEvent.PROCESS_DEAF, process=place, silent_s=silent_s, replaced=self._replaced[place])
                return
            phase = ear.phase
            if phase is not None and ear.phase_s > self._limits_s.get(phase, inf):
                self._replaced[place] += 1
                self._tell_overdue(place, phase, for_s=ear.phase_s)
                return
            await asyncio.sleep(BEAT_S)

    @property
    def _limits_s(self) -> Mapping[Phase, float]:
        """Seconds that phases may take. When all processes are to end, `_overdue` counts those of the drain."""
        drain = {} if self._stopping.is_set() else {Phase.DRAINING: self._drain_max_s}
        return {Phase.STARTING: STARTING_S, **drain}

    def _tell_overdue(self, place: int, phase: Phase, *, for_s: float) -> None:
        _log.error(LogEvent.PROCESS_OVERDUE, process=place, doing=phase.name.lower(), for_s=round(for_s, 1))

    @property
    def _drain_max_s(self) -> float:
        return self._settings.drain_s + GRACE_S

    def _environment(self, place: int) -> Mapping[str, str]:
        """The environment of a child process: the settings of this one, except those that each process must have for
        itself.
        """
        settings = self._settings
        own = {
            "PROCESSES": "1",
            "REUSE_PORT": "true",
            "HOST": settings.host,
            "PORT": str(self._port),
            "ADMIN_PORT": str(settings.admin_port + place if settings.admin_port else 0),
            "WORKER_ID": f"{settings.worker_id}-{place}"[-128:],
            "DATABASE_URL": self._dsn if settings.database_url is None else settings.database_url,
            "DATA_DIR": str(settings.data_dir),
            "AGENTS": ",".join(settings.agents),
            "SUPERVISOR": str(os.getpid()),
            "REPLACED": str(self._replaced[place]),
        }
        if "roles" in settings.model_fields_set:  # what was asked for by name must be possible, what was not need not
            own["ROLES"] = ",".join(role.value for role in settings.roles)
        return {**os.environ, **{f"RUNWIRE_{name}": value for name, value in own.items()}}

    async def _overdue(self, place: int) -> None:
        """Returns when the process in that place should have ended with all others."""
        await self._stopping.wait()
        await asyncio.sleep(self._drain_max_s)
        self._tell_overdue(place, Phase.DRAINING, for_s=self._drain_max_s)

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()
        interrupted = False

        def interrupt() -> None:
            nonlocal interrupted
            if interrupted:
                for process in self._running.values():
                    if process.returncode is None:
                        process.kill()
                os._exit(ExitCode.INTERRUPTED)
            interrupted = True
            self.stop()

        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        loop.add_signal_handler(signal.SIGINT, interrupt)


@contextmanager
def _reserved(host: str, port: int) -> Iterator[int]:
    """The port, which the system chooses for 0. It stays ours while no process of ours listens on it.

    Raises OSError when others listen there. Bound, and never listening: no connection comes here.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as alone:
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            alone.bind((host, port))  # without SO_REUSEPORT, so that it fails where another service listens
        except OSError as error:  # in asyncio's words, which the command's sentences are made from
            raise OSError(error.errno, f"cannot bind on address ({host!r}, {port}): {error.strerror}") from error
        port = int(alone.getsockname()[1])
    with socket.socket(family, socket.SOCK_STREAM) as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.bind((host, port))
        yield port


def end_with_supervisor() -> None:
    """Asks Linux to end this process (SIGTERM: it drains) when the supervisor that started it is gone."""
    supervisor = os.environ.pop("RUNWIRE_SUPERVISOR", "")  # programs that this process starts are not its processes
    if not supervisor.isdecimal() or not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != int(supervisor):  # it went before we asked
        os.kill(os.getpid(), signal.SIGTERM)

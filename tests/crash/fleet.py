"""Real `runwire serve` processes, each of some roles: started, killed, frozen and started again at the same port."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from tied import tied
from waiting import eventually, grows_to

START_S = 90.0
"""Seconds for which a process that starts may stand still. It mostly needs the processor, which a busy machine gives it
slowly.
"""
QUICK_TAKEOVER: Mapping[str, str] = {
    "RUNWIRE_LEASE_S": "2",
    "RUNWIRE_LEASE_HEARTBEAT_S": "0.5",
    "RUNWIRE_SSE_RETRY_MS": "200",
    "RUNWIRE_LOSSES_MAX": "50",  # every worker is killed many times from outside: no run is to blame
}


class Member:
    """One place in the fleet. The process in it changes; its name, its roles and its ports stay.

    A process ends with the thread that started it.
    """

    starts_with = "server_started"
    """The event of the line by which the process says that it has started."""

    def __init__(self, name: str, *, logs: Path, environment: Mapping[str, str], arguments: Sequence[str] = ()) -> None:
        self.name = name
        self.port = free_port() if "api" in name else 0
        self._command = self.command(arguments)
        self._environment: Mapping[str, str] = {}
        self.use(environment)
        self._log = logs / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._said_before = 0
        self._lines: list[dict[str, Any]] = []  # of the first so many bytes: a start is waited for by reading the rest
        self._read_bytes = 0

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The words that start the process."""
        return [sys.executable, "-m", "runwire", "serve", "--port", str(self.port), "--admin-port", "0", *arguments]

    def use(self, environment: Mapping[str, str]) -> None:
        """Settings of the next process, besides the environment of this one. Its coverage is not measured: most members
        are killed before they could write it down, and measuring makes them slow.
        """
        left_out = ("RUNWIRE_", "DATABASE_", "OTEL_", "COVERAGE_")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
        self._environment = inherited | {"RUNWIRE_WORKER_ID": self.name} | dict(environment)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_port(self) -> int:
        """Of the process that runs now, as it said when it started."""
        started = [line for line in self.lines() if line.get("event") == "server_started"]
        return int(started[-1]["admin_port"])

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self, *, within_s: float = START_S) -> None:
        """Returns when the process said that it has started. Fails with its last lines when it ends instead, and when
        it has got nowhere for so long.
        """
        assert not self.running, f"{self.name} runs already"
        self._said_before = len(self.lines())
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220  # returns at once, and frees tests of a child watcher
                tied(self._command),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

        async def progress() -> float:
            if not self.running:
                raise RuntimeError(f"{self.name} ended while it started:\n{self.last_words()}")
            started = any(line.get("event") == self.starts_with for line in self.lines()[self._said_before :])
            return math.inf if started else round(self._processor_s(), 1)

        await grows_to(math.inf, progress, stalled_s=within_s)

    async def metric(self, name: str) -> float:
        """The value of a metric of this process; with labels in the name that of a series, without them their sum."""
        async with httpx.AsyncClient(timeout=30) as http:
            scrape = (await http.get(f"http://127.0.0.1:{self.admin_port}/metrics")).text
        series = [line.rsplit(" ", 1) for line in scrape.splitlines()]
        return sum(float(value) for key, value in series if key == name or key.startswith(name + "{"))

    @property
    def memory_kib(self) -> int:
        """The resident memory of the process."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])

    def _processor_s(self) -> float:
        """The processor time that the process has had."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """SIGKILL, and gone when this returns."""
        assert self._process is not None
        assert self.running, f"{self.name} ended by itself:\n{self.last_words()}"
        self._process.kill()
        self._process.wait()

    async def terminate(self, *, within_s: float = 20.0) -> int:
        """SIGTERM; the exit code."""
        process = self._process
        assert process is not None
        assert self.running, f"{self.name} ended by itself:\n{self.last_words()}"
        process.terminate()
        await eventually(lambda: not self.running, within_s=within_s)
        return process.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside the block the process stands still, as under a paused virtual machine: its leases end unnoticed."""
        process = self._process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def discard(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def lines(self) -> list[dict[str, Any]]:
        """All that the processes in this place logged; what is no JSON, such as a traceback, under `event`."""
        if self._log.exists():
            with self._log.open("rb") as log:
                log.seek(self._read_bytes)
                new = log.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read_bytes += len(whole)
            self._lines += map(_parsed, whole.decode(errors="replace").split("\n")[:-1])
        return self._lines[:]

    def last_words(self) -> str:
        return "\n".join(json.dumps(line) for line in self.lines()[-20:])


class Fleet:
    """Members by role. Some may be down at any time; `ports` are the APIs' all the same."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members

    @property
    def ports(self) -> list[int]:
        return [member.port for member in self.members if member.port]

    def of(self, role: str) -> list[Member]:
        return [member for member in self.members if role in member.name]

    def errors(self) -> list[dict[str, Any]]:
        """Lines logged as errors, or printed past the log."""
        return [
            {"member": member.name, **line}
            for member in self.members
            for line in member.lines()
            if line.get("level") in (None, "error", "critical")
        ]


@asynccontextmanager
async def fleet_of(
    roles: Sequence[str], *, database: str, logs: Path, environment: Mapping[str, str] = QUICK_TAKEOVER
) -> AsyncIterator[Fleet]:
    """A process per entry, of one role or of several (`api+worker`), over one database and the Postgres bus, unless
    the environment names another.

    None is left afterwards.
    """
    environment = {"RUNWIRE_BUS": "postgres", **environment, "RUNWIRE_DATABASE_URL": database}
    members = [
        Member(
            f"{place}-{number}",
            logs=logs,
            environment=environment,
            arguments=[word for role in place.split("+") for word in ("--role", role)],
        )
        for number, place in enumerate(roles)
    ]
    try:
        await asyncio.gather(*(member.start() for member in members))
        yield Fleet(members)
    finally:
        for member in members:
            member.discard()


_GIVEN: Final[set[int]] = set()


def free_port() -> int:
    """A port nobody has, for a process that will be down now and then.

    Below the range clients' own ports come from: a client that calls a port of that range while nobody listens on it
    may be given this very port, and be connected to itself. No two calls of a process get the same one.
    """
    candidates = random.SystemRandom()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        port = candidates.randrange(12_000, 30_000)
        if port in _GIVEN:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _GIVEN.add(port)
            return port
    raise AssertionError("no free port")


def _parsed(line: str) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except json.JSONDecodeError:
        return {"event": line}
    return parsed if isinstance(parsed, dict) else {"event": line}

"""The stack without an engine: its services as processes here, as docker-compose.yml tells them, at other addresses."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from crash.fleet import Member, free_port
from deploy.stack import Stack
from waiting import eventually


@dataclass(frozen=True, slots=True)
class Watched:
    """The running programs and their addresses."""

    prometheus: str
    alertmanager: str
    members: Mapping[str, Member]
    pager_log: Path
    seed_log: Path
    session: aiohttp.ClientSession

    async def ask(self, path: str, **params: str) -> Any:
        """The answer of Prometheus' API."""
        async with self.session.get(self.prometheus + path, params=params) as answer:
            assert answer.status == 200, await answer.text()
            return (await answer.json())["data"]


@asynccontextmanager
async def watched(stack: Stack, folder: Path, *, database: str, spans_to: str) -> AsyncIterator[Watched]:
    """The six roles, the seed, Prometheus, Alertmanager and the pager, ready; Grafana, Tempo and the collector, which
    are not available here, are away, and so are their targets. Nothing runs on afterwards.
    """
    places = {f"{name}:9464": f"127.0.0.1:{free_port()}" for name in stack.roles}
    places |= {"alertmanager:9093": f"127.0.0.1:{free_port()}", "localhost:9090": f"127.0.0.1:{free_port()}"}
    pager_port = free_port()
    async with AsyncExitStack() as running:
        members = {
            name: _member(stack, name, folder=folder, admin=places[f"{name}:9464"], database=database, spans=spans_to)
            for name in stack.roles
        }
        for member in members.values():
            running.callback(member.discard)
        await asyncio.gather(*(member.start(within_s=60) for member in members.values()))

        pager = [*stack.services["pager"]["entrypoint"], "--port", str(pager_port)]
        pager_log = running.enter_context(_process(stack, "pager", pager, folder=folder, environment={}))
        alertmanager = [
            "prometheus-alertmanager",
            *_flags(stack, "alertmanager", folder=folder),
            f"--web.listen-address={places['alertmanager:9093']}",
        ]
        _moved(stack, "alertmanager", folder=folder, places={"127.0.0.1:9095": f"127.0.0.1:{pager_port}"})
        running.enter_context(_process(stack, "alertmanager", alertmanager, folder=folder, environment={}))
        prometheus = [
            "prometheus",
            *_flags(stack, "prometheus", folder=folder),
            f"--web.listen-address={places['localhost:9090']}",
            # An alert may fire before Alertmanager is found. It is sent again a minute later, unless told otherwise.
            "--rules.alert.resend-delay=5s",
        ]
        _moved(stack, "prometheus", folder=folder, places=places)
        running.enter_context(_process(stack, "prometheus", prometheus, folder=folder, environment={}))
        seed = [*stack.services["seed"]["entrypoint"], "--every", "0.5"]
        url = {"RUNWIRE_URL": members["api"].url}
        seed_log = running.enter_context(_process(stack, "seed", seed, folder=folder, environment=url))

        session = await running.enter_async_context(aiohttp.ClientSession())
        for place in (places["localhost:9090"], places["alertmanager:9093"]):
            await eventually(_ready(session, f"http://{place}/-/ready"), within_s=30)
        yield Watched(
            prometheus=f"http://{places['localhost:9090']}",
            alertmanager=f"http://{places['alertmanager:9093']}",
            members=members,
            pager_log=pager_log,
            seed_log=seed_log,
            session=session,
        )


def _member(stack: Stack, name: str, *, folder: Path, admin: str, database: str, spans: str) -> Member:
    service = stack.services[name]
    environment = {
        **{key: value for key, value in service["environment"].items() if "$" not in value},
        "RUNWIRE_DATABASE_URL": database,
        "RUNWIRE_ARCHIVE_URL": str(folder / "archive"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": spans,
    }
    arguments = ["--admin-port", admin.rpartition(":")[2], *service["command"]]
    return Member(name, logs=folder, environment=environment, arguments=arguments)


def _flags(stack: Stack, service: str, *, folder: Path) -> list[str]:
    """The service's own, with its files and data where they are here. Links lead nowhere, so they are left out."""
    flags = []
    for flag in stack.services[service]["command"]:
        name, _, value = flag.partition("=")
        if name == "--web.external-url":
            continue
        flags.append(f"{name}={folder / service}{value}" if value.startswith("/") else flag)
    return flags


def _moved(stack: Stack, service: str, *, folder: Path, places: Mapping[str, str]) -> None:
    """Its files, as mounted, with addresses as they are here. Drops series scraped at another address."""
    stack.lay_out(service, folder / service)
    for path in (folder / service).rglob("*.y*ml"):
        text = path.read_text()
        for place, here in places.items():
            text = text.replace(place, here)
        if path.name == "prometheus.yml":
            text = "\n\n".join(part for part in text.split("\n\n") if "job_name" not in part or "127.0.0.1" in part)
        path.write_text(text)


class _Process:
    """Told to end with the block, and killed when it does not."""

    def __init__(self, command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> None:
        self._command, self._log, self._environment = command, log, environment

    def __enter__(self) -> Path:
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return self._log

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _process(
    stack: Stack, service: str, command: Sequence[str], *, folder: Path, environment: Mapping[str, str]
) -> _Process:
    """A service's program; `python` is this one, and its script the one that is mounted."""
    words = [sys.executable if word == "python" else word for word in command]
    words = [str(stack.inside(service, word) or word) if word.startswith("/app/") else word for word in words]
    return _Process(words, log=folder / f"{service}.log", environment={**environment, "TMPDIR": str(folder)})


def _ready(session: aiohttp.ClientSession, url: str) -> Any:
    async def ready() -> bool:
        assert urlsplit(url).hostname == "127.0.0.1"
        try:
            async with session.get(url) as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    return ready

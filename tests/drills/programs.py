"""Prometheus and Alertmanager as child processes: fast clocks, free ports, nothing left behind."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml

from crash.fleet import free_port
from tied import tied
from waiting import eventually

NEEDED: Final = ("prometheus", "prometheus-alertmanager", "promtool", "amtool")
TICK: Final = "250ms"
"""Scrapes and evaluations."""


def missing() -> list[str]:
    """Programs that are not installed; `scripts/system-programs.sh` installs them."""
    return [name for name in NEEDED if shutil.which(name) is None]


class Web:
    """The program that answers at a port."""

    def __init__(self, port: int, session: aiohttp.ClientSession) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._session = session

    async def get(self, path: str, **params: str) -> Any:
        async with self._session.get(self.url + path, params=params) as answer:
            body = await answer.text()
            assert answer.status == 200, f"{path} {params}: {answer.status} {body}"
            return json.loads(body) if body.startswith(("{", "[")) else body

    async def ready(self) -> bool:
        try:
            await self.get("/-/ready")
        except (AssertionError, aiohttp.ClientError):
            return False
        return True


class Prometheus(Web):
    """`targets` may change at any time; what is no longer a target is stale at once."""

    def __init__(self, port: int, session: aiohttp.ClientSession, *, folder: Path) -> None:
        super().__init__(port, session)
        self._rules_file = folder / "rules.yml"
        self._targets_file = folder / "targets.json"
        self._targets: dict[str, tuple[int, str]] = {}

    def scrape(self, instance: str, *, port: int, role: str) -> None:
        self._targets[instance] = (port, role)
        self._write()

    def forget(self, instance: str) -> None:
        del self._targets[instance]
        self._write()

    async def judge_by(self, rules: Mapping[str, Any]) -> None:
        """Loads rules, once every target has been scraped: what was not looked at yet is down, and that is an alert."""

        async def all_up() -> bool:
            up = await self.query("up == 1")
            return {one["metric"]["instance"] for one in up} == set(self._targets)

        await eventually(all_up, within_s=30)
        self._rules_file.write_text(yaml.safe_dump(dict(rules)))
        async with self._session.post(self.url + "/-/reload") as answer:
            assert answer.status == 200, await answer.text()

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The series an expression gives now. Fails when it is no valid one."""
        answer = await self.get("/api/v1/query", query=expression)
        result = answer["data"]["result"]
        return result if answer["data"]["resultType"] in ("vector", "matrix") else [{"metric": {}, "value": result}]

    async def value(self, expression: str) -> float | None:
        """The largest value an expression has now, None without one."""
        return max((float(one["value"][1]) for one in await self.query(expression)), default=None)

    async def alerts(self) -> list[dict[str, Any]]:
        """Alerts that are pending or firing."""
        return list((await self.get("/api/v1/alerts"))["data"]["alerts"])

    async def first_bad_at(self, alert: str, *, since: float, labels: Mapping[str, str] | None = None) -> float | None:
        """When, by the clock of the epoch, an evaluation first found the alert's condition true after `since`."""
        matchers = ",".join(f'{name}="{value}"' for name, value in {"alertname": alert, **(labels or {})}.items())
        series = await self.query(f"ALERTS{{{matchers}}}[1h]")
        stamps = [float(stamp) for one in series for stamp, _ in one["values"] if float(stamp) >= since]
        return min(stamps, default=None)

    def _write(self) -> None:
        groups = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": instance, "role": role}}
            for instance, (port, role) in self._targets.items()
        ]
        new = self._targets_file.with_suffix(".new")
        new.write_text(json.dumps(groups))
        new.replace(self._targets_file)


class Alertmanager(Web):
    async def inhibited(self) -> set[str]:
        """Names of alerts that another one mutes at this moment."""
        return {one["labels"]["alertname"] for one in await self.alerts() if one["status"]["inhibitedBy"]}

    async def alerts(self) -> list[dict[str, Any]]:
        """Alerts it takes to go on, muted or not."""
        return list(await self.get("/api/v2/alerts"))


@asynccontextmanager
async def prometheus(
    folder: Path, session: aiohttp.ClientSession, *, alertmanager_url: str
) -> AsyncIterator[Prometheus]:
    """One that scrapes what `scrape` names as the job `runwire`; it has no rules yet."""
    folder.mkdir(parents=True)
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": []}))
    (folder / "targets.json").write_text("[]")
    configuration = {
        "global": {"scrape_interval": TICK, "scrape_timeout": TICK, "evaluation_interval": TICK},
        "rule_files": ["rules.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager_url.removeprefix("http://")]}]}]},
        "scrape_configs": [
            {"job_name": "runwire", "file_sd_configs": [{"files": ["targets.json"], "refresh_interval": "1s"}]}
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    port = free_port()
    server = Prometheus(port, session, folder=folder)
    async with _running(
        [
            "prometheus",
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--web.enable-lifecycle",
            "--rules.alert.resend-delay=3s",
            "--rules.alert.for-grace-period=0s",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
        ],
        server,
        folder=folder,
    ):
        yield server


@asynccontextmanager
async def alertmanager(
    folder: Path, session: aiohttp.ClientSession, *, configuration: Mapping[str, Any]
) -> AsyncIterator[Alertmanager]:
    folder.mkdir(parents=True)
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(dict(configuration)))
    port = free_port()
    server = Alertmanager(port, session)
    async with _running(
        [
            "prometheus-alertmanager",
            "--config.file=alertmanager.yml",
            "--storage.path=data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
            "--log.level=warn",
        ],
        server,
        folder=folder,
    ):
        yield server


@asynccontextmanager
async def _running(command: Sequence[str], web: Web, *, folder: Path) -> AsyncIterator[None]:
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            tied(command), cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )

    async def ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} ended while it started:\n{log.read_text(errors='replace')}")
        return await web.ready()

    try:
        await eventually(ready, within_s=20)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

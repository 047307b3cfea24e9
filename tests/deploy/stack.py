"""docker-compose.yml and the files it mounts, as data: who listens where, who is told to go where."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
PARTS: Final = ("docker-compose.yml", "Dockerfile", ".dockerignore", "pyproject.toml", "deploy", "alerts", "dashboards")
"""The files of the stack: enough of the tree to check it elsewhere."""

# Where the images of others listen unless told otherwise; for those that are told, see Stack.ports.
USUAL_PORTS: Final[Mapping[str, set[int]]] = {
    "postgres": {5432},
    "prom/prometheus": {9090},
    "prom/alertmanager": {9093},
    "grafana/grafana": {3000},
    "prometheuscommunity/postgres-exporter": {9187},
}
_ADDRESS: Final = re.compile(r"(?:https?|postgresql)://(?:\w+@)?([\w.-]+):(\d+)")


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder or file of the tree, or a named volume, and where a container has it."""

    source: str
    target: str
    mode: str

    @property
    def named(self) -> bool:
        return not self.source.startswith(".")


@dataclass(frozen=True, slots=True)
class Address:
    """Somebody is told to go to `host:port`; `where` says in which file."""

    where: str
    service: str
    host: str
    port: int


class Stack:
    """The stack as it lies in `root`."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root

    @cached_property
    def compose(self) -> dict[str, Any]:
        return self._yaml("docker-compose.yml")

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        services: dict[str, dict[str, Any]] = self.compose["services"]
        return services

    @cached_property
    def prometheus(self) -> dict[str, Any]:
        return self._yaml("deploy/prometheus.yml")

    @cached_property
    def alertmanager(self) -> dict[str, Any]:
        return self._yaml("alerts/alertmanager.yaml")

    @cached_property
    def collector(self) -> dict[str, Any]:
        return self._yaml("deploy/otel-collector.yaml")

    @cached_property
    def tempo(self) -> dict[str, Any]:
        return self._yaml("deploy/tempo.yaml")

    @cached_property
    def datasources(self) -> dict[str, dict[str, Any]]:
        """By uid."""
        found = self._yaml("deploy/grafana/provisioning/datasources/datasources.yaml")["datasources"]
        return {one["uid"]: one for one in found}

    @cached_property
    def thresholds(self) -> dict[str, Any]:
        return self._yaml("alerts/thresholds.yaml")

    @property
    def roles(self) -> dict[str, str]:
        """Role by the service that has it."""
        return {
            name: service["command"][1]
            for name, service in self.services.items()
            if service.get("command", ())[:1] == ["--role"]
        }

    def mounts(self, service: str) -> list[Mount]:
        return [Mount(*_split(volume)) for volume in self.services[service].get("volumes", ())]

    def inside(self, service: str, path: str) -> Path | None:
        """The file or folder of the tree that the service finds at `path`; None where nothing is mounted."""
        for mount in self.mounts(service):
            if not mount.named and (path == mount.target or path.startswith(mount.target + "/")):
                return self.root / mount.source / path.removeprefix(mount.target).lstrip("/")
        return None

    def networks(self, service: str) -> set[str]:
        """Names of networks, or of the service whose network it shares."""
        made: dict[str, Any] = self.services[service]
        shared = str(made.get("network_mode", ""))
        if shared.startswith("service:"):
            return self.networks(shared.removeprefix("service:"))
        return set(made.get("networks", ["default"]))

    def ports(self, service: str) -> set[int]:
        """The ports that it publishes."""
        made = self.services[service]
        if service in self.roles:
            return {9464} | ({8080} if self.roles[service] == "api" else set())
        image = str(made["image"]).rpartition(":")[0]
        if image == "grafana/tempo":
            receivers = self.tempo["distributor"]["receivers"]["otlp"]["protocols"]
            return {self.tempo["server"]["http_listen_port"], *(_port(one["endpoint"]) for one in receivers.values())}
        if image == "otel/opentelemetry-collector":
            receivers = self.collector["receivers"]["otlp"]["protocols"]
            readers = self.collector["service"]["telemetry"]["metrics"]["readers"]
            return {
                *(_port(one["endpoint"]) for one in receivers.values()),
                *(reader["pull"]["exporter"]["prometheus"]["port"] for reader in readers),
            }
        return set(USUAL_PORTS.get(image, ()))

    def addresses(self) -> Iterator[Address]:
        """Everywhere that somebody is told to go, by the name of a service."""
        for name, service in self.services.items():
            for key, value in service.get("environment", {}).items():
                if not key.startswith("GF_"):
                    # The exporter of PostgreSQL is told where to go without a scheme.
                    text = f"postgresql://{value}" if key == "DATA_SOURCE_URI" else str(value)
                    yield from _addresses(f"environment {key}", name, text)
        for scrape in self.prometheus["scrape_configs"]:
            for target in _targets(scrape):
                host, _, port = target.partition(":")
                yield Address(f"job {scrape['job_name']}", "prometheus", host, int(port))
        for one in self.prometheus["alerting"]["alertmanagers"]:
            for target in _targets(one):
                host, _, port = target.partition(":")
                yield Address("alertmanagers", "prometheus", host, int(port))
        for name, exporter in self.collector["exporters"].items():
            yield from _addresses(f"exporter {name}", "collector", exporter["endpoint"])
        for uid, datasource in self.datasources.items():
            yield from _addresses(f"datasource {uid}", "grafana", datasource["url"])

    def copy(self, to: Path) -> Stack:
        """The same stack somewhere else, to be changed."""
        to.mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            source = self.root / part
            if source.is_dir():
                shutil.copytree(source, to / part)
            else:
                shutil.copy(source, to / part)
        return Stack(to)

    def lay_out(self, service: str, to: Path) -> Path:
        """The files of the tree as the service finds them, below `to`."""
        for mount in self.mounts(service):
            if mount.named:
                continue
            target = to / mount.target.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            source = self.root / mount.source
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copy(source, target)
        return to

    def refused_by(self, program: str) -> str:
        """The objections of a compose program to the file; empty when it accepts it. No engine is asked."""
        command = [*program.split(), "--file", str(self.root / "docker-compose.yml"), "config", "--quiet"]
        ran = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)
        return "" if ran.returncode == 0 else ran.stdout + ran.stderr

    def _yaml(self, path: str) -> dict[str, Any]:
        read: dict[str, Any] = yaml.safe_load((self.root / path).read_text(encoding="utf-8"))
        return read


def _split(volume: str) -> tuple[str, str, str]:
    source, target, *mode = volume.split(":")
    return source, target, mode[0] if mode else "rw"


def _port(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


def _targets(discovery: Mapping[str, Any]) -> Iterator[str]:
    for group in discovery["static_configs"]:
        yield from group["targets"]


def _addresses(where: str, service: str, text: str) -> Iterator[Address]:
    for host, port in _ADDRESS.findall(text):
        yield Address(where, service, host, int(port))

"""Faults of a stack: each check compares files that must agree, or holds one to a rule of ours."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args
from urllib.parse import urlsplit

import yaml

from deploy.stack import Stack
from runwire.cli import options
from runwire.settings import Role, Settings
from telemetry.tables import code, table

PINNED: Final = re.compile(r"[\w./-]+:v?\d+\.\d+(\.\d+)?(-[\w.]+)?$")
WITHOUT_PROBE: Final = {"collector", "tempo"}
"""Their images hold one program, which cannot ask itself; Prometheus scrapes them instead."""
HOST: Final = "127.0.0.1"
METRIC: Final = re.compile(r"\brunwire_[a-z0-9_]+\b")
RECORDED: Final = re.compile(r"\b[a-z]+:[a-z0-9_]+:[a-z0-9_]+\b")


def faults(stack: Stack) -> list[str]:
    """A sentence for each; none when the stack holds together."""
    found: list[str] = []
    for check in (
        _images, _confinement, _published, _mounted, _healthy, _settings, _shared, _reachable,
        _scraped, _paged, _traced, _grafana, _dashboards, _collector,
    ):  # fmt: skip
        found += check(stack)
    return found


def _images(stack: Stack) -> Iterator[str]:
    version = tomllib.loads((stack.root / "pyproject.toml").read_text())["project"]["version"]
    for name, service in stack.services.items():
        if not PINNED.match(service["image"]):
            yield f"{name}: {service['image']} is no exact version"
        if "build" in service and service["image"] != f"runwire:{version}":
            yield f"{name}: the image of this version is runwire:{version}"
    dockerfile = (stack.root / "Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", dockerfile, flags=re.MULTILINE)
    # With a compiler to build, slim to run.
    if len({base.replace("-slim-", "-") for base in bases}) != 1 or not re.match(r"python:\d+\.\d+\.\d+-", bases[0]):
        yield f"Dockerfile: {bases} are not one exact version"
    let_in = {line[1:] for line in (stack.root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, flags=re.MULTILINE):
        for source in line.split():
            if source not in let_in:
                yield f"Dockerfile: {source} is copied, and ignored by .dockerignore"
    if "--require-hashes" not in dockerfile or not re.search(r"^USER [1-9]", dockerfile, flags=re.MULTILINE):
        yield "Dockerfile: installs what nobody has pinned, or runs as root"


def _confinement(stack: Stack) -> Iterator[str]:
    for name, service in stack.services.items():
        if not service.get("read_only"):
            yield f"{name}: its file system is writable"
        if service.get("cap_drop") != ["ALL"] or service.get("cap_add") or service.get("privileged"):
            yield f"{name}: has capabilities"
        if "no-new-privileges:true" not in service.get("security_opt", ()):
            yield f"{name}: may gain privileges"
        if service.get("user") in ("root", "0", 0) or (name == "postgres" and "user" not in service):
            yield f"{name}: runs as root"
        if "/var/run/docker.sock" in str(service):
            yield f"{name}: holds the engine"


def _published(stack: Stack) -> Iterator[str]:
    for name, service in stack.services.items():
        for published in service.get("ports", ()):
            host, _, inside = str(published).rpartition(":")
            if not host.startswith(f"{HOST}:"):
                yield f"{name}: {published} is open to other machines"
            if int(inside) not in stack.ports(name):
                yield f"{name}: nothing listens on {inside}"


def _mounted(stack: Stack) -> Iterator[str]:
    for name, service in stack.services.items():
        for mount in stack.mounts(name):
            if mount.named:
                if mount.source not in stack.compose["volumes"]:
                    yield f"{name}: no volume {mount.source}"
            elif not (stack.root / mount.source).exists():
                yield f"{name}: {mount.source} does not exist"
            elif mount.mode != "ro":
                yield f"{name}: may write to {mount.source}"
        words = [*service.get("entrypoint", ()), *service.get("command", ()), *service.get("environment", {}).values()]
        for word in words:
            path = str(word).rpartition("=")[2]
            if re.match(r"/(etc|app)/", path) and not _exists(stack.inside(name, path)):
                yield f"{name}: {path} is not mounted"
    for rules in stack.prometheus["rule_files"]:
        if not _exists(stack.inside("prometheus", f"/etc/prometheus/{rules}")):
            yield f"prometheus: {rules} is not mounted"
    for provider in _providers(stack):
        if not _exists(stack.inside("grafana", provider["options"]["path"])):
            yield f"grafana: {provider['options']['path']} is not mounted"
    kept = {volume for name in stack.services for mount in stack.mounts(name) for volume in [mount.source]}
    for volume in stack.compose["volumes"]:
        if volume not in kept:
            yield f"volume {volume}: nobody has it"


def _healthy(stack: Stack) -> Iterator[str]:
    for name, service in stack.services.items():
        probed = "healthcheck" in service or name in stack.roles  # those have the Dockerfile's
        if not probed and name not in WITHOUT_PROBE:
            yield f"{name}: has no healthcheck"
        for other, wanted in service.get("depends_on", {}).items():
            if other not in stack.services:
                yield f"{name}: depends on {other}, which does not exist"
            elif wanted["condition"] == "service_healthy" and other in WITHOUT_PROBE:
                yield f"{name}: waits for {other} to be healthy, which nobody asks"


def _settings(stack: Stack) -> Iterator[str]:
    known = {f"RUNWIRE_{name.upper()}" for name in Settings.model_fields}
    known |= {get_args(option)[1].envvar for option in (options.Url, options.Token)}
    for name, service in stack.services.items():
        for variable in service.get("environment", {}):
            if variable.startswith("RUNWIRE_") and variable not in known:
                yield f"{name}: {variable} is no setting"


SHARED: Final = {
    "archive": {"archiver": ["rw"], "api": ["ro"], "observer": ["ro"]},
    "content": {"api": ["rw"], "worker": ["rw"], "collector": ["rw"]},
}
"""Roles that share a volume, by what is there."""


def _shared(stack: Stack) -> Iterator[str]:
    """Of the roles, who writes the archive or content and who reads it has the same volume, and may write to it."""
    missing = {str(role) for role in Role} - set(stack.roles.values())
    if missing:
        yield f"services: nobody has the role {', '.join(sorted(missing))}"
    for what, modes in SHARED.items():
        yield from _on_one_volume(stack, what, modes)


def _on_one_volume(stack: Stack, what: str, modes: dict[str, list[str]]) -> Iterator[str]:
    dockerfile = (stack.root / "Dockerfile").read_text()
    user = re.findall(r"^USER (\d+):", dockerfile, flags=re.MULTILINE)
    volumes = set()
    for name, role in stack.roles.items():
        folder = stack.services[name]["environment"].get(f"RUNWIRE_{what.upper()}_URL", "nowhere")
        kept = [mount for mount in stack.mounts(name) if mount.named and mount.target == folder]
        wanted = modes.get(role, [])
        if [mount.mode for mount in kept] != wanted:
            yield f"{name}: the {what}, {folder}, is mounted as {kept}, not as {wanted}"
        volumes |= {mount.source for mount in kept}
        if not re.search(f"install --directory --owner={user[0]} --group={user[0]} {folder}( |\n)", dockerfile):
            yield f"Dockerfile: {folder} is not the user's"
    if len(volumes) != 1:
        yield f"services: the {what} is on {sorted(volumes)}, not on one volume"


def _reachable(stack: Stack) -> Iterator[str]:
    for address in stack.addresses():
        told = f"{address.where} of {address.service}"
        host = address.service if address.host == "localhost" else address.host
        if host not in stack.services:
            yield f"{told}: there is no service {host}"
        elif address.port not in stack.ports(host):
            yield f"{told}: {host} does not listen on {address.port}"
        elif not stack.networks(address.service) & stack.networks(host):
            yield f"{told}: {host} is in another network"


def _scraped(stack: Stack) -> Iterator[str]:
    jobs: dict[str, dict[str, str]] = {}
    for scrape in stack.prometheus["scrape_configs"]:
        for group in scrape["static_configs"]:
            for target in group["targets"]:
                jobs.setdefault(scrape["job_name"], {})[target.partition(":")[0]] = group.get("labels", {}).get(
                    "role", ""
                )
    rules = (stack.root / "alerts" / "alert-rules.yaml").read_text()
    (watched,) = set(re.findall(r'up\{job=~"([^"]+)"\}', rules))
    ours = {job: targets for job, targets in jobs.items() if re.fullmatch(watched, job)}
    if [*ours.values()] != [stack.roles]:
        yield f"prometheus: {stack.roles} are not the targets of one job that the alerts watch: {ours}"
    for name in WITHOUT_PROBE:
        if not any(name in targets for targets in jobs.values()):
            yield f"{name}: nobody asks how it is"
    interval = stack.prometheus["global"]["scrape_interval"]
    for uid, datasource in stack.datasources.items():
        if datasource["type"] == "prometheus" and datasource["jsonData"]["timeInterval"] != interval:
            yield f"datasource {uid}: timeInterval is not the scrape_interval, {interval}"
    (kept,) = re.findall(r"--storage.tsdb.retention.time=(\d+)d", str(stack.services["prometheus"]["command"]))
    if int(kept) <= int(stack.thresholds["slos"]["window"].removesuffix("d")):
        yield f"prometheus: forgets after {kept} days, before the objectives do"


def _paged(stack: Stack) -> Iterator[str]:
    pager = stack.services["pager"]
    script = stack.inside("pager", pager["entrypoint"][1])
    text = script.read_text() if script is not None and script.exists() else ""
    port = re.findall(r"^PORT: Final = (\d+)$", text, flags=re.MULTILINE)
    for receiver in stack.alertmanager["receivers"]:
        for webhook in receiver["webhook_configs"]:
            at = urlsplit(webhook["url"])
            if at.hostname != HOST or pager["network_mode"] != "service:alertmanager":
                yield f"receiver {receiver['name']}: {webhook['url']} is not the pager's"
            if [str(at.port)] != port:
                yield f"receiver {receiver['name']}: the pager does not listen on {at.port}"
    runbook = urlsplit(stack.thresholds["links"]["runbook"])
    if f"{runbook.hostname}:{runbook.port}:8080" not in stack.services["api"]["ports"]:
        yield f"links.runbook: {runbook.netloc} is not where the api is published"
    for name in ("prometheus", "alertmanager"):
        (url,) = re.findall(r"--web.external-url=(\S+?)[',]", str(stack.services[name]["command"]))
        if not any(urlsplit(url).netloc == ports.rpartition(":")[0] for ports in stack.services[name]["ports"]):
            yield f"{name}: its links lead to {url}, where it is not published"


def _traced(stack: Stack) -> Iterator[str]:
    receivers = stack.collector["receivers"]["otlp"]["protocols"]
    taken = "http://collector:" + receivers["http"]["endpoint"].rpartition(":")[2]
    for name in stack.roles:
        if stack.services[name]["environment"].get("OTEL_EXPORTER_OTLP_ENDPOINT") != taken:
            yield f"{name}: its spans do not go to {taken}"
    kept = [path["path"] for path in (stack.tempo["storage"]["trace"]["wal"], stack.tempo["storage"]["trace"]["local"])]
    volumes = [mount.target for mount in stack.mounts("tempo") if mount.named]
    for path in kept:
        if not any(path.startswith(volume + "/") for volume in volumes):
            yield f"tempo: {path} is on no volume"


def _grafana(stack: Stack) -> Iterator[str]:
    exported = {code(row[0]) for row in table("Metrics")}
    groups = yaml.safe_load((stack.root / "alerts" / "recording-rules.yaml").read_text())["groups"]
    recorded = {rule["record"] for group in groups for rule in group["rules"]}
    types = {uid: one["type"] for uid, one in stack.datasources.items()}
    if sorted(types.values()) != ["alertmanager", "prometheus", "tempo"]:
        yield f"grafana: its datasources are {types}"
    for uid, datasource in stack.datasources.items():
        if "$" in json.dumps(datasource):
            yield f"datasource {uid}: a $ would be taken for an environment variable"
        data = datasource["jsonData"]
        links = [
            ("alertmanager", data.get("alertmanagerUid")),
            ("prometheus", data.get("tracesToMetrics", {}).get("datasourceUid")),
            *(("tempo", one["datasourceUid"]) for one in data.get("exemplarTraceIdDestinations", ())),
        ]
        for wanted, linked in links:
            if linked is not None and types.get(linked) != wanted:
                yield f"datasource {uid}: {linked} is no {wanted}"
        for query in data.get("tracesToMetrics", {}).get("queries", ()):
            names = set(RECORDED.findall(query["query"])) - recorded
            names |= set(METRIC.findall(RECORDED.sub("", query["query"]))) - exported
            for name in sorted(names):
                yield f"datasource {uid}: nobody exports {name}"


def _dashboards(stack: Stack) -> Iterator[str]:
    types = {datasource["type"] for datasource in stack.datasources.values()}
    for path in sorted((stack.root / "dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        variables = {one["name"]: one for one in board["templating"]["list"]}
        for name, variable in variables.items():
            if variable["type"] == "datasource" and variable["query"] not in types:
                yield f"{path.name}: ${name} asks for a {variable['query']}, which is not provisioned"
        for uid in _uids(board):
            named = re.fullmatch(r"\$\{?(\w+)\}?", uid)
            if uid not in stack.datasources and uid != "-- Grafana --" and (not named or named[1] not in variables):
                yield f"{path.name}: there is no datasource {uid}"


def _collector(stack: Stack) -> Iterator[str]:
    for name, pipeline in stack.collector["service"]["pipelines"].items():
        for kind in ("receivers", "processors", "exporters"):
            for component in pipeline[kind]:
                if component not in stack.collector.get(kind, {}):
                    yield f"collector: the pipeline {name} has {component} in its {kind}, which is not defined"
        if pipeline["processors"][:1] != ["memory_limiter"]:
            yield f"collector: the pipeline {name} takes more than it can hold"
    used = {
        part for one in stack.collector["service"]["pipelines"].values() for parts in one.values() for part in parts
    }
    for kind in ("receivers", "processors", "exporters"):
        for component in stack.collector[kind]:
            if component not in used:
                yield f"collector: {component} is in no pipeline"


def _uids(part: Any) -> Iterator[str]:
    """The uid of every datasource that is named anywhere below."""
    if isinstance(part, dict):
        datasource = part.get("datasource")
        if isinstance(datasource, dict) and "uid" in datasource:
            yield str(datasource["uid"])
        for below in part.values():
            yield from _uids(below)
    elif isinstance(part, list):
        for below in part:
            yield from _uids(below)


def _providers(stack: Stack) -> list[dict[str, Any]]:
    folder = stack.root / "deploy" / "grafana" / "provisioning" / "dashboards"
    read: list[dict[str, Any]] = yaml.safe_load((folder / "dashboards.yaml").read_text())["providers"]
    return read


def _exists(path: Path | None) -> bool:
    return path is not None and path.exists()

"""The stack of docker-compose.yml holds together. No engine runs it here; what can be checked without one is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.faults import faults
from deploy.stack import Stack

STACK = Stack()
COMPOSE = "docker-compose.yml"
PROMETHEUS = "deploy/prometheus.yml"
COLLECTOR = "deploy/otel-collector.yaml"
DATASOURCES = "deploy/grafana/provisioning/datasources/datasources.yaml"
needs_compose = pytest.mark.skipif(shutil.which("docker-compose") is None, reason="needs docker-compose")
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
needs_amtool = pytest.mark.skipif(shutil.which("amtool") is None, reason="needs amtool")


def test_everything_in_the_stack_agrees_with_everything_else() -> None:
    assert faults(STACK) == []


@pytest.mark.parametrize(
    ("path", "old", "new", "told"),
    [
        (COMPOSE, "prom/prometheus:v3.13.2", "prom/prometheus:latest", "prometheus: .* is no exact version"),
        (COMPOSE, "image: runwire:0.1.0", "image: runwire:0.0.9", "api: the image of this version is"),
        (COMPOSE, "  read_only: true\n", "", "grafana: its file system is writable"),
        (COMPOSE, "cap_drop: [ALL]", "cap_drop: [NET_RAW]", "tempo: has capabilities"),
        (COMPOSE, "no-new-privileges:true", "no-new-privileges:false", "seed: may gain privileges"),
        (COMPOSE, "    user: postgres\n", "", "postgres: runs as root"),
        (COMPOSE, '"127.0.0.1:9090:9090"', '"9090:9090"', "prometheus: .* is open to other machines"),
        (COMPOSE, '"127.0.0.1:3000:3000"', '"127.0.0.1:3000:3001"', "grafana: nothing listens on 3001"),
        (COMPOSE, "./deploy/seed.py:", "./deploy/seeds.py:", "seed: ./deploy/seeds.py does not exist"),
        (COMPOSE, "seed.py:ro", "seed.py", "seed: may write to"),
        (COMPOSE, "  tempo: {}\n", "", "tempo: no volume tempo"),
        (COMPOSE, "/app/pager.py:ro", "/app/page.py:ro", "pager: /app/pager.py is not mounted"),
        (COMPOSE, "./alerts:/etc", "./docs:/etc", "prometheus: alerts/alert-rules.yaml is not mounted"),
        (COMPOSE, "dashboards/overview.json", "dashboards/home.json", "grafana: .*home.json is not mounted"),
        (COMPOSE, "tempo: {condition: service_started}", "tempo: {condition: service_healthy}", "nobody asks"),
        (COMPOSE, "RUNWIRE_TRACE_SAMPLE_RATIO", "RUNWIRE_SAMPLE_RATIO", "worker: RUNWIRE_SAMPLE_RATIO is no setting"),
        (COMPOSE, "postgres:5432/runwire", "postgres:5433/runwire", "postgres does not listen on 5433"),
        (COMPOSE, "networks: [default, data]", "networks: [default]", "postgres is in another network"),
        (COMPOSE, "URI: postgres:5432", "URI: postgres:5433", "DATA_SOURCE_URI of .* does not listen on 5433"),
        (PROMETHEUS, "exporter:9187", "exporter:9188", "postgres-exporter does not listen on 9188"),
        (COMPOSE, "RUNWIRE_URL: http://api", "RUNWIRE_URL: http://app", "there is no service app"),
        (COMPOSE, "[--role, archiver]", "[--role, worker]", "nobody has the role archiver"),
        (COMPOSE, '["archive:/var/lib/runwire/archive"]', "[]", "archiver: the archive, .*, is mounted as \\[\\]"),
        (COMPOSE, "runwire/archive:ro", "runwire/archive", "api: the archive, .* not as \\['ro'\\]"),
        (COMPOSE, "RUNWIRE_ARCHIVE_URL: /var", "RUNWIRE_ARCHIVE_URL: /srv", "observer: the archive, /srv"),
        (COMPOSE, '["archive:/var/lib/runwire/archive"]', '["tempo:/var/lib/runwire/archive"]', "not on one volume"),
        (COMPOSE, "content:/var/lib/runwire/content", "content:/srv/content", "worker: the content, .*, is mounted as"),
        (COMPOSE, "  archive: {}\n", "", "archiver: no volume archive"),
        (COMPOSE, "time=35d", "time=15d", "prometheus: forgets after 15 days"),
        (COMPOSE, "network_mode: service:alertmanager", "network_mode: service:api", "is not the pager's"),
        (COMPOSE, '"127.0.0.1:8080:8080"', '"127.0.0.1:8081:8080"', "is not where the api is published"),
        (COMPOSE, "external-url=http://127.0.0.1:9093/", "external-url=http://127.0.0.1:9094/", "where it is not"),
        (COMPOSE, "http://collector:4318", "http://collector:8888", "publisher: its spans do not go to"),
        ("deploy/pager.py", "9095", "9096", "receiver page: the pager does not listen on 9095"),
        ("deploy/tempo.yaml", "path: /var/tempo/wal", "path: /tmp/wal", "tempo: /tmp/wal is on no volume"),
        ("deploy/tempo.yaml", "0.0.0.0:4318", "0.0.0.0:4319", "tempo does not listen on 4318"),
        (PROMETHEUS, "job_name: runwire", "job_name: app", "are not the targets of one job that the alerts watch"),
        (PROMETHEUS, "worker:9464", "workers:9464", "there is no service workers"),
        (PROMETHEUS, "role: archiver", "role: archive", "are not the targets of one job"),
        (PROMETHEUS, "collector:8888", "collector:8889", "collector does not listen on 8889"),
        (PROMETHEUS, "scrape_interval: 5s", "scrape_interval: 15s", "timeInterval is not the scrape_interval, 15s"),
        (PROMETHEUS, "tempo:3200", "grafana:3000", "tempo: nobody asks how it is"),
        (COLLECTOR, "processors: [memory_limiter, batch]", "processors: [batches]", "has batches in its processors"),
        (COLLECTOR, "exporters: [otlp_http]", "exporters: []", "otlp_http is in no pipeline"),
        (DATASOURCES, "datasourceUid: tempo", "datasourceUid: jaeger", "jaeger is no tempo"),
        (DATASOURCES, "alertmanagerUid: alertmanager", "alertmanagerUid: tempo", "tempo is no alertmanager"),
        (DATASOURCES, "uid: prometheus\n", "uid: metrics\n", "datasource tempo: prometheus is no prometheus"),
        (DATASOURCES, "runwire_outbox_backlog_events", "runwire_backlog", "nobody exports runwire_backlog"),
        (DATASOURCES, "lag_seconds:p95_rate1m", "lag_seconds:p94_rate1m", "nobody exports job:.*p94"),
        (DATASOURCES, "query: max", "query: $x max", "a \\$ would be taken"),
        ("dashboards/sse.json", "${datasource}", "thanos", "sse.json: there is no datasource thanos"),
        ("Dockerfile", "FROM python:3.13.15-bookworm AS", "FROM python:3.13-bookworm AS", "not one exact version"),
        ("Dockerfile", "USER 10001", "USER 0", "runs as root"),
        ("Dockerfile", "--owner=10001", "--owner=0", "archive is not the user's"),
        (".dockerignore", "!requirements-image.lock\n", "", "requirements-image.lock is copied, and ignored"),
    ],
)  # fmt: skip
def test_what_does_not_agree_is_told(path: str, old: str, new: str, told: str, tmp_path: Path) -> None:
    copy = STACK.copy(tmp_path / "copy")
    text = (copy.root / path).read_text()
    assert old in text
    (copy.root / path).write_text(text.replace(old, new))
    assert re.search(told, "\n".join(faults(copy)))


@needs_compose
def test_compose_takes_the_file() -> None:
    """Version 1.29 as Debian has it and, where it is installed, the plugin, version 2."""
    plugin = shutil.which("docker") is not None and not subprocess.run(["docker", "compose", "version"], check=False,
        capture_output=True).returncode  # fmt: skip
    for program in ("docker-compose", *(["docker compose"] if plugin else [])):
        assert STACK.refused_by(program) == "", program


@needs_compose
def test_compose_refuses_a_key_that_it_does_not_know(tmp_path: Path) -> None:
    copy = STACK.copy(tmp_path / "copy")
    compose = copy.root / COMPOSE
    compose.write_text(compose.read_text().replace("healthcheck:", "health_check:", 1))
    assert "health_check" in copy.refused_by("docker-compose")


@needs_promtool
def test_prometheus_takes_its_configuration_and_finds_the_rules_where_they_are_mounted(tmp_path: Path) -> None:
    inside = STACK.lay_out("prometheus", tmp_path) / "etc" / "prometheus"
    checked = _ran("promtool", "check", "config", str(inside / "prometheus.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("rules found") == 2
    (inside / "prometheus.yml").write_text(
        (inside / "prometheus.yml").read_text().replace("scrape_timeout", "patience")
    )
    assert _ran("promtool", "check", "config", str(inside / "prometheus.yml")).returncode != 0


@needs_amtool
def test_alertmanager_takes_its_configuration_where_it_is_mounted(tmp_path: Path) -> None:
    inside = STACK.lay_out("alertmanager", tmp_path) / "etc" / "alertmanager" / "alertmanager.yaml"
    checked = _ran("amtool", "check-config", str(inside))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def _ran(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)

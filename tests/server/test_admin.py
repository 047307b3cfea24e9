"""The admin listener."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from runwire.assembly import Assembly
from server.calls import Api


async def test_a_query_that_no_route_knows_is_refused(admin: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        answer = await admin.get(path, params={"verbose": "1"})
        assert (answer.status_code, answer.json()["code"]) == (400, "unknown_parameter"), path


async def test_readiness_tells_the_ports_and_roles(service: Assembly, admin: httpx.AsyncClient) -> None:
    response = await admin.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {
        "ready": True,
        "checks": {"database": "ok", "process": "ok"},
        "apiPort": service.api_port,
        "adminPort": service.admin_port,
        "roles": [role.value for role in service.settings.roles],
    }


async def test_a_draining_process_is_alive_and_not_ready(service: Assembly, admin: httpx.AsyncClient) -> None:
    service.begin_drain()
    answers = [await admin.get(path) for path in ("/readyz", "/healthz")]
    assert [answer.status_code for answer in answers] == [503, 200]
    assert answers[0].json()["ready"] is False


@pytest.mark.parametrize(
    ("accept", "media_type", "end"),
    [
        ("", "text/plain", "\n"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text", "# EOF\n"),
    ],
)
async def test_metrics_come_as_the_scraper_asks(
    api: Api, admin: httpx.AsyncClient, accept: str, media_type: str, end: str
) -> None:
    await api.ended((await api.start())["runId"])
    response = await admin.get("/metrics", headers={"Accept": accept})
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith(media_type)
    assert 'runwire_runs_finished_total{agent="golden",outcome="finished"} 1.0' in response.text
    assert response.text.endswith(end)


async def test_the_api_is_not_on_the_admin_listener_nor_the_other_way_round(api: Api, admin: httpx.AsyncClient) -> None:
    assert (await admin.get("/api/agents/runs")).json()["code"] == "not_found"
    assert (await api.http.get("/metrics")).json()["code"] == "not_found"
    assert (await api.http.get("/readyz")).status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9464", "localhost.evil.example", "evil", "[", "a@b.c"])
async def test_a_name_that_was_rebound_reads_nothing(admin: httpx.AsyncClient, host: str) -> None:
    for path in ("/metrics", "/readyz", "/healthz", "/openapi.json"):
        answer = await admin.get(path, headers={"Host": host})
        assert (answer.status_code, answer.json()["code"]) == (403, "host_refused")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:9464", "[::1]:9464", "10.1.2.3", "a.localhost"]
)
async def test_addresses_and_names_of_this_machine_do(admin: httpx.AsyncClient, host: str) -> None:
    assert (await admin.get("/healthz", headers={"Host": host})).status_code == 200


class TestWhereOthersScrape:
    @pytest.fixture
    def overrides(self) -> dict[str, Any]:
        return {"admin_host": "0.0.0.0", "admin_allowed_hosts": "Box.example"}  # noqa: S104  # as in a container

    async def test_allowed_names_and_names_without_a_dot_do_too(self, admin: httpx.AsyncClient) -> None:
        for host, status in (("box.example", 200), ("api:9464", 200), ("evil.example", 403)):
            assert (await admin.get("/healthz", headers={"Host": host})).status_code == status

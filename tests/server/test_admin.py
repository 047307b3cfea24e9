"""The admin listener."""

from __future__ import annotations

import httpx
import pytest

from runwire.assembly import Assembly
from server.calls import Api


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
    service._draining = True
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

"""Requests count by route and status, at the head of their answer; a scrape of any role stays small."""

from __future__ import annotations

import httpx
import pytest

from runwire.archive import ArchiveMetrics
from runwire.assembly import Assembly
from runwire.content import ContentMetrics
from runwire.content.part_metrics import PartMetrics
from runwire.observe import ObserverMetrics
from runwire.process.metrics import PlaceMetrics
from runwire.server.metrics import RequestMetrics
from runwire.server.table import API_ROUTES
from runwire.telemetry.labels import LABEL_LIMIT, NODES_BESIDE_API
from runwire.telemetry.metrics import Metrics
from server.calls import RUNS, Api, streaming

MANY_AGENTS = {f"agent{n}": [f"Node{n}x{k}" for k in range(5)] for n in range(50)}


async def series(admin: httpx.AsyncClient) -> dict[str, float]:
    lines = (await admin.get("/metrics")).text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


async def counted(admin: httpx.AsyncClient, route: str) -> dict[str, float]:
    """Requests of the route by status, those that there were."""
    found = await series(admin)
    by_status = {
        status: found.get(f'runwire_http_requests_total{{route="{route}",status="{status}"}}', 0.0)
        for status in ("2xx", "3xx", "4xx", "5xx")
    }
    assert found[f'runwire_http_request_duration_seconds_count{{route="{route}"}}'] == sum(by_status.values())
    return {status: count for status, count in by_status.items() if count}


async def test_a_request_counts_for_its_route_by_the_class_of_its_status(api: Api, admin: httpx.AsyncClient) -> None:
    await api.external("r")
    assert (await api.http.post(RUNS, content=b"{")).status_code == 400
    assert await counted(admin, "startRun") == {"2xx": 1, "4xx": 1}
    before = (await counted(admin, "getRun")).get("2xx", 0)
    await api.http.get(f"{RUNS}/r")
    await api.http.head(f"{RUNS}/r")
    await api.http.get(f"{RUNS}/nobody")
    assert await counted(admin, "getRun") == {"2xx": before + 2, "4xx": 1}
    etag = (await api.http.get("/openapi.json")).headers["ETag"]
    assert (await api.http.get("/openapi.json", headers={"If-None-Match": etag})).status_code == 304
    assert await counted(admin, "getOpenapi") == {"2xx": 1, "3xx": 1}


async def test_a_stream_counts_when_it_begins(api: Api, admin: httpx.AsyncClient) -> None:
    await api.external("r")
    async with streaming(api, "r") as stream:
        await stream.frames(1)
        assert await counted(admin, "streamRun") == {"2xx": 1}


async def test_pages_and_unknown_addresses_do_not_count(api: Api, admin: httpx.AsyncClient) -> None:
    before = {name: value for name, value in (await series(admin)).items() if "http_requests_total" in name}
    for path in ("/", "/docs", "/nothing", "/api/agents/nothing"):
        await api.http.get(path)
    await api.http.put(RUNS)
    after = {name: value for name, value in (await series(admin)).items() if "http_requests_total" in name}
    assert after == before


async def test_a_process_says_its_roles_and_whether_it_is_ready(service: Assembly, admin: httpx.AsyncClient) -> None:
    found = await series(admin)
    assert found["runwire_ready"] == 1
    for role in ("api", "worker", "publisher", "observer", "archiver", "collector"):
        assert found[f'runwire_role_info{{role="{role}"}}'] == 1
    service.begin_drain()
    assert (await series(admin))["runwire_ready"] == 0


@pytest.mark.parametrize(
    ("nodes_max", "serves"), [(LABEL_LIMIT, False), (NODES_BESIDE_API, True), (0, True)], ids=["worker", "all", "api"]
)
def test_a_scrape_has_under_a_thousand_samples_whatever_the_roles(nodes_max: int, serves: bool) -> None:
    metrics = Metrics(MANY_AGENTS, nodes_max=nodes_max)
    ObserverMetrics(metrics.out, agents=MANY_AGENTS)
    ArchiveMetrics(metrics.out)
    ContentMetrics(metrics.out)
    PartMetrics(metrics.out)
    PlaceMetrics(metrics.out)
    if serves:
        RequestMetrics(metrics.out, API_ROUTES)
    lines = metrics.exposition()[0].splitlines()
    assert sum(1 for line in lines if line and not line.startswith(b"#")) < 1000
    labels = [dict(one.labels) for one in metrics.out.declared if one.name == "runwire_http_requests_total"]
    assert all(set(values["status"]) <= {"2xx", "3xx", "4xx", "5xx"} for values in labels)

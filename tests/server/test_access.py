"""Permissions of callers on every route. The table is the application's own: a route that is added is tried here
without being named.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import asyncpg
import httpx
import pytest

from runwire.assembly import Assembly
from runwire.db.server_clock import ServerClock
from runwire.server.admission import Admission, AdmissionLimits
from runwire.server.app import build_api_app
from runwire.server.auth import Gate, Scope, Tickets
from runwire.server.auth.caller import Access
from runwire.server.metrics import RequestMetrics
from runwire.server.services import Services
from runwire.server.table import API_ROUTES
from runwire.settings import Settings
from runwire.telemetry.exposition import Exposition
from server.calls import RUNS, Api
from server.issuer import ALL_SCOPES, Issuer

ISSUER = Issuer()


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    access: Access

    @property
    def of_run(self) -> bool:
        return "{run_id}" in self.path

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def routes(**settings: Any) -> list[Route]:
    """Every route of the API listener, with what it asks for."""
    nothing = cast("Any", None)
    services = Services(
        control=nothing,
        external=nothing,
        diagnostician=nothing,
        streams=nothing,
        many=nothing,
        reader=nothing,
        artifacts=nothing,
        content=nothing,
        gate=Gate(Tickets(b"x", lifetime_s=1)),
        spans=nothing,
        settings=Settings(**settings),
        admission=Admission(AdmissionLimits(), refused={}),
        parts=nothing,
        part_feed=nothing,
        part_metrics=nothing,
        clock=ServerClock(nothing),
        requests=RequestMetrics(Exposition(), API_ROUTES),
        mixed=nothing,
        external_parts=nothing,
    )
    app = build_api_app(services)
    return [
        Route(route.method, route.resource.canonical, cast("Any", route.handler).access)
        for route in app.router.routes()
        if route.resource is not None
    ]


ROUTES = routes()
GUARDED = [route for route in ROUTES if route.access.scope is not None]


@pytest.fixture
def overrides(tmp_path: Path) -> dict[str, Any]:
    return ISSUER.settings(tmp_path, sse_max_age_s=0.5)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def caller(service: Assembly, **claims: Any) -> AsyncIterator[Api]:
    """A client with a good token."""
    async with httpx.AsyncClient(base_url=service.url, timeout=10, headers=bearer(ISSUER.token(**claims))) as http:
        yield Api(http)


async def asked(http: httpx.AsyncClient, route: Route, run_id: str, **more: Any) -> httpx.Response:
    """The route, called as a client would that knows the run, its fence, and what it waits for."""
    bodies: dict[str, Any] = {
        "/signal": {"name": "approved"},
        "/events": {"events": []},
        "/parts": {"name": "answer"},
        RUNS: {"runId": run_id, "external": True},
    }
    body = next((body for end, body in bodies.items() if route.path.endswith(end)), None)
    headers = {"Runwire-Fence": "1", **more.pop("headers", {})}
    query = {**({"name": "report"} if route.path.endswith("/artifacts") else {}), **more.pop("params", {})}
    return await http.request(
        route.method,
        route.path.replace("{run_id}", run_id).replace("{n}", "1"),
        params=query,
        json=body if route.method == "POST" else None,
        headers=headers,
        **more,
    )


async def with_content(owner: Api, run_id: str, *, fence: int) -> None:
    """Gives an external run a first artifact, and a result."""
    for name in ("report", "result"):
        stored = await owner.http.post(
            f"{RUNS}/{run_id}/artifacts",
            params={"name": name},
            content=b"theirs",
            headers={"Runwire-Fence": str(fence), "Content-Type": "text/plain"},
        )
        assert stored.status_code == 201, stored.text


def test_every_route_says_who_may_call_it_and_only_what_holds_no_data_is_public() -> None:
    public = {route.path for route in ROUTES if route.access.scope is None}
    pages = {"/", "/console.css", "/console.js", "/favicon.ico", "/docs", "/docs/{path}"}
    assert public == pages | {"/openapi.json"}
    of_content = {Scope.CONTENT_READ, Scope.CONTENT_WRITE, Scope.CONTENT_ERASE}
    assert {route.access.scope for route in GUARDED} | of_content == set(Scope)


def test_without_pages_nothing_is_public() -> None:
    assert [route for route in routes(pages=False) if route.access.scope is None] == []


async def test_nobody_is_refused_everywhere_and_told_how_to_say_who_they_are(service: Assembly, api: Api) -> None:
    for route in GUARDED:
        answer = await asked(api.http, route, "r")
        assert answer.status_code == 401, route
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="runwire"', route
        if route.method != "HEAD":
            assert answer.json()["code"] == "credentials_missing", route
    for route in ROUTES:
        if route.access.scope is None:
            answer = await api.http.request(route.method, route.path.replace("{path}", ""))
            assert answer.status_code in (200, 308), route


async def test_a_forged_or_stale_token_is_refused_everywhere(api: Api) -> None:
    for forgery, (token, code) in ISSUER.forgeries().items():
        for route in GUARDED:
            answer = await asked(api.http, route, "r", headers=bearer(token))
            assert answer.status_code == 401, (forgery, route)
            assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"], (forgery, route)
            if route.method != "HEAD":
                assert answer.json()["code"] == code, (forgery, route)
            assert token not in answer.text, (forgery, route)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic dTpw"},
        {"Authorization": "Bearer"},
        {"Authorization": ISSUER.token()},
    ],
    ids=["basic", "empty", "bare"],
)
async def test_credentials_of_another_kind_are_refused(api: Api, headers: dict[str, str]) -> None:
    answer = await api.http.get(RUNS, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "credentials_invalid")


async def test_refusals_are_counted_by_code(api: Api, admin: httpx.AsyncClient) -> None:
    for token in (None, "nonsense", ISSUER.token(exp=1), ISSUER.token(scope="")):
        await api.http.get(RUNS, headers={} if token is None else bearer(token))
    scrape = (await admin.get("/metrics")).text
    for code in ("credentials_missing", "credentials_invalid", "credentials_expired", "scope_missing"):
        assert f'runwire_access_refused_total{{code="{code}"}} 1.0' in scrape
    assert 'runwire_access_refused_total{code="auth_unavailable"} 0.0' in scrape


async def test_two_credentials_are_one_too_many(api: Api) -> None:
    twice = [("Authorization", f"Bearer {ISSUER.token()}")] * 2
    assert (await api.http.get(RUNS, headers=twice)).json()["code"] == "credentials_invalid"


async def test_every_scope_but_the_right_one_is_not_enough(service: Assembly) -> None:
    for route in GUARDED:
        others = " ".join(set(ALL_SCOPES.split()) - {str(route.access.scope)})
        async with caller(service, scope=f"{others} openid admin *") as other:
            answer = await asked(other.http, route, "r")
        assert answer.status_code == 403, route
        assert f'error="insufficient_scope", scope="{route.access.scope}"' in answer.headers["WWW-Authenticate"]
        if route.method != "HEAD":
            assert (answer.json()["code"], answer.json()["scope"]) == ("scope_missing", route.access.scope)


async def test_the_right_scope_alone_is_enough(service: Assembly) -> None:
    async with caller(service) as owner:
        fence = await owner.external("acme:r")
        await with_content(owner, "acme:r", fence=fence)
        await owner.open_part("acme:r", fence=fence)
    for route in GUARDED:
        async with caller(service, scope=str(route.access.scope)) as one:
            answer = await asked(one.http, route, "acme:r")
        assert answer.status_code not in (401, 403, 404), (route, answer.text)


async def test_scopes_may_be_a_list(service: Assembly) -> None:
    async with caller(service, scope=["runs:read"]) as reader:
        assert (await reader.http.get(RUNS)).status_code == 200
    async with caller(service, scope={"runs:read": True}) as odd:
        assert (await odd.http.get(RUNS)).status_code == 403


async def test_an_es256_token_is_as_good(service: Assembly, api: Api) -> None:
    assert (await api.http.get(RUNS, headers=bearer(ISSUER.ec_token()))).status_code == 200


# ------------------------------------------------------------------ tenants


async def test_to_another_tenant_a_run_is_not_there_on_any_route(service: Assembly) -> None:
    async with caller(service, tenant="acme") as acme, caller(service, tenant="evil") as evil:
        await with_content(acme, "acme:r", fence=await acme.external("acme:r", begun=True))
        before = await acme.run("acme:r")
        for route in [route for route in GUARDED if route.of_run]:
            answers = [await asked(evil.http, route, run_id) for run_id in ("acme:r", "acme:n")]
            assert [answer.status_code for answer in answers] == [404, 404], (route, answers[0].text)
            taken, unknown = answers
            assert taken.text.replace("acme:r", "acme:n") == unknown.text, route
            assert dict(taken.headers) | {"date": ""} == dict(unknown.headers) | {"date": ""}, route
        replayed = await evil.http.get(f"{RUNS}/acme:r/stream", params={"replay": "1"})
        assert (replayed.status_code, replayed.json()["code"]) == (404, "run_not_found")
        assert await acme.run("acme:r") == before


async def test_a_list_has_the_callers_runs_only_on_every_page(service: Assembly) -> None:
    async with caller(service, tenant="acme") as acme, caller(service, tenant="evil") as evil:
        for n in range(3):
            await acme.external(f"acme:{n}", begun=False)
            await evil.external(f"evil:{n}", begun=False)
        first = (await acme.http.get(RUNS, params={"limit": 2})).json()
        rest = (await acme.http.get(RUNS, params={"limit": 2, "cursor": first["nextCursor"]})).json()
        assert [run["runId"] for run in first["runs"] + rest["runs"]] == ["acme:2", "acme:1", "acme:0"]
        theirs = (await evil.http.get(RUNS, params={"cursor": first["nextCursor"]})).json()
        assert all(run["runId"].startswith("evil:") for run in theirs["runs"])


async def test_a_run_id_is_chosen_from_the_tenants_own_so_trying_tells_nothing(service: Assembly) -> None:
    async with caller(service, tenant="acme") as acme, caller(service, tenant="evil") as evil:
        await acme.external("acme:r", begun=False)
        answers = [await evil.http.post(RUNS, json={"runId": run_id}) for run_id in ("acme:r", "acme:n", "r")]
        assert [answer.status_code for answer in answers] == [403] * 3
        assert {answer.json()["code"] for answer in answers} == {"run_id_reserved"}
        assert answers[0].text == answers[1].text
    async with caller(service, tenant="default") as default:
        assert (await default.http.post(RUNS, json={"runId": "acme:r"})).status_code == 403
        assert (await default.http.post(RUNS, json={"runId": "plain"})).status_code == 202


async def test_an_id_of_before_there_were_tenants_is_a_conflict_that_does_not_say_whose(
    service: Assembly, database: str
) -> None:
    async with caller(service, tenant="default") as old:
        await old.external("r", begun=False)
    # As if the run had been started with a name that belongs to a tenant by now.
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(
            "WITH made AS (INSERT INTO runs (run_id, tenant, agent, request_hash, input) "
            "VALUES ('acme:old', 'default', 'theirs', '', '') RETURNING run_id, run_day) "
            "INSERT INTO run_outbox (run_id, run_day) SELECT run_id, run_day FROM made"
        )
    finally:
        await connection.close()
    async with caller(service, tenant="acme") as acme:
        answer = await acme.http.post(RUNS, json={"runId": "acme:old"})
        assert (answer.status_code, answer.json()["code"]) == (409, "start_conflict")
        assert (await acme.http.get(f"{RUNS}/acme:old")).status_code == 404


async def test_an_idempotency_key_is_the_tenants_own(service: Assembly) -> None:
    key = {"Idempotency-Key": "order-17"}
    started = {}
    for tenant in ("acme", "evil"):
        async with caller(service, tenant=tenant) as api:
            twice = [(await api.http.post(RUNS, json={}, headers=key)).json()["runId"] for _ in range(2)]
            assert twice[0] == twice[1]
            started[tenant] = twice[0]
            other = await api.http.post(RUNS, json={"agent": "explore", "input": {}}, headers=key)
            assert other.json()["code"] == "start_conflict"
    assert started["acme"] != started["evil"]


async def test_a_tenants_run_goes_its_whole_way(service: Assembly) -> None:
    async with caller(service) as acme:
        run_id = (await acme.start(agent="approval"))["runId"]
        answer = await acme.http.post(f"{RUNS}/{run_id}/signal", json={"name": "approved"})
        assert answer.status_code == 202
        assert (await acme.ended(run_id))["outcome"] == "finished"
        fence = await acme.external("acme:ext")
        await acme.finish("acme:ext", fence=fence)
        assert (await acme.http.get(f"{RUNS}/{run_id}/state")).status_code == 200
        assert (await acme.http.get(f"{RUNS}/{run_id}/diagnosis")).json()["healthy"] is True


async def test_the_data_of_signals_is_withheld_from_an_orchestrator_without_the_scope_to_read_content(
    service: Assembly,
) -> None:
    async with caller(service) as acme, caller(service, scope="runs:append") as blind:
        fence = await acme.external("acme:ext")
        signal = {"name": "go", "data": {"secret": "canary"}}
        assert (await acme.http.post(f"{RUNS}/acme:ext/signal", json=signal)).status_code == 202
        answer = await blind.append("acme:ext", [], fence=fence)
        assert answer.json()["signals"] == [{"n": 1, "name": "go", "withheld": True}]
        assert (await acme.append("acme:ext", [], fence=fence)).json()["signals"] == [{"n": 1, **signal}]


async def test_the_data_of_signals_is_withheld_from_a_reader_of_runs(service: Assembly) -> None:
    async with caller(service) as acme, caller(service, scope="runs:read") as reader:
        await acme.external("acme:ext")
        signal = {"name": "go", "data": {"secret": "canary"}}
        assert (await acme.http.post(f"{RUNS}/acme:ext/signal", json=signal)).status_code == 202
        blind = await reader.http.get(f"{RUNS}/acme:ext/signals")
        assert [(one["name"], one["withheld"]) for one in blind.json()["notTaken"]] == [("go", True)]
        assert "canary" not in blind.text
        shown = (await acme.http.get(f"{RUNS}/acme:ext/signals")).json()["notTaken"]
        assert [one["data"] for one in shown] == [{"secret": "canary"}]


class TestWithoutTenants:
    """`tenants` off: callers are authenticated, and all see the same runs."""

    @pytest.fixture
    def overrides(self, tmp_path: Path) -> dict[str, Any]:
        return ISSUER.settings(tmp_path, tenants=False, jwt_tenant_claim=None)

    async def test_all_see_the_same_runs(self, service: Assembly) -> None:
        async with caller(service, tenant="a") as one, caller(service, tenant="b") as other:
            await one.external("shared:r", begun=False)
            assert (await other.http.get(f"{RUNS}/shared:r")).status_code == 200


class TestWithoutAuthentication:
    """The default on loopback: everybody may do everything, and credentials are not looked at."""

    @pytest.fixture
    def overrides(self) -> dict[str, Any]:
        return {}

    async def test_everybody_may_and_nothing_needs_a_tenant(self, api: Api) -> None:
        await api.external("any:r", begun=False)
        assert (await api.http.get(f"{RUNS}/any:r", headers=bearer("nonsense"))).status_code == 200
        document = (await api.http.get("/openapi.json")).json()
        assert "securitySchemes" not in document["components"]


async def test_no_tenant_can_ask_for_the_minted_ids_of_another(service: Assembly) -> None:
    async with caller(service, tenant="acme") as acme, caller(service, tenant="default") as default:
        theirs = (await acme.start(external=True))["runId"]
        assert theirs.startswith("acme:")
        for asked_for in (theirs, theirs.partition(":")[2] + "-free"):
            answer = await default.http.post(RUNS, json={"runId": asked_for, "external": True})
            assert answer.status_code == (403 if ":" in asked_for else 202)
        assert ":" not in (await default.start(external=True))["runId"]
    async with caller(service, tenant="org|x@y") as odd:
        assert (await odd.start(external=True))["runId"].startswith(":")

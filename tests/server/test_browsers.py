"""Headers for browsers, and the limits of foreign pages: CORS, and a service without authentication."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from runwire.assembly import Assembly
from runwire.settings import Settings
from server.calls import RUNS, Api, exchanged
from server.issuer import Issuer
from server.test_access import bearer

ISSUER = Issuer()
APP = "https://app.example"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, runwire-fence"}


class TestAllowedOrigins:
    @pytest.fixture
    def overrides(self, tmp_path: Path) -> dict[str, Any]:
        return ISSUER.settings(tmp_path, cors_origins=(APP, "http://localhost:3000"))

    async def test_a_page_of_an_allowed_origin_may_call_and_read_what_it_needs(self, api: Api) -> None:
        asked = await api.http.options(RUNS, headers={"Origin": APP, **PREFLIGHT})
        assert asked.status_code == 204
        assert asked.headers["Access-Control-Allow-Origin"] == APP
        assert asked.headers["Access-Control-Allow-Methods"] == "GET, HEAD, POST"
        allowed = {name.strip().lower() for name in asked.headers["Access-Control-Allow-Headers"].split(",")}
        assert {"authorization", "runwire-fence", "last-event-id", "idempotency-key", "content-type"} <= allowed
        answer = await api.http.get(RUNS, headers={"Origin": APP, **bearer(ISSUER.token())})
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == APP
        assert answer.headers["Vary"] == "Origin"
        shown = {name.strip() for name in answer.headers["Access-Control-Expose-Headers"].split(",")}
        assert {"ETag", "Location", "Retry-After"} <= shown
        # As clients of Durable Streams and of artifacts need them.
        assert {"stream-closed", "stream-sse-data-encoding", "range", "if-range", "if-none-match"} <= allowed
        assert {"Stream-Next-Offset", "Stream-Up-To-Date", "Stream-Closed", "Stream-Cursor", "Content-Range"} <= shown
        assert "Access-Control-Allow-Credentials" not in answer.headers

    async def test_other_origins_are_told_nothing(self, api: Api) -> None:
        for origin in ("https://evil.example", "null", f"{APP}.evil.example", "http://app.example", f"{APP}:444"):
            for answer in (
                await api.http.options(RUNS, headers={"Origin": origin, **PREFLIGHT}),
                await api.http.get(RUNS, headers={"Origin": origin, **bearer(ISSUER.token())}),
            ):
                assert "Access-Control-Allow-Origin" not in answer.headers, origin
                assert answer.headers["Vary"] == "Origin", origin

    async def test_a_refusal_can_be_read_too(self, api: Api) -> None:
        answer = await api.http.get(RUNS, headers={"Origin": APP})
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (401, APP)

    async def test_a_preflight_needs_no_credentials_and_tells_nothing_of_runs(self, api: Api) -> None:
        paths = [f"{RUNS}/{run_id}/stream" for run_id in ("there", "elsewhere")]
        answers = [await api.http.options(path, headers={"Origin": APP, **PREFLIGHT}) for path in paths]
        assert [answer.status_code for answer in answers] == [204, 204]
        assert answers[0].headers["Access-Control-Allow-Methods"] == "GET"
        assert (await api.http.options("/api/none", headers={"Origin": APP, **PREFLIGHT})).status_code == 404


class TestAnyOrigin:
    @pytest.fixture
    def overrides(self, tmp_path: Path) -> dict[str, Any]:
        return ISSUER.settings(tmp_path, cors_origins="*")

    async def test_any_page_may_call_but_never_with_a_browsers_credentials(self, api: Api) -> None:
        answer = await api.http.get(RUNS, headers={"Origin": "https://any.example", **bearer(ISSUER.token())})
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers


class TestWithoutAuthentication:
    """On loopback anybody on the machine is served; pages that its browsers show are not."""

    @pytest.fixture
    def overrides(self) -> dict[str, Any]:
        return {"cors_origins": (APP,), "allowed_hosts": ("Box.example",)}

    async def test_a_page_of_elsewhere_changes_nothing(self, api: Api) -> None:
        for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://localhost"):
            for path in (RUNS, f"{RUNS}/r/cancel", f"{RUNS}/r/signal"):
                answer = await api.http.post(path, headers={"Origin": origin})
                assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused"), (origin, path)
        assert (await api.http.get(RUNS)).json()["runs"] == []

    async def test_the_console_and_allowed_pages_may(self, api: Api) -> None:
        own = str(api.http.base_url).rstrip("/")
        for origin in (own, APP):
            assert (await api.http.post(RUNS, headers={"Origin": origin})).status_code == 202

    async def test_a_name_that_was_rebound_to_this_machine_reads_nothing(self, api: Api) -> None:
        for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil"):
            for path in (RUNS, f"{RUNS}/r/stream", "/", "/openapi.json"):
                answer = await api.http.get(path, headers={"Host": host})
                assert (answer.status_code, answer.json()["code"]) == (403, "host_refused"), (host, path)

    async def test_names_of_this_machine_are_taken(self, api: Api) -> None:
        known = ("localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080", "dev.localhost", "box.example", "10.0.0.7")
        for host in known:
            assert (await api.http.get(RUNS, headers={"Host": host})).status_code == 200, host

    async def test_http_1_0_without_a_host_is_taken(self, service: Assembly) -> None:
        assert service.api_port is not None
        answer = await exchanged(service.api_port, f"GET {RUNS} HTTP/1.0\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.0 200")


async def test_who_says_that_everybody_may_is_taken_at_their_word(database: str) -> None:
    settings = Settings(database_url=database, bus="memory", port=0, admin_port=0, drain_s=2.0, auth="none")
    async with Assembly(settings) as service, httpx.AsyncClient(base_url=service.url, timeout=10) as http:
        assert (await http.get(RUNS, headers={"Host": "behind-a-proxy.example"})).status_code == 200


async def test_every_answer_says_what_browsers_may_make_of_it(api: Api) -> None:
    for path in (RUNS, "/", "/docs/", "/console.js", "/nothing", f"{RUNS}/none"):
        headers = (await api.http.get(path)).headers
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert headers["Referrer-Policy"] == "no-referrer", path
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin", path
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin", path
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy, path
        assert "frame-ancestors 'none'" in policy, path
        assert "unsafe" not in policy, path
        assert headers["Server"] == "runwire", path


async def test_heads_and_queries_are_bounded(api: Api) -> None:
    for head in ({"X-Long": "x" * 9000}, {f"X-{n}": "x" * 500 for n in range(400)}):
        assert (await api.http.get(RUNS, headers=head)).status_code in (400, 431)
    assert (await api.http.get(RUNS + "?cursor=" + "x" * 9000)).status_code in (400, 414)

"""Stream tickets: one run, a short time, and in no log."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, Span

from runwire import clock
from runwire.assembly import Assembly
from runwire.errors import Unauthenticated
from runwire.server.auth import ANYBODY, Caller, Scope, Tickets
from runwire.settings import Settings
from server.calls import RUNS, Api, exchanged, streaming
from server.conftest import LogLines
from server.issuer import Issuer
from server.test_access import GUARDED, asked, bearer, caller

ISSUER = Issuer()
KEY = b"k" * 32
READER = Caller("me", "acme", frozenset({Scope.READ}))


@pytest.fixture
def overrides(tmp_path: Path) -> dict[str, Any]:
    return ISSUER.settings(tmp_path, ticket_secret=KEY.decode())


@pytest.fixture(autouse=True)
def same_issuer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.test_access.ISSUER", ISSUER)


async def ticket_for(api: Api, run_id: str) -> str:
    answer = await api.http.post(f"{RUNS}/{run_id}/stream-ticket")
    assert answer.status_code == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    ticket: str = answer.json()["ticket"]
    return ticket


async def test_a_ticket_opens_the_stream_it_is_for_without_any_header(service: Assembly, api: Api) -> None:
    async with caller(service) as acme:
        fence = await acme.external("acme:r")
        ticket = await ticket_for(acme, "acme:r")
        async with streaming(api, "acme:r", query=f"?ticket={ticket}") as stream:
            assert (await stream.frames(3))[-1].data["type"] == "RunStarted"
            await acme.finish("acme:r", fence=fence)
            assert [frame.fields.get("event") for frame in await stream.rest()][-1] == "end"
        old, _ = Tickets(KEY, lifetime_s=-1).issue("acme:r", caller=READER)
        late = await api.http.get(f"{RUNS}/acme:r/stream", params={"ticket": old})
        assert (late.status_code, late.json()["code"]) == (401, "credentials_expired")


async def test_a_ticket_of_bytes_that_are_no_text_is_refused_like_any_other(service: Assembly) -> None:
    port = int(service.url.rpartition(":")[2])
    for ticket in (b"\xff", b"a.\xff", b"%ff", b"a.%ff", b"a.\xed\xb2\x80"):
        request = (
            b"GET /api/agents/runs/acme:r/stream?ticket=%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        answer = await exchanged(port, request % ticket)
        assert answer.split(b" ")[1] in (b"400", b"401"), (ticket, answer)
    with pytest.raises(Unauthenticated):
        Tickets(KEY, lifetime_s=60).caller("a.\udcff", subject="acme:r")


async def test_a_ticket_is_for_one_run_and_one_route(service: Assembly, api: Api) -> None:
    async with caller(service) as acme:
        for run_id in ("acme:r", "acme:other"):
            await acme.external(run_id, begun=False)
        ticket = await ticket_for(acme, "acme:r")
    for route in GUARDED:
        wrong_run = await asked(api.http, route, "acme:other", params={"ticket": ticket})
        assert wrong_run.status_code == 401, route
        if not route.access.ticket:
            wrong_route = await asked(api.http, route, "acme:r", params={"ticket": ticket})
            assert wrong_route.status_code == 401, route
            as_bearer = await asked(api.http, route, "acme:r", headers=bearer(ticket))
            assert as_bearer.status_code == 401, route


async def test_a_ticket_beside_a_token_or_another_ticket_is_refused(service: Assembly, api: Api) -> None:
    async with caller(service) as acme:
        await acme.external("acme:r", begun=False)
        ticket = await ticket_for(acme, "acme:r")
        both = await acme.http.get(f"{RUNS}/acme:r/stream", params={"ticket": ticket})
        assert both.json()["code"] == "credentials_invalid"
    twice = await api.http.get(f"{RUNS}/acme:r/stream?ticket={ticket}&ticket={ticket}")
    assert twice.json()["code"] == "credentials_invalid"


async def test_who_cannot_see_a_run_gets_no_ticket_for_it(service: Assembly) -> None:
    async with caller(service) as acme, caller(service, tenant="evil") as evil:
        await acme.external("acme:r", begun=False)
        answer = await evil.http.post(f"{RUNS}/acme:r/stream-ticket")
        assert (answer.status_code, answer.json()["code"]) == (404, "run_not_found")


async def test_a_ticket_is_written_nowhere(
    service: Assembly, api: Api, log_lines: LogLines, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spans: list[ReadableSpan] = []
    ended = Span.end

    def end(span: Span, *args: Any) -> None:
        spans.append(span)
        ended(span, *args)

    monkeypatch.setattr(Span, "end", end)
    caplog.set_level("DEBUG")
    async with caller(service) as acme:
        sampled = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
        started = await acme.http.post(RUNS, json={"runId": "acme:r"}, headers=sampled)
        assert started.status_code == 202
        ticket = await ticket_for(acme, "acme:r")
        said = []
        async with streaming(api, "acme:r", query=f"?ticket={ticket}") as stream:
            said += [str(frame.fields) for frame in await stream.rest()]
        for query in (f"ticket={ticket}x", f"ticket={ticket}&fromSeq=999999", f"ticket={ticket}&fromSeq=bad"):
            refused = await api.http.get(f"{RUNS}/acme:r/stream?{query}")
            assert refused.status_code in (400, 401)
            said.append(refused.text + str(refused.headers))
        said.append((await acme.http.get(f"{RUNS}/acme:r/diagnosis")).text)
    said += [str(line) for line in log_lines]
    said += [record.getMessage() for record in caplog.records if record.name.startswith(("runwire", "aiohttp"))]
    said += [str(span.attributes) + span.name for span in spans]
    secret = ticket.rpartition(".")[2]
    assert [text for text in said if secret in text or ticket in text] == []


async def test_without_authentication_a_page_may_ask_for_tickets_all_the_same(database: str) -> None:
    settings = Settings(database_url=database, bus="memory", port=0, admin_port=0, drain_s=2.0)
    async with Assembly(settings) as service, httpx.AsyncClient(base_url=service.url, timeout=10) as http:
        api = Api(http)
        run_id = (await api.start())["runId"]
        ticket = await ticket_for(api, run_id)
        async with streaming(api, run_id, query=f"?ticket={ticket}") as stream:
            assert (await stream.rest())[-1].fields["event"] == "end"


# ------------------------------------------------------------------ the tickets themselves


def test_services_that_share_a_key_open_each_others_tickets_and_no_others() -> None:
    ticket, _ = Tickets(b"k" * 32, lifetime_s=60).issue("r", caller=READER)
    opened = Tickets(b"k" * 32, lifetime_s=1).caller(ticket, subject="r")
    assert (opened.tenant, opened.scopes) == ("acme", frozenset({Scope.READ}))
    with pytest.raises(Unauthenticated):
        Tickets(b"x" * 32, lifetime_s=60).caller(ticket, subject="r")


@pytest.mark.parametrize("at", range(6))
def test_no_part_of_a_ticket_can_be_changed(at: int) -> None:
    tickets = Tickets(b"k" * 32, lifetime_s=60)
    reader = Caller("key:a", "acme", READER.scopes, clock.wall_us() / 1e6 + 600, "a")
    parts = tickets.issue("r", caller=reader)[0].split(".")
    for changed in ("", parts[at] + "A", "9" * 20, "é", "\0"):
        forged = ".".join([*parts[:at], changed, *parts[at + 1 :]])
        with pytest.raises(Unauthenticated):
            tickets.caller(forged, subject="r")


@pytest.mark.parametrize("nonsense", ["", ".", "...", "rwt1", "a" * 5000, "rwt1.1.1.1"])
def test_nonsense_is_no_ticket(nonsense: str) -> None:
    with pytest.raises(Unauthenticated):
        Tickets(b"k" * 32, lifetime_s=60).caller(nonsense, subject="r")


def test_a_ticket_lives_no_longer_than_who_asked_for_it() -> None:
    _, usual = Tickets(b"k", lifetime_s=60).issue("r", caller=READER)
    _, bounded = Tickets(b"k", lifetime_s=60).issue("r", caller=Caller("me", None, READER.scopes, expires_at=1000.0))
    assert bounded == 1_000_000 < usual


def test_a_ticket_stands_in_a_url_as_it_is() -> None:
    ticket, _ = Tickets(b"k", lifetime_s=60).issue("r", caller=ANYBODY)
    assert re.fullmatch(r"[A-Za-z0-9._-]+", ticket)

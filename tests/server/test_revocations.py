"""The stream of a revoked key ends within a minute, however long it was to last."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from runwire import clock
from runwire.assembly import Assembly
from runwire.server import revocations
from runwire.server.auth import Caller, Scope, Tickets
from runwire.server.auth.keys import new_key
from server.calls import RUNS, Api, EventStream, streaming
from server.test_access import bearer

SECRET = b"k" * 32
KEY, RECORD = new_key(tenant="acme", scopes=list(Scope))
OTHER, OTHER_RECORD = new_key(tenant="acme", scopes=list(Scope))


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text(f"{RECORD.line}\n{OTHER_RECORD.line}\n")
    return file


@pytest.fixture
def overrides(keys_file: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(revocations, "RECHECK_S", 0.2)
    return {"keys_file": keys_file, "ticket_secret": SECRET.decode()}


async def attached(stream: EventStream) -> None:
    while "data" not in (await stream.frames(1))[0].fields:
        pass


async def test_streams_of_a_revoked_key_end_and_others_go_on(service: Assembly, api: Api, keys_file: Path) -> None:
    async with httpx.AsyncClient(base_url=service.url, timeout=10, headers=bearer(OTHER)) as http:
        await Api(http).external("acme:r", leaseSeconds=600)
        revoked = await api.http.post(f"{RUNS}/acme:r/stream-ticket", headers=bearer(KEY))
        query = f"?ticket={revoked.json()['ticket']}"
        async with (
            streaming(api, "acme:r", headers=bearer(KEY)) as by_key,
            streaming(api, "acme:r", query=query) as by_ticket,
            streaming(api, "acme:r", headers=bearer(OTHER)) as others,
        ):
            for stream in (by_key, by_ticket, others):
                await attached(stream)
            keys_file.write_text(OTHER_RECORD.line)  # noqa: ASYNC240  # a small local file
            for stream in (by_key, by_ticket):
                frames = await stream.rest()
                assert "retry" in frames[-1].fields  # resumable, by those who may
            with pytest.raises(TimeoutError):
                await others.frame(within_s=0.5)
        again = await api.http.get(f"{RUNS}/acme:r/stream", headers=bearer(KEY))
        assert (again.status_code, again.json()["code"]) == (401, "credentials_invalid")


@pytest.mark.parametrize("carried", [{Scope.READ}, {Scope.READ, Scope.CONTENT_READ}])
def test_a_ticket_says_whose_it_is_and_until_when_they_may_watch_what(carried: set[Scope]) -> None:
    scopes = carried | {Scope.SIGNAL, Scope.OPS}
    until = float(clock.wall_us() // 1_000_000 + 600)
    ticket, _ = Tickets(SECRET, lifetime_s=60).issue("r", caller=Caller("key:a", "acme", frozenset(scopes), until, "a"))
    opened = Tickets(SECRET, lifetime_s=60).caller(ticket, subject="r")
    assert opened == Caller("ticket", "acme", frozenset(carried), until, "a")


async def test_content_is_shown_to_a_key_no_longer_than_it_may_read_content(
    service: Assembly, api: Api, keys_file: Path
) -> None:
    async with httpx.AsyncClient(base_url=service.url, timeout=10, headers=bearer(OTHER)) as http:
        by_other = Api(http)
        fence = await by_other.external("acme:r", leaseSeconds=600)
        await by_other.open_part("acme:r", fence=fence)
        part = f"{RUNS}/acme:r/parts/1?offset=-1&live=sse"
        async with (
            streaming(api, "acme:r", query="?parts=*", headers=bearer(KEY)) as mixed,
            api.http.stream("GET", part, headers=bearer(KEY)) as by_key,
            http.stream("GET", part) as others,
        ):
            await attached(mixed)
            assert (by_key.status_code, others.status_code) == (200, 200)
            fewer = replace(RECORD, scopes=frozenset({Scope.READ}))
            keys_file.write_text(f"{fewer.line}\n{OTHER_RECORD.line}\n")  # noqa: ASYNC240  # a small local file
            async with asyncio.timeout(5):
                assert "retry" in (await mixed.rest())[-1].fields
                async for _ in by_key.aiter_lines():
                    pass
            await by_other.write_part("acme:r", "more", fence=fence)
            async with asyncio.timeout(5):
                async for line in others.aiter_lines():
                    if line == "data:more":
                        break

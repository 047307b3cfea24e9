"""Another tenant's bytes, digests, names, sessions and labels: asking for them tells as much as asking for none."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from runwire.assembly import Assembly
from server.calls import RUNS, Api
from server.issuer import Issuer

ISSUER = Issuer()
STREAM = "/api/agents/stream"
TIMES = 25
SLOWER = 3.0
NOISE_S = 0.02
"""Two questions whose medians differ by less are answered in the same time, on a busy machine."""


@pytest.fixture
def overrides(tmp_path: Path) -> dict[str, Any]:
    return ISSUER.settings(tmp_path, content_url=str(tmp_path / "content"), sse_max_age_s=0.3)


@asynccontextmanager
async def caller(service: Assembly, tenant: str) -> AsyncIterator[Api]:
    headers = {"Authorization": f"Bearer {ISSUER.token(tenant=tenant)}"}
    async with httpx.AsyncClient(base_url=service.url, timeout=20, headers=headers) as http:
        yield Api(http)


@pytest.fixture
async def acme(service: Assembly) -> AsyncIterator[Api]:
    """A tenant with a run that has all there is."""
    async with caller(service, "acme") as api:
        fence = await api.external("acme:r", session="chat", labels={"env": "prod"})
        for name, data in (("report", b"theirs"), ("large", b"theirs" * 50_000), ("result", b"{}")):
            assert (await stored(api, "acme:r", name, data, fence=fence)).status_code == 201
        await api.open_part("acme:r", fence=fence)
        await api.write_part("acme:r", b"a secret", fence=fence)
        signalled = await api.http.post(f"{RUNS}/acme:r/signal", json={"name": "go", "data": 1, "id": "s"})
        assert signalled.status_code == 202
        yield api


@pytest.fixture
async def evil(service: Assembly) -> AsyncIterator[Api]:
    async with caller(service, "evil") as api:
        yield api


async def stored(api: Api, run_id: str, name: str, data: bytes, *, fence: int) -> httpx.Response:
    headers = {"Runwire-Fence": str(fence)}
    return await api.http.post(f"{RUNS}/{run_id}/artifacts", params={"name": name}, content=data, headers=headers)


FOREIGN_AND_NONE = [
    (f"{RUNS}?session=chat", f"{RUNS}?session=none"),
    (f"{RUNS}?label=env:prod", f"{RUNS}?label=env:none"),
    (f"{STREAM}?session=chat", f"{STREAM}?session=none"),
    (f"{STREAM}?label=env:prod", f"{STREAM}?label=env:none"),
    (f"{STREAM}?run=acme:r", f"{STREAM}?run=acme:n"),
    (f"{RUNS}/acme:r/artifacts?name=report", f"{RUNS}/acme:n/artifacts?name=report"),
    (f"{RUNS}/acme:r/artifacts?name=report", f"{RUNS}/acme:r/artifacts?name=none"),
    (f"{RUNS}/acme:r/artifacts/1", f"{RUNS}/acme:r/artifacts/99"),
    (f"{RUNS}/acme:r/artifacts/2", f"{RUNS}/acme:n/artifacts/2"),
    (f"{RUNS}/acme:r/parts", f"{RUNS}/acme:n/parts"),
    (f"{RUNS}/acme:r/parts/1?offset=-1&live=long-poll", f"{RUNS}/acme:r/parts/99?offset=-1&live=long-poll"),
    (f"{RUNS}/acme:r/stream?parts=answer", f"{RUNS}/acme:r/stream?parts=none"),
    (f"{RUNS}/acme:r/result", f"{RUNS}/acme:n/result"),
]


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize(("foreign", "none"), FOREIGN_AND_NONE)
async def test_what_another_tenant_has_is_answered_as_what_nobody_has(evil: Api, foreign: str, none: str) -> None:
    # Both begin with the same moment in the ids of their streams, which a stream makes up for itself.
    answers = [await evil.http.get(url) for url in (foreign, none)]
    one, other = (_shown(answer) for answer in answers)
    assert one == other
    assert "theirs" not in answers[0].text
    assert "secret" not in answers[0].text


async def test_the_same_bytes_are_stored_anew_for_each_tenant_and_erased_for_one(acme: Api, evil: Api) -> None:
    """An upload does not tell whether somebody else has the same."""
    fence = await evil.external("evil:r")
    for name, data in (("report", b"theirs"), ("large", b"theirs" * 50_000)):
        same = await stored(evil, "evil:r", name, data, fence=fence)
        new = await stored(evil, "evil:r", f"{name}_2", data[::-1], fence=fence)
        assert [answer.status_code for answer in (same, new)] == [201, 201]
        assert same.json().keys() == new.json().keys()
    etag = (await acme.http.get(f"{RUNS}/acme:r/artifacts/1")).headers["ETag"]
    for n, status in ((1, 304), (2, 200)):  # a digest is a question about one's own bytes only
        answer = await evil.http.get(f"{RUNS}/evil:r/artifacts/{n}", headers={"If-None-Match": etag})
        assert answer.status_code == status
    assert (await acme.http.delete(f"{RUNS}/acme:r/artifacts/1")).status_code == 204
    assert (await evil.http.get(f"{RUNS}/evil:r/artifacts/1")).content == b"theirs"


async def test_a_signal_of_another_tenant_is_not_found_whatever_its_id(acme: Api, evil: Api) -> None:
    for run_id in ("acme:r", "acme:n"):
        for body in ({"name": "go", "data": 1, "id": "s"}, {"name": "go", "data": 2, "id": "s"}, {"name": "go"}):
            answer = await evil.http.post(f"{RUNS}/{run_id}/signal", json=body)
            assert (answer.status_code, answer.json()["code"]) == (404, "run_not_found")
    heard = await acme.append("acme:r", [], fence=1)
    assert heard.status_code in (200, 409)


@pytest.mark.usefixtures("acme")
async def test_the_time_of_an_answer_tells_nothing_either(evil: Api) -> None:
    fence = await evil.external("evil:r")
    asked: list[tuple[Callable[[int], Awaitable[object]], Callable[[int], Awaitable[object]]]] = [
        (
            lambda _n, url=foreign: evil.http.get(url),  # type: ignore[misc]
            lambda _n, url=none: evil.http.get(url),  # type: ignore[misc]
        )
        for foreign, none in FOREIGN_AND_NONE
        if not foreign.startswith(STREAM) or "run=" in foreign  # the others take as long as they last
    ]
    large = b"theirs" * 50_000
    asked.append(
        (
            lambda n: stored(evil, "evil:r", f"a{n}", large, fence=fence),
            lambda n: stored(evil, "evil:r", f"b{n}", b"%d" % n + large, fence=fence),
        )
    )
    for foreign_of, none_of in asked:
        took: tuple[list[float], list[float]] = ([], [])
        for n in range(TIMES):
            for which, ask in enumerate((foreign_of, none_of)):
                began = time.perf_counter()
                await ask(n)
                took[which].append(time.perf_counter() - began)
        fast, slow = sorted(map(statistics.median, took))
        assert slow <= fast * SLOWER + NOISE_S, (took, foreign_of)


async def test_a_session_s_stream_stays_silent_while_its_namesake_talks(acme: Api, evil: Api) -> None:
    async def talk() -> None:
        for n in range(5):
            await acme.external(f"acme:talk-{n}", session="chat", labels={"env": "prod"})

    silent = [asyncio.create_task(evil.http.get(f"{STREAM}?{which}")) for which in ("session=chat", "label=env:prod")]
    await talk()
    for answer in await asyncio.gather(*silent):
        assert answer.status_code == 200
        assert "acme" not in answer.text
        assert "data:" not in answer.text.replace("data: {}", "")


def _shown(answer: httpx.Response) -> tuple[int, str, dict[str, str]]:
    """Without what names the question, and without the ids and pauses that each stream makes up."""
    text = answer.text.replace("acme:n", "acme:r").replace("/99", "/1")
    kept = [line for line in text.splitlines() if not line.startswith(("id:", "retry:"))]
    headers = {name: value for name, value in answer.headers.items() if name not in ("date", "content-length")}
    return answer.status_code, "\n".join(kept), headers

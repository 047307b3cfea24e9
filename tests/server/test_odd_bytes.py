"""Headers and addresses that are no text, or odd text: every route refuses or ignores them, and none fails."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest

from runwire.assembly import Assembly
from runwire.server.routes import Route
from runwire.server.table import API_ROUTES
from server.calls import Api

ODD: Final = (b"\xff\xfe", "\u0661\ufb00\u2100[:".encode(), b"bytes=;,=\"W/*'%%[", b"9" * 40)
COMMON: Final = (
    *("Accept", "Accept-Encoding", "Authorization", "Content-Encoding", "Content-Type", "Cookie", "Host"),
    *("If-Modified-Since", "If-None-Match", "If-Range", "Last-Event-ID", "Origin", "Range", "Referer", "User-Agent"),
    *("Forwarded", "X-Forwarded-For", "X-Forwarded-Prefix", "X-Forwarded-Proto", "traceparent", "tracestate"),
)
"""Headers that any request may have. Each route names its own."""
QUERY: Final = ("%ff%fe", "%00", "%ED%A0%80", "a%0d%0ab", "9" * 40, "-1", "%D9%A1", "[", "~", "*:*")


@pytest.fixture
def overrides() -> dict[str, Any]:
    return {"trusted_proxies": "127.0.0.0/8", "requests_per_s": 100_000.0}


async def status_of(port: int, request: bytes) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return int((await asyncio.wait_for(reader.readline(), 20)).split()[1])
    finally:
        writer.transport.abort()


def requests_of(route: Route[Any], run_id: str) -> dict[str, bytes]:
    """Requests with one odd thing each, by what that is."""
    path = route.path.replace("{run_id}", run_id).replace("{n}", "1")
    body = b'{"name":"x"}' if route.method == "POST" else b""

    def made(target: str, header: str = "", value: bytes = b"") -> bytes:
        fields = {b"Host": b"localhost", b"Content-Length": b"%d" % len(body), b"Connection": b"close"}
        if header:
            fields[header.encode()] = value
        head = b"".join(b"%b: %b\r\n" % field for field in fields.items())
        return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (route.method.encode(), target.encode(), head, body)

    headers = dict.fromkeys((*COMMON, *(one.name for one in route.headers)))
    found = {f"{path} {name}: {value!r}": made(path, name, value) for name in headers for value in ODD}
    for parameter in route.query:
        found |= {f"{path}?{parameter.name}={odd}": made(f"{path}?{parameter.name}={odd}") for odd in QUERY}
    for place in ("{run_id}", "{n}"):
        if place in route.path:
            for odd in QUERY:
                target = route.path.replace(place, odd).replace("{run_id}", run_id).replace("{n}", "1")
                found[target] = made(target)
    return found


async def test_no_route_fails_for_bytes_that_are_no_text(service: Assembly, api: Api) -> None:
    await api.external("r")
    found: dict[str, int] = {}
    for route in API_ROUTES:
        requests = requests_of(route, "r")
        statuses = await asyncio.gather(*(status_of(service.api_port or 0, one) for one in requests.values()))
        found |= {f"{route.method} {what}": status for what, status in zip(requests, statuses, strict=True)}
    assert [what for what, status in found.items() if status >= 500] == []

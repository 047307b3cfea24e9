"""Uploads are taken at a mebibyte a minute or faster, and no client holds a connection for longer."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire.assembly import Assembly
from runwire.server.uploads import SLOWEST_BYTES_PER_S, Pace
from server.calls import RUNS, Api

WINDOW_S = 30.0
PIECES = st.lists(st.tuples(st.floats(0, 60), st.integers(0, 1 << 20)), max_size=50)


@given(PIECES)
def test_a_client_keeps_us_waiting_for_the_window_and_what_its_bytes_earn(pieces: list[tuple[float, int]]) -> None:
    pace = Pace(WINDOW_S)
    waited, size = 0.0, 0
    for waits_s, count in pieces:
        if waits_s > pace.left_s:
            return  # it is refused
        pace.took(waits_s, count)
        waited, size = waited + waits_s, size + count
        assert pace.left_s <= WINDOW_S
        assert waited <= WINDOW_S + size / SLOWEST_BYTES_PER_S + 1e-6


@given(st.lists(st.floats(0.01, WINDOW_S), max_size=50))
def test_a_client_that_is_fast_enough_is_never_refused(pauses: list[float]) -> None:
    pace = Pace(WINDOW_S)
    for pause_s in pauses:
        assert pause_s <= pace.left_s
        pace.took(pause_s, int(pause_s * SLOWEST_BYTES_PER_S) + 1)


def test_a_byte_before_each_deadline_buys_no_time() -> None:
    pace = Pace(WINDOW_S)
    pace.took(29.0, 1)
    assert pace.left_s < 1.1


@pytest.fixture
def overrides() -> dict[str, Any]:
    return {"http_body_s": 0.5, "http_head_s": 20}


async def test_a_client_that_sends_a_byte_now_and_then_is_refused(api: Api, service: Assembly) -> None:
    fence = await api.external("r")
    assert service.api_port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", service.api_port)
    head = f"POST {RUNS}/r/artifacts?name=a HTTP/1.1\r\nHost: localhost\r\nRunwire-Fence: {fence}\r\n"
    writer.write(f"{head}Content-Length: 100000\r\n\r\n".encode())

    async def drip() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.1)

    dripping = asyncio.create_task(drip())
    try:
        answer = await asyncio.wait_for(reader.read(), 20)
    finally:
        dripping.cancel()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 408 ")

"""Clients that know lines only: curl, and Python's httpx-sse with the reconnects its readme leaves to its user."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import aconnect_sse

from realclients.conftest import Service
from realclients.seen import Seen
from waiting import eventually

CURL_PARTIAL_FILE = 18


@pytest.mark.parametrize("resume", ["header", "query"])
async def test_curl_goes_on_after_the_last_id_it_printed(
    resume: str, service: Service, curl: str, tmp_path: Path
) -> None:
    url = service.stream_url("printed")
    await service.start_run("printed", delay_ms=400)
    first = tmp_path / "first"
    with first.open("wb") as file:
        process = subprocess.Popen([curl, "-sN", url], stdout=file)  # noqa: ASYNC220  # returns at once
    try:
        await eventually(lambda: len(_events(first.read_text())) >= 4, within_s=20)
        service.process.kill()
        code = await asyncio.to_thread(process.wait, 10)
    finally:
        process.kill()
        process.wait()
    assert code == CURL_PARTIAL_FILE, "a stream that was cut off is no success"
    await service.process.start()

    before = _events(first.read_text())
    last = before[-1][0]
    how = ["-H", f"Last-Event-ID: {last}", f"{url}?fromSeq=0"] if resume == "header" else [f"{url}?fromSeq={last}"]
    rest = await _printed(curl, "-sSN", "--max-time", "40", *how)
    after = _events(rest)
    blocks = rest.strip().split("\n\n")
    assert blocks[0] == "retry: 200"
    assert blocks[1] == f"id: {last}"
    assert blocks[-1].startswith("event: end\n")
    Seen(before + after, end=json.loads(blocks[-1].partition("data: ")[2])).check_whole("printed")

    nothing = await _printed(curl, "-sS", "-w", "%{http_code}", "-H", f"Last-Event-ID: {after[-1][0]}", url)
    assert nothing == "204"


@pytest.mark.parametrize("how", ["killed", "told to go"])
async def test_httpx_sse_misses_nothing_through_a_restart(how: str, service: Service) -> None:
    await service.start_run("followed", delay_ms=400)
    seen = Seen()
    following = asyncio.create_task(_follow(service.stream_url("followed"), seen))
    try:
        await eventually(lambda: len(seen.events) >= 4, within_s=20)
        await service.restart(how)
        assert seen.end is None, "the run was over before the restart: nothing was shown"
        await asyncio.wait_for(following, 30)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    seen.check_whole("followed")
    assert seen.opened >= 2


async def _follow(url: str, seen: Seen) -> None:
    """The reconnects of the HTML standard: the last id in a header, the pause the service asks for, 204 is the end."""
    last_id, retry_ms = "", 1000
    async with httpx.AsyncClient(timeout=httpx.Timeout(5, read=20)) as http:
        while not seen.closed:
            headers = {"Last-Event-ID": last_id} if last_id else {}
            with contextlib.suppress(httpx.TransportError):
                async with aconnect_sse(http, "GET", url, headers=headers) as source:
                    if source.response.status_code == 204:
                        seen.closed = True
                        return
                    seen.opened += 1
                    async for message in source.aiter_sse():
                        last_id, retry_ms = message.id or last_id, message.retry or retry_ms
                        if message.event == "end":
                            seen.end = message.json()
                        elif message.data:
                            seen.events.append((message.id, message.json()))
            await asyncio.sleep(retry_ms / 1000)


def _events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The events among the blocks of a stream that came whole."""
    *blocks, _ = text.split("\n\n")
    lines = [block.split("\n") for block in blocks if block.startswith("id: ") and "\ndata: " in block]
    return [(id_.removeprefix("id: "), json.loads(data.removeprefix("data: "))) for id_, data in lines]


async def _printed(*command: str) -> str:
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    printed: str = done.stdout
    return printed

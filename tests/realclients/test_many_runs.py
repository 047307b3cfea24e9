"""Twelve live runs in one tab over HTTP/1.1, where a browser has six connections for all that it asks of a host."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from crash.wire import posted
from realclients.chromium import Page, page_in
from realclients.conftest import Service
from realclients.seen import GOLDEN_EVENTS
from waiting import eventually

RUNS = "/api/agents/runs"
LIVE = 12
FOLLOW = """((name, url) => {
    const lines = window[name + "Lines"] = [];
    const source = window[name] = new EventSource(url);
    source.onopen = () => lines.push({what: "open"});
    source.onmessage = message => lines.push({what: "event", data: message.data});
    source.addEventListener("end", message => lines.push({what: "end", data: message.data}));
})"""


@pytest.mark.browser
async def test_twelve_live_runs_in_one_tab_are_each_whole_through_a_kill(
    service: Service, chromium: str, tmp_path: Path
) -> None:
    names = [f"live-{n}" for n in range(LIVE)]
    query = {"ofSession": "session=tab", "ofList": "&".join(f"run={name}" for name in names)}
    async with page_in(chromium, profile=tmp_path / "profile") as page:
        await page.open(f"{service.process.url}/")

        async def follow(stream: str) -> None:
            url = f"/api/agents/stream?{query[stream]}"
            await page.evaluate(f"{FOLLOW}({json.dumps(stream)}, {json.dumps(url)})")

        await follow("ofSession")  # its runs join a stream that is there
        await _start(service, names)
        await follow("ofList")

        async def all_live() -> bool:
            told = [await _told(page, stream) for stream in query]
            return all(len(runs) == LIVE and all(len(of) >= 2 for of in runs.values()) for runs in told)

        await eventually(all_live, within_s=30)
        # There is room for other requests of the page: a stream takes one connection of six.
        assert await page.evaluate(f"fetch('{RUNS}/live-0').then(answer => answer.status)") == 200
        await service.restart("killed")

        async def all_over() -> bool:
            told = [await _told(page, stream) for stream in query]
            return all(len(runs) == LIVE and all(of[-1] == "finished" for of in runs.values()) for runs in told)

        await eventually(all_over, within_s=60)
        for stream in query:
            for name, seen in (await _told(page, stream)).items():
                last = seen[-2]
                assert seen == [*range(1, last + 1), "finished"], (stream, name)
                assert last >= GOLDEN_EVENTS
            lines = await page.evaluate(f"window.{stream}Lines")
            assert sum(line["what"] == "open" for line in lines) >= 2, "it came back after the kill"

        async def stopped() -> bool:
            return bool(await page.evaluate("window.ofList.readyState === EventSource.CLOSED"))

        await eventually(stopped, within_s=20)
        assert await page.evaluate("window.ofSession.readyState === EventSource.OPEN")


async def _start(service: Service, names: list[str]) -> None:
    async def start(name: str) -> None:
        body = {"runId": name, "session": "tab", "input": {"delay_ms": 400}}
        status, answer = await posted(service.process.port, RUNS, body)
        assert status == 202, answer

    await asyncio.gather(*map(start, names))


async def _told(page: Page, stream: str) -> dict[str, list[Any]]:
    """The seqs that the page got of each run, in order, then the state it ended in."""
    told: dict[str, list[Any]] = {}
    for line in await page.evaluate(f"window.{stream}Lines"):
        if "data" in line:
            data = json.loads(line["data"])
            told.setdefault(data["runId"], []).append(data["seq"] if line["what"] == "event" else data["state"])
    return told

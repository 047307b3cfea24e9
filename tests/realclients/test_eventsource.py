"""EventSource as browsers and Node.js have it: it comes back by itself, misses nothing and stops at the end."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from realclients.chromium import Page, page_in
from realclients.conftest import Service
from realclients.seen import GOLDEN_EVENTS, Seen
from waiting import eventually

HOW = pytest.mark.parametrize("how", ["killed", "told to go"])
DELAY_MS = 400

FOLLOW = """(url => {
    const lines = window.lines = [];
    const source = window.source = new EventSource(url);
    source.onopen = () => lines.push({what: "open"});
    source.onmessage = message => lines.push({what: "event", id: message.lastEventId, data: message.data});
    source.addEventListener("end", message => lines.push({what: "end", data: message.data}));
    source.onerror = () => lines.push({what: "error", closed: source.readyState === EventSource.CLOSED});
})"""

Look = Callable[[], Awaitable[Seen]]


@pytest.mark.browser
@HOW
async def test_chromium_misses_nothing_through_a_restart(
    how: str, service: Service, chromium: str, tmp_path: Path
) -> None:
    async def begin() -> None:
        await service.start_run("watched", delay_ms=DELAY_MS)

    async with _in_chromium(chromium, service, service.stream_url("watched"), tmp_path, begin=begin) as look:
        await _restart_between(look, service, how)
        seen = await _until_closed(look)
    seen.check_whole("watched")
    assert seen.opened >= 2


@pytest.mark.browser
async def test_chromium_resumes_where_it_was_and_not_where_its_url_began(
    service: Service, chromium: str, tmp_path: Path
) -> None:
    async def begin() -> None:
        await service.start_run("watched", delay_ms=DELAY_MS)
        await _has_events(service, "watched", 3)

    url = service.stream_url("watched") + "?fromSeq=2"
    async with _in_chromium(chromium, service, url, tmp_path, begin=begin) as look:
        await _restart_between(look, service, "killed")
        seen = await _until_closed(look)
    seen.check_whole("watched", after=2)


@pytest.mark.browser
async def test_chromium_gets_the_whole_log_of_a_run_that_is_over(
    service: Service, chromium: str, tmp_path: Path
) -> None:
    async def begin() -> None:
        await service.start_run("watched", delay_ms=0)
        await _has_events(service, "watched", GOLDEN_EVENTS)

    async with _in_chromium(chromium, service, service.stream_url("watched"), tmp_path, begin=begin) as look:
        seen = await _until_closed(look)
    seen.check_whole("watched")
    assert len(seen.events) == GOLDEN_EVENTS
    assert seen.opened == 1, "what came after the end was 204, which opens nothing"


@pytest.mark.node
@HOW
async def test_the_eventsource_package_misses_nothing_through_a_restart(
    how: str, service: Service, follow_script: tuple[str, Path], tmp_path: Path
) -> None:
    await service.start_run("watched", delay_ms=DELAY_MS)
    async with _in_node(follow_script, service.stream_url("watched"), tmp_path) as look:
        await _restart_between(look, service, how)
        seen = await _until_closed(look)
    seen.check_whole("watched")
    assert seen.opened >= 2


# ---------------------------------------------------------------------- where it runs


@asynccontextmanager
async def _in_chromium(
    program: str, service: Service, url: str, folder: Path, *, begin: Callable[[], Awaitable[None]]
) -> AsyncIterator[Look]:
    """`begin` starts the run, once the browser is there: it may take longer to start than a run lasts."""
    async with page_in(program, profile=folder / "profile") as page:
        await page.open(f"{service.process.url}/")  # of the pages of this origin one that may connect to it
        await begin()
        await page.evaluate(f"{FOLLOW}({json.dumps(url)})")
        yield lambda: _seen_by(page)


async def _seen_by(page: Page) -> Seen:
    return Seen.of(await page.evaluate("window.lines"))


@asynccontextmanager
async def _in_node(script: tuple[str, Path], url: str, folder: Path) -> AsyncIterator[Look]:
    output = folder / "node.jsonl"
    with output.open("wb") as file:
        process = subprocess.Popen([*script, url], stdin=subprocess.DEVNULL, stdout=file)  # noqa: ASYNC220  # returns at once

    async def look() -> Seen:
        *lines, _ = output.read_text().split("\n")
        return Seen.of([json.loads(line) for line in lines])

    try:
        yield look
        assert await asyncio.to_thread(process.wait, 10) == 0
        await look()  # and nothing came after it was closed
    finally:
        process.kill()
        process.wait()


# ---------------------------------------------------------------------- parts of the story


async def _restart_between(look: Look, service: Service, how: str) -> None:
    """Restarts the service when the client has some of the run and not all of it."""

    async def has_some() -> bool:
        return len((await look()).events) >= 4

    await eventually(has_some, within_s=20)
    await service.restart(how)
    assert (await look()).end is None, "the run was over before the restart: nothing was shown"


async def _until_closed(look: Look) -> Seen:
    async def closed() -> Seen | None:
        seen = await look()
        return seen if seen.closed else None

    seen = await eventually(closed, within_s=30)
    assert seen is not None
    return seen


async def _has_events(service: Service, run_id: str, count: int) -> None:
    async def has() -> bool:
        return await service.published(run_id) >= count

    await eventually(has, within_s=20)

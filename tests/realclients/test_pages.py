"""The console and the documentation in a real browser: whole when they are opened, and when they are opened again."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from crash.fleet import QUICK_TAKEOVER, Member
from crash.wire import posted
from realclients.chromium import Page, page_in
from runwire.server.docs import DocsSite, docs_folder
from waiting import eventually

pytestmark = [pytest.mark.browser, pytest.mark.crash]
RUNS = "/api/agents/runs"
NEWEST = 50  # runs that the console lists

# Pages as a person sees them: without its style or its script, a page is as good as blank.
STYLED = "[...document.styleSheets].map(sheet => sheet.cssRules.length > 0)"
SEEN = "document.body.innerText.trim().length"


@pytest.fixture
async def service(database: str, tmp_path: Path) -> AsyncIterator[Member]:
    environment = {
        **QUICK_TAKEOVER,
        "RUNWIRE_DATABASE_URL": database,
        "RUNWIRE_AGENTS": "server.approval:approval",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    process = Member("api-and-all", logs=tmp_path, environment=environment)
    await process.start()
    try:
        yield process
    finally:
        process.discard()


@pytest.fixture
async def page(chromium: str, tmp_path: Path) -> AsyncIterator[Page]:
    async with page_in(chromium, profile=tmp_path / "profile") as page:
        await page.listen()
        yield page


async def whole(page: Page, path: str) -> None:
    assert await page.evaluate(STYLED) == [True], path
    assert await page.evaluate(SEEN) > 100, path
    assert page.complaints == [], path


async def test_every_page_is_whole_the_second_time_too(service: Member, page: Page) -> None:
    documents = DocsSite(docs_folder()).pages
    alike = [name for name in documents if re.match(r"decisions/\d", name)][1:]
    pages = ["/", "/docs/", *(f"/docs/{name}" for name in documents if name not in alike)]
    for path in pages:
        await page.open(service.url + path)
        await whole(page, path)
        await page.reload()
        await whole(page, path)
        await page.open("about:blank")
        await page.open(service.url + path)  # by its address: from the cache, once the service has said that it may
        await whole(page, path)


async def test_the_console_still_works_after_a_reload(service: Member, page: Page) -> None:
    await page.open(service.url + "/")
    await page.reload()
    await page.evaluate("document.querySelector('#start button').click()")
    await shown(page, "#run-state", "finished")
    assert page.complaints == []


async def test_a_waiting_run_is_shown_as_waiting_however_old_it_is(service: Member, page: Page) -> None:
    await started(service, "asked", agent="approval")
    for number in range(NEWEST):
        await started(service, f"newer-{number}", input={"delay_ms": 0})
    await page.open(service.url + "/#asked")
    await shown(page, "#run-state", "waiting")
    await shown(page, "#timeline li:first-child .type", "RunStarted")
    assert await page.evaluate("document.querySelectorAll('#runs li').length") == NEWEST
    assert await text(page, "#run-state") == "waiting"
    await posted(service.port, f"{RUNS}/asked/signal", {"name": "approved"})
    await shown(page, "#run-state", "finished")


async def test_a_run_that_does_not_exist_is_called_that_and_has_nothing_to_cancel(service: Member, page: Page) -> None:
    await page.open(service.url + "/#nobody")
    await shown(page, "#link", "no such run")
    assert await page.evaluate("document.querySelector('#cancel').hidden")


async def test_a_changed_address_shows_its_run(service: Member, page: Page) -> None:
    for run_id in ("one", "two"):
        await started(service, run_id, input={"delay_ms": 0})
    await page.open(service.url + "/#one")
    await shown(page, "#run-id", "one")
    await page.evaluate("location.hash = '#two'")
    await shown(page, "#run-id", "two")
    await shown(page, "#run-state", "finished")
    await page.evaluate("location.hash = '#%'")  # names none: the run stays
    await page.evaluate("location.hash = '#one'")
    await shown(page, "#run-id", "one")
    assert page.complaints == []


async def started(service: Member, run_id: str, **fields: Any) -> None:
    status, answer = await posted(service.port, RUNS, {"runId": run_id, **fields})
    assert status == 202, answer


async def text(page: Page, selector: str) -> Any:
    return await page.evaluate(f"document.querySelector({json.dumps(selector)})?.textContent")


async def shown(page: Page, selector: str, wanted: str) -> None:
    async def is_shown() -> bool:
        found = await text(page, selector)
        assert found == wanted, found
        return True

    await eventually(is_shown, within_s=20)

"""The chat in a real browser: each word once, whatever is reloaded, opened twice, stopped or killed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agents.model_api import Asks, ModelApi, model_api
from crash.fleet import QUICK_TAKEOVER, Fleet, fleet_of
from realclients.chromium import Page, page_in
from realclients.screens import PHONE, WIDE, faults, pressed, sized
from runwire.server.auth import Scope
from runwire.server.auth.keys import new_key
from waiting import eventually

pytestmark = [pytest.mark.browser, pytest.mark.crash]
WITHIN_S = 40.0
HALF = ["Once ", "upon ", "a ", "time "]
REST = ["there ", "was ", "a ", "**log**."]
WHOLE = "Once upon a time there was a log."
SCOPES = {Scope.START, Scope.READ, Scope.SIGNAL, Scope.CANCEL, Scope.CONTENT_READ}
NOTE = json.dumps({"title": "A log", "text": "- It was long."})

Serving = Callable[..., AbstractAsyncContextManager[Fleet]]


@pytest.fixture
async def api() -> AsyncIterator[ModelApi]:
    async with model_api() as api:
        yield api


@pytest.fixture
def serving(database: str, api: ModelApi, tmp_path: Path) -> Serving:
    @asynccontextmanager
    async def served(*roles: str, **chosen: str) -> AsyncIterator[Fleet]:
        environment = {
            **QUICK_TAKEOVER,
            "RUNWIRE_AGENTS": "runwire.agents.chat:chat",
            "RUNWIRE_CHAT_PAGE": "true",
            "RUNWIRE_DEMO_MODEL_URL": api.url,
            "RUNWIRE_DEMO_MODEL": "written-down",
            **chosen,
        }
        async with fleet_of(roles, database=database, logs=tmp_path, environment=environment) as fleet:
            yield fleet
            assert fleet.errors() == []

    return served


@pytest.fixture
async def page(chromium: str, tmp_path: Path) -> AsyncIterator[Page]:
    async with page_in(chromium, profile=tmp_path / "profile") as page:
        await page.listen()
        yield page


async def opened(page: Page, fleet: Fleet) -> None:
    await page.open(f"{fleet.members[0].url}/chat/")


async def sent(page: Page, text: str) -> None:
    await page.evaluate("document.querySelector('#message').focus()")
    await page.call("Input.insertText", text=text)
    await pressed(page, "Enter")


async def words(page: Page) -> Any:
    """The answers on the page, in order: all the text of their parts that shows."""
    return await page.evaluate(
        "[...document.querySelectorAll('.turn')].map(turn => [...turn.querySelectorAll('[data-part=answer]')]"
        ".map(part => part.textContent).filter(Boolean).join(' ').trim())"
    )


async def said(page: Page, *wanted: str) -> None:
    async def same() -> bool:
        found = await words(page)
        assert found == list(wanted), found
        return True

    await eventually(same, within_s=WITHIN_S)


async def reached(page: Page, state: str) -> None:
    async def there() -> bool:
        found = await page.evaluate("[...document.querySelectorAll('.turn')].at(-1)?.dataset.state")
        assert found == state, found
        return True

    await eventually(there, within_s=WITHIN_S)


async def seen(page: Page, selector: str, text: str) -> None:
    async def there() -> bool:
        found = await page.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText")
        assert found is not None
        assert text in found, found
        return True

    await eventually(there, within_s=WITHIN_S)


async def click(page: Page, selector: str) -> None:
    await page.evaluate(f"document.querySelector({json.dumps(selector)}).click()")


async def test_two_tabs_and_a_reload_show_the_same_words_once_and_an_approval_with_its_comment(
    serving: Serving, api: ModelApi, page: Page
) -> None:
    go_on = asyncio.Event()
    api.answers = [[*HALF, go_on, *REST, Asks("save_note", NOTE)], ["Saved ", "it."]]
    async with serving("api+worker+publisher") as fleet:
        await opened(page, fleet)
        await sent(page, "Tell me of a log")
        await said(page, "".join(HALF).strip())
        other = await page.another()
        await other.listen()
        await other.open(await page.evaluate("location.href"))
        await said(other, "".join(HALF).strip())
        await page.reload()
        await said(page, "".join(HALF).strip())
        go_on.set()
        for tab in (page, other):
            await said(tab, WHOLE)
            await reached(tab, "asking")
            await seen(tab, ".proposal", "A log")
        await page.reload()
        await said(page, WHOLE)
        await seen(page, ".proposal", "It was long.")
        await page.evaluate("document.querySelector('.proposal textarea').value = 'Keep it short.'")
        await click(page, ".proposal .approve")
        for tab in (other, page):
            await reached(tab, "finished")
            await said(tab, f"{WHOLE} Saved it.")
            await seen(tab, ".decision", "Keep it short.")
            await seen(tab, ".file", "note.md")
        await sent(other, "Again")  # a turn that starts in one tab joins the other by itself
        for tab in (other, page):
            await said(tab, f"{WHOLE} Saved it.", "Saved it.")
        assert [message["content"] for message in api.asked[-1]["messages"][1:]] == [
            "Tell me of a log",
            "Once upon a time there was a **log**.\n\nSaved it.",
            "Again",
        ]
        assert page.complaints + other.complaints == []


async def test_a_worker_killed_in_the_middle_of_an_answer_leaves_it_complete_and_once(
    serving: Serving, api: ModelApi, page: Page
) -> None:
    api.answers = [[*HALF, asyncio.Event()], [*HALF, *REST]]
    async with serving("api+publisher", "worker") as fleet:
        await opened(page, fleet)
        await sent(page, "Tell me of a log")
        await said(page, "".join(HALF).strip())
        (worker,) = fleet.of("worker")
        worker.kill()
        await worker.start()
        await reached(page, "finished")
        await said(page, WHOLE)
        await seen(page, ".status", "Another worker took over.")
        await page.reload()
        await reached(page, "finished")
        await said(page, WHOLE)
        assert len(api.asked) == 2
        assert page.complaints == []


async def test_a_stopped_answer_keeps_its_half_and_the_conversation_goes_on(
    serving: Serving, api: ModelApi, page: Page
) -> None:
    api.answers = [[*HALF, asyncio.Event()], ["Fine."]]
    half = "".join(HALF).strip()
    async with serving("api+worker+publisher") as fleet:
        await opened(page, fleet)
        await sent(page, "Tell me of a log")
        await said(page, half)
        await click(page, "#stop")
        await reached(page, "cancelled")
        await seen(page, ".status", "Stopped.")
        await page.reload()
        await said(page, half)
        await sent(page, "Never mind")
        await said(page, half, "Fine.")
        await seen(page, "#conversations [aria-current]", "Tell me of a log")
        assert page.complaints == []


async def test_it_asks_for_a_key_and_works_by_keyboard_on_every_screen(
    serving: Serving, api: ModelApi, page: Page
) -> None:
    key, record = new_key(tenant="default", scopes=SCOPES)
    api.answers = [["# Well\n\n1. `one`\n\n```\nx < 1\n```\n", Asks("save_note", NOTE)], ["Done."]]
    async with serving("api+worker+publisher", RUNWIRE_KEYS=record.line) as fleet:
        await opened(page, fleet)
        await seen(page, "#credentials", "Token")
        assert await faults(page) == []
        await page.evaluate("document.querySelector('#credentials input').focus()")
        await page.call("Input.insertText", text=key)
        await pressed(page, "Enter")
        await eventually(lambda: page.evaluate("document.querySelector('#credentials').hidden"), within_s=WITHIN_S)
        await sent(page, "<img src=x onerror=alert(1)>")
        await reached(page, "asking")
        await seen(page, ".words pre", "x < 1")
        await seen(page, ".question", "<img src=x")
        for size, theme in ((WIDE, "light"), (PHONE, "dark")):
            await sized(page, size, theme=theme)
            assert await faults(page) == [], (size, theme)
        await page.evaluate("document.querySelector('.proposal textarea').focus()")
        await pressed(page, "Tab")
        assert await page.evaluate("document.activeElement.textContent") == "Approve"
        await pressed(page, "Enter")
        await reached(page, "finished")
        await seen(page, ".decision", "Approved")
        assert [said for said in page.complaints if "401" not in said] == []  # that was before it had the key

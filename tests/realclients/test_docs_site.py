"""The documentation in a real browser: found by search, copied, read on a phone and without sight."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from realclients.chromium import Page, page_in
from realclients.screens import PHONE, WIDE, faults, pressed, sized
from runwire.server.docs import DocsSite, add_docs, docs_folder
from runwire.server.static_files import packaged, served
from waiting import eventually

pytestmark = [pytest.mark.browser, pytest.mark.node]
# One page of each kind: cards, code, long tables, the longest page, generated tables, headings alone.
PAGES = ("", "agents", "telemetry", "runbooks/run-diagnostics", "operations", "problems")
COLOURFUL = ("", "agents")


@pytest.fixture
async def site() -> AsyncIterator[str]:
    app = web.Application()
    add_docs(app, DocsSite(docs_folder()), public=lambda handler: handler)
    app.router.add_get("/favicon.ico", served(packaged("site", "favicon.ico")))
    async with TestServer(app) as server:
        yield f"http://127.0.0.1:{server.port}/docs/"


@pytest.fixture
async def page(chromium: str, tmp_path: Path) -> AsyncIterator[Page]:
    async with page_in(chromium, profile=tmp_path / "profile") as page:
        await page.listen()
        yield page
        assert page.complaints == []


async def typed(page: Page, text: str) -> None:
    await page.evaluate("document.querySelector('#query').focus()")
    await page.call("Input.insertText", text=text)


async def hits(page: Page) -> Any:
    return await page.evaluate("[...document.querySelectorAll('.hits a')].map(link => link.getAttribute('href'))")


@pytest.mark.parametrize(
    ("size", "theme", "pages"),
    [
        pytest.param(WIDE, "light", PAGES, id="wide-light"),
        pytest.param(PHONE, "dark", PAGES, id="phone-dark"),
        pytest.param(WIDE, "dark", COLOURFUL, id="wide-dark"),
        pytest.param(PHONE, "light", COLOURFUL, id="phone-light"),
    ],
)
async def test_axe_finds_no_fault_and_no_page_is_wider_than_its_screen(
    size: tuple[int, int], theme: str, pages: tuple[str, ...], site: str, page: Page
) -> None:
    await sized(page, size, theme=theme)
    for path in pages:
        await page.open(site + path)
        assert await faults(page) == [], path


async def test_search_leads_to_the_section_by_keyboard_alone(site: str, page: Page) -> None:
    await sized(page, WIDE)
    await page.open(site + "runbooks/run-diagnostics")
    await typed(page, "manual nudge")
    first = await eventually(lambda: _first(page))
    assert first == "../runbooks/run-diagnostics#manual-nudge"
    await pressed(page, "ArrowDown")
    assert await page.evaluate("document.activeElement.getAttribute('href')") == first
    await pressed(page, "Escape")
    assert await page.evaluate("document.querySelector('.hits').hidden")


async def _first(page: Page) -> Any:
    return next(iter(await hits(page)), None)


async def test_search_says_when_it_finds_nothing(site: str, page: Page) -> None:
    await page.open(site)
    await typed(page, "zzyzx")
    await eventually(lambda: _says(page, "Nothing found."))
    assert await hits(page) == []


async def _says(page: Page, wanted: str) -> bool:
    return bool(await page.evaluate("document.querySelector('.hits p').textContent") == wanted)


async def test_a_code_block_is_copied_as_it_stands(site: str, page: Page) -> None:
    await page.open(site + "agents")
    await page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    await page.evaluate("document.querySelector('.copy').click()")
    await eventually(lambda: page.evaluate("document.querySelector('.copy').textContent === 'Copied'"))
    copied = await page.evaluate("window.copied")
    assert copied.startswith("# orders.py\nfrom dataclasses import dataclass, field\n\nfrom runwire import END")


async def test_lists_of_links_are_open_on_wide_screens_and_folded_on_phones(site: str, page: Page) -> None:
    is_open = "[...document.querySelectorAll('.wide-open')].map(list => list.open)"
    for size, wanted in ((WIDE, [True, True]), (PHONE, [False, False])):
        await sized(page, size)
        await page.open(site + "agents")
        assert await page.evaluate(is_open) == wanted


async def test_links_in_text_are_underlined(site: str, page: Page) -> None:
    await page.open(site + "agents")
    lines = await page.evaluate(
        "[...document.querySelectorAll('main :is(p, li, td) a')].map(a => getComputedStyle(a).textDecorationLine)"
    )
    assert set(lines) == {"underline"}

"""Makes docs/img/chat.png and docs/img/chat-reloaded.png: `make chat-pictures`.

Runs the service with the scripted model, chats with it in Chromium, and reloads the page in the middle of an answer.
"""  # noqa: INP001  # a script

from __future__ import annotations

import asyncio
import base64
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

from pictures.draw import squeezed

from crash.fleet import Member
from realclients.chromium import Page, page_in
from runwire.db.embedded import EmbeddedOptions, EmbeddedPostgres
from waiting import eventually

PICTURES: Final = Path(__file__).parents[1] / "docs" / "img"
CHROMIUM: Final = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1040, 800
WITHIN_S: Final = 60.0
PACE_MS: Final = 80


async def taken(folder: Path, *, browser: str) -> list[Path]:
    async with EmbeddedPostgres(EmbeddedOptions(folder / "postgres")) as postgres:
        environment = {
            "RUNWIRE_DATABASE_URL": postgres.dsn,
            "RUNWIRE_DATA_DIR": str(folder),
            "RUNWIRE_AGENTS": "runwire.agents.chat:chat",
            "RUNWIRE_CHAT_PAGE": "true",
            "RUNWIRE_DEMO_PACE_MS": str(PACE_MS),
        }
        service = Member("api-and-all", logs=folder, environment=environment)
        await service.start()
        try:
            async with page_in(browser, profile=folder / "profile") as page:
                return await _chatted(page, f"{service.url}/chat/")
        finally:
            service.discard()


async def _chatted(page: Page, url: str) -> list[Path]:
    size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 2, "mobile": False}
    await page.call("Emulation.setDeviceMetricsOverride", **size)
    await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    await page.open(url)
    await _said(page, "Plan a weekend in Lisbon")
    await _until(page, "document.querySelector('[data-state=asking]')")
    await page.evaluate("document.querySelector('.proposal textarea').value = 'Yes, but no funicular before noon.'")
    await page.evaluate("document.querySelector('.proposal .approve').click()")
    await _until(page, "document.querySelector('[data-state=finished]')")
    await _said(page, "How do you survive a crash?")
    await _until(page, "document.body.innerText.includes('resumes at the byte')")
    before = await _shot(page, "chat")
    await page.reload()
    await _until(page, "document.querySelectorAll('[data-state=finished]').length === 2")
    return [before, await _shot(page, "chat-reloaded")]


async def _said(page: Page, text: str) -> None:
    await page.evaluate("document.querySelector('#message').focus()")
    await page.call("Input.insertText", text=text)
    await page.evaluate("document.querySelector('#send').click()")


async def _until(page: Page, script: str) -> None:
    async def true() -> Any:
        return await page.evaluate(f"Boolean({script})")

    await eventually(true, within_s=WITHIN_S)


async def _shot(page: Page, name: str) -> Path:
    answer = await page.call("Page.captureScreenshot", format="png")
    path = PICTURES / f"{name}.png"
    await asyncio.to_thread(path.write_bytes, base64.b64decode(answer["data"]))
    await asyncio.to_thread(squeezed, path)
    return path


def main() -> None:
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if browser is None:
        raise SystemExit("needs Chromium")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)  # PostgreSQL is run as another user when we are root
        for path in asyncio.run(taken(Path(name), browser=browser)):
            print(f"{path.relative_to(PICTURES.parents[1])}: {path.stat().st_size / 1000:.0f} kB")  # noqa: T201


if __name__ == "__main__":
    main()

"""A headless Chromium and a page in it, driven over the DevTools protocol."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from waiting import eventually

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--remote-debugging-port=0",
    # A mouse, whatever devices the machine has: hover and fine pointers.
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4",
)
START_S = 40.0


class Page:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse, *, ids: Iterator[int] | None = None) -> None:
        self._socket = socket
        self._ids = itertools.count(1) if ids is None else ids
        self.session: str | None = None
        self.complaints: list[str] = []
        """The browser's errors, warnings and violations of policies since `listen`."""

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a protocol method. One call at a time."""
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        await self._socket.send_json(message)
        while True:
            answer = await self._socket.receive_json(timeout=20)
            self._heed(answer)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    async def attach(self) -> None:
        """Makes a window for this page."""
        target = await self.call("Target.createTarget", url="about:blank", newWindow=True)
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = attached["sessionId"]

    async def another(self) -> Page:
        """A second window of the same browser and profile. Calls of the two take turns."""
        page = Page(self._socket, ids=self._ids)
        await page.attach()
        return page

    async def evaluate(self, script: str) -> Any:
        """The value of the expression, or of the promise it returns, as JSON."""
        answer = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def listen(self) -> None:
        """From here on complaints are kept: uncaught errors, console errors, and violations of a page's policy."""
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            await self.call(f"{domain}.enable")

    def _heed(self, message: dict[str, Any]) -> None:
        said = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(str(said["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if said["type"] in ("error", "warning", "assert"):
                self.complaints.append(str(said["args"]))
            case "Log.entryAdded" if said["entry"]["level"] in ("error", "warning"):
                self.complaints.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")
            case "Audits.issueAdded" if said["issue"]["code"] == "ContentSecurityPolicyIssue":
                self.complaints.append(str(said["issue"]["details"]))

    async def reload(self) -> None:
        """As F5 does: everything is asked for again, with what the cache has. Returns when the page is complete."""
        await self.evaluate("window.beforeReload = true")
        await self.call("Page.reload")

        async def complete() -> bool:
            return bool(await self.evaluate("!window.beforeReload && document.readyState === 'complete'"))

        await eventually(complete, within_s=20)

    async def open(self, url: str) -> None:
        """Returns when the page at `url` is complete."""
        await self.call("Page.navigate", url=url)

        async def complete() -> bool:
            state = await self.evaluate("[location.href, document.readyState]")
            return bool(state[0].startswith(url) and state[1] == "complete")

        await eventually(complete, within_s=20)


@asynccontextmanager
async def page_in(program: str, *, profile: Path) -> AsyncIterator[Page]:
    """A blank page of a browser of its own, with a fresh profile."""
    environment = {**os.environ, "HOME": str(profile), "XDG_RUNTIME_DIR": str(profile)}
    browser = subprocess.Popen(  # noqa: ASYNC220  # returns at once
        [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        address = await eventually(lambda: _address(profile), within_s=START_S)
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(address, max_msg_size=0) as socket,
        ):
            page = Page(socket)
            await page.attach()
            yield page
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(browser.pid, signal.SIGKILL)
        await asyncio.to_thread(browser.wait)


def _address(profile: Path) -> str:
    """Of the protocol's socket, which Chromium writes down when it listens; empty before."""
    file = profile / "DevToolsActivePort"
    lines = file.read_text().splitlines() if file.exists() else []
    return f"ws://127.0.0.1:{lines[0]}{lines[1]}" if len(lines) == 2 else ""

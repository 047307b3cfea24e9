"""A browser, as the service sees it: one user agent, an EventSource that comes back by itself until the run's end."""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp

_FOR_EVER: Final = aiohttp.ClientTimeout(total=None, sock_connect=5)


class Viewer:
    def __init__(self, session: aiohttp.ClientSession, user_agent: str) -> None:
        self._session = session
        self._user_agent = user_agent
        self._seen = ""

    async def watch(self, url: str, *, leaves_after: int | None = None) -> bool:
        """Whether it stayed to the end; it leaves after so many events."""
        while True:
            try:
                if (stayed := await self._follow(url, leaves_after=leaves_after)) is not None:
                    return stayed
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(1)

    async def _follow(self, url: str, *, leaves_after: int | None) -> bool | None:
        """None when the connection ended before the run did."""
        headers = {"User-Agent": self._user_agent, "Accept": "text/event-stream"}
        if self._seen:
            headers["Last-Event-ID"] = self._seen
        async with self._session.get(url, headers=headers, timeout=_FOR_EVER) as answer:
            if answer.status != 200:
                return True if answer.status < 500 else None
            events = 0
            async for line in answer.content:
                if line.startswith(b"id:"):
                    self._seen = line[3:].strip().decode()
                elif line.startswith(b"event: end"):
                    return True
                elif line.startswith(b"data:"):
                    events += 1
                    if events == leaves_after:
                        return False
        return None

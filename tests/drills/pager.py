"""The pager: the webhook that Alertmanager calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from aiohttp import web

FIRING: Final = "firing"
RESOLVED: Final = "resolved"


@dataclass(frozen=True, slots=True)
class Notification:
    """One alert of one call; `at` by the clock of the epoch."""

    at: float
    receiver: str
    status: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    @property
    def alert(self) -> str:
        return self.labels["alertname"]


class Pager:
    """Keeps what came in. `url` takes the calls of any receiver, as `url/<receiver>`."""

    def __init__(self) -> None:
        self.url = ""
        self.seen: list[Notification] = []
        self._more = asyncio.Condition()

    async def told(
        self, alert: str, status: str, *, since: float, within_s: float, labels: Mapping[str, str] | None = None
    ) -> Notification:
        """The first notification of this alert and status after `since`, which may have come already."""
        try:
            async with asyncio.timeout(within_s), self._more:
                await self._more.wait_for(lambda: self.found(alert, status, since=since, labels=labels) is not None)
        except TimeoutError:
            raise AssertionError(f"{alert} not {status} within {within_s:g} s; {self.summary(since=since)}") from None
        notification = self.found(alert, status, since=since, labels=labels)
        assert notification is not None
        return notification

    def found(
        self, alert: str, status: str, *, since: float, labels: Mapping[str, str] | None = None
    ) -> Notification | None:
        """As `told`, of what has come by now."""
        wanted = {"alertname": alert, **(labels or {})}.items()
        return next((n for n in self.seen if n.status == status and n.at >= since and wanted <= n.labels.items()), None)

    def summary(self, *, since: float) -> str:
        heard = sorted({(n.alert, n.status) for n in self.seen if n.at >= since})
        return f"heard of {', '.join(f'{alert} {status}' for alert, status in heard) or 'nothing'}"

    def fired(self, *, since: float = 0.0) -> set[str]:
        """Names of the alerts that somebody was told of."""
        return {n.alert for n in self.seen if n.status == FIRING and n.at >= since}

    async def take(self, request: web.Request) -> web.Response:
        call = await request.json()
        async with self._more:
            for one in call["alerts"]:
                self.seen.append(
                    Notification(
                        time.time(), request.match_info["receiver"], one["status"], one["labels"], one["annotations"]
                    )
                )
            self._more.notify_all()
        return web.Response()


@asynccontextmanager
async def pager() -> AsyncIterator[Pager]:
    """A pager that listens."""
    taker = Pager()
    app = web.Application()
    app.router.add_post("/{receiver}", taker.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    taker.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield taker
    finally:
        await runner.cleanup()

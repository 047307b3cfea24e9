"""The API as tests call it: plain HTTP, and the few flows that many tests begin with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from waiting import eventually

RUNS = "/api/agents/runs"


@dataclass
class Api:
    http: httpx.AsyncClient

    async def start(self, **body: Any) -> dict[str, Any]:
        response = await self.http.post(RUNS, json=body)
        assert response.status_code == 202, response.text
        started: dict[str, Any] = response.json()
        return started

    async def run(self, run_id: str) -> dict[str, Any]:
        view: dict[str, Any] = (await self.http.get(f"{RUNS}/{run_id}")).json()
        return view

    async def external(self, run_id: str, *, begun: bool = True, **body: Any) -> int:
        """Starts an external run and gives its fence; with `begun`, its log has RunStarted, published."""
        fence: int = (await self.start(runId=run_id, external=True, **body))["fence"]
        if begun:
            appended = await self.append(run_id, [{"type": "RunStarted"}], fence=fence)
            assert appended.status_code == 200, appended.text
            await self.published(run_id, 1)
        return fence

    async def append(
        self, run_id: str, events: list[dict[str, Any]], *, fence: int | str | None, **body: Any
    ) -> httpx.Response:
        headers = {} if fence is None else {"Runwire-Fence": str(fence)}
        return await self.http.post(f"{RUNS}/{run_id}/events", json={"events": events, **body}, headers=headers)

    async def open_part(self, run_id: str, *, fence: int, **body: Any) -> httpx.Response:
        """Opens a part of an external run, `answer` unless the body names it."""
        headers = {"Runwire-Fence": str(fence)}
        response = await self.http.post(f"{RUNS}/{run_id}/parts", json={"name": "answer", **body}, headers=headers)
        assert response.status_code == 201, response.text
        return response

    async def write_part(
        self, run_id: str, data: bytes | str, *, fence: int, n: int = 1, close: bool = False, offset: str | None = None
    ) -> httpx.Response:
        headers = {"Runwire-Fence": str(fence), **({"Stream-Closed": "true"} if close else {})}
        query = "" if offset is None else f"?offset={offset}"
        return await self.http.post(f"{RUNS}/{run_id}/parts/{n}{query}", content=data, headers=headers)

    async def finish(self, run_id: str, *, fence: int, outcome: str = "finished") -> None:
        """Ends an external run; its terminal event is published."""
        response = await self.append(run_id, [{"type": "RunFinished"}], fence=fence, outcome=outcome)
        assert response.status_code == 200, response.text
        await self.published(run_id, response.json()["lastSeq"])

    async def published(self, run_id: str, seq: int) -> None:
        async def seen() -> bool:
            return int((await self.run(run_id))["publishedSeq"]) >= seq

        await eventually(seen)

    async def ended(self, run_id: str) -> dict[str, Any]:
        """The run once its terminal event is published."""

        async def seen() -> dict[str, Any] | None:
            view = await self.run(run_id)
            over = view["outcome"] is not None and view["publishedSeq"] == view["lastSeq"]
            return view if over else None

        view: dict[str, Any] | None = await eventually(seen)
        assert view is not None
        return view


@dataclass
class Frame:
    """A block of an event stream, by its fields; comments are under the empty name."""

    fields: dict[str, str]

    @property
    def data(self) -> Any:
        return json.loads(self.fields["data"])


@dataclass
class EventStream:
    response: httpx.Response
    lines: AsyncIterator[str]

    async def frame(self, *, within_s: float = 5.0) -> Frame | None:
        """The next block; None when the stream has ended."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(within_s):
            async for line in self.lines:
                if line:
                    name, _, value = line.partition(":")
                    fields[name] = value.removeprefix(" ")
                elif fields:
                    return Frame(fields)
        return None

    async def frames(self, count: int) -> list[Frame]:
        taken = [await self.frame() for _ in range(count)]
        assert None not in taken
        return [frame for frame in taken if frame is not None]

    async def rest(self) -> list[Frame]:
        """Everything up to the end of the stream."""
        taken = []
        while (frame := await self.frame()) is not None:
            taken.append(frame)
        return taken


@asynccontextmanager
async def streaming(
    api: Api, run_id: str, *, query: str = "", headers: dict[str, str] | None = None
) -> AsyncIterator[EventStream]:
    async with api.http.stream("GET", f"{RUNS}/{run_id}/stream{query}", headers=headers or {}) as response:
        assert response.status_code == 200, await response.aread()
        yield EventStream(response, response.aiter_lines())


async def exchanged(port: int, request: bytes, *, within_s: float = 5.0) -> bytes:
    """The server's answer to raw bytes, until it closes the connection."""
    async with asyncio.timeout(within_s):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

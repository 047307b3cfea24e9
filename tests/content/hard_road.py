"""Clients on the way to a service whose statements are refused one after the other: they note each byte and answer."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, Final

import httpx

from content.transcript import Transcript
from crash.wire import Block, Body
from runwire.errors import DECLARED
from runwire.model.part_offset import PART_BEGINNING, offset_text

RUNS: Final = "/api/agents/runs"
OF_A_VALUE: Final = ("22", "23")
AGAIN_S: Final = 0.02


class Road:
    """The API as its clients see it. `state` is the SQLSTATE that is refused just now, or None.

    Every answer is one that the protocol lists: a success, a fact about the request, or a problem of that state's
    class. No answer is 500.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.state: str | None = None
        self._values_refused = False

    def refuses(self, state: str | None) -> None:
        self.state = state
        self._values_refused |= state is not None and state.startswith(OF_A_VALUE)

    async def ask(self, method: str, path: str, **what: Any) -> httpx.Response:
        """An answer that came whole, while `state` was refused."""
        response = await self.http.request(method, path, **what)
        self.check(response, by_now=self.state)
        return response

    def check(self, response: httpx.Response, *, by_now: str | None = "22", body: bytes | None = None) -> None:
        """`by_now` is the state for an answer of which it is known."""
        if response.status_code < 400:
            return
        problem = json.loads(response.content if body is None else body)
        code = problem["code"]
        told = f"{response.request.method} {response.request.url.path}: {response.status_code} {code} in {self.state}"
        assert DECLARED[code].kind.status == response.status_code, told
        assert response.status_code != 500, told
        if response.status_code == 503:
            assert "Retry-After" in response.headers, told
        if code == "value_refused":
            assert self._values_refused, told
            assert by_now is not None, told
            assert by_now.startswith(OF_A_VALUE), told

    @asynccontextmanager
    async def blocks(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[AsyncIterator[Block] | int]:
        """The blocks of one connection, which may break; the status where there is no stream."""
        async with AsyncExitStack() as stack:
            try:
                response = await stack.enter_async_context(self.http.stream("GET", path, headers=dict(headers)))
                if response.status_code != 200:
                    self.check(response, body=await response.aread())
                    yield response.status_code
                    return
            except httpx.TransportError:
                yield 0
                return
            yield _blocks_in(response)


async def _blocks_in(response: httpx.Response) -> AsyncIterator[Block]:
    body = Body(chunked=False)
    try:
        async for data in response.aiter_bytes():
            for block in body.feed(data):
                yield block
    except httpx.TransportError:
        return


class Viewer:
    """A stream's client with the memory of a native EventSource, which comes back until all was told."""

    path: str
    over = False
    connections = 0

    def __init__(self, road: Road) -> None:
        self._road = road

    @property
    def headers(self) -> dict[str, str]:
        raise NotImplementedError

    def take(self, block: Block) -> None:
        raise NotImplementedError

    async def peek(self) -> None:
        """One more connection, from where this one is, up to its first block."""
        async with self._road.blocks(self.path, self.headers) as blocks:
            if not isinstance(blocks, int):
                async with aclosing(blocks):  # type: ignore[type-var]
                    await anext(blocks, None)

    async def run(self) -> None:
        while not self.over:
            self.connections += 1
            async with self._road.blocks(self.path, self.headers) as blocks:
                if isinstance(blocks, int):
                    self.over = blocks == 204
                else:
                    async for block in blocks:
                        self.take(block)
            await asyncio.sleep(AGAIN_S)


class MixedViewer(Viewer):
    """Of a run's events and the bytes of all its parts."""

    def __init__(self, road: Road, run_id: str) -> None:
        super().__init__(road)
        self.path = f"{RUNS}/{run_id}/stream?parts=*"
        self.shown = Transcript(run_id)

    @property
    def headers(self) -> dict[str, str]:
        return {"Last-Event-ID": self.shown.cursor}

    def take(self, block: Block) -> None:
        self.shown.take(block)
        self.over = self.over or self.shown.end is not None


class PartViewer(Viewer):
    """Of one part."""

    def __init__(self, road: Road, run_id: str, n: int) -> None:
        super().__init__(road)
        self._path = f"{RUNS}/{run_id}/parts/{n}"
        self._next = PART_BEGINNING
        self.data = b""

    @property
    def path(self) -> str:  # type: ignore[override]
        return f"{self._path}?live=sse&offset={self._next}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Stream-SSE-Data-Encoding": "base64"}

    def take(self, block: Block) -> None:
        kind = block.fields.get("event")
        if kind == "data":
            self.data += base64.b64decode(block.fields["data"])
        elif kind == "control":
            control = json.loads(block.fields["data"])
            self._next = control["streamNextOffset"]
            assert self._next == offset_text(1, len(self.data))
            self.over = control.get("streamClosed", False)


class ManyViewer(Viewer):
    """Of the runs of a session. `told` has the seqs of each, then the state it ended in."""

    def __init__(self, road: Road, session: str) -> None:
        super().__init__(road)
        self.path = f"/api/agents/stream?session={session}"
        self.told: dict[str, list[int | str]] = {}
        self._last_id: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {} if self._last_id is None else {"Last-Event-ID": self._last_id}

    def take(self, block: Block) -> None:
        if "data" in block.fields:
            data = json.loads(block.fields["data"])
            told = self.told.setdefault(data["runId"], [])
            if block.fields.get("event") == "end":
                assert told[-1] == data["lastSeq"], data
                told.append(data["state"])
            else:
                assert data["seq"] == len(told) + 1, data
                told.append(data["seq"])
        self._last_id = block.fields.get("id", self._last_id)


class Author:
    """An external orchestrator that writes one part for long, and others beside. It knows what was stored."""

    def __init__(self, road: Road, run_id: str, fence: int) -> None:
        self._road = road
        self.run_id = run_id
        self._run = f"{RUNS}/{run_id}"
        self._fence = {"Runwire-Fence": str(fence)}
        self.written = b""
        """The bytes of part 1."""
        self.last_seq = 0
        self._unsure = b""
        self._signals_taken = 0
        self._signals: list[int] = []
        self._pieces = 0

    @property
    def signals(self) -> list[int]:
        """Numbers of the signals that it has taken, in the order in which they came."""
        return self._signals

    async def begin(self) -> None:
        appended = await self.append([{"type": "RunStarted"}])
        assert appended.status_code == 200, appended.text
        opened = await self._road.ask(
            "POST", f"{self._run}/parts", json={"name": "answer", "mediaType": "text/plain"}, headers=self._fence
        )
        assert opened.status_code == 201, opened.text

    async def append(self, events: list[dict[str, Any]], **body: Any) -> httpx.Response:
        """Appends, and takes the signals that the answer brings."""
        response = await self._road.ask(
            "POST",
            f"{self._run}/events",
            json={"events": events, "signalsTaken": self._signals_taken, **body},
            headers=self._fence,
        )
        if response.status_code == 200:
            told = response.json()
            self.last_seq = told["lastSeq"]
            fresh = [signal for signal in told.get("signals", ()) if signal["n"] > self._signals_taken]
            for signal in fresh:
                assert signal["data"] == {"of": signal["id"]}, signal
                self._signals.append(signal["n"])
                self._signals_taken = signal["n"]
        return response

    async def write(self) -> None:
        """The next piece of part 1, or the last one again when nobody knows whether it was stored."""
        if not self._unsure:
            self._pieces += 1
            self._unsure = f"piece {self._pieces} ü🚀\r\n".encode() * (1 + self._pieces % 40)
        response = await self._put(self._unsure)
        stored = response.status_code == 204
        if response.status_code == 409:
            stored = True
            assert response.json()["size"] == len(self.written) + len(self._unsure), response.text
        if stored:
            self.written, self._unsure = self.written + self._unsure, b""

    async def seal(self) -> None:
        """Ends part 1, which has all pieces then."""
        while self._unsure:
            await self.write()
        response = await self._put(b"", **{"Stream-Closed": "true"})
        assert response.status_code == 204, response.text

    async def _put(self, data: bytes, **headers: str) -> httpx.Response:
        offset = offset_text(1, len(self.written))
        return await self._road.ask(
            "POST", f"{self._run}/parts/1?offset={offset}", content=data, headers=self._fence | headers
        )

    async def write_another(self, data: bytes) -> None:
        """Opens, writes, seals, reads and erases a part; or as far as it comes. It abandons parts left open."""
        ask, fenced = self._road.ask, self._fence
        listed = await ask("GET", f"{self._run}/parts")
        if listed.status_code == 200:
            for part in listed.json()["parts"]:
                if part["state"] == "open" and part["part"] != 1:
                    await ask("DELETE", f"{self._run}/parts/{part['part']}", headers=fenced)
        opened = await ask("POST", f"{self._run}/parts", json={"name": "other"}, headers=fenced)
        if opened.status_code != 201:
            assert opened.status_code in (409, 422, 503), opened.text  # one that was not abandoned before
            return
        part = f"{self._run}/parts/{opened.json()['part']}"
        closed = await ask("POST", part, content=data, headers={**fenced, "Stream-Closed": "true"})
        if closed.status_code == 204:
            read = await ask("GET", part)
            assert read.status_code in (422, 503) or read.content == data, read.text
            await ask("DELETE", f"{part}/bytes")

    async def store(self, data: bytes) -> None:
        """Stores, reads and erases an artifact; or as far as it comes."""
        ask = self._road.ask
        stored = await ask("POST", f"{self._run}/artifacts?name=file", content=data, headers=self._fence)
        if stored.status_code in (200, 201):
            artifact = f"{self._run}/artifacts/{stored.json()['n']}"
            read = await ask("GET", artifact)
            assert read.status_code in (422, 503) or read.content == data
            await ask("DELETE", artifact)
        await ask("GET", f"{self._run}/artifacts")

    async def hear(self, signal_id: str) -> None:
        """Gets a signal with data, once, however often it is sent."""
        for _ in range(2):
            await self._road.ask(
                "POST", f"{self._run}/signal", json={"name": "note", "data": {"of": signal_id}, "id": signal_id}
            )
        await self._road.ask("GET", f"{self._run}/signals")
        await self.append([])

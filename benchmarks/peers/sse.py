"""SSE for peers that have none: what a competent user writes in an afternoon, with aiohttp.

One reader a run, however many clients follow it; a queue a client; all that waits in a queue goes out in one write.
Run by the interpreter of the peers' own environment.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Callable

from aiohttp import web

Follow = Callable[[str], AsyncIterator[list[tuple[str, str]]]]
"""Of a run: its events from the first on, each with its id, as they come."""
HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Streams:
    """The clients of all runs, and a reader for each run that has some."""

    def __init__(self, follow: Follow) -> None:
        self._follow = follow
        self._clients: dict[str, set[asyncio.Queue[bytes]]] = {}
        self._readers: dict[str, asyncio.Task[None]] = {}

    async def stream(self, request: web.Request) -> web.StreamResponse:
        run_id = request.match_info["run_id"]
        response = web.StreamResponse(headers=HEADERS)
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        clients = self._clients.setdefault(run_id, set())
        clients.add(queue)
        if run_id not in self._readers:
            self._readers[run_id] = asyncio.create_task(self._read(run_id))
        await response.prepare(request)
        await response.write(b": hi\n\n")  # or the head would wait for the first event
        try:
            while True:
                frames = [await queue.get()]
                while not queue.empty():
                    frames.append(queue.get_nowait())
                await response.write(b"".join(frames))
        finally:
            clients.discard(queue)
            if not clients:
                self._clients.pop(run_id, None)
                self._readers.pop(run_id).cancel()

    async def _read(self, run_id: str) -> None:
        clients = self._clients[run_id]
        async for events in self._follow(run_id):
            frames = "".join([f"id: {at}\ndata: {event}\n\n" for at, event in events]).encode()
            for queue in clients:
                queue.put_nowait(frames)


async def serve(follow: Follow, port: int) -> web.AppRunner:
    """Listens, with as many files open as it may have. `/stream/<run>` is a run as it happens."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    application = web.Application()
    application.router.add_get("/stream/{run_id}", Streams(follow).stream)
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=8192).start()
    return runner

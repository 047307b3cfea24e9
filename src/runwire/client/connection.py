"""The connection of a client, and calls about one run."""

from __future__ import annotations

import secrets
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import aiohttp

import runwire
from runwire.client.address import bearer, service_url
from runwire.client.calls import CONNECT_TIMEOUT_S, Call, Caller
from runwire.client.content import Download
from runwire.client.results import StartedRun
from runwire.client.stream import FollowedStream
from runwire.errors import InvalidRequest
from runwire.model.run import checked_run_id

T = TypeVar("T")
S = TypeVar("S", bound=FollowedStream[Any])

RUNS: Final = "/api/agents/runs"

Run = str | StartedRun
"""A run id, or what `start` returned."""


class ClientConnection:
    """The HTTP connection pool of a client, open inside the block."""

    def __init__(
        self,
        base_url: str,
        *,
        token: str | Callable[[], str] | None = None,
        timeout_s: float = 30.0,
        retry_s: float = 10.0,
    ) -> None:
        self.base_url = service_url(base_url)
        if isinstance(token, str):
            bearer(token)
        self._token: Callable[[], str | None] = token if callable(token) else lambda: token
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._opened: Caller | None = None
        self._streams: weakref.WeakSet[FollowedStream[Any]] = weakref.WeakSet()

    async def __aenter__(self) -> Self:
        session = aiohttp.ClientSession(
            headers={
                "Accept": "application/json",
                "Content-Type": "application/json",
                "User-Agent": _user_agent(),
            },
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=CONNECT_TIMEOUT_S),
            connector=aiohttp.TCPConnector(limit=0),  # a stream holds its connection until its run ends
        )
        self._opened = Caller(session, base_url=self.base_url, retry_s=self._retry_s, token=self._token)
        return self

    async def __aexit__(self, *_: object) -> None:
        caller, self._opened = self._opened, None
        for stream in tuple(self._streams):
            await stream.aclose()
        if caller is not None:
            await caller.session.close()

    @property
    def _caller(self) -> Caller:
        if self._opened is None:
            raise RuntimeError("the client is not open: use `async with Client(...) as client`")
        return self._opened

    def _download(self, run: Run, below: str, *, patience_s: float | None = None) -> Download:
        run_id = id_of(run)
        call = Call("GET", path_of(run_id) + below, run_id=run_id)
        return Download(self._caller, call, silence_s=self._timeout_s, patience_s=patience_s)

    def _followed(self, stream: S) -> S:
        """The stream, which the client closes when it is left."""
        self._streams.add(stream)
        return stream

    async def _on_run(
        self,
        method: str,
        run: Run,
        below: str,
        answer: type[T],
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        repeatable: bool = True,
    ) -> T:
        run_id = id_of(run)
        path = path_of(run_id) + below
        call = Call(method, path, body=body, query=query, repeatable=repeatable, run_id=run_id)
        return await self._caller.call(call, answer)


def id_of(run: Run) -> str:
    return checked_run_id(run.run_id if isinstance(run, StartedRun) else run)


def fence_of(run: Run, given: int | None) -> int:
    held = given if given is not None else run.fence if isinstance(run, StartedRun) else None
    if held is None:
        raise InvalidRequest("appending needs the run's fence", code="fence_missing")
    return held


def path_of(run_id: str) -> str:
    return f"{RUNS}/{quote(run_id, safe=':')}"


def _user_agent() -> str:
    """Names this very client: the service tells by it who reconnects too often."""
    return f"runwire-python/{runwire.__version__} ({secrets.token_hex(4)})"

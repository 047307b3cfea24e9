"""Limits on the work of this process. It refuses work beyond them early, and tells the client when to try again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import Counter

from runwire.clock import monotonic
from runwire.errors import Overloaded
from runwire.server import forwarded
from runwire.server.addresses import Network
from runwire.server.forwarded import PREFIX, client_address
from runwire.server.requests import refuse_duplicates
from runwire.server.settings import ServerSettings

BUSY_RETRY_S: Final = 5
"""Seconds until a client that found no permit should ask again; it is long, because streams end rarely."""
BURST_S: Final = 2.0
"""A client that was silent may send this many seconds' worth of requests at once."""
CLIENTS_MAX: Final = 50_000
"""Most clients whose rate is remembered. The one that was silent for longest is forgotten first."""


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """0 is no limit."""

    streams: int = 0
    streams_per_run: int = 0
    streams_per_client: int = 0
    requests_per_s: float = 0.0

    @classmethod
    def of(cls, settings: ServerSettings) -> AdmissionLimits:
        return cls(
            streams=settings.streams_max,
            streams_per_run=settings.streams_per_run_max,
            streams_per_client=settings.streams_per_client_max,
            requests_per_s=settings.requests_per_s,
        )


class Admission:
    """Counts open streams and requests. Clients are told apart by address; `refused` counts refusals by code."""

    def __init__(
        self, limits: AdmissionLimits, *, refused: Mapping[str, Counter], now: Callable[[], float] = monotonic
    ) -> None:
        self._limits = limits
        self._refused = refused
        self._now = now
        self._streams = 0
        self._by_run: dict[str, int] = {}
        self._by_client: dict[str, int] = {}
        # Per client, the time at which its requests so far are paid for (the generic cell rate algorithm).
        self._even_at: OrderedDict[str, float] = OrderedDict()

    def request(self, client: str) -> None:
        """Counts a request. Raises Overloaded (`too_many_requests`)."""
        rate = self._limits.requests_per_s
        if not rate:
            return
        now = self._now()
        even_at = max(self._even_at.get(client, now), now) + 1 / rate
        wait_s = even_at - now - max(BURST_S, 1 / rate)
        if wait_s > 0:
            raise Overloaded(
                f"A client address may send {rate:g} requests a second.",
                code="too_many_requests",
                retry_after_s=ceil(wait_s),
            )
        self._even_at[client] = even_at
        self._even_at.move_to_end(client)
        if len(self._even_at) > CLIENTS_MAX:
            self._even_at.popitem(last=False)

    def stream(self, run_id: str, client: str) -> _Place:
        """Holds a permit for a stream inside a `with` block.

        Entering it raises Overloaded (`too_many_streams`, `too_many_own_streams`).
        """
        return _Place(self, run_id, client)

    def take_place(self, run_id: str, client: str) -> None:
        """Counts a stream in. Raises Overloaded."""
        limits = self._limits
        if _full(self._streams, limits.streams):
            raise _no_place("too_many_streams", f"This process may have at most {limits.streams} streams.")
        if _full(self._by_run.get(run_id, 0), limits.streams_per_run):
            raise _no_place(
                "too_many_streams", f"A run may have at most {limits.streams_per_run} streams in this process."
            )
        if _full(self._by_client.get(client, 0), limits.streams_per_client):
            raise _no_place(
                "too_many_own_streams",
                f"A client address may have at most {limits.streams_per_client} streams in this process.",
            )
        self._streams += 1
        _raise(self._by_run, run_id)
        _raise(self._by_client, client)

    def give_up_place(self, run_id: str, client: str) -> None:
        """Returns the stream's permit."""
        self._streams -= 1
        _lower(self._by_run, run_id)
        _lower(self._by_client, client)

    def middleware(self, proxies: tuple[Network, ...], *, path_prefix: str = "") -> Middleware:
        """Limits the rate of each client, refuses ambiguous headers, and counts refusals, its own and of handlers.

        Stores the client's address and the path prefix that the client sees; `path_prefix` unless a proxy names one.
        """

        @web.middleware
        async def admitted(request: web.Request, handler: Handler) -> web.StreamResponse:
            address = request[CLIENT] = client_address(
                request.remote or "", request.headers.getall("X-Forwarded-For", []), proxies
            )
            request[PREFIX] = forwarded.path_prefix(
                request.remote or "", request.headers.getall("X-Forwarded-Prefix", []), proxies, otherwise=path_prefix
            )
            try:
                self.request(address)
                refuse_duplicates(request)  # not a middleware, whose frame every open stream would keep
                return await handler(request)
            except Overloaded as error:
                self._refused[error.code].inc()
                raise

        return admitted


class _Place:
    """Held while a stream is open. Written by hand, since an object of `contextmanager` takes half a KiB more."""

    __slots__ = ("_admission", "_client", "_run_id")

    def __init__(self, admission: Admission, run_id: str, client: str) -> None:
        self._admission = admission
        self._run_id = run_id
        self._client = client

    def __enter__(self) -> None:
        self._admission.take_place(self._run_id, self._client)

    def __exit__(self, *_: object) -> None:
        self._admission.give_up_place(self._run_id, self._client)


CLIENT: Final = web.RequestKey("client", str)
"""The client's address, behind the trusted proxies."""


def _no_place(code: str, detail: str) -> Overloaded:
    return Overloaded(detail, code=code, retry_after_s=BUSY_RETRY_S)


def _full(count: int, limit: int) -> bool:
    return 0 < limit <= count


def _raise(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1


def _lower(counts: dict[str, int], key: str) -> None:
    if counts[key] == 1:
        del counts[key]
    else:
        counts[key] -= 1

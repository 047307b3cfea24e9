"""Cross-origin requests (Fetch standard, CORS): which origins' pages may call the API.

Credentials of browsers (cookies) are never asked for: callers show a token in a header, which a page must hold itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aiohttp import hdrs, web

_TAKEN: Final = (
    "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Runwire-Fence, traceparent, tracestate"
)
_SHOWN: Final = "ETag, Location, Retry-After, WWW-Authenticate"
_MAX_AGE_S: Final = 600


class Cors:
    """The allow-list. `origins` are `scheme://host[:port]`; `*` stands for any."""

    def __init__(self, origins: Iterable[str]) -> None:
        self.origins = frozenset(origins)

    def headers(self, request: web.Request) -> dict[str, str]:
        """The CORS headers of the answer to this request; none when no origins are allowed."""
        if not self.origins:
            return {}
        origin = request.headers.get(hdrs.ORIGIN)
        if "*" in self.origins:
            said: dict[str, str] = {hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: "*"}
        elif origin in self.origins:
            said = {hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: str(origin), hdrs.VARY: hdrs.ORIGIN}
        else:
            return {hdrs.VARY: hdrs.ORIGIN}
        return said if origin is None else {**said, hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: _SHOWN}

    def preflight(self, request: web.Request, methods: Iterable[str]) -> web.Response | None:
        """The answer to a preflight for a route of these methods; None when the request is not a preflight."""
        asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_METHOD)
        if request.method != hdrs.METH_OPTIONS or asked is None or not self.origins:
            return None
        return web.Response(
            status=204,
            headers={
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: ", ".join(sorted(methods)),
                hdrs.ACCESS_CONTROL_ALLOW_HEADERS: _TAKEN,
                hdrs.ACCESS_CONTROL_MAX_AGE: str(_MAX_AGE_S),
            },
        )

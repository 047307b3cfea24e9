"""Cross-origin requests (Fetch standard, CORS): which origins' pages may call the API.

Credentials of browsers (cookies) are never asked for: callers show a token in a header, which a page must hold itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from aiohttp import hdrs, web

from runwire.server.routes import Route

_TAKEN: Final = ("Authorization", "Content-Type", "traceparent", "tracestate")
"""Headers of requests to any route. Each route names its own."""
_SHOWN: Final = ("Retry-After", "WWW-Authenticate")
"""Headers of answers of any route."""
_MAX_AGE_S: Final = 600


class Cors:
    """The allow-list. `origins` are `scheme://host[:port]`; `*` stands for any. Pages may send the headers that
    `routes` take, and see those of their answers.
    """

    def __init__(self, origins: Iterable[str], *, routes: Iterable[Route[Any]]) -> None:
        self.origins = frozenset(origins)
        known = tuple(routes)
        self._taken = ", ".join(sorted({*_TAKEN, *(one.name for route in known for one in route.headers)}))
        self._shown = ", ".join(sorted({*_SHOWN, *(name for route in known for name in route.answer_headers)}))

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
        return said if origin is None else {**said, hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: self._shown}

    def preflight(self, request: web.Request, methods: Iterable[str]) -> web.Response | None:
        """The answer to a preflight for a route of these methods; None when the request is not a preflight."""
        asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_METHOD)
        if request.method != hdrs.METH_OPTIONS or asked is None or not self.origins:
            return None
        return web.Response(
            status=204,
            headers={
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: ", ".join(sorted(methods)),
                hdrs.ACCESS_CONTROL_ALLOW_HEADERS: self._taken,
                hdrs.ACCESS_CONTROL_MAX_AGE: str(_MAX_AGE_S),
            },
        )

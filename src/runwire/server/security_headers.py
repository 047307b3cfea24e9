"""Headers that restrict how browsers use an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from aiohttp import web

ALWAYS: Final = {
    "Server": "runwire",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_CSP: Final = "Content-Security-Policy"
# Of answers that are no page: shown as one, they may do nothing and be framed by nobody.
_NO_PAGE: Final = "default-src 'none'; frame-ancestors 'none'"
_ONLY_TLS: Final = "max-age=31536000"


def security_headers(*, tls: bool) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """A hook that adds the headers to each answer. With `tls` it adds Strict-Transport-Security."""

    async def add(_request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(ALWAYS)
        if response.status != HTTPStatus.NOT_MODIFIED:  # its headers replace those of the page the browser has
            response.headers.setdefault(_CSP, _NO_PAGE)
        if tls:
            response.headers["Strict-Transport-Security"] = _ONLY_TLS

    return add

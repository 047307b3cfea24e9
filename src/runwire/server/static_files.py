"""Files of the package as responses: read once, sent with an ETag and the headers a page of ours needs."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, TypeAlias

from aiohttp import web

# Scripts and styles come from files of ours only; the console talks to the API it was loaded from.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/vnd.microsoft.icon",
    ".json": "application/json",
}

GetHandler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes that do not change while the process runs."""

    body: bytes
    media_type: str
    etag: str

    @classmethod
    def of(cls, body: bytes, *, name: str) -> Content:
        """`name` says by its suffix what the bytes are. Raises KeyError for a suffix that is not served."""
        suffix = name[name.rindex(".") :]
        return cls(body, _TYPES[suffix], hashlib.sha256(body).hexdigest()[:32])

    def response(self, request: web.Request) -> web.Response:
        headers = {"Cache-Control": "no-cache", "ETag": f'"{self.etag}"'}
        if self.media_type == "text/html":
            headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        if any(known.value in (self.etag, "*") for known in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        charset = "utf-8" if self.media_type.startswith("text/") else None
        return web.Response(body=self.body, content_type=self.media_type, charset=charset, headers=headers)


def served(content: Content) -> GetHandler:
    """A handler that answers with the content."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return content.response(request)

    return handle


def names_in(folder: str) -> list[str]:
    """The names of the files of a folder next to this module."""
    return sorted(file.name for file in (files("runwire.server") / folder).iterdir())


def packaged(folder: str, name: str) -> Content:
    """A file of a folder next to this module."""
    return Content.of((files("runwire.server") / folder / name).read_bytes(), name=name)

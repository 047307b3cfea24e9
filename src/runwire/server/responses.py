"""Answers as JSON."""

from __future__ import annotations

import msgspec
from aiohttp import web


def json_response(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """`body` as JSON that nobody keeps, unless `headers` say so."""
    return web.Response(
        status=status,
        body=msgspec.json.encode(body),
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )

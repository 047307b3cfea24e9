"""The routes of both listeners, and the documents that list them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from aiohttp import web

from runwire.server import openapi
from runwire.server.admin import HEALTH
from runwire.server.artifacts import ARTIFACTS
from runwire.server.auth import PUBLIC
from runwire.server.erasure import ERASURE
from runwire.server.events import EVENTS
from runwire.server.forwarded import prefix_of
from runwire.server.parts import PARTS
from runwire.server.routes import Group, Route
from runwire.server.runs import RUN_GROUP
from runwire.server.services import AdminServices, Services
from runwire.server.signals import SIGNALS
from runwire.server.static_files import Content
from runwire.server.streams import STREAMS
from runwire.server.tickets import TICKETS

OPENAPI: Final = "/openapi.json"


class ApiDocument:
    """The document of the API, for each prefix that proxies serve it below."""

    def __init__(self, services: Services) -> None:
        @lru_cache(16)
        def content(prefix: str) -> Content:
            return Content.of(
                openapi.api_document(API_ROUTES, services.settings, server=prefix or "/"), name="openapi.json"
            )

        content(services.settings.path_prefix)
        self._content = content

    async def get(self, request: web.Request) -> web.StreamResponse:
        return self._content(prefix_of(request)).response(request)


class AdminDocument:
    """The document of the admin listener."""

    def __init__(self, _services: AdminServices) -> None:
        self._content = Content.of(openapi.admin_document(ADMIN_ROUTES), name="openapi.json")

    async def get(self, request: web.Request) -> web.StreamResponse:
        return self._content.response(request)


# The most frequent routes come first, because the application matches the paths of runs one after the other.
API: Final[tuple[Group[Services, Any], ...]] = (
    EVENTS,
    STREAMS,
    RUN_GROUP,
    ARTIFACTS,
    PARTS,
    SIGNALS,
    ERASURE,
    TICKETS,
    Group(
        ApiDocument,
        (
            Route(
                "GET",
                OPENAPI,
                ApiDocument.get,
                PUBLIC,
                "getOpenapi",
                "This document.",
                others={304: "The client's copy is current."},
            ),
        ),
    ),
)
"""The routes of the API listener, without its pages."""
ADMIN: Final[tuple[Group[AdminServices, Any], ...]] = (
    HEALTH,
    Group(AdminDocument, (Route("GET", OPENAPI, AdminDocument.get, PUBLIC, "getOpenapi", "This document."),)),
)
API_ROUTES: Final[tuple[Route[Any], ...]] = tuple(route for group in API for route in group.routes)
ADMIN_ROUTES: Final[tuple[Route[Any], ...]] = tuple(route for group in ADMIN for route in group.routes)

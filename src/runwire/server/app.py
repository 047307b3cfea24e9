"""The two web applications of a process: the API for clients and the admin listener for operators."""

from __future__ import annotations

from aiohttp import web

from runwire.server.services import AdminServices, Services


def build_api_app(services: Services) -> web.Application:
    """The API, the documentation and the console."""
    return web.Application(client_max_size=services.settings.body_max_bytes)


def build_admin_app(services: AdminServices) -> web.Application:
    """Health, readiness and metrics."""
    del services
    return web.Application()

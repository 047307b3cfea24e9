"""The two web applications of a process: the API for clients and the admin listener for operators."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from runwire.server import openapi
from runwire.server.admin import AdminRoutes
from runwire.server.docs_site import DocsSite, add_docs, docs_folder
from runwire.server.events import EventRoutes
from runwire.server.listener import server_options
from runwire.server.problems import answer_problems
from runwire.server.runs import RUNS, RunRoutes
from runwire.server.services import AdminServices, Services
from runwire.server.static_files import Content, packaged, served
from runwire.server.streams import StreamRoutes

_SECURITY_HEADERS: Final = {
    "Server": "runwire",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def build_api_app(services: Services) -> web.Application:
    """The API, the documentation and the console. Served by `listening`."""
    app = _application(client_max_size=services.settings.body_max_bytes)
    runs, events, streams = RunRoutes(services), EventRoutes(services), StreamRoutes(services)
    run = RUNS + "/{run_id}"
    app.router.add_post(RUNS, runs.start)
    app.router.add_get(RUNS, runs.list)
    app.router.add_get(run, runs.view)
    app.router.add_delete(run, runs.cancel)
    app.router.add_post(f"{run}/cancel", runs.cancel)
    app.router.add_post(f"{run}/signal", runs.signal)
    app.router.add_get(f"{run}/state", runs.state)
    app.router.add_get(f"{run}/events", events.page)
    app.router.add_post(f"{run}/events", events.append)
    app.router.add_get(f"{run}/stream", streams.stream, allow_head=False)
    _add_openapi(app, openapi.api_document(services.settings))
    app.router.add_get("/", served(packaged("console", "index.html")))
    app.router.add_get("/console.css", served(packaged("console", "console.css")))
    app.router.add_get("/console.js", served(packaged("console", "console.js")))
    add_docs(app, DocsSite(docs_folder()))
    return app


def build_admin_app(services: AdminServices) -> web.Application:
    """Health, readiness and metrics. Served by `listening`."""
    app = _application(client_max_size=1024)
    admin = AdminRoutes(services)
    app.router.add_get("/healthz", admin.healthz)
    app.router.add_get("/readyz", admin.readyz)
    app.router.add_get("/metrics", admin.metrics)
    _add_openapi(app, openapi.admin_document())
    return app


def _application(*, client_max_size: int) -> web.Application:
    app = web.Application(middlewares=[answer_problems], client_max_size=client_max_size, handler_args=server_options())
    app.on_response_prepare.append(_add_security_headers)
    return app


def _add_openapi(app: web.Application, document: bytes) -> None:
    app.router.add_get("/openapi.json", served(Content.of(document, name="openapi.json")))


async def _add_security_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_SECURITY_HEADERS)

"""The two web applications of a process: the API for clients and the admin listener for operators."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from runwire.server import openapi
from runwire.server.admin import AdminRoutes
from runwire.server.docs_site import DocsSite, add_docs, docs_folder
from runwire.server.events import EventRoutes
from runwire.server.listener import server_options
from runwire.server.problems import answer_expectation, answer_problems
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
    settings = services.settings
    app = _application(services.admission.middleware(settings.trusted_proxies), body_max=settings.body_max_bytes)
    runs, events, streams = RunRoutes(services), EventRoutes(services), StreamRoutes(services)
    run = RUNS + "/{run_id}"
    app.add_routes(
        [
            _route(web.post, RUNS, runs.start),
            _route(web.get, RUNS, runs.list),
            _route(web.get, run, runs.view),
            _route(web.delete, run, runs.cancel),
            _route(web.post, f"{run}/cancel", runs.cancel),
            _route(web.post, f"{run}/signal", runs.signal),
            _route(web.get, f"{run}/state", runs.state),
            _route(web.get, f"{run}/diagnosis", runs.diagnosis),
            _route(web.get, f"{run}/events", events.page),
            _route(web.post, f"{run}/events", events.append),
            _route(partial(web.get, allow_head=False), f"{run}/stream", streams.stream),
            _route(web.get, "/openapi.json", served(Content.of(openapi.api_document(settings), name="a.json"))),
            _route(web.get, "/", served(packaged("console", "index.html"))),
            _route(web.get, "/console.css", served(packaged("console", "console.css"))),
            _route(web.get, "/console.js", served(packaged("console", "console.js"))),
        ]
    )
    add_docs(app, DocsSite(docs_folder()))
    return app


def build_admin_app(services: AdminServices) -> web.Application:
    """Health, readiness and metrics. Served by `listening`."""
    app = _application(body_max=1024)
    admin = AdminRoutes(services)
    app.add_routes(
        [
            _route(web.get, "/healthz", admin.healthz),
            _route(web.get, "/readyz", admin.readyz),
            _route(web.get, "/metrics", admin.metrics),
            _route(web.get, "/openapi.json", _document(openapi.admin_document())),
        ]
    )
    return app


def _application(*middlewares: Middleware, body_max: int) -> web.Application:
    app = web.Application(
        middlewares=[answer_problems, *middlewares], client_max_size=body_max, handler_args=server_options()
    )
    app.on_response_prepare.append(_add_security_headers)
    return app


def _route(made: Callable[..., web.RouteDef], path: str, handler: Handler) -> web.RouteDef:
    return made(path, handler, expect_handler=answer_expectation)


def _document(body: bytes) -> Handler:
    return served(Content.of(body, name="openapi.json"))


async def _add_security_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_SECURITY_HEADERS)

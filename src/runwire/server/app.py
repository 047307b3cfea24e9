"""The two web applications of a process: the API for clients and the admin listener for operators."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from runwire.server import openapi
from runwire.server.admin import AdminRoutes
from runwire.server.auth import PUBLIC, STREAM, Access, Scope, check_guarded
from runwire.server.auth.local import check_host, check_local
from runwire.server.cors import Cors
from runwire.server.docs import DocsSite, add_docs, docs_folder
from runwire.server.events import EventRoutes
from runwire.server.forwarded import prefix_of
from runwire.server.problems import answer_expectation, answer_problems
from runwire.server.requests import refuse_duplicates
from runwire.server.runs import RUNS, RunRoutes
from runwire.server.security_headers import security_headers
from runwire.server.services import AdminServices, Services
from runwire.server.static_files import Content, packaged, served
from runwire.server.streams import StreamRoutes
from runwire.server.tickets import TicketRoutes
from runwire.settings import Settings, is_loopback

_OPENAPI: Final = "/openapi.json"


def build_api_app(services: Services) -> web.Application:
    """The API, the documentation and the console. Served by `listening`."""
    settings, gate = services.settings, services.gate
    admitted = services.admission.middleware(settings.trusted_proxies, path_prefix=settings.path_prefix)
    app = _application(admitted, body_max=settings.body_max_bytes, tls=settings.tls_cert is not None)
    runs, events, streams = RunRoutes(services), EventRoutes(services), StreamRoutes(services)
    tickets = TicketRoutes(services, gate.tickets)
    run = RUNS + "/{run_id}"

    def route(made: Callable[..., web.RouteDef], path: str, handler: Handler, access: Access | Scope) -> web.RouteDef:
        asks = Access(access) if isinstance(access, Scope) else access
        return made(path, gate.guarded(handler, asks), expect_handler=answer_expectation)

    document = _api_document(settings)
    app.add_routes(
        [
            # The most frequent routes come first, because the paths of runs are matched one after the other.
            route(web.post, f"{run}/events", events.append, Scope.APPEND),
            route(web.get, f"{run}/events", events.page, Scope.READ),
            route(partial(web.get, allow_head=False), f"{run}/stream", streams.stream, STREAM),
            route(web.post, RUNS, runs.start, Scope.START),
            route(web.get, RUNS, runs.list, Scope.READ),
            route(web.get, run, runs.view, Scope.READ),
            route(web.delete, run, runs.cancel, Scope.CANCEL),
            route(web.post, f"{run}/cancel", runs.cancel, Scope.CANCEL),
            route(web.post, f"{run}/signal", runs.signal, Scope.SIGNAL),
            route(web.get, f"{run}/state", runs.state, Scope.STATE),
            route(web.get, f"{run}/diagnosis", runs.diagnosis, Scope.OPS),
            route(web.post, f"{run}/stream-ticket", tickets.issue, Scope.READ),
            route(web.get, _OPENAPI, document, PUBLIC if settings.pages else Access(Scope.OPS)),
        ]
    )
    if settings.pages:
        for path, name in (("/", "index.html"), ("/console.css", "console.css"), ("/console.js", "console.js")):
            app.add_routes([route(web.get, path, served(packaged("console", name)), PUBLIC)])
        app.add_routes([route(web.get, "/favicon.ico", served(packaged("site", "favicon.ico")), PUBLIC)])
        add_docs(app, DocsSite(docs_folder()), public=lambda handler: gate.guarded(handler, PUBLIC))
    check_guarded(app)
    _protect_browsers(app, settings)
    return app


def build_admin_app(services: AdminServices) -> web.Application:
    """Health, readiness and metrics. Served by `listening`."""
    hosts = frozenset(name.lower() for name in (services.host, *services.allowed_hosts))
    reachable = not is_loopback(services.host)

    @web.middleware
    async def known_host(request: web.Request, handler: Handler) -> web.StreamResponse:
        check_host(request, hosts=hosts, setting="RUNWIRE_ADMIN_ALLOWED_HOSTS", one_label=reachable)
        return await handler(request)

    app = _application(known_host, body_max=1024, tls=False)
    admin = AdminRoutes(services)
    routes = {"/healthz": admin.healthz, "/readyz": admin.readyz, "/metrics": admin.metrics}
    for path, handler in {**routes, _OPENAPI: _document(openapi.admin_document())}.items():
        app.add_routes([web.get(path, handler, expect_handler=answer_expectation)])
    return app


def _application(*middlewares: Middleware, body_max: int, tls: bool) -> web.Application:
    app = web.Application(middlewares=[answer_problems, *middlewares, refuse_duplicates], client_max_size=body_max)
    app.on_response_prepare.append(security_headers(tls=tls))
    return app


def _protect_browsers(app: web.Application, settings: Settings) -> None:
    """Restricts pages of other origins to those that the settings allow, always on a service without authentication."""
    cors = Cors(settings.cors_origins)
    local = settings.auth == "auto" and not settings.authenticates and is_loopback(settings.host)
    hosts = frozenset(name.lower() for name in settings.allowed_hosts)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if local:
            check_local(request, hosts=hosts, origins=cors.origins)
        refused = request.match_info.http_exception
        if isinstance(refused, web.HTTPMethodNotAllowed):
            answer = cors.preflight(request, refused.allowed_methods)
            if answer is not None:
                return answer
        return await handler(request)

    async def say(request: web.Request, response: web.StreamResponse) -> None:
        if request.path.startswith("/api/") or request.path == _OPENAPI:
            response.headers.update(cors.headers(request))

    app.middlewares.append(middleware)
    app.on_response_prepare.append(say)


def _api_document(settings: Settings) -> Handler:
    """The document, for each prefix that proxies serve it below."""

    @lru_cache(16)
    def content(prefix: str) -> Content:
        return Content.of(openapi.api_document(settings, server=prefix or "/"), name="openapi.json")

    async def handle(request: web.Request) -> web.StreamResponse:
        return content(prefix_of(request)).response(request)

    content(settings.path_prefix)
    return handle


def _document(body: bytes) -> Handler:
    return served(Content.of(body, name="openapi.json"))

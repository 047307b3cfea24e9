"""The two web applications of a process: the API for clients and the admin listener for operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from runwire.server.addresses import is_loopback
from runwire.server.auth import PUBLIC, Access, Scope, check_guarded
from runwire.server.auth.local import check_host, check_local
from runwire.server.cors import Cors
from runwire.server.docs import DocsSite, add_docs, docs_folder
from runwire.server.problems import answer_expectation, answer_problems
from runwire.server.requests import refuse_duplicates
from runwire.server.routes import Route
from runwire.server.security_headers import security_headers
from runwire.server.services import AdminServices, Services
from runwire.server.settings import ServerSettings
from runwire.server.static_files import names_in, packaged, served
from runwire.server.table import ADMIN, API, API_ROUTES, OPENAPI


def build_api_app(services: Services) -> web.Application:
    """The API, the documentation and the console. Served by `listening`."""
    settings, gate = services.settings, services.gate
    admitted = services.admission.middleware(settings.trusted_proxies, path_prefix=settings.path_prefix)
    requests = services.requests
    app = _application(requests.begin, admitted, body_max=settings.body_max_bytes, tls=settings.tls_cert is not None)
    app.on_response_prepare.append(requests.note)
    for group in API:
        for route, handler in group.bound(services):
            private = route.path == OPENAPI and not settings.pages
            _add(app, route, gate.guarded(handler, Access(Scope.OPS) if private else route.access))
    if settings.pages:
        _add_pages(app, lambda handler: gate.guarded(handler, PUBLIC), chat=settings.chat_page)
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
        refuse_duplicates(request)
        return await handler(request)

    app = _application(known_host, body_max=1024, tls=False)
    for group in ADMIN:
        for route, handler in group.bound(services):
            _add(app, route, handler)
    return app


def _add(app: web.Application, route: Route[Any], handler: Handler) -> None:
    if route.method == "GET":
        app.router.add_get(route.path, handler, allow_head=route.head, expect_handler=answer_expectation)
    else:
        app.router.add_route(route.method, route.path, handler, expect_handler=answer_expectation)


def _add_pages(app: web.Application, public: Callable[[Handler], Handler], *, chat: bool) -> None:
    """The console, its files, and the documentation; with `chat` the page of the agent chat. They take any query."""
    files = [
        ("/", "console", "index.html"),
        ("/console.css", "console", "console.css"),
        ("/console.js", "console", "console.js"),
        ("/favicon.ico", "site", "favicon.ico"),
    ]
    if chat:
        app.router.add_get("/chat", public(_to_chat))
        assets = [file for file in names_in("chat") if file.endswith((".css", ".js"))]
        files += [("/chat/", "chat", "index.html"), *((f"/chat/{name}", "chat", name) for name in assets)]
    for path, folder, name in files:
        handler = public(served(packaged(folder, name)))
        app.add_routes([web.get(path, handler, expect_handler=answer_expectation)])
    add_docs(app, DocsSite(docs_folder()), public=public)


async def _to_chat(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=308, headers={"Location": "chat/"})  # relative: a proxy may have added a prefix


def _application(*middlewares: Middleware, body_max: int, tls: bool) -> web.Application:
    app = web.Application(middlewares=[answer_problems, *middlewares], client_max_size=body_max)
    app.on_response_prepare.append(security_headers(tls=tls))
    return app


def _protect_browsers(app: web.Application, settings: ServerSettings) -> None:
    """Restricts pages of other origins to those that the settings allow, always on a service without authentication."""
    cors = Cors(settings.cors_origins, routes=API_ROUTES)
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
        if request.path.startswith("/api/") or request.path == OPENAPI:
            response.headers.update(cors.headers(request))

    app.middlewares.append(middleware)
    app.on_response_prepare.append(say)

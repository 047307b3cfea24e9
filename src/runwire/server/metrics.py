"""Metrics of requests: what each route of the API answers, and how soon. Pages and unknown addresses do not count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from runwire.clock import monotonic
from runwire.server.routes import Route
from runwire.telemetry.exposition import Exposition

REQUEST_BUCKETS_S: Final = (0.1, 1.0, 5.0)
"""Few, since routes multiply them: a scrape stays under 1000 samples."""
_CLASSES: Final = {2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}
_BEGAN: Final = web.RequestKey("began", float)


class RequestMetrics:
    """The group of a process with the role `api`. The label `route` is the `operationId` of openapi.json.

    A request counts when the headers of its answer go out, and so does a stream.
    """

    def __init__(self, out: Exposition, routes: Sequence[Route[Any]]) -> None:
        of_route = {route.operation_id: _classes_of(route) for route in routes}
        answered = out.counter_family(
            "http_requests",
            "Requests to the API, by the class of the answer's status. A stream counts when it begins.",
            unit="requests",
            labels=("route", "status"),
            series=[(name, status) for name, classes in of_route.items() for status in classes],
        )
        took = out.histograms(
            "http_request_duration_seconds",
            "From the head of a request to the head of its answer.",
            edges=REQUEST_BUCKETS_S,
            route=of_route,
        )
        self._series = {
            (route.method, route.path): (
                took[route.operation_id],
                {status: answered[route.operation_id, status] for status in of_route[route.operation_id]},
            )
            for route in routes
        }

    @web.middleware
    async def begin(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        request[_BEGAN] = monotonic()
        return await handler(request)

    async def note(self, request: web.Request, response: web.StreamResponse) -> None:
        """Counts an answer whose headers are about to go out."""
        resource, began = request.match_info.route.resource, request.get(_BEGAN)
        if resource is None or began is None:
            return
        series = self._series.get(("GET" if request.method == "HEAD" else request.method, resource.canonical))
        if series is None:
            return
        took, answered = series
        if (counter := answered.get(_CLASSES.get(response.status // 100, ""))) is not None:
            counter.inc()
            took.observe(monotonic() - began)


def _classes_of(route: Route[Any]) -> list[str]:
    """The classes of a route's statuses. Redirects and 304 are only where they are declared."""
    declared = {status // 100 for status in (route.status, *route.others)} | {2, 4, 5}
    return [name for first, name in _CLASSES.items() if first in declared]

"""The OpenAPI 3.1 documents, derived from the tables of routes and the types of their bodies."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

import runwire
from runwire.errors import DECLARED, Fact
from runwire.model.content import ARTIFACT_N_MAX, OCTETS
from runwire.model.event import FN_PATTERN, NAME_PATTERN, EventType
from runwire.model.run import RUN_ID_PATTERN
from runwire.server.auth.caller import Scope
from runwire.server.problems import MEDIA_TYPE
from runwire.server.routes import Parameter, Route
from runwire.server.settings import ServerSettings

_SCHEMES: Final = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token (JWT) or an API key. Scopes: " + ", ".join(f"`{scope}`" for scope in Scope) + ".",
    },
    "ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "For EventSource: a ticket of `POST .../stream-ticket`. Of this run's stream, and short-lived.",
    },
}
_HEADERS: Final = {401: "WWW-Authenticate", 503: "Retry-After"}
_RUN_ID: Final = {
    "name": "runId",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": RUN_ID_PATTERN},
    "example": "0199b6a2-6c3e-7d51-9a4e-2f5c8a1b7d10",
}
_PATH: Final[dict[str, dict[str, Any]]] = {
    "{run_id}": _RUN_ID,
    "{n}": {
        "name": "n",
        "in": "path",
        "required": True,
        "schema": {"type": "integer", "minimum": 1, "maximum": ARTIFACT_N_MAX},
        "description": "The number of the artifact.",
    },
}
"""Parameters of paths."""
_REF: Final = "#/components/schemas/{name}"


def api_document(routes: Sequence[Route[Any]], settings: ServerSettings, *, server: str = "/") -> bytes:
    """The OpenAPI document of the API listener, as JSON. `server` is the path below which clients see it."""
    schemas = _schemas(routes)
    schemas["NewEvent"] = _new_event()
    schemas["AppendEvents"]["properties"]["events"]["maxItems"] = settings.batch_max_events
    schemas["RunStateDocument"]["properties"]["state"] = {"description": "JSON, as the agent's state type has it."}
    return _document("runwire", routes, schemas, settings=settings, server=server)


def admin_document(routes: Sequence[Route[Any]]) -> bytes:
    """The OpenAPI document of the admin listener, as JSON."""
    return _document("runwire admin", routes, _schemas(routes))


def _document(
    title: str,
    routes: Sequence[Route[Any]],
    schemas: dict[str, Any],
    *,
    settings: ServerSettings | None = None,
    server: str = "/",
) -> bytes:
    """`settings` are those of the API listener; the admin listener has no scopes and no limits to tell."""
    authenticated = settings is not None and settings.authenticates
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.shown_path, {})[route.method.lower()] = {
            **_described(route, settings),
            **(_security(route) if authenticated else {}),
        }
    document = msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": title,
                "version": runwire.__version__,
                "summary": "Durable, observable event pipeline for agent runs.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": server}],
            "paths": paths,
            "components": {"schemas": schemas, **({"securitySchemes": _SCHEMES} if authenticated else {})},
        }
    )
    # Python's `$` needs this after it to mean the end; elsewhere it does by itself, and not every reader knows it.
    return document.replace(rb"$(?!\\n)", b"$")


def _described(route: Route[Any], settings: ServerSettings | None) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": route.operation_id,
        "summary": route.summary,
        "description": route.description or route.summary,
        "responses": {**_answers(route), **_problems(route.all_errors)},
    }
    parameters = [
        *(described for name, described in _PATH.items() if name in route.path),
        *(_parameter(one, settings, place="query") for one in route.query),
        *(_parameter(one, settings, place="header") for one in route.headers),
    ]
    if parameters:
        described["parameters"] = parameters
    if route.body is not None:
        described["requestBody"] = {
            "required": route.body_required,
            "content": {
                "application/json": {
                    "schema": {"$ref": _REF.format(name=route.body.__name__)},
                    "examples": {name: {"value": value} for name, value in route.examples.items()},
                }
            },
        }
    elif route.takes_bytes:
        described["requestBody"] = {"required": False, "content": {OCTETS: {"schema": {}}}}
    return described


def _answers(route: Route[Any]) -> dict[str, Any]:
    """The answers that are not problems."""
    schema = {} if route.answer is None else {"$ref": _REF.format(name=route.answer.__name__)}
    main: dict[str, Any] = {"description": route.summary}
    if route.status != HTTPStatus.NO_CONTENT:
        main["content"] = {route.media: {"schema": schema}}
    if route.answer_headers:
        main["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in route.answer_headers.items()
        }
    return {str(route.status): main, **{str(status): {"description": text} for status, text in route.others.items()}}


def _parameter(parameter: Parameter, settings: ServerSettings | None, *, place: str) -> dict[str, Any]:
    bound = {}
    if parameter.at_most is not None and settings is not None:
        bound = {"maximum": parameter.at_most(settings)}
    return {
        "name": parameter.name,
        "in": place,
        "required": parameter.required,
        "schema": {**parameter.schema, **bound},
        "description": parameter.description,
    }


def _security(route: Route[Any]) -> dict[str, Any]:
    """The security schemes and the scope of a route; nothing for a public one."""
    scope = route.access.scope
    if scope is None:
        return {"security": []}
    ways: list[dict[str, list[str]]] = [{"bearer": [scope.value]}]
    if route.access.ticket:
        ways.append({"ticket": []})
    return {"security": ways}


def _problems(codes: tuple[str, ...]) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(DECLARED[code].kind.status, []).append(code)
    return {
        str(status): {
            "description": " ".join(f"`{code}`: {DECLARED[code].kind.title}" for code in of_status),
            "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(name="Problem")}}},
            **({"headers": {_HEADERS[status]: {"schema": {"type": "string"}}}} if status in _HEADERS else {}),
        }
        for status, of_status in sorted(by_status.items())
    }


def _schemas(routes: Sequence[Route[Any]]) -> dict[str, Any]:
    """Of every type that a route takes or answers, and of problems."""
    types = {type_: None for route in routes for type_ in (route.body, route.answer) if type_ is not None}
    _, components = msgspec.json.schema_components(tuple(types), ref_template=_REF)
    return {**components, "Problem": _problem()}


def _new_event() -> dict[str, Any]:
    """Which types need a `name` or a `fn`, which the type itself checks when it is made."""

    def variant(types: tuple[EventType, ...], **needs: Any) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {"type": {"enum": [str(type_) for type_ in types]}, **needs},
            "required": ["type", *needs],
            "additionalProperties": False,
        }

    name = {"type": "string", "pattern": NAME_PATTERN, "maxLength": 128}
    fn = {"type": "string", "pattern": FN_PATTERN, "maxLength": 256}
    return {
        "title": "NewEvent",
        "description": "An event to append. Nothing but these fields ever travels: no payloads, no texts.",
        "oneOf": [
            variant((EventType.RUN_STARTED, EventType.RUN_FINISHED)),
            variant((EventType.NODE_STARTED, EventType.NODE_FINISHED), name=name),
            variant((EventType.DEBUG_TRACE,), fn=fn),
        ],
    }


def _problem() -> dict[str, Any]:
    return {
        "title": "Problem",
        "description": "RFC 9457 problem details. Branch on `code`; further members are facts of that code.",
        "type": "object",
        "properties": {
            "type": {"type": "string", "format": "uri-reference"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "instance": {"type": "string", "format": "uri-reference"},
            "code": {"type": "string", "enum": sorted(DECLARED)},
            **{fact.name: _fact(fact) for declared in DECLARED.values() for fact in declared.facts},
        },
        "required": ["type", "title", "status", "detail", "code"],
    }


def _fact(fact: Fact) -> dict[str, Any]:
    shapes: dict[object, dict[str, Any]] = {
        int: {"type": "integer"},
        str: {"type": "string"},
        tuple: {"type": "array", "items": {"type": "string"}},
    }
    return {**shapes[fact.convert], "description": fact.meaning}

"""The OpenAPI 3.1 documents, made from the bodies' types and a table of operations."""

from __future__ import annotations

from typing import Any, Final

import msgspec

import runwire
from runwire.errors import DECLARED, Fact
from runwire.model.event import FN_PATTERN, NAME_PATTERN, EventType
from runwire.model.labels import LABELS_MAX
from runwire.model.names import CODE_MAX
from runwire.model.run import RUN_ID_PATTERN, RunState
from runwire.observe import Diagnosis
from runwire.orchestrate import RunOrder, RunPage, RunView
from runwire.server import bodies
from runwire.server.auth.caller import Scope
from runwire.server.openapi_operations import ADMIN_OPERATIONS, API_OPERATIONS, Operation
from runwire.server.problems import MEDIA_TYPE
from runwire.server.requests import SEQ_MAX, TIME_MAX_MS
from runwire.server.services import Readiness
from runwire.settings import Settings

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
_REF: Final = "#/components/schemas/{name}"
_TYPES: Final = (
    bodies.StartRun,
    bodies.StartAccepted,
    bodies.AppendEvents,
    bodies.EventsAppended,
    bodies.SendSignal,
    bodies.EventsPage,
    bodies.RunStateDocument,
    bodies.StreamTicket,
    Diagnosis,
    RunView,
    RunPage,
    Readiness,
)


def api_document(settings: Settings, *, server: str = "/") -> bytes:
    """The OpenAPI document of the API listener, as JSON. `server` is the path below which clients see it."""
    schemas = _schemas()
    schemas["AppendEvents"]["properties"]["events"]["maxItems"] = settings.batch_max_events
    return _document(
        "runwire",
        API_OPERATIONS,
        schemas,
        parameters=_parameters(settings),
        authenticated=settings.authenticates,
        server=server,
    )


def admin_document() -> bytes:
    """The OpenAPI document of the admin listener, as JSON."""
    schemas = _schemas()
    used = {name: schemas[name] for name in ("Readiness", "Problem")}
    return _document("runwire admin", ADMIN_OPERATIONS, used, parameters={})


def _document(
    title: str,
    operations: tuple[Operation, ...],
    schemas: dict[str, Any],
    *,
    parameters: dict[str, Any],
    authenticated: bool = False,
    server: str = "/",
) -> bytes:
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = {
            **_described(operation, parameters),
            **(_security(operation) if authenticated else {}),
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


def _described(operation: Operation, parameters: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.operation_id,
        "summary": operation.summary,
        "description": operation.description or operation.summary,
        "responses": {
            **operation.responses(),
            **_problems(operation.all_problems),
        },
    }
    if operation.parameters:
        described["parameters"] = [parameters[name] for name in operation.parameters]
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.body_required,
            "content": {
                "application/json": {
                    "schema": {"$ref": _REF.format(name=operation.body)},
                    "examples": {name: {"value": value} for name, value in operation.examples.items()},
                }
            },
        }
    return described


def _security(operation: Operation) -> dict[str, Any]:
    """The security schemes and the scope of an operation; nothing for a public one."""
    scope = operation.access.scope
    if scope is None:
        return {"security": []}
    ways: list[dict[str, list[str]]] = [{"bearer": [scope.value]}]
    if operation.access.ticket:
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


def _schemas() -> dict[str, Any]:
    _, components = msgspec.json.schema_components(_TYPES, ref_template=_REF)
    schemas: dict[str, Any] = dict(components)
    schemas["NewEvent"] = _new_event()
    schemas["RunStateDocument"]["properties"]["state"] = {"description": "JSON, as the agent's state type has it."}
    schemas["Problem"] = _problem()
    return schemas


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


def _parameters(settings: Settings) -> dict[str, Any]:
    seq = {"type": "integer", "minimum": 0, "maximum": SEQ_MAX}

    def query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
        return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}

    def header(name: str, schema: dict[str, Any], description: str, *, required: bool = False) -> dict[str, Any]:
        return {"name": name, "in": "header", "required": required, "schema": schema, "description": description}

    time = {"type": "integer", "minimum": 0, "maximum": TIME_MAX_MS}
    limit = {"type": "integer", "minimum": 1, "maximum": settings.page_max_events}
    return {
        "runId": {
            "name": "runId",
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": RUN_ID_PATTERN},
            "example": "0199b6a2-6c3e-7d51-9a4e-2f5c8a1b7d10",
        },
        "idempotencyKey": header(
            "Idempotency-Key",
            {"type": "string", "pattern": "^[!-~]{1,255}$"},
            "The same key with the same body starts the run once; with another body it is a conflict.",
        ),
        "traceparent": header(
            "traceparent",
            {"type": "string"},
            "W3C Trace Context: the run's spans go on in this trace, sampled if it is. Ignored when malformed.",
        ),
        "fence": header("Runwire-Fence", seq, "The fence that the start of the run gave.", required=True),
        "lastEventId": header(
            "Last-Event-ID", seq, "The last seq a reconnecting EventSource has. Wins over `fromSeq`."
        ),
        "ifNoneMatch": header("If-None-Match", {"type": "string"}, "The ETag of a closed run's page."),
        "replay": query("replay", {"type": "string", "const": "1"}, "A closed run once more, in its own time."),
        "speed": query(
            "speed",
            {"type": "string", "pattern": r"^(max|[0-9]{1,4}(\.[0-9]{1,3})?)$", "examples": ["1", "10", "max"]},
            "Of a replay: how much faster than it was, up to 1000, or all at once.",
        ),
        "fromSeq": query("fromSeq", seq, "The last seq the client has: it gets what comes after."),
        "state": query("state", {"enum": [str(state) for state in RunState]}, "Only runs in this state."),
        "agent": query("agent", {"type": "string", "pattern": NAME_PATTERN}, "Only runs of this agent."),
        "session": query("session", {"type": "string", "pattern": RUN_ID_PATTERN}, "Only runs of this session."),
        "label": {
            **query(
                "label",
                {"type": "array", "items": {"type": "string"}, "maxItems": LABELS_MAX},
                "Only runs with this label, written `key:value`. Repeat it for several: runs have all of them.",
            ),
            "style": "form",
            "explode": True,
        },
        "errorCode": query("errorCode", {"type": "string", "maxLength": CODE_MAX}, "Only runs that failed with it."),
        "from": query("from", time, "Only runs created at this moment (epoch milliseconds) or later."),
        "until": query("until", time, "Only runs created before this moment (epoch milliseconds)."),
        "sort": query(
            "sort",
            {"enum": [str(order) for order in RunOrder], "default": "created"},
            "The latest created first, or the latest ended first, without runs that are open.",
        ),
        "cursor": query("cursor", {"type": "string"}, "`nextCursor` of the page before."),
        "limit": query("limit", limit, "At most this many."),
    }

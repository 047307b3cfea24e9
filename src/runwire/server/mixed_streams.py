"""A run's stream with the bytes of its parts: `?parts=` at the route of the stream."""

from __future__ import annotations

from aiohttp import web

from runwire.content.part import checked_name
from runwire.errors import InvalidRequest
from runwire.server.auth import Scope
from runwire.server.auth.caller import Caller
from runwire.server.revocations import Revocations
from runwire.server.served import served
from runwire.stream import LogReader, MixedStreams, NothingLeft, parse_mixed_cursor


async def serve_mixed(
    request: web.Request,
    run_id: str,
    *,
    caller: Caller,
    mixed: MixedStreams,
    reader: LogReader,
    revocations: Revocations,
    client: str,
) -> web.StreamResponse:
    """The stream, or 204 when the client has all of a closed run. Raises NotPermitted without the scope of content."""
    caller.check(Scope.CONTENT_READ)
    names = _names_in(request.query["parts"])
    if "replay" in request.query or "speed" in request.query:
        raise InvalidRequest("A replay has no parts.", code="invalid_replay")
    event_id = request.headers.get("Last-Event-ID") or request.query.get("lastEventId") or None
    where = "fromSeq" if event_id is None else "Last-Event-ID"
    cursor = parse_mixed_cursor(event_id or request.query.get("fromSeq", "0"), where=where)
    if caller.tenant is not None:  # all clients of a run share its reads, which know no tenants
        await reader.on_behalf_of(caller.tenant).position(run_id)
    resumed = event_id is not None
    async with mixed.attach(run_id, cursor=cursor, names=names, resumed=resumed, client=client) as session:
        if isinstance(session, NothingLeft):
            return web.Response(status=204, headers={"Cache-Control": "no-store"})
        with revocations.watching(session, caller):
            return await served(request, session)


def _names_in(asked: str) -> frozenset[str] | None:
    """The names of parts; None for all of them. Raises InvalidRequest (`invalid_part_name`)."""
    if asked == "*":
        return None
    return frozenset(checked_name(name) for name in asked.split(","))

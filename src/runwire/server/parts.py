"""Routes of a run's parts: the list, reads as a Durable Stream, and the writes of external orchestrators."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import msgspec
from aiohttp import web

from runwire.content.part import Part, PartState
from runwire.content.parts import PartReader, Read, check_not_erased
from runwire.errors import InvalidRequest, PartRefused
from runwire.model.part_offset import offset_text
from runwire.server.admission import CLIENT
from runwire.server.auth import Access, Scope, caller_of
from runwire.server.bodies import OpenPart, PartDocument, PartList
from runwire.server.connections import body_of
from runwire.server.forwarded import prefix_of
from runwire.server.parameters import FENCE, IF_NONE_MATCH, LIVE, OFFSET, SSE_ENCODING, STREAM_CLOSED, STREAM_CURSOR
from runwire.server.part_stream import (
    CLOSED,
    CURSOR,
    NEXT_OFFSET,
    READ_MAX,
    PartReads,
    PartTail,
    Rotation,
    etag_of,
    headers_of,
    offset_in,
    serve_sse,
    stream_cursor,
)
from runwire.server.problems import problem_of
from runwire.server.requests import check_not_encoded, decoded_body, fence_in, run_id_in
from runwire.server.responses import json_response
from runwire.server.revocations import Revocations
from runwire.server.routes import BODY_ERRORS, RUN, RUN_ERRORS, RUNS, Group, Route
from runwire.server.services import Services

LONG_POLL_S: Final = 20.0
"""Seconds that a long-poll waits for news."""
_NUMBER_MAX: Final = 2**31 - 1
_OPEN: Final = msgspec.json.Decoder(OpenPart)


class PartRoutes:
    def __init__(self, services: Services) -> None:
        self._reader = services.parts
        self._reads = PartReads(services.part_feed, services.part_metrics, now_us=services.clock.now_us)
        self._external = services.external_parts
        self._admission = services.admission
        self._streams = services.streams
        self._revocations = Revocations(services.gate.shows_content)

    async def list(self, request: web.Request) -> web.Response:
        parts = await self._reader.on_behalf_of(caller_of(request).tenant).of_run(run_id_in(request))
        return json_response(PartList([_document(part) for part in parts]))

    async def open(self, request: web.Request) -> web.Response:
        run_id, fence = run_id_in(request), fence_in(request)
        body = await decoded_body(request, _OPEN)
        await self._check_tenant(request, run_id)
        part = await self._external.open(run_id, body.name, body.media_type, fence=fence)
        where = f"{prefix_of(request)}{RUNS}/{run_id}/parts/{part.n}"
        headers = {"Location": where, NEXT_OFFSET: offset_text(part.attempt, 0)}
        return json_response(_document(part), status=201, headers=headers)

    async def append(self, request: web.Request) -> web.Response:
        """Appends the body, and seals the part with the header `Stream-Closed: true`."""
        run_id, n, fence = run_id_in(request), part_in(request), fence_in(request)
        closing = request.headers.get(CLOSED, "").lower() == "true"
        check_not_encoded(request)
        data = await body_of(request)
        reader = self._reader.on_behalf_of(caller_of(request).tenant)
        part = await reader.part(run_id, n)
        given = request.query.get("offset")
        at = None if given is None else offset_in(given, part)
        if not data and not closing:
            raise InvalidRequest("The body is empty. Send bytes, or Stream-Closed: true.")
        if part.state is PartState.SEALED:
            return _at_the_end(request, part, repeated=closing and not data)
        if data:
            part = await self._external.append(part, data, fence=fence, at=at)
        if closing:
            part = await self._external.seal(part, fence=fence)
        headers = {NEXT_OFFSET: offset_text(part.attempt, part.size), "Cache-Control": "no-store"}
        return web.Response(status=204, headers=headers | ({CLOSED: "true"} if closing else {}))

    async def abandon(self, request: web.Request) -> web.Response:
        run_id, n, fence = run_id_in(request), part_in(request), fence_in(request)
        part = await self._reader.on_behalf_of(caller_of(request).tenant).part(run_id, n)
        await self._external.abandon(part, fence=fence)
        return web.Response(status=204, headers={"Cache-Control": "no-store"})

    async def read(self, request: web.Request) -> web.StreamResponse:
        run_id, n = run_id_in(request), part_in(request)
        reader = self._reader.on_behalf_of(caller_of(request).tenant)
        live = request.query.get("live")
        offset = _offset_text(request)
        if live not in (None, "long-poll", "sse"):
            raise InvalidRequest("live must be long-poll or sse.", code="invalid_offset")
        part = await reader.part(run_id, n)
        check_not_erased(part)
        if request.method == "HEAD":
            return _head(part)
        if live is None:
            at = offset_in(offset or "-1", part)
            return self._page(
                request, await reader.read(run_id, n, offset=at, limit=0 if offset == "now" else READ_MAX)
            )
        if offset is None:
            raise InvalidRequest("live needs an offset: -1, now, or a Stream-Next-Offset.", code="invalid_offset")
        at = offset_in(offset, part)
        limits = self._streams.limits
        with self._admission.stream(run_id, request[CLIENT]):
            if live == "sse":
                first = await reader.read(run_id, n, offset=at, limit=READ_MAX)
                return await self._streamed(request, reader, first)
            with PartTail(self._reads, reader, part, at=at) as tail:
                read = await tail.next(within_s=min(LONG_POLL_S, limits.heartbeat_s))
            if at >= part.size:
                self._reads.note_delivery(read, since_us=tail.since_us)
        return self._polled(request, read)

    async def erase(self, request: web.Request) -> web.Response:
        reader = self._reader.on_behalf_of(caller_of(request).tenant)
        await reader.erase(run_id_in(request), part_in(request))
        return web.Response(status=204, headers={"Cache-Control": "no-store"})

    async def _streamed(self, request: web.Request, reader: PartReader, first: Read) -> web.StreamResponse:
        limits = self._streams.limits
        rotation = Rotation(in_s=limits.max_age_s)
        with self._revocations.watching(rotation, caller_of(request)):
            return await serve_sse(
                request,
                reader,
                self._reads,
                first,
                rotation=rotation,
                slow_s=limits.slow_s,
                heartbeat_s=limits.heartbeat_s,
            )

    def _page(self, request: web.Request, read: Read) -> web.Response:
        etag = etag_of(read, closed=read.closed)
        headers = {
            **headers_of(read.part, read.next_offset, closed=read.closed),
            "Cache-Control": "no-store" if request.query.get("offset") == "now" else "private, no-cache",
            "ETag": f'"{etag}"',
            **_SAFE,
        }
        if any(known.value in (etag, "*") for known in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=read.data, headers={**headers, "Content-Type": read.part.media_type})

    def _polled(self, request: web.Request, read: Read) -> web.Response:
        headers = {
            **headers_of(read.part, read.next_offset, closed=read.closed),
            CURSOR: stream_cursor(request.query.get("cursor")),
            "Cache-Control": "private, no-cache",
            **_SAFE,
        }
        if not read.data:
            return web.Response(status=204, headers=headers)
        return web.Response(body=read.data, headers={**headers, "Content-Type": read.part.media_type})

    async def _check_tenant(self, request: web.Request, run_id: str) -> None:
        """The log itself knows runs, not whose they are."""
        if (tenant := caller_of(request).tenant) is not None:
            await self._reader.on_behalf_of(tenant).of_run(run_id)


_SAFE: Final = {"Content-Disposition": "attachment", "Content-Security-Policy": "sandbox; default-src 'none'"}
"""Content is never executed on the origin of the console."""


def _at_the_end(request: web.Request, part: Part, *, repeated: bool) -> web.Response:
    """The answer to a write after the end: a repeated closing changes nothing, and bytes are refused."""
    headers = {NEXT_OFFSET: offset_text(part.attempt, part.size), CLOSED: "true"}
    if repeated:
        return web.Response(status=204, headers={**headers, "Cache-Control": "no-store"})
    problem = problem_of(PartRefused(part.run_id, n=part.n))
    return replace(problem, headers=headers).response(instance=request.path, prefix=prefix_of(request))


def _head(part: Part) -> web.Response:
    headers = headers_of(part, part.size, closed=part.state is not PartState.OPEN)
    return web.Response(headers={**headers, "Content-Type": part.media_type, "Cache-Control": "no-store", **_SAFE})


def part_in(request: web.Request) -> int:
    """The part that the path names. Raises InvalidRequest (`invalid_part`)."""
    text = request.match_info["n"]
    if text.isascii() and text.isdigit() and len(text) <= 10 and 1 <= (n := int(text)) <= _NUMBER_MAX:
        return n
    raise InvalidRequest("A part is named by its number: 1, 2, ...", code="invalid_part")


def _offset_text(request: web.Request) -> str | None:
    given = request.query.getall("offset", [])
    if len(given) > 1 or given == [""]:
        raise InvalidRequest("offset must appear once, with a value.", code="invalid_offset")
    return given[0] if given else None


def _document(part: Part) -> PartDocument:
    return PartDocument(part.n, part.name, part.media_type, part.attempt, part.state.value, part.size)


_FENCED: Final = (
    *("missing_fence", "not_external", "run_closed", "fence_stale", "illegal_append", "part_ended"),
    *("storage_unavailable", "partition_missing", "content_lost", "content_quota_exceeded", "too_many_artifacts"),
)
PARTS: Final = Group(
    PartRoutes,
    (
        Route(
            "GET",
            RUN + "/parts/{n}",
            PartRoutes.read,
            Access(Scope.CONTENT_READ),
            "readPart",
            "Bytes of the part from an offset on.",
            "The read protocol of Durable Streams: without `live` what there is, with `live=long-poll` as soon as "
            "there is more, with `live=sse` as events `data` and `control` until the part is closed.",
            query=(OFFSET, LIVE, STREAM_CURSOR),
            headers=(IF_NONE_MATCH, SSE_ENCODING),
            media="*/*",
            answer_headers={
                "Stream-Next-Offset": "The offset of the next byte.",
                "Stream-Up-To-Date": "`true` when there is no more now.",
                "Stream-Closed": "`true` when there will be no more.",
                "Stream-Cursor": "Of a long-poll: give it back as `cursor`.",
                "Stream-SSE-Data-Encoding": "`base64` where events `data` are in base64.",
                "ETag": "Changes with the bytes, and when the part is closed.",
            },
            others={204: "A long-poll that ended without news.", 304: "The client's copy is current."},
            errors=(
                *RUN_ERRORS,
                "invalid_part",
                "invalid_offset",
                "part_not_found",
                "part_reset",
                "artifact_erased",
                "part_erased",
                "content_unavailable",
                "too_many_streams",
                "too_many_own_streams",
            ),
        ),
        Route(
            "POST",
            RUN + "/parts/{n}",
            PartRoutes.append,
            Access(Scope.CONTENT_WRITE),
            "appendToPart",
            "The bytes are stored.",
            "For the external orchestrator of a run. With `offset`, a repeat stores nothing twice. The header "
            "`Stream-Closed: true` seals the part, with or without a body.",
            query=(OFFSET,),
            headers=(FENCE, STREAM_CLOSED),
            takes_bytes=True,
            body_required=False,
            status=204,
            answer_headers={
                "Stream-Next-Offset": "The offset of the next byte.",
                "Stream-Closed": "`true` when it is sealed.",
            },
            errors=(
                *("malformed_body", "request_timeout", "body_too_large", "unsupported_encoding", "invalid_request"),
                *RUN_ERRORS,
                *_FENCED,
                "invalid_part",
                "invalid_offset",
                "part_not_found",
                "part_reset",
                "part_offset_conflict",
                "part_too_large",
                "part_rate_exceeded",
            ),
        ),
        Route(
            "DELETE",
            RUN + "/parts/{n}",
            PartRoutes.abandon,
            Access(Scope.CONTENT_WRITE),
            "abandonPart",
            "The part is abandoned.",
            "For the external orchestrator of a run. The part keeps its bytes until its name is opened again, which "
            "begins a new attempt. A part that is abandoned already does not change.",
            headers=(FENCE,),
            status=204,
            errors=(*RUN_ERRORS, *_FENCED, "invalid_part", "part_not_found"),
        ),
        Route(
            "DELETE",
            RUN + "/parts/{n}/bytes",
            PartRoutes.erase,
            Access(Scope.CONTENT_ERASE),
            "erasePart",
            "The part's bytes are gone.",
            "With the artifact that it became, if any. The part keeps its number, and the log is as it was. Erasing it "
            "again changes nothing. A part that is being written is not erased.",
            status=204,
            errors=(*RUN_ERRORS, "invalid_part", "part_not_found", "part_open"),
        ),
        Route(
            "GET",
            RUN + "/parts",
            PartRoutes.list,
            Access(Scope.CONTENT_READ),
            "listParts",
            "The run's parts by number.",
            answer=PartList,
            errors=RUN_ERRORS,
        ),
        Route(
            "POST",
            RUN + "/parts",
            PartRoutes.open,
            Access(Scope.CONTENT_WRITE),
            "openPart",
            "The part is open.",
            "For the external orchestrator of a run. A part of this name that was abandoned begins a new attempt.",
            headers=(FENCE,),
            body=OpenPart,
            examples={"answer": {"name": "answer", "mediaType": "text/markdown"}},
            status=201,
            answer=PartDocument,
            answer_headers={"Location": "The part.", "Stream-Next-Offset": "The offset of its first byte."},
            errors=(
                *BODY_ERRORS,
                *RUN_ERRORS,
                *_FENCED,
                "invalid_part_name",
                "invalid_media_type",
                "part_open",
                "too_many_parts",
            ),
        ),
    ),
)

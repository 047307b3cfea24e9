"""Routes of a run's content: its artifacts, their bytes, and its result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from runwire.content import Located
from runwire.errors import (
    ArtifactTooLarge,
    ContentUnavailable,
    FenceStale,
    NotExternal,
    RunClosed,
)
from runwire.model.content import ARTIFACT_N_MAX, OCTETS, Artifact, checked_media_type, checked_name
from runwire.model.run import TERMINAL, RunState
from runwire.server.auth import Access, Scope, caller_of
from runwire.server.bodies import ArtifactPage
from runwire.server.forwarded import prefix_of
from runwire.server.parameters import (
    ARTIFACT_NAME,
    FENCE,
    IF_NONE_MATCH,
    IF_RANGE,
    NEW_ARTIFACT_NAME,
    RANGE,
)
from runwire.server.ranges import Range, is_current, range_of
from runwire.server.requests import check_not_encoded, fence_in, run_id_in
from runwire.server.responses import json_response
from runwire.server.routes import RUN, RUN_ERRORS, RUNS, Group, Route
from runwire.server.services import Services
from runwire.server.uploads import pieces_of

INLINE_TYPES: Final = frozenset(
    {
        *("text/plain", "text/markdown", "text/csv", "application/json"),
        *("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"),
        *("audio/mpeg", "audio/ogg", "audio/wav", "audio/webm", "video/mp4", "video/webm", "video/ogg"),
    }
)
"""Media types that a browser may show. It saves all others as files: HTML and SVG could run scripts."""
_CSP: Final = "default-src 'none'; sandbox; frame-ancestors 'none'"


class ArtifactRoutes:
    def __init__(self, services: Services) -> None:
        self._artifacts = services.artifacts
        self._reader = services.content
        self._external = services.external

    async def list(self, request: web.Request) -> web.Response:
        name = request.query.get("name")
        if name is not None:
            checked_name(name)
        reader = self._reader.on_behalf_of(caller_of(request).tenant)
        return json_response(ArtifactPage(await reader.list(run_id_in(request), name=name)))

    async def get(self, request: web.Request) -> web.StreamResponse:
        run_id, n = run_id_in(request), _number_in(request)
        located = await self._reader.on_behalf_of(caller_of(request).tenant).locate(run_id, n)
        return await self._served(request, located)

    async def result(self, request: web.Request) -> web.StreamResponse:
        located = await self._reader.on_behalf_of(caller_of(request).tenant).result(run_id_in(request))
        return await self._served(request, located)

    async def store(self, request: web.Request) -> web.Response:
        """Stores the body as an artifact of an external run, for the holder of its fence."""
        run_id = run_id_in(request)
        owner = await self._reader.on_behalf_of(caller_of(request).tenant).owner(run_id)
        fence = fence_in(request)
        name = checked_name(request.query.get("name", ""))
        media_type = checked_media_type(request.headers.get("Content-Type", OCTETS))
        check_not_encoded(request)
        if not owner.external:
            raise NotExternal(run_id)
        if RunState(owner.state) in TERMINAL:
            raise RunClosed(run_id, state=owner.state, last_seq=owner.last_seq)
        if owner.fence != fence:
            raise FenceStale(run_id, held=fence, current=owner.fence, last_seq=owner.last_seq)
        if (request.content_length or 0) > self._artifacts.limits.artifact_bytes:
            raise ArtifactTooLarge(self._artifacts.limits.artifact_bytes)
        body = pieces_of(request, at_most=self._artifacts.limits.artifact_bytes)
        prepared = await self._artifacts.prepare(run_id, name, body, media_type=media_type)
        status = 200
        if not isinstance(prepared, Artifact):
            status = 201
            await self._external.append(
                run_id,
                [prepared.event],
                fence=fence,
                requested_by=request.headers.get("traceparent"),
                companion=prepared.store,
            )
            prepared = prepared.made()
        location = f"{prefix_of(request)}{RUNS}/{run_id}/artifacts/{prepared.n}"
        return json_response(prepared, status=status, headers={"Location": location})

    async def erase(self, request: web.Request) -> web.Response:
        await self._reader.on_behalf_of(caller_of(request).tenant).erase(run_id_in(request), _number_in(request))
        return web.Response(status=204, headers={"Cache-Control": "no-store"})

    async def _served(self, request: web.Request, located: Located) -> web.StreamResponse:
        artifact = located.artifact
        headers = _headers(artifact)
        if is_current(request, headers["ETag"]):
            return web.Response(status=304, headers={name: headers[name] for name in ("ETag", "Cache-Control")})
        part = range_of(request, size=artifact.size, etag=headers["ETag"])
        asked = part or Range(0, artifact.size)
        status = 200
        if part is not None:
            status = 206
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{artifact.size}"
        headers["Content-Length"] = str(asked.stop - asked.start)
        if request.method == "HEAD":
            return web.Response(status=status, headers=headers)
        blocks = self._reader.read(located, start=asked.start, stop=asked.stop)
        first = await anext(blocks, b"")  # what is missing is said with a problem, not with half an answer
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        try:
            await response.write(first)
            async for block in blocks:
                await response.write(block)
            await response.write_eof()
        except ContentUnavailable:  # its length was promised: a client that gets less of it knows
            if request.transport is not None:
                request.transport.abort()
        return response


def _headers(artifact: Artifact) -> dict[str, str]:
    plain = artifact.media_type.partition(";")[0].strip().lower()
    shown = "inline" if plain in INLINE_TYPES else "attachment"
    return {
        "Content-Type": artifact.media_type,
        "Content-Disposition": f'{shown}; filename="{artifact.name}"',
        "Content-Security-Policy": _CSP,
        "Cache-Control": "private, no-cache",  # a copy is asked about, so that an erased one is not shown
        "Accept-Ranges": "bytes",
        "ETag": f'"{artifact.sha256}"',
    }


def _number_in(request: web.Request) -> int:
    """The artifact that the path names; 0, which none has, for what is no number."""
    text = request.match_info["n"]
    if len(text) > len(str(ARTIFACT_N_MAX)) or not (text.isascii() and text.isdigit()) or text[0] == "0":
        return 0
    return int(text) if int(text) <= ARTIFACT_N_MAX else 0


def _bytes_at(
    path: str,
    handler: Callable[[ArtifactRoutes, web.Request], Awaitable[web.StreamResponse]],
    operation: str,
    summary: str,
    description: str,
) -> Route[ArtifactRoutes]:
    return Route(
        "GET",
        RUN + path,
        handler,
        Access(Scope.CONTENT_READ),
        operation,
        summary,
        description,
        headers=(RANGE, IF_RANGE, IF_NONE_MATCH),
        media=OCTETS,
        answer_headers={
            "ETag": "Strong: it changes with the bytes.",
            "Content-Disposition": "`attachment` unless the media type is safe to show.",
            "Accept-Ranges": "`bytes`.",
            "Content-Range": "Of a part of the bytes: which they are.",
        },
        others={206: "The bytes that `Range` asks for.", 304: "The client's copy is current."},
        errors=(
            *RUN_ERRORS,
            *("artifact_not_found", "artifact_erased", "range_not_satisfiable", "content_unavailable"),
        ),
    )


ARTIFACTS: Final = Group(
    ArtifactRoutes,
    (
        Route(
            "GET",
            RUN + "/artifacts",
            ArtifactRoutes.list,
            Access(Scope.CONTENT_READ),
            "listArtifacts",
            "The run's artifacts, in order.",
            "Erased ones are among them: they have no `sha256`.",
            query=(ARTIFACT_NAME,),
            answer=ArtifactPage,
            errors=(*RUN_ERRORS, "invalid_artifact_name"),
        ),
        Route(
            "POST",
            RUN + "/artifacts",
            ArtifactRoutes.store,
            Access(Scope.CONTENT_WRITE),
            "storeArtifact",
            "The artifact is stored.",
            "For the external orchestrator of a run: the body is the content, and its Content-Type the artifact's. "
            "The content of the newest artifact of that name is not stored again: it is answered with 200.",
            query=(NEW_ARTIFACT_NAME,),
            headers=(FENCE,),
            takes_bytes=True,
            status=201,
            answer=Artifact,
            answer_headers={"Location": "The artifact."},
            others={200: "The run's newest artifact of that name has the same content. The body names it."},
            errors=(
                *RUN_ERRORS,
                *("malformed_body", "request_timeout", "unsupported_encoding"),
                *("invalid_artifact_name", "invalid_media_type", "missing_fence"),
                *("not_external", "run_closed", "fence_stale", "seq_conflict", "illegal_append"),
                *("artifact_too_large", "content_quota_exceeded", "too_many_artifacts"),
                *("content_unavailable", "content_lost", "storage_unavailable", "partition_missing"),
            ),
        ),
        _bytes_at(
            "/artifacts/{n}",
            ArtifactRoutes.get,
            "getArtifact",
            "The artifact's bytes.",
            "One range of bytes may be asked for. The ETag is strong. Browsers save what they could execute.",
        ),
        Route(
            "DELETE",
            RUN + "/artifacts/{n}",
            ArtifactRoutes.erase,
            Access(Scope.CONTENT_ERASE),
            "eraseArtifact",
            "The artifact's bytes are gone.",
            "A tombstone stays, and the log is as it was. Erasing it again changes nothing.",
            status=204,
            errors=(*RUN_ERRORS, "artifact_not_found"),
        ),
        _bytes_at(
            "/result",
            ArtifactRoutes.result,
            "getResult",
            "The run's result: its newest artifact named `result`.",
            "Served as any artifact is.",
        ),
    ),
)

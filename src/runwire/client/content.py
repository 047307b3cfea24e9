"""Bytes of artifacts, read in pieces. A connection that breaks is resumed at the byte that comes next."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Generator
from http import HTTPStatus
from typing import Final

import aiohttp

from runwire.client.address import redirect_of
from runwire.client.calls import CONNECT_TIMEOUT_S, FAILED, Again, Call, Caller, patiently, refusal, wait_as_told
from runwire.client.problems import UnexpectedAnswer

_PIECE_BYTES: Final = 1 << 18


class Download:
    """The bytes of an artifact: `await` it to have all of them, or iterate over their pieces, which are not kept.

    Both raise RunNotFound, ArtifactNotFound, ArtifactErased, ContentUnavailable, ServerUnreachable when no byte has
    come for the patience that the call gave, or UnexpectedAnswer for other bytes than the service said it had.
    """

    def __init__(self, caller: Caller, call: Call, *, silence_s: float, patience_s: float | None = None) -> None:
        """`patience_s` counts from the last byte that came; by default it is the client's `retry_s`."""
        self._caller = caller
        self._call = call
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=silence_s)
        self._patience_s = caller.retry_s if patience_s is None else patience_s
        self._response: aiohttp.ClientResponse | None = None
        self._etag = ""
        self._done = 0
        self._sha256 = hashlib.sha256()

    def __await__(self) -> Generator[object, None, bytes]:
        return self._all().__await__()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._drop()
        self._etag, self._done, self._sha256 = "", 0, hashlib.sha256()
        try:
            while piece := await patiently(self._next, wait_s=wait_as_told, patience_s=lambda: self._patience_s):
                yield piece
        finally:
            self._drop()

    @property
    def _whole(self) -> bool:
        return self._etag != "" and self._etag == f'"{self._sha256.hexdigest()}"'

    async def _all(self) -> bytes:
        return b"".join([piece async for piece in self])

    async def _next(self) -> bytes:
        """The next bytes; none after the last. Raises Again where the connection ends before."""
        if self._whole:
            return b""
        if self._response is None:
            self._response = await self._opened()
        try:
            piece = await self._response.content.read(_PIECE_BYTES)
        except FAILED as error:
            self._drop()
            raise Again(self._caller.unreachable(error)) from error
        self._done += len(piece)
        self._sha256.update(piece)
        if not piece and not self._whole:
            raise UnexpectedAnswer("the bytes are not those of the artifact")
        return piece

    def _drop(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.close()

    async def _opened(self) -> aiohttp.ClientResponse:
        """A response that begins with the next byte. Raises Again where another try may do better."""
        caller, call = self._caller, self._call
        resumed = {"Range": f"bytes={self._done}-", "If-Range": self._etag} if self._done else {}
        try:
            response = await caller.session.request(
                call.method,
                caller.base_url + call.path,
                headers={**caller.credentials(), "Accept": "*/*", **resumed},
                allow_redirects=False,
                timeout=self._timeout,
            )
        except FAILED as error:
            raise Again(caller.unreachable(error)) from error
        if response.status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            self._etag = response.headers.get("ETag", "")
            if resumed and response.status == HTTPStatus.OK:
                response.close()
                raise UnexpectedAnswer("the artifact has changed meanwhile")
            return response
        try:
            if elsewhere := redirect_of(response.status, response.headers.get("Location")):
                raise UnexpectedAnswer(elsewhere)
            if response.status < HTTPStatus.BAD_REQUEST:
                raise UnexpectedAnswer(f"the service answered {response.status} to a request for bytes")
            raise refusal(response, await response.read(), call=call)
        finally:
            response.close()

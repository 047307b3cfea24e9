"""One HTTP call to the service: retried where that is safe, its answer a value or a typed error."""

from __future__ import annotations

import asyncio
import email.utils
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeVar

import aiohttp
import msgspec

from runwire.client.address import bearer, redirect_of
from runwire.client.problems import ServerUnreachable, UnexpectedAnswer, error_of, read_problem
from runwire.clock import monotonic, pause_s
from runwire.errors import InvalidRequest, RunwireError

T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 5.0
RETRY_AFTER_MAX_S: Final = 300.0

NOT_SENT: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""The request never left, so trying again cannot do anything twice."""
FAILED: Final = (aiohttp.ClientError, TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class Call:
    """A request; its body is JSON, or the `raw` bytes. `repeatable` says that doing it twice is the same as once.

    `run_id` and `fence` are for the errors.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    raw: bytes | None = None
    query: Mapping[str, str | Sequence[str]] | None = None
    headers: Mapping[str, str] | None = None
    repeatable: bool = True
    run_id: str = ""
    fence: int | None = None


class Again(Exception):  # never leaves this package
    """This try failed, another may do better: `error` is what to raise if none does, `wait_s` what was asked for.

    `maybe_done` says that the request may have had its effect although no answer came.
    """

    def __init__(self, error: RunwireError, *, wait_s: float | None = None, maybe_done: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait_s = wait_s
        self.maybe_done = maybe_done


_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_MAX_S: Final = 5.0


def wait_as_told(again: Again, failures: int) -> float:
    """Seconds: what the server asked for, else a random exponential backoff."""
    if again.wait_s is not None:
        return again.wait_s
    return pause_s(failures, first_s=_BACKOFF_FIRST_S, longest_s=_BACKOFF_MAX_S)


async def patiently(
    attempt: Callable[[], Awaitable[T]],
    *,
    wait_s: Callable[[Again, int], float],
    patience_s: Callable[[], float | None],
) -> T:
    """The result of `attempt`, which is made again while it raises Again and `patience_s` have not passed; None is no
    limit. `wait_s` gives the pause after so many failures in a row. Raises the error of the last Again.
    """
    began, failures = monotonic(), 0
    while True:
        try:
            return await attempt()
        except Again as again:
            failures += 1
            limit_s = patience_s()
            if limit_s is not None and monotonic() - began >= limit_s:
                raise again.error from again.__cause__
            pause = wait_s(again, failures)
        await asyncio.sleep(pause)


class Caller:
    """Calls over one session. `retry_s` is how long one call goes on being tried."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        base_url: str,
        retry_s: float,
        token: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.session = session
        self._token = token
        self.base_url = base_url
        self.retry_s = retry_s

    async def call(
        self, call: Call, answer: type[T], *, settle: Callable[[RunwireError], T | None] = lambda _error: None
    ) -> T:
        """The answer, decoded. Raises the server's error by its type, ServerUnreachable or UnexpectedAnswer.

        `settle` is asked about an error that may only say that an earlier try, never answered, was done after all:
        it gives the answer to return instead, or None.
        """
        maybe_done = False

        async def attempt() -> T:
            nonlocal maybe_done
            try:
                return await self.once(call, answer)
            except Again as again:
                maybe_done = maybe_done or again.maybe_done
                raise
            except RunwireError as error:
                if maybe_done and (settled := settle(error)) is not None:
                    return settled
                raise

        return await patiently(attempt, wait_s=wait_as_told, patience_s=lambda: self.retry_s)

    async def once(self, call: Call, answer: type[T]) -> T:
        """One try. Raises Again where another may do better, and else as `call`."""
        try:
            async with self.session.request(
                call.method,
                self.base_url + call.path,
                params=call.query,
                headers={**self.credentials(), **(call.headers or {})},
                data=call.raw if call.body is None else _encoded(call.body),
                allow_redirects=False,
            ) as response:
                body = await response.read()
        except NOT_SENT as error:
            raise Again(self.unreachable(error)) from error
        except FAILED as error:
            if call.repeatable:
                raise Again(self.unreachable(error), maybe_done=True) from error
            raise self.unreachable(error) from error
        if elsewhere := redirect_of(response.status, response.headers.get("Location")):
            raise UnexpectedAnswer(elsewhere)
        if response.status >= 400:
            raise refusal(response, body, call=call)
        return decoded(b"null" if response.status == HTTPStatus.NO_CONTENT else body, answer)

    def credentials(self) -> dict[str, str]:
        """Headers that say who calls, as of now."""
        return bearer(self._token())

    def unreachable(self, error: BaseException) -> ServerUnreachable:
        return ServerUnreachable(self.base_url, _reason(error))


def refusal(response: aiohttp.ClientResponse, body: bytes, *, call: Call) -> Exception:
    """The exception for an error status: Again for a retry, or the typed error to raise."""
    wait_s = retry_after_s(response.headers.get("Retry-After"))
    error = error_of(
        read_problem(response.status, body), run_id=call.run_id, held=call.fence, retry_after_s=wait_s or 0.0
    )
    if response.status == 429 or (call.repeatable and response.status in (502, 503, 504)):
        return Again(error, wait_s=wait_s, maybe_done=response.status != 429)
    return error


def retry_after_s(header: str | None) -> float | None:
    """Seconds a Retry-After asks for (RFC 9110, 10.2.3: seconds or a date), bounded; None when it says nothing."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return min(float(header), RETRY_AFTER_MAX_S)
    try:
        at = email.utils.parsedate_to_datetime(header).timestamp()
    except ValueError:
        return None
    return min(max(at - time.time(), 0.0), RETRY_AFTER_MAX_S)


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except (UnicodeEncodeError, RecursionError) as error:
        raise InvalidRequest("the request has text that is not Unicode, or is nested too deeply") from error


def decoded(body: bytes | str, answer: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=answer)
    except msgspec.DecodeError as error:
        raise UnexpectedAnswer(f"the answer is not from a runwire service: {error}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        return os.strerror(number).lower() if number is not None and number > 0 else str(error.os_error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__

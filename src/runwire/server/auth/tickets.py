"""Stream tickets: credentials in the URL for an EventSource, which cannot send headers.

A ticket opens the stream of one run, or one stream of many, for a short time, and nothing else. It may be used again
until it expires, because an EventSource connects again by itself with the same URL. It stands in that URL, so it is
short-lived and written to no log.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

from runwire import clock
from runwire.errors import Unauthenticated
from runwire.server.auth.caller import Caller, Scope

_PREFIX: Final = "rwt2"
_WITH_CONTENT: Final = "rwt2c"
"""Begins the tickets of callers who may read content."""
_PARTS: Final = 5
MAX_CHARS: Final = 512


class Tickets:
    """Issues and opens tickets. Services that share `key` open each other's."""

    def __init__(self, key: bytes, *, lifetime_s: float) -> None:
        # A derived key, so that the secret may serve other purposes as well.
        self._key = hmac.digest(key, b"runwire stream ticket 1", "sha256")
        self._lifetime_s = lifetime_s

    def issue(self, subject: str, *, caller: Caller) -> tuple[str, int]:
        """A ticket for a stream, and when it expires (epoch milliseconds): no later than the caller. `subject` is a
        run's id, or that of a selector.
        """
        expires_ms = clock.wall_us() // 1000 + round(self._lifetime_s * 1000)
        if caller.expires_at is not None:
            expires_ms = min(expires_ms, int(caller.expires_at * 1000))
        tenant = "" if caller.tenant is None else caller.tenant
        until_ms = "" if caller.expires_at is None else int(caller.expires_at * 1000)
        prefix = _WITH_CONTENT if Scope.CONTENT_READ in caller.scopes else _PREFIX
        body = (
            f"{prefix}.{expires_ms}.{_encoded(tenant.encode())}.{_encoded((caller.key_id or '').encode())}.{until_ms}"
        )
        return f"{body}.{self._mac(body, subject)}", expires_ms

    def caller(self, ticket: str, *, subject: str) -> Caller:
        """The caller that shows the ticket for the stream of `subject`. Raises Unauthenticated (`credentials_invalid`,
        `credentials_expired`).
        """
        body, _, mac = ticket.rpartition(".")
        shape = body.split(".")
        if len(ticket) > MAX_CHARS or not hmac.compare_digest(_bytes(mac), _bytes(self._mac(body, subject))):
            raise Unauthenticated("The ticket is not for this stream.", code="credentials_invalid")
        if clock.wall_us() // 1000 >= int(shape[1]):
            raise Unauthenticated("The ticket has expired: ask for a new one.", code="credentials_expired")
        # Tickets of the previous version have neither the key nor its expiry.
        key_id, until_ms = (_decoded(shape[3]), shape[4]) if len(shape) == _PARTS else ("", "")
        expires_at = int(until_ms) / 1000 if until_ms else None
        scopes = {Scope.READ, Scope.CONTENT_READ} if shape[0] == _WITH_CONTENT else {Scope.READ}
        return Caller("ticket", _decoded(shape[2]) or None, frozenset(scopes), expires_at, key_id or None)

    def _mac(self, body: str, subject: str) -> str:
        return _encoded(hmac.digest(self._key, _bytes(f"{body}\0{subject}"), hashlib.sha256))


def _bytes(text: str) -> bytes:
    """The ticket's bytes. Text of a URL need not be UTF-8; then it was never issued."""
    return text.encode(errors="replace")


def _decoded(text: str) -> str:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")

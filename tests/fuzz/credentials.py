"""Readers of credentials and of an issuer's keys: API keys, tokens, tickets, JWK Sets."""

from __future__ import annotations

import asyncio
import atexit
import base64
import hashlib
import hmac
import json
import math
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from runwire.errors import AuthUnavailable, Unauthenticated
from runwire.server.auth.caller import Caller, Scope, is_tenant
from runwire.server.auth.jwks import MAX_KEYS, JwkSet, public_keys
from runwire.server.auth.keys import PREFIX, KeyRing, new_key, parse_line
from runwire.server.auth.tickets import Tickets
from runwire.server.auth.tokens import PUBLIC_KEYS, SHARED_SECRET, SharedSecret, TokenRules, TokenVerifier

SECRET: Final = b"a secret of thirty-two bytes ..."
FAR: Final = 4_102_444_800
CLAIMS: Final = {"iss": "i", "aud": "a", "exp": FAR, "tenant": "acme", "scope": "runs:read ops", "sub": "me"}
JWKS: Final = {
    "keys": [
        {
            "kty": "EC",
            "crv": "P-256",
            "kid": "e1",
            "use": "sig",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        }
    ]
}


async def _published() -> bytes:
    return json.dumps(JWKS).encode()


_RULES: Final = TokenRules(issuer="i", audience="a", leeway_s=0, scope_claim="scope", tenant_claim="tenant")
_LOOP: Final = asyncio.new_event_loop()
atexit.register(_LOOP.close)
_PUBLIC: Final = JwkSet(_published, refresh_s=1e9, stale_s=1e9)
_VERIFIER: Final = TokenVerifier(_RULES, {SHARED_SECRET: SharedSecret(SECRET), **dict.fromkeys(PUBLIC_KEYS, _PUBLIC)})
_KEY, _RECORD = new_key(tenant="acme", scopes=(Scope.READ,), name="ci")
_RING: Final = KeyRing([_RECORD.line])
_TICKETS: Final = Tickets(SECRET, lifetime_s=1e8)
_TICKET, _ = _TICKETS.issue("r", caller=Caller("me", "acme", frozenset(Scope)))
_CARRIED: Final = frozenset({Scope.READ, Scope.CONTENT_READ})


def bearer_token(data: bytes) -> None:
    """As it is; and as the header, and as the claims, of a token whose signature is right."""
    _read_token(_as_header(data))
    _read_token(signed(data, json.dumps(CLAIMS).encode()))
    caller = _read_token(signed(b'{"alg":"HS256"}', data))
    if caller is not None:  # its expiry ends streams and tickets
        assert caller.expires_at is not None
        assert math.isfinite(caller.expires_at * 1000)
        _TICKETS.issue("r", caller=caller)


def api_key(data: bytes) -> None:
    text = _as_header(data)
    for key in (text, PREFIX + text, _KEY[:-1] + text):
        try:
            _RING.caller(key)
        except Unauthenticated:
            continue
        assert key == _KEY


def key_line(data: bytes) -> None:
    for line in (data.decode("utf-8", "replace"), f"{_RECORD.key_id} sha256:{_RECORD.digest} {data.decode('latin-1')}"):
        try:
            record = parse_line(line)
        except ValueError:
            continue
        assert is_tenant(record.tenant)
        assert record.key_id.isalnum()


def stream_ticket(data: bytes) -> None:
    text = _as_header(data)
    for ticket in (text, _TICKET[:-1] + text, text + _TICKET):
        try:
            caller = _TICKETS.caller(ticket, subject="r")
        except Unauthenticated:
            continue
        assert (ticket, caller.tenant, caller.scopes) == (_TICKET, "acme", _CARRIED)


def jwk_set(data: bytes) -> None:
    try:
        keys = public_keys(data)
    except ValueError:
        return
    assert len(keys) <= MAX_KEYS
    assert all(hasattr(key.material, "verify") and not hasattr(key.material, "sign") for key in keys)


def signed(header: bytes, claims: bytes) -> str:
    """A token of these bytes, with the right signature: what an issuer could send."""
    body = f"{_base64(header)}.{_base64(claims)}"
    return f"{body}.{_base64(hmac.digest(SECRET, body.encode(), hashlib.sha256))}"


def _read_token(token: str) -> Caller | None:
    try:
        caller = _at_once(_VERIFIER.caller(token))
    except (AuthUnavailable, Unauthenticated):
        return None
    assert caller.tenant is not None
    assert is_tenant(caller.tenant)
    assert caller.scopes <= frozenset(Scope)
    return caller


def _at_once(coroutine: Coroutine[Any, Any, Caller]) -> Caller:
    """Its result, by the one event loop of all targets: keys are read beside it."""
    return _LOOP.run_until_complete(coroutine)


def _as_header(data: bytes) -> str:
    """As the HTTP parser gives it: what is no UTF-8 stays recognisable."""
    return data.decode("utf-8", "surrogateescape")


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    target.__name__: target for target in (bearer_token, api_key, key_line, stream_ticket, jwk_set)
}

SEEDS: Final[Mapping[str, tuple[bytes, ...]]] = {
    "bearer_token": (
        json.dumps(CLAIMS).encode(),
        json.dumps({**CLAIMS, "exp": 1e308, "scope": ["runs:read"]}).encode(),
        b'{"alg":"HS256","typ":"JWT","kid":"x"}',
        b'{"alg":"ES256","kid":"e1"}',
        signed(b'{"alg":"HS256"}', json.dumps(CLAIMS).encode()).encode(),
    ),
    "api_key": (_KEY.encode(), b"rwk__", _KEY.encode()[-1:]),
    "key_line": (_RECORD.line.encode(), b"tenant=acme scopes=ops,runs:read expires=2027-01-01T00:00:00Z name=ci"),
    "stream_ticket": (_TICKET.encode(), _TICKET.encode()[-1:], b"rwt1.1.YQ.x"),
    "jwk_set": (json.dumps(JWKS).encode(), b'{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","key_ops":["verify"]}]}'),
}

"""Public keys of an issuer (JWK Set, RFC 7517), from a file or an https URL, kept up to date while it rotates them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from runwire import clock
from runwire.errors import AuthUnavailable, ConfigurationError
from runwire.server.auth.keys_file import START_S, begin_to_read
from runwire.telemetry.logs import LogEvent, get_logger

try:
    import jwt
except ImportError:  # see tokens.py
    jwt = None  # type: ignore[assignment]

MAX_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 100
FETCH_TIMEOUT_S: Final = 5.0
UNKNOWN_KEY_S: Final = 10.0
"""Least seconds between fetches that tokens with unknown keys cause, since anybody can make such tokens."""
RSA_MIN_BITS: Final = 2048

_FITS: Final = {"RS256": ("RSA", None), "ES256": ("EC", "P-256")}
_log = get_logger()


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies tokens of one algorithm."""

    key_id: str | None
    algorithm: str
    material: Any


class JwkSet:
    """An issuer's keys. `read` gives the document; it is asked again when the keys are older than `refresh_s`, or when
    a token names an unknown key. While it fails, the keys last read serve for `stale_s`.
    """

    def __init__(self, read: Callable[[], Awaitable[bytes]], *, refresh_s: float, stale_s: float) -> None:
        self._read = read
        self._refresh_s = refresh_s
        self._stale_s = stale_s
        self._keys: Sequence[PublicKey] = ()
        self._read_at: float | None = None
        self._tried_at: float | None = None
        self._reading: asyncio.Task[None] | None = None

    async def key(self, key_id: str | None, *, algorithm: str) -> Any | None:
        """The one key that fits; None when there is none, or several and the token does not say which.

        Waits for the issuer only while no keys may be used, or for a key that is not among them.
        Raises AuthUnavailable when there are no keys that may still be used.
        """
        if self._age_s() > self._refresh_s:
            reading = self._refresh()
            if reading is not None and self._age_s() > self._refresh_s + self._stale_s:
                await asyncio.shield(reading)
        if self._age_s() > self._refresh_s + self._stale_s:
            raise AuthUnavailable("The keys that verify tokens are not available.")
        found = self._find(key_id, algorithm)
        if found is None and (reading := self._refresh()) is not None:
            await asyncio.shield(reading)
            found = self._find(key_id, algorithm)
        return found

    def _find(self, key_id: str | None, algorithm: str) -> Any | None:
        fitting = [key for key in self._keys if key.algorithm == algorithm and key_id in (None, key.key_id)]
        return fitting[0].material if len(fitting) == 1 else None

    def _age_s(self) -> float:
        return float("inf") if self._read_at is None else clock.monotonic() - self._read_at

    def _refresh(self) -> asyncio.Task[None] | None:
        """Reads the document again in one task beside the requests; None when it was tried a moment ago."""
        if self._reading is None or self._reading.done():
            now = clock.monotonic()
            pause_s = 1.0 if self._read_at is None else min(UNKNOWN_KEY_S, self._refresh_s)
            if self._tried_at is not None and now - self._tried_at < pause_s:
                return None
            self._tried_at = now
            self._reading = asyncio.create_task(self._read_anew(now), name="read the JWK Set")
        return self._reading

    async def _read_anew(self, now: float) -> None:
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                self._keys = public_keys(await self._read())
        except (OSError, ValueError, TimeoutError, aiohttp.ClientError) as error:
            _log.error(LogEvent.CREDENTIALS_UNREADABLE, source="jwt_jwks", error_type=type(error).__name__)
        else:
            self._read_at = now


def public_keys(document: bytes) -> Sequence[PublicKey]:
    """The keys of a JWK Set that may verify tokens. Raises ValueError when the document is not a JWK Set."""
    listed = msgspec.json.decode(document, type=dict[str, Any]).get("keys")
    if not isinstance(listed, list):
        raise ValueError("a JWK Set must have `keys`")  # noqa: TRY004  # of the document, not of an argument
    keys = []
    for key in listed[:MAX_KEYS]:
        try:
            algorithm = _algorithm_of(key)
            if algorithm is None:
                continue
            material = jwt.PyJWK.from_dict(key, algorithm=algorithm).key
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
        # Refuses private keys: a key that verifies tokens must not be able to make them.
        if not hasattr(material, "verify") or getattr(material, "key_size", 0) < (
            RSA_MIN_BITS if algorithm == "RS256" else 0
        ):
            continue
        key_id = key.get("kid")
        keys.append(PublicKey(key_id if isinstance(key_id, str) else None, algorithm, material))
    return keys


def _algorithm_of(key: object) -> str | None:
    """The algorithm of a JWK, by the key's own type, never by a token's claim."""
    if not isinstance(key, dict) or key.get("use", "sig") != "sig" or "verify" not in key.get("key_ops", ["verify"]):
        return None
    for algorithm, (kind, curve) in _FITS.items():
        if key.get("kty") == kind and key.get("alg", algorithm) == algorithm and curve in (None, key.get("crv")):
            return algorithm
    return None


def jwk_set(source: str, *, refresh_s: float, stale_s: float) -> JwkSet:
    """The keys at a URL or in a file. Raises ConfigurationError for a file that cannot be read."""
    if source.startswith(("https://", "http://")):
        return JwkSet(lambda: fetched(source), refresh_s=refresh_s, stale_s=stale_s)
    file = Path(source)
    reading = begin_to_read(file, most_bytes=MAX_BYTES)
    try:
        public_keys(reading.result(START_S))
    except (OSError, ValueError, TimeoutError) as error:
        raise ConfigurationError((f"RUNWIRE_JWT_JWKS: {file} is no JWK Set: {type(error).__name__}",)) from error

    async def read() -> bytes:
        nonlocal reading
        if reading.done():  # one that hangs is waited for anew, not joined by another
            reading = begin_to_read(file, most_bytes=MAX_BYTES)
        return await asyncio.shield(asyncio.wrap_future(reading))

    return JwkSet(read, refresh_s=min(refresh_s, 10.0), stale_s=stale_s)


async def fetched(url: str) -> bytes:
    """The document at `url`: at most MAX_BYTES, in FETCH_TIMEOUT_S, without redirects. Raises OSError or ValueError,
    or aiohttp's errors.
    """
    async with (
        asyncio.timeout(FETCH_TIMEOUT_S),
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        session.get(url, allow_redirects=False, headers={"Accept": "application/json"}) as response,
    ):
        if response.status != 200:
            raise ValueError(f"HTTP {response.status}")
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > MAX_BYTES:
                raise ValueError("the JWK Set is too large")
        return bytes(body)

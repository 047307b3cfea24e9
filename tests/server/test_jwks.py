"""An issuer's keys: cached, refreshed, rotated, and stale when there is nothing better."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from runwire import clock
from runwire.errors import AuthUnavailable, ConfigurationError, Unauthenticated
from runwire.server.auth import Tickets, TokenVerifier
from runwire.server.auth.build import token_verifier
from runwire.server.auth.jwks import MAX_BYTES, JwkSet, fetched, jwk_set, public_keys
from runwire.settings import Settings
from server.conftest import LogLines
from server.issuer import AUDIENCE, ISSUER, Issuer, hs256_with
from waiting import eventually

ONE, OTHER = Issuer(), Issuer()
SECRET = "s" * 32


class Source:
    """A document that can be changed or broken, and counts how often it was read."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document: dict[str, Any] | Exception = document
        self.reads = 0

    async def read(self) -> bytes:
        self.reads += 1
        await asyncio.sleep(0)
        if isinstance(self.document, Exception):
            raise self.document
        return json.dumps(self.document).encode()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    at = [1000.0]
    monkeypatch.setattr(clock, "monotonic", lambda: at[0])
    return at


async def test_keys_are_read_once_and_again_when_they_are_old(now: list[float]) -> None:
    source = Source(ONE.jwks())
    keys = JwkSet(source.read, refresh_s=300, stale_s=600)
    assert all(await asyncio.gather(*(keys.key("r1", algorithm="RS256") for _ in range(20))))
    assert source.reads == 1
    now[0] += 301
    assert await keys.key("r1", algorithm="RS256")
    await eventually(lambda: source.reads == 2)


async def test_an_issuer_that_hangs_holds_up_no_token_whose_key_is_known(now: list[float]) -> None:
    source = Source(ONE.jwks())
    hanging = asyncio.Event()

    async def read() -> bytes:
        document = await source.read()
        if source.reads > 1:
            await hanging.wait()
        return document

    keys = JwkSet(read, refresh_s=300, stale_s=600)
    assert await keys.key("r1", algorithm="RS256")
    now[0] += 301
    async with asyncio.timeout(1):
        assert all([await keys.key("r1", algorithm="RS256") for _ in range(100)])
    assert source.reads <= 2
    new = asyncio.create_task(keys.key("new", algorithm="RS256"))  # waits for the same reading
    await eventually(lambda: source.reads == 2)
    assert not new.done()
    async with asyncio.timeout(1):
        assert await keys.key("r1", algorithm="RS256")
    source.document = ONE.jwks()
    hanging.set()
    assert await new is None
    assert source.reads == 2


async def test_a_file_that_hangs_holds_up_no_token_whose_key_is_known(now: list[float], tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(ONE.jwks()))
    keys = jwk_set(str(file), refresh_s=10, stale_s=600)
    assert await keys.key("r1", algorithm="RS256")
    file.unlink()
    os.mkfifo(file)
    now[0] += 11
    async with asyncio.timeout(1):
        assert await keys.key("r1", algorithm="RS256")
    later = {"keys": [{**key, "kid": "later"} for key in ONE.jwks()["keys"] if key["kty"] == "RSA"]}
    await asyncio.to_thread(file.write_text, json.dumps(later))  # meets the thread that hangs as it opens the file
    assert await keys.key("later", algorithm="RS256")


async def test_a_new_key_is_found_at_once_and_unknown_ones_cause_few_reads(now: list[float]) -> None:
    source = Source(ONE.jwks())
    keys = JwkSet(source.read, refresh_s=300, stale_s=600)
    assert await keys.key("r1", algorithm="RS256")
    now[0] += 11
    source.document = {"keys": [{**key, "kid": f"{key['kid']}-new"} for key in OTHER.jwks()["keys"]]}
    assert await keys.key("r1-new", algorithm="RS256")
    assert await keys.key("r1", algorithm="RS256") is None  # rotated out
    for n in range(100):
        assert await keys.key(f"made-up-{n}", algorithm="RS256") is None
    assert source.reads == 2


async def test_while_the_issuer_is_away_the_last_keys_serve_for_a_while(now: list[float], log_lines: LogLines) -> None:
    source = Source(ONE.jwks())
    keys = JwkSet(source.read, refresh_s=300, stale_s=600)
    await keys.key("r1", algorithm="RS256")
    source.document = OSError("away")
    now[0] += 800
    assert await keys.key("r1", algorithm="RS256")
    now[0] += 101
    with pytest.raises(AuthUnavailable):
        await keys.key("r1", algorithm="RS256")
    source.document = ONE.jwks()
    now[0] += 11
    assert await keys.key("r1", algorithm="RS256")
    assert {line["source"] for line in log_lines if line["event"] == "credentials_unreadable"} == {"jwt_jwks"}
    log_lines.clear()


async def test_a_token_without_a_kid_needs_exactly_one_key(now: list[float]) -> None:
    del now
    both = {"keys": [*ONE.jwks()["keys"], {**OTHER.jwks()["keys"][0], "kid": "r2"}]}
    keys = JwkSet(Source(both).read, refresh_s=300, stale_s=0)
    assert await keys.key(None, algorithm="ES256") is not None
    assert await keys.key(None, algorithm="RS256") is None


def test_only_public_signature_keys_of_enough_bits_are_taken() -> None:
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505  # to be refused
    good = ONE.jwks()["keys"][0]
    keys = [
        {**good, "use": "enc"},
        {**good, "key_ops": ["encrypt"]},
        {**good, "key_ops": 7},
        {**good, "alg": "RS512"},
        {**good, "n": "!"},
        {**ONE.jwks()["keys"][1], "crv": "P-521"},
        {**json.loads(RSAAlgorithm.to_jwk(small.public_key())), "kid": "small"},
        {**json.loads(RSAAlgorithm.to_jwk(ONE.rsa)), "kid": "private"},
        {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "secret"},
        {"kty": ["RSA"]},
        "nonsense",
        good,
    ]
    assert [key.key_id for key in public_keys(json.dumps({"keys": keys}).encode())] == ["r1"]


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"keys": 1}', b"\xff"])
def test_what_is_no_key_set_is_refused(document: bytes, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(document)
    with pytest.raises(ConfigurationError):
        jwk_set(str(file), refresh_s=1, stale_s=1)


@asynccontextmanager
async def issuing(answer: Any) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/jwks", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
    finally:
        await runner.cleanup()


async def test_a_key_set_is_fetched(now: list[float]) -> None:
    del now

    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(ONE.jwks())

    async with issuing(answer) as url:
        assert await jwk_set(url, refresh_s=300, stale_s=0).key("e1", algorithm="ES256") is not None


async def test_a_fetch_is_bounded_and_follows_no_redirect() -> None:
    async def redirect(_request: web.Request) -> web.Response:
        raise web.HTTPFound("https://elsewhere.example/")

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(MAX_BYTES // 65_536 + 2):
            await response.write(b" " * 65_536)
        return response

    for answer in (redirect, endless):
        async with issuing(answer) as url:
            with pytest.raises(ValueError, match=r"HTTP 302|too large"):
                await fetched(url)


# ------------------------------------------------------------------ the verifier as settings make it


def verifier(**settings: Any) -> TokenVerifier:
    made = token_verifier(Settings(jwt_issuer=ISSUER, jwt_audience=AUDIENCE, **settings))
    assert made is not None
    return made


async def test_a_shared_secret_verifies_hs256_and_nothing_else() -> None:
    tokens = verifier(jwt_secret=SECRET)
    claims = ONE.claims()
    assert (await tokens.caller(hs256_with(SECRET.encode(), claims, kid=None))).tenant == "default"
    for token in (ONE.token(), hs256_with(b"x" * 32, claims, kid=None)):
        with pytest.raises(Unauthenticated):
            await tokens.caller(token)


async def test_both_kinds_of_keys_may_be_there_and_neither_stands_in_for_the_other(tmp_path: Path) -> None:
    settings = ONE.settings(tmp_path, jwt_secret=SECRET)
    for name in ("jwt_issuer", "jwt_audience"):
        del settings[name]
    tokens = verifier(**settings)
    assert (await tokens.caller(ONE.token())).tenant == "acme"
    assert (await tokens.caller(hs256_with(SECRET.encode(), ONE.claims(), kid="r1"))).tenant == "acme"
    for forgery, (token, code) in ONE.forgeries().items():
        with pytest.raises(Unauthenticated) as refused:
            await tokens.caller(token)
        assert refused.value.code == code, forgery
    narrowed = verifier(**settings, jwt_algorithms="ES256")
    assert await narrowed.caller(ONE.ec_token())
    with pytest.raises(Unauthenticated):
        await narrowed.caller(ONE.token())


async def test_leeway_is_for_clocks_that_differ(tmp_path: Path) -> None:
    settings = ONE.settings(tmp_path) | {"jwt_leeway_s": 120}
    for name in ("jwt_issuer", "jwt_audience"):
        del settings[name]
    token = ONE.token(exp=int(clock.wall_us() / 1e6) - 60)
    caller = await verifier(**settings).caller(token)
    assert caller.expires_at is not None
    assert caller.expires_at > clock.wall_us() / 1e6


@pytest.mark.parametrize("exp", [10**400, 1e308, 253_402_300_800, str(10**20)])
async def test_an_expiry_beyond_every_calendar_is_the_last_one_there_is(tmp_path: Path, exp: object) -> None:
    """Values computed from it, such as the end of a ticket, stay finite."""
    settings = ONE.settings(tmp_path)
    for name in ("jwt_issuer", "jwt_audience"):
        del settings[name]
    caller = await verifier(**settings).caller(ONE.token(exp=exp))
    assert caller.expires_at == 253_402_300_799
    _, ends_ms = Tickets(b"k" * 32, lifetime_s=60).issue("r", caller=caller)
    assert ends_ms < clock.wall_us() / 1000 + 61_000

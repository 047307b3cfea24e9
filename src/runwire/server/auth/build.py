"""Builds the gate that the settings ask for, and the warnings about it."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Counter

from runwire.errors import ConfigurationError
from runwire.server.addresses import is_loopback
from runwire.server.auth.gate import Gate
from runwire.server.auth.jwks import jwk_set
from runwire.server.auth.keys import KeyRing
from runwire.server.auth.settings import AuthSettings
from runwire.server.auth.tickets import Tickets
from runwire.server.auth.tokens import (
    PUBLIC_KEYS,
    SHARED_SECRET,
    KeySource,
    SharedSecret,
    TokenVerifier,
    token_rules,
)
from runwire.server.settings import ServerSettings
from runwire.telemetry.logs import LogEvent, get_logger

_log = get_logger()


def gate_of(settings: AuthSettings, *, ticket_key: bytes, refused: Mapping[str, Counter] | None = None) -> Gate:
    """Raises ConfigurationError for invalid keys, or for tokens without the library that verifies them."""
    tickets = Tickets(ticket_key, lifetime_s=settings.ticket_s)
    if not settings.authenticates:
        return Gate(tickets)
    keys = KeyRing(settings.keys, file=settings.keys_file) if settings.keys or settings.keys_file else None
    return Gate(tickets, keys=keys, tokens=token_verifier(settings), tenants=settings.tenants, refused=refused)


def token_verifier(settings: AuthSettings) -> TokenVerifier | None:
    """The verifier of the tokens that the settings allow; None when they allow none."""
    if not settings.takes_tokens:
        return None
    sources: dict[str, KeySource] = {}
    if settings.jwt_secret is not None:
        sources[SHARED_SECRET] = SharedSecret(settings.jwt_secret.get_secret_value().encode())
    if settings.jwt_jwks is not None:
        public = jwk_set(settings.jwt_jwks, refresh_s=settings.jwks_refresh_s, stale_s=settings.jwks_stale_s)
        sources |= dict.fromkeys(PUBLIC_KEYS, public)
    allowed: tuple[str, ...] = settings.jwt_algorithms or tuple(sources)
    return TokenVerifier(token_rules(settings), {name: sources[name] for name in allowed})


def check_exposure(settings: ServerSettings, *, serves_api: bool) -> None:
    """Raises ConfigurationError for a service that other machines can reach without authentication, unless that
    is what its settings say. Warns of what is open.
    """
    if serves_api and not settings.authenticates:
        if settings.auth == "auto" and not is_loopback(settings.host):
            problem = (
                f"RUNWIRE_HOST: {settings.host} can be reached by others, so set RUNWIRE_KEYS_FILE or "
                "RUNWIRE_JWT_JWKS to authenticate them, or RUNWIRE_AUTH=none to serve everybody"
            )
            raise ConfigurationError((problem,))
        if settings.auth == "none":
            _log.warning(
                LogEvent.EXPOSED,
                listener="api",
                host=settings.host,
                to="whoever can reach it: may start, read, signal and cancel every run, without credentials",
            )
    if not is_loopback(settings.admin_host):
        metrics = "metrics with the admin token" if settings.admin_token is not None else "metrics"
        _log.warning(
            LogEvent.EXPOSED,
            listener="admin",
            host=settings.admin_host,
            to=f"whoever can reach it: health, readiness (ports, roles) and {metrics} (agents, nodes, rates)",
        )

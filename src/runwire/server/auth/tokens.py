"""Bearer tokens: JWTs (RFC 7519) from the configured issuer.

Which algorithms verify is a setting, and which key belongs to which algorithm is decided before the token is looked
at: a shared secret only ever verifies HS256, a public key never does.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Protocol

from runwire.errors import ConfigurationError, Unauthenticated
from runwire.model.run import DEFAULT_TENANT
from runwire.server.auth.caller import Caller, is_tenant, known_scopes
from runwire.server.auth.settings import AuthSettings

try:
    import jwt
except ImportError:  # the extra `auth` is not installed: API keys do without
    jwt = None  # type: ignore[assignment]

SHARED_SECRET: Final = "HS256"  # noqa: S105  # the name of an algorithm
PUBLIC_KEYS: Final = ("RS256", "ES256")
LATEST: Final = 253_402_300_799
"""The end of the year 9999 (epoch seconds). It caps the expiry of tokens."""


class KeySource(Protocol):
    """A source of keys that verify tokens."""

    async def key(self, key_id: str | None, *, algorithm: str) -> Any | None:
        """The key that a token of this id and algorithm is verified with; None when there is none.

        Raises AuthUnavailable when that cannot be found out.
        """
        ...


@dataclass(frozen=True, slots=True)
class SharedSecret:
    """One secret for all tokens."""

    secret: bytes

    async def key(self, key_id: str | None, *, algorithm: str) -> Any | None:  # noqa: ARG002  # of the protocol
        return self.secret


@dataclass(frozen=True, slots=True)
class TokenRules:
    """The rules for tokens. `algorithms` maps each allowed algorithm to the source of its keys."""

    issuer: str
    audience: str
    leeway_s: float
    scope_claim: str
    tenant_claim: str | None


class TokenVerifier:
    """Raises ConfigurationError when the library for tokens is not installed."""

    def __init__(self, rules: TokenRules, sources: dict[str, KeySource]) -> None:
        if jwt is None:
            raise ConfigurationError(("tokens need the extra `auth`: pip install 'runwire[auth]'",))
        self._rules = rules
        self._sources = sources

    async def caller(self, token: str) -> Caller:
        """Raises Unauthenticated (`credentials_invalid`, `credentials_expired`) or AuthUnavailable."""
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise _invalid("The token is not a JWT.") from None
        algorithm = header.get("alg")
        source = self._sources.get(algorithm) if isinstance(algorithm, str) else None
        if source is None or not isinstance(algorithm, str):
            raise _invalid("The token's algorithm is not allowed.")
        if "crit" in header or "b64" in header:  # RFC 7515, 4.1.11: not understood, so refused
            raise _invalid("The token has critical extensions.")
        key_id = header.get("kid")
        if key_id is not None and not isinstance(key_id, str):
            raise _invalid("The token's key id is not a string.")
        key = await source.key(key_id, algorithm=algorithm)
        if key is None:
            raise _invalid("The token's key is unknown.")
        return self._caller(self._claims(token, key, algorithm))

    def _claims(self, token: str, key: Any, algorithm: str) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._rules.audience,
                issuer=self._rules.issuer,
                leeway=self._rules.leeway_s,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.ExpiredSignatureError:  # known only of tokens whose signature is right
            raise Unauthenticated("The token has expired.", code="credentials_expired") from None
        except jwt.ImmatureSignatureError:
            raise _invalid("The token is not valid yet.") from None
        except jwt.InvalidAudienceError:
            raise _invalid("The token is for another audience.") from None
        except jwt.InvalidIssuerError:
            raise _invalid("The token is from another issuer.") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise _invalid("The token's signature or claims are wrong.") from None
        return claims

    def _caller(self, claims: dict[str, Any]) -> Caller:
        rules = self._rules
        tenant = DEFAULT_TENANT if rules.tenant_claim is None else claims.get(rules.tenant_claim)
        if not isinstance(tenant, str) or not is_tenant(tenant):
            raise _invalid("The token names no tenant.")
        scopes = known_scopes(_words(claims.get(rules.scope_claim)))
        expires_at = min(int(claims["exp"]), LATEST) + rules.leeway_s
        return Caller(f"token:{claims.get('sub', '')}", tenant, scopes, expires_at)


def token_rules(settings: AuthSettings) -> TokenRules:
    return TokenRules(
        issuer=settings.jwt_issuer or "",
        audience=settings.jwt_audience or "",
        leeway_s=settings.jwt_leeway_s,
        scope_claim=settings.jwt_scope_claim,
        tenant_claim=settings.jwt_tenant_claim,
    )


def _words(claim: object) -> Collection[str]:
    if isinstance(claim, str):
        return claim.split()
    return [word for word in claim if isinstance(word, str)] if isinstance(claim, list) else []


def _invalid(detail: str) -> Unauthenticated:
    return Unauthenticated(detail, code="credentials_invalid")

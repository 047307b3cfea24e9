"""Settings of authentication."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from runwire.server.addresses import is_loopback
from runwire.settings_group import SettingsGroup, Words

SECRET_BYTES_MIN = 32


class AuthSettings(SettingsGroup):
    """Settings of authentication."""

    auth: Literal["auto", "required", "none"] = Field(
        "auto",
        description="`required`; `none` serves every client; `auto` is required when keys or tokens are "
        "configured, and without them serves loopback only.",
    )
    tenants: bool = Field(
        default=True, description="Callers see only the runs of their tenant. Off: there is one tenant."
    )
    keys: Annotated[tuple[str, ...], NoDecode] = Field(
        (), repr=False, description="API keys: the lines that `runwire keys create` prints, separated by `;`."
    )
    keys_file: Path | None = Field(
        None, description="File with API keys, one line each. The service reads it again when it changes."
    )
    jwt_jwks: str | None = Field(
        None, description="JWK Set that verifies RS256 and ES256 tokens: a file or an https URL."
    )
    jwt_secret: SecretStr | None = Field(None, description="Secret that verifies HS256 tokens, 32 bytes or more.")
    jwt_algorithms: Words[Literal["RS256", "ES256", "HS256"]] = Field(
        (), description="Algorithms that a token may use. Default: those that `jwt_jwks` and `jwt_secret` can verify."
    )
    jwt_issuer: str | None = Field(None, description="Issuer (`iss`) that a token must have.")
    jwt_audience: str | None = Field(None, description="Audience (`aud`) that a token must have.")
    jwt_scope_claim: str = Field("scope", description="Claim with the scopes: words in a string, or a list.")
    jwt_tenant_claim: str | None = Field(
        None, description="Claim with the tenant. Without it, all tokens belong to tenant `default`."
    )
    jwt_leeway_s: float = Field(10.0, ge=0, le=300, description="Seconds by which the issuer's clock may differ.")
    jwks_refresh_s: float = Field(300.0, ge=1, description="Seconds after which the service fetches the JWK Set again.")
    jwks_stale_s: float = Field(
        86_400.0, ge=0, description="Seconds for which the last JWK Set holds while fetching fails."
    )
    ticket_s: float = Field(60.0, ge=1, le=3600, description="Seconds for which a stream ticket can open a stream.")
    ticket_secret: SecretStr | None = Field(
        None, description="Key that signs stream tickets, 32 bytes or more. Default: a key stored in the database."
    )

    @property
    def takes_tokens(self) -> bool:
        return self.jwt_jwks is not None or self.jwt_secret is not None

    @property
    def authenticates(self) -> bool:
        """Whether the API authenticates its callers."""
        return self.auth == "required" or (
            self.auth == "auto" and (self.takes_tokens or bool(self.keys) or self.keys_file is not None)
        )

    @field_validator("keys", mode="before")
    @classmethod
    def _split_lines(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in re.split(r"[;\n]", value) if part.strip())
        return value

    @field_validator("jwt_jwks")
    @classmethod
    def _is_fetched_safely(cls, value: str | None) -> str | None:
        # An attacker who can change the answer on its way can replace the keys, and so forge every token.
        if value is not None and value.startswith("http://") and not is_loopback(re.split(r"[/:]+", value)[1]):
            raise ValueError("must be an https URL or a file")
        return value

    @field_validator("jwt_secret", "ticket_secret")
    @classmethod
    def _is_long(cls, value: SecretStr | None) -> SecretStr | None:
        return long_enough(value, SECRET_BYTES_MIN)

    def problems(self) -> Iterable[str]:
        configured = self.takes_tokens or self.keys or self.keys_file is not None
        if self.auth == "required" and not configured:
            yield "auth is required, so keys, keys_file, jwt_jwks or jwt_secret must be set"
        if self.auth == "none" and configured:
            yield "auth is none, though keys or tokens are configured: set one or the other"
        if self.takes_tokens and not (self.jwt_issuer and self.jwt_audience):
            yield "tokens need jwt_issuer and jwt_audience: without them a token for another service would be valid"
        for algorithm in self.jwt_algorithms:
            if algorithm == "HS256" and self.jwt_secret is None:
                yield "HS256 needs jwt_secret"
            if algorithm != "HS256" and self.jwt_jwks is None:
                yield f"{algorithm} needs jwt_jwks"
        if self.jwt_tenant_claim is not None and not self.tenants:
            yield "jwt_tenant_claim is set, though tenants is off"


def long_enough(secret: SecretStr | None, least: int) -> SecretStr | None:
    """The secret. Raises ValueError for one of fewer than `least` bytes."""
    if secret is not None and len(secret.get_secret_value().encode()) < least:
        raise ValueError(f"must have {least} bytes or more")
    return secret

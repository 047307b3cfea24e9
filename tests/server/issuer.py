"""An issuer of tokens, good and bad ones, and the settings of a service that trusts it."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

ISSUER = "https://issuer.example"
AUDIENCE = "runwire"
ALL_SCOPES = (
    "runs:start runs:read runs:state runs:cancel runs:signal runs:append ops content:read content:write content:erase"
)


def _rsa() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class Issuer:
    """Signs with `rsa` (kid `r1`) or `ec` (kid `e1`), whose public halves are in its JWK Set."""

    rsa: rsa.RSAPrivateKey = field(default_factory=_rsa)
    ec: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def jwks(self) -> dict[str, Any]:
        return {
            "keys": [
                {**json.loads(RSAAlgorithm.to_jwk(self.rsa.public_key())), "kid": "r1", "use": "sig", "alg": "RS256"},
                {**json.loads(ECAlgorithm.to_jwk(self.ec.public_key())), "kid": "e1", "use": "sig"},
            ]
        }

    def settings(self, folder: Path, **more: Any) -> dict[str, Any]:
        """Settings by which a service trusts this issuer."""
        file = folder / "jwks.json"
        file.write_text(json.dumps(self.jwks()))
        return {
            "jwt_jwks": str(file),
            "jwt_issuer": ISSUER,
            "jwt_audience": AUDIENCE,
            "jwt_tenant_claim": "tenant",
            "jwt_leeway_s": 0,
            **more,
        }

    def claims(self, *, tenant: str = "acme", scope: str = ALL_SCOPES, **claims: Any) -> dict[str, Any]:
        now = int(time.time())
        usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "me", "iat": now, "exp": now + 600}
        return {**usual, "tenant": tenant, "scope": scope, **claims}

    def token(self, *, kid: str | None = "r1", headers: dict[str, Any] | None = None, **claims: Any) -> str:
        return jwt.encode(
            self.claims(**claims),
            self.rsa,
            algorithm="RS256",
            headers={"kid": kid, **(headers or {})} if kid else headers,
        )

    def ec_token(self, **claims: Any) -> str:
        return jwt.encode(self.claims(**claims), self.ec, algorithm="ES256", headers={"kid": "e1"})

    def forgeries(self) -> dict[str, tuple[str, str]]:
        """Tokens that must be refused, each with the code it is refused by."""
        now = int(time.time())
        public = self.rsa.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        stranger = Issuer()
        good = self.token()
        head, body, _ = good.split(".")
        invalid = "credentials_invalid"
        return {
            "expired": (self.token(exp=now - 60), "credentials_expired"),
            "not yet valid": (self.token(nbf=now + 600), invalid),
            "wrong audience": (self.token(aud="another"), invalid),
            "wrong issuer": (self.token(iss="https://evil.example"), invalid),
            "wrong signature": (stranger.token(), invalid),
            "no signature": (f"{head}.{body}.", invalid),
            "alg none": (jwt.encode(self.claims(), "", algorithm="none"), invalid),
            "alg confusion": (hs256_with(public, self.claims(), kid="r1"), invalid),
            "alg confusion, no kid": (hs256_with(public, self.claims(), kid=None), invalid),
            "algorithm not allowed": (
                jwt.encode(self.claims(), self.rsa, algorithm="RS512", headers={"kid": "r1"}),
                invalid,
            ),
            "key of another type": (
                jwt.encode(self.claims(), self.rsa, algorithm="RS256", headers={"kid": "e1"}),
                invalid,
            ),
            "unknown kid": (self.token(kid="r9"), invalid),
            "kid that is no string": (with_header(good, {"alg": "RS256", "kid": ["r1"]}), invalid),
            "critical extension": (self.token(headers={"crit": ["exp"]}), invalid),
            "own key in the header": (stranger.token(headers={"jwk": stranger.jwks()["keys"][0]}), invalid),
            "no expiry": (without(self, "exp"), invalid),
            "no audience": (without(self, "aud"), invalid),
            "no issuer": (without(self, "iss"), invalid),
            "no tenant": (without(self, "tenant"), invalid),
            "impossible tenant": (self.token(tenant="a:b"), invalid),
            "empty tenant": (self.token(tenant=""), invalid),
            "no token": ("nonsense", invalid),
            "unknown API key": ("rwk_0123456789ab_" + "x" * 43, invalid),
        }


def without(issuer: Issuer, claim: str) -> str:
    claims = issuer.claims()
    del claims[claim]
    return jwt.encode(claims, issuer.rsa, algorithm="RS256", headers={"kid": "r1"})


def with_header(token: str, header: dict[str, Any]) -> str:
    _, body, signature = token.split(".")
    return f"{jwt.utils.base64url_encode(json.dumps(header).encode()).decode()}.{body}.{signature}"


def hs256_with(secret: bytes, claims: dict[str, Any], *, kid: str | None) -> str:
    """A token signed with a public key as if it were a secret; made by hand, as libraries refuse to."""
    header = {"alg": "HS256", "typ": "JWT", **({"kid": kid} if kid else {})}
    parts = [jwt.utils.base64url_encode(json.dumps(part).encode()).decode() for part in (header, claims)]
    signature = hmac.digest(secret, ".".join(parts).encode(), hashlib.sha256)
    return ".".join([*parts, jwt.utils.base64url_encode(signature).decode()])

"""Where a service is, and the secret that lets a caller in, as callers give them: checked before anything is sent.

No error here repeats what was given: it may be, or hold, a secret.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import yarl

from runwire.errors import InvalidRequest


def service_url(given: str) -> str:
    """The URL that the API's paths are added to: scheme, host, port and a prefix, no slash at its end.

    Raises InvalidRequest for a URL that is none, and for one with a password, a query or a fragment.
    """
    if not given.startswith(("http://", "https://")):
        raise InvalidRequest("the service's URL must start with http:// or https://")
    try:
        parts = urlsplit(given)
        host = (parts.hostname or "").encode("idna")
        fits = (
            bool(host)
            and parts.port != 0
            and bool(yarl.URL(given).raw_host)
            and given.isprintable()
            and " " not in given
        )
    except ValueError:
        fits = False
    if not fits:
        raise InvalidRequest("the service's URL must be http://HOST[:PORT], or https://")
    if "@" in parts.netloc:
        raise InvalidRequest("the service's URL must have no user and no password: use a token instead")
    if parts.query or parts.fragment:
        raise InvalidRequest("the service's URL must have no query and no fragment")
    return given.rstrip("/?#")


def bearer(token: str | None) -> dict[str, str]:
    """The header that carries the token; none without one. Raises InvalidRequest for what no header can carry."""
    if not token:
        return {}
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise InvalidRequest("the token must be visible ASCII characters, with no space and no line break")
    return {"Authorization": f"Bearer {token}"}


def redirect_of(status: int, location: str | None) -> str | None:
    """One sentence for an answer that sends callers elsewhere, by its origin alone; None for another answer."""
    if not 300 <= status < 400:
        return None
    try:
        target = urlsplit(location or "")
        host = f"[{target.hostname}]" if ":" in (target.hostname or "") else target.hostname
        origin = f"{target.scheme}://{host}" + (f":{target.port}" if target.port else "") if host else "another path"
    except ValueError:
        origin = "a URL that is none"
    return f"HTTP {status} sends callers to {origin}, and a call is not repeated elsewhere: give the service's own URL"

"""What a service without authentication checks instead, so that web pages cannot use it through a local browser.

A page of any origin can send simple requests to 127.0.0.1; one whose name was rebound to 127.0.0.1 is of the same
origin, even. The first is known by `Origin`, the second by `Host`: it is a name that is not this machine's.
"""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from runwire.errors import NotPermitted

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def check_local(request: web.Request, *, hosts: frozenset[str], origins: frozenset[str]) -> None:
    """Raises NotPermitted (`host_refused`, `origin_refused`). `hosts` and `origins` are those allowed besides."""
    host = (_name_of(request.headers.get("Host", "")) or "").rstrip(".")
    if host and not _is_address(host) and host != "localhost" and not host.endswith(".localhost") and host not in hosts:
        raise NotPermitted("Requests for this host are not taken: see RUNWIRE_ALLOWED_HOSTS.", code="host_refused")
    origin = request.headers.get("Origin")
    if origin is None or request.method in _SAFE or origin in origins or "*" in origins:
        return
    if _netloc_of(origin) != request.headers.get("Host", "").lower():
        raise NotPermitted("Pages of this origin may not do this: see RUNWIRE_CORS_ORIGINS.", code="origin_refused")


def _name_of(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return host


def _netloc_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # brackets that do not close
        return None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

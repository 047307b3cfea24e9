"""Checks of a service without authentication, so that web pages cannot use it through a local browser.

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
    check_host(request, hosts=hosts, setting="RUNWIRE_ALLOWED_HOSTS")
    origin = request.headers.get("Origin")
    if origin is None or request.method in _SAFE or origin in origins or "*" in origins:
        return
    if _netloc_of(origin) != request.headers.get("Host", "").lower():
        raise NotPermitted("RUNWIRE_CORS_ORIGINS does not allow pages of this origin.", code="origin_refused")


def check_host(request: web.Request, *, hosts: frozenset[str], setting: str, one_label: bool = False) -> None:
    """Raises NotPermitted (`host_refused`) for a host name under which a foreign page may have been loaded.

    Addresses, names of this machine and `hosts` pass, and with `one_label` a name without a dot, which no page has.
    """
    host = (_name_of(request.headers.get("Host", "")) or "").rstrip(".")
    own = not host or _is_address(host) or host == "localhost" or host.endswith(".localhost")
    if not own and host not in hosts and not (one_label and "." not in host):
        raise NotPermitted(f"Requests for this host are not taken: see {setting}.", code="host_refused")


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

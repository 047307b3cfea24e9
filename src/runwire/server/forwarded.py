"""The client's address behind trusted proxies, in one spelling however they write it (X-Forwarded-For).

`Forwarded` (RFC 7239) is not read: a proxy that writes one of the two passes the other on as the client sent it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias

from aiohttp import web

from runwire.server.addresses import Network
from runwire.server.settings import PREFIX_PATTERN

Address: TypeAlias = IPv4Address | IPv6Address

PREFIX: Final = web.RequestKey("prefix", str)
HOPS_MAX: Final = 32
"""Addresses of an X-Forwarded-For that are looked at, the nearest first."""
HOP_CHARS_MAX: Final = 64
"""A hop is cut to this length: the longest address with brackets, zone and port is shorter."""


def client_address(remote: str, forwarded: list[str], proxies: tuple[Network, ...]) -> str:
    """The nearest address that is not a trusted proxy. Any client could have written the addresses before it.

    `forwarded` are the lines of X-Forwarded-For. Ports, brackets, quotes, zones and letter case are left out, and an
    IPv4 address mapped into IPv6 is the IPv4 address. A hop that is no address counts as untrusted.
    """
    nearest = spelled(remote)
    if not proxies or not _trusted(nearest, proxies):
        return nearest
    for hop in _hops(forwarded):
        nearest = spelled(hop)
        if not _trusted(nearest, proxies):
            break
    return nearest


def path_prefix(remote: str, said: list[str], proxies: tuple[Network, ...], *, otherwise: str) -> str:
    """The path a trusted proxy serves this API below and has taken away: X-Forwarded-Prefix. Else `otherwise`."""
    if len(said) != 1 or not _trusted(spelled(remote), proxies) or not re.fullmatch(PREFIX_PATTERN, said[0].strip()):
        return otherwise
    return said[0].strip().rstrip("/")


def prefix_of(request: web.BaseRequest) -> str:
    """The prefix of this service's paths in the client's URL; empty for none."""
    return str(request.get(PREFIX, ""))


def _hops(lines: list[str]) -> list[str]:
    """The elements that are not empty (RFC 9110, 5.6.1), nearest first."""
    hops = [hop for line in lines for part in line.split(",") if (hop := part.strip(' \t"'))]
    return [hop[:HOP_CHARS_MAX] for hop in hops[: -HOPS_MAX - 1 : -1]]


@lru_cache(8192)
def spelled(hop: str) -> str:
    """An address in canonical form, without port; other text in lower case."""
    address = _address(hop)
    return hop.lower() if address is None else str(address)


def _address(hop: str) -> Address | None:
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:  # IPv4 with a port: an IPv6 address has two colons or more
        hop = hop.partition(":")[0]
    try:
        address = ip_address(hop.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(8192)
def _trusted(hop: str, proxies: tuple[Network, ...]) -> bool:
    try:
        address = ip_address(hop)
    except ValueError:
        return False
    mapped = IPv6Address(f"::ffff:{address}") if isinstance(address, IPv4Address) else address
    return any(address in network or mapped in network for network in proxies)

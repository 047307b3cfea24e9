"""Limits the addresses that an exploration may connect to, because its caller chooses the URL and this process fetches
it.

Public addresses only, unless the operator allows more. Names are resolved once, every address found is checked, and
the connection goes to a checked one: a name that later leads elsewhere, a redirect or an address in disguise gets no
further than an address written plainly.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Final, TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# The registries of special-purpose addresses (RFC 6890), and multicast: what a Python knows of them varies.
_NOT_PUBLIC: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24"),
            *("192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
            *("224.0.0.0/4", "240.0.0.0/4"),
            *("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"),
        ),
    )
)
# All unicast of IPv6 that IANA gives out. Outside of it, addresses are unassigned, local, or IPv4 in disguise
# (translated, NAT64). Inside, Teredo and 6to4 are that, too, and not public either.
_UNICAST: Final = ipaddress.ip_network("2000::/3")
# IPv6 addresses that stand for an IPv4 address, which is where a connection to them may end.
_MAPPED: Final = ipaddress.ip_network("::ffff:0:0/96")
_TRANSLATED: Final = ipaddress.ip_network("64:ff9b::/96")
_6TO4: Final = ipaddress.ip_network("2002::/16")

_allowed: ContextVar[tuple[Network, ...]] = ContextVar("runwire_explore_allowed", default=())


class AddressRefused(OSError):
    """An address an exploration may not connect to."""


def allow(networks: Iterable[str]) -> None:
    """Lets explorations of this context, and of tasks made in it from now on, reach these networks as well."""
    _allowed.set(tuple(ipaddress.ip_network(network) for network in networks))


def approve(address: str) -> None:
    """Accepts an IP address that may be connected to. Raises AddressRefused for any other."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        raise AddressRefused(address) from None
    for meant in (ip, *_stands_for(ip)):
        if any(meant in network for network in _allowed.get()):
            continue
        if not _is_public(meant):
            raise AddressRefused(address)


def _is_public(ip: Address) -> bool:
    if ip in _MAPPED:
        return True  # the IPv4 address is asked about by itself
    if ip.version == 6 and ip not in _UNICAST:
        return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _NOT_PUBLIC)


def _stands_for(ip: Address) -> tuple[Address, ...]:
    if ip in _MAPPED or ip in _TRANSLATED:
        return (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF),)
    if ip in _6TO4:
        return (ipaddress.IPv4Address(int(ip) >> 80 & 0xFFFFFFFF),)
    return ()


class CheckedResolver(AbstractResolver):
    """Resolves names, and refuses one any of whose addresses may not be connected to."""

    def __init__(self, inner: AbstractResolver | None = None) -> None:
        self._inner = inner if inner is not None else aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        for result in found:
            approve(result["host"])
        return found

    async def close(self) -> None:
        await self._inner.close()


def approved_socket(info: aiohttp.AddrInfoType) -> socket.socket:
    """A socket for the very address that is about to be connected to: the last look, whatever happened before."""
    family, kind, protocol, _name, address = info
    approve(str(address[0]))
    return socket.socket(family, kind, protocol)

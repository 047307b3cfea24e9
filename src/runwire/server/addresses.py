"""Addresses of listeners and of networks."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

Network: TypeAlias = IPv4Network | IPv6Network


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener at `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def url_of(host: str, port: int, *, tls: bool) -> str:
    """The URL by which this machine reaches a listener at `host`."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared, not bound
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http{'s' if tls else ''}://{shown}:{port}"

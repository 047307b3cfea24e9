"""Computes how many descriptors the connections of each listener may take."""

from __future__ import annotations

from typing import Final

from runwire.server.connections import ConnectionLimits
from runwire.server.settings import ServerSettings

ADMIN_MAX: Final = 64
"""Connections of the admin listener: probes and scrapes, and somebody who looks."""
OTHERS: Final = 96
"""Files, logs, pipes, the bus, the archive, sockets of agents, connections that are being refused."""

UNLIMITED: Final = 1_000_000
"""The number to assume when the system has no limit."""


def api_limits(settings: ServerSettings, *, elsewhere: int) -> ConnectionLimits:
    """For the API listener: the setting, or the process's limit less the descriptors that other parts need. `elsewhere`
    counts the connections to the database.
    """
    found = open_files_max()
    needed = ADMIN_MAX + OTHERS + elsewhere
    room = max(found - needed, found // 2)  # where there are few, half: some of the others do without
    asked = settings.http_connections_max
    return ConnectionLimits(
        descriptors=min(asked, room) if asked else room,
        head_s=settings.http_head_s,
        body_s=settings.http_body_s,
        idle_s=settings.http_idle_s,
    )


def admin_limits() -> ConnectionLimits:
    """For the admin listener."""
    return ConnectionLimits(descriptors=min(ADMIN_MAX, max(open_files_max() // 8, 2)))


def open_files_max() -> int:
    """Descriptors this process may have (RLIMIT_NOFILE)."""
    try:
        import resource  # noqa: PLC0415  # not on Windows
    except ImportError:  # pragma: no cover
        return 512
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED if soft == resource.RLIM_INFINITY else soft

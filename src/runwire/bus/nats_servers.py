"""The servers that a URL of the NATS bus names. It needs no client of NATS."""

from __future__ import annotations

from urllib.parse import urlsplit


def nats_servers(url: str) -> tuple[str, ...]:
    """The servers of a NATS cluster, each as a URL of its own. Raises ValueError, whose text has no secret."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("nats", "tls"):
        raise ValueError("must be `nats://host[:port]`")
    userinfo, at, hosts = rest.rpartition("@")
    servers = []
    for host in hosts.rstrip("/").split(","):
        server = f"{scheme}://{userinfo}{at}{host.strip()}"
        try:
            parts = urlsplit(server)
            fits = (
                "@" not in userinfo
                and parts.hostname
                and parts.port != 0
                and not (parts.path or parts.query or parts.fragment)
            )
        except ValueError:
            fits = False
        if not fits:
            raise ValueError("must name NATS servers as `nats://[user:password@]host[:port][,host2[:port]...]`")
        servers.append(server)
    return tuple(servers)

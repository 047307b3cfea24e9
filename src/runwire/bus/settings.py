"""Settings of the bus."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from runwire.settings_group import SettingsGroup


class BusSettings(SettingsGroup):
    """Settings of the bus."""

    bus: str | None = Field(
        None,
        description="`memory` (one process), `postgres` (LISTEN/NOTIFY between processes) or the servers of a NATS "
        "cluster: `nats://[user:password@]host[:port][,host2...]`, `tls://...`. "
        "Default: memory when the process has the roles api, worker and publisher and an embedded database, else "
        "postgres.",
    )
    nats_credentials: Path | None = Field(None, description="NATS credentials file (`.creds`).")
    nats_tls_ca: Path | None = Field(
        None, description="PEM file of the authority that signs the NATS servers' certificates."
    )
    nats_tls_cert: Path | None = Field(None, description="PEM file of this process's certificate for NATS.")
    nats_tls_key: Path | None = Field(None, description="PEM file of that certificate's key.")

    @property
    def bus_name(self) -> str:
        """The bus in use: `memory`, `postgres` or `nats`. It is safe to log."""
        if self.bus is None:
            return "memory"
        return self.bus if self.bus in ("memory", "postgres") else "nats"

    @field_validator("bus")
    @classmethod
    def _known_bus(cls, value: str | None) -> str | None:
        if value not in (None, "memory", "postgres"):
            nats_servers(value)
        return value

    def problems(self) -> Iterable[str]:
        if self.nats_tls_key is not None and self.nats_tls_cert is None:
            yield "nats_tls_key needs nats_tls_cert"
        for name in ("nats_credentials", "nats_tls_ca", "nats_tls_cert", "nats_tls_key"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                yield f"{name} must be a file, and {path} is not"


def nats_servers(url: str) -> tuple[str, ...]:
    """The servers of a NATS cluster, each as a URL of its own. Raises ValueError, whose text has no secret."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("nats", "tls"):
        raise ValueError("must be `memory`, `postgres` or `nats://host[:port]`")
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

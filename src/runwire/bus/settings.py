"""Settings of the bus."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, field_validator

from runwire.bus.kinds import KINDS, in_words, kind_named
from runwire.settings_group import SettingsGroup


class BusSettings(SettingsGroup):
    """Settings of the bus."""

    bus: str | None = Field(
        None,
        description=f"{in_words([kind.about for kind in KINDS.values()])}. "
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
        """The bus in use, by its name in KINDS. It is safe to log."""
        return "memory" if self.bus is None else kind_named(self.bus)

    @field_validator("bus")
    @classmethod
    def _known_bus(cls, value: str | None) -> str | None:
        if value is not None:
            kind_named(value)
        return value

    def problems(self) -> Iterable[str]:
        if self.nats_tls_key is not None and self.nats_tls_cert is None:
            yield "nats_tls_key needs nats_tls_cert"
        for name in ("nats_credentials", "nats_tls_ca", "nats_tls_cert", "nats_tls_key"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                yield f"{name} must be a file, and {path} is not"

"""Settings of the listeners, and of requests to them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from pydantic import Field, SecretStr, field_validator

from runwire.server.addresses import Network
from runwire.server.auth.settings import AuthSettings, long_enough
from runwire.settings_group import Words

PREFIX_PATTERN: Final = r"(/[A-Za-z0-9._~-]{1,64}){0,8}/?"
ORIGIN_PATTERN: Final = r"\*|https?://[a-z0-9.\-\[\]:]+"
ADMIN_TOKEN_BYTES_MIN: Final = 16


class ServerSettings(AuthSettings):
    """Settings of the listeners, and of requests to them."""

    # where to listen
    host: str = Field("127.0.0.1", description="Address of the API listener.")
    port: int = Field(8080, ge=0, le=65535, description="Port of the API listener; 0 takes a free one.")
    admin_host: str = Field("127.0.0.1", description="Address of the admin listener (health, metrics).")
    admin_port: int = Field(9464, ge=0, le=65535, description="Port of the admin listener; 0 takes a free one.")
    reuse_port: bool = Field(
        default=False,
        description="Let several processes listen on the API port. The operating system spreads connections.",
    )

    # bounds on input
    body_max_bytes: int = Field(262_144, ge=1024, description="Largest request body.")
    batch_max_events: int = Field(1000, ge=1, le=10_000, description="Largest batch of an external orchestrator.")
    page_max_events: int = Field(1000, ge=1, le=10_000, description="Largest page of events or runs.")

    # bounds on connections of the API listener
    http_connections_max: int = Field(
        0,
        ge=0,
        description="Most descriptors for connections; a stream takes two. 0: as many as the system allows "
        "the process, less those that the admin listener, the database and files need.",
    )
    http_head_s: float = Field(
        20.0, gt=0, le=600, description="Seconds within which the head of a request must arrive."
    )
    http_body_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Seconds within which the body of a request must arrive, and a client must take part of an answer.",
    )
    http_idle_s: float = Field(
        75.0,
        gt=0,
        le=3600,
        description="Seconds for which a connection stays open between two requests. Set it longer than the proxy's.",
    )

    # bounds on streams and requests; 0 is no bound
    streams_max: int = Field(20_000, ge=0, description="Most open streams in this process.")
    streams_per_run_max: int = Field(20_000, ge=0, description="Most open streams of one run in this process.")
    streams_per_client_max: int = Field(
        0,
        ge=0,
        description="Most open streams of one client address in this process. Behind a proxy, set trusted_proxies.",
    )
    requests_per_s: float = Field(
        0.0, ge=0, description="Most requests a second from one client address, in bursts of two seconds' worth."
    )
    trusted_proxies: Words[Network] = Field(
        (), description="Networks of proxies whose X-Forwarded-For is trusted, comma-separated, e.g. `10.0.0.0/8`."
    )

    # security of browsers and listeners
    cors_origins: Words[str] = Field(
        (),
        description="Origins whose pages may call the API, as `https://app.example`, comma-separated; `*` allows any.",
    )
    allowed_hosts: Words[str] = Field(
        (), description="Host names besides localhost that requests may use while there is no authentication."
    )
    admin_allowed_hosts: Words[str] = Field(
        (),
        description="Host names besides localhost and admin_host that admin requests may use. Addresses "
        "are always allowed, and so are names without a dot unless it listens on loopback.",
    )
    path_prefix: str = Field(
        "",
        description="Path prefix that a proxy adds, as `/runwire`. Links in answers begin with it. A trusted "
        "proxy may send X-Forwarded-Prefix instead.",
    )
    pages: bool = Field(default=True, description="Serve the console and the documentation.")
    chat_page: bool = Field(
        default=False, description="Serve the page `/chat/` with them, for the agent `runwire.agents.chat:chat`."
    )
    tls_cert: Path | None = Field(None, description="Certificate chain (PEM) of the API listener; SIGHUP reloads it.")
    tls_key: Path | None = Field(None, description="Private key (PEM) of the certificate.")
    admin_tls: bool = Field(default=False, description="Serve the admin listener over TLS, too.")
    admin_token: SecretStr | None = Field(None, description="Bearer token that `/metrics` requires, 16 bytes or more.")

    @field_validator("host", "admin_host")
    @classmethod
    def _without_brackets(cls, value: str) -> str:
        return value[1:-1] if value.startswith("[") and value.endswith("]") else value

    @field_validator("port", "admin_port", "reuse_port", mode="before")
    @classmethod
    def _not_a_service_link(cls, value: object, info: Any) -> object:
        # Kubernetes sets RUNWIRE_PORT to a URL in every pod beside a Service named runwire. That is never meant for us.
        is_link = isinstance(value, str) and re.fullmatch(r"(tcp|udp|sctp)://\S+", value, re.IGNORECASE)
        return cls.model_fields[info.field_name].default if is_link else value

    @field_validator("path_prefix")
    @classmethod
    def _is_prefix(cls, value: str) -> str:
        if not re.fullmatch(PREFIX_PATTERN, value):
            raise ValueError("must be a path as `/runwire`")
        return value.rstrip("/")

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [origin for origin in value if not re.fullmatch(ORIGIN_PATTERN, origin)]:
            raise ValueError(f"must be `scheme://host[:port]` in lower case, with no path, not {', '.join(wrong)}")
        return value

    @field_validator("admin_token")
    @classmethod
    def _token_is_long(cls, value: SecretStr | None) -> SecretStr | None:
        return long_enough(value, ADMIN_TOKEN_BYTES_MIN)

    def problems(self) -> Iterable[str]:
        if self.port and self.port == self.admin_port:
            yield "port and admin_port must differ"
        if (self.tls_cert is None) != (self.tls_key is None):
            yield "tls_cert and tls_key go together"
        if self.admin_tls and self.tls_cert is None:
            yield "admin_tls needs tls_cert and tls_key"


DEFAULTS: Final = ServerSettings()

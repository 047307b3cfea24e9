"""Every setting of a runwire process. Flags, environment variables and the table in the docs derive from one class."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

import platformdirs
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from runwire.dsn import redact_dsn
from runwire.errors import ConfigurationError
from runwire.postgres_url import understood
from runwire.thresholds import OBSERVER_STALE_S, PUBLISHER_DEAD_S

_ENV = "RUNWIRE_"
NO_HOME: Final = Path("/nonexistent/runwire")
"""The data directory of a user without a home: nothing can be created there."""

_ADDRESSES = ("database_url", "database_direct_url", "bus")
"""Settings that may hold a password."""

PREFIX_PATTERN = r"(/[A-Za-z0-9._~-]{1,64}){0,8}/?"

Network: TypeAlias = IPv4Network | IPv6Network


class Role(StrEnum):
    """A part of the pipeline that a process can run. `serve` without `--role` runs all of them."""

    API = "api"
    WORKER = "worker"
    PUBLISHER = "publisher"
    OBSERVER = "observer"
    ARCHIVER = "archiver"


_PIPELINE = frozenset({Role.API, Role.WORKER, Role.PUBLISHER})


class Settings(BaseSettings):
    """Settings, read from `RUNWIRE_*` environment variables and overridden by flags. Durations carry their unit."""

    model_config = SettingsConfigDict(
        env_prefix=_ENV,
        env_ignore_empty=True,  # `DATABASE_URL=` in a compose file means no URL
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        allow_inf_nan=False,
    )

    # where to listen
    host: str = Field("127.0.0.1", description="Address of the API listener.")
    port: int = Field(8080, ge=0, le=65535, description="Port of the API listener; 0 takes a free one.")
    admin_host: str = Field("127.0.0.1", description="Address of the admin listener (health, metrics).")
    admin_port: int = Field(9464, ge=0, le=65535, description="Port of the admin listener; 0 takes a free one.")

    reuse_port: bool = Field(
        default=False,
        description="Let several processes listen on the API port. The operating system spreads connections.",
    )

    # what to run
    processes: int = Field(
        1, ge=1, le=256, description="Processes that `serve` runs on the API port, each with its own admin port."
    )
    roles: Annotated[tuple[Role, ...], NoDecode] = Field(
        tuple(Role), min_length=1, description="Roles of this process, comma-separated."
    )
    agents: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Agents besides those found by entry point, as `module:object`, comma-separated."
    )

    # where the data is
    database_direct_url: str | None = Field(
        None,
        description="Direct URL of PostgreSQL when `database_url` is a pooler in transaction mode such as PgBouncer: "
        "for LISTEN, leases, migrations and the few connections that append and publish.",
    )
    database_url: str | None = Field(
        None,
        validation_alias=AliasChoices(f"{_ENV}DATABASE_URL", "DATABASE_URL"),
        description="URL of PostgreSQL. Without it, runwire starts an embedded PostgreSQL in the data directory.",
    )
    data_dir: Path = Field(
        default_factory=lambda: _user_data_dir(),  # noqa: PLW0108  # defined below
        description="Data directory of the embedded PostgreSQL.",
    )
    bus: str | None = Field(
        None,
        description="`memory` (one process), `postgres` (LISTEN/NOTIFY between processes) or the servers of a NATS "
        "cluster: `nats://[user:password@]host[:port][,host2...]`, `tls://...`. "
        "Default: memory when the process has every role and an embedded database, else postgres.",
    )
    nats_credentials: Path | None = Field(None, description="NATS credentials file (`.creds`).")
    nats_tls_ca: Path | None = Field(
        None, description="PEM file of the authority that signs the NATS servers' certificates."
    )
    nats_tls_cert: Path | None = Field(None, description="PEM file of this process's certificate for NATS.")
    nats_tls_key: Path | None = Field(None, description="PEM file of that certificate's key.")
    db_pool_size: int = Field(10, ge=2, le=500, description="Connections for reads and control statements.")
    db_timeout_s: float = Field(10.0, gt=0, description="Seconds that one control statement may take.")
    db_read_timeout_s: float = Field(5.0, gt=0, description="Seconds that reading one page of a list of runs may take.")
    partition_days_ahead: int = Field(7, ge=1, le=90, description="Days ahead for which event partitions are created.")

    # append
    append_connections: int = Field(
        2, ge=1, le=16, description="Connections that write events; all are used under load."
    )
    append_batch_max: int = Field(512, ge=1, le=8192, description="Appends that may share one commit.")
    append_queue_max: int = Field(20_000, ge=1, description="Appends that may wait. The service refuses more.")

    # publish
    publish_batch_events: int = Field(2000, ge=1, le=20_000, description="Most events in one publish step.")
    publish_batch_runs: int = Field(200, ge=1, le=5_000, description="Most runs in one publish step.")
    publish_sweep_s: float = Field(1.0, gt=0, le=60, description="Period of the safety sweep for unpublished events.")
    publish_heartbeat_s: float = Field(
        2.0,
        gt=0,
        le=5,
        description=f"Period of a publisher's heartbeat. A publisher counts as dead after {PUBLISHER_DEAD_S:g} s.",
    )
    publish_lease_s: float = Field(
        4.0, ge=0.5, le=60, description="Seconds for which a publisher that hangs keeps its share of the runs."
    )
    publish_backoff_max_s: float = Field(5.0, gt=0, description="Longest pause after the bus or the database failed.")

    # observe
    observe_s: float = Field(
        5.0,
        gt=0,
        le=10,
        description=f"Period at which the observer reads the database; stale after {OBSERVER_STALE_S:g} s.",
    )

    # archive
    archive_url: str | None = Field(
        None,
        description="URL of the archive: a folder, `s3://bucket/prefix`, `gs://...`, `az://...`. "
        "Default: with an embedded database the folder `archive` in the data directory, else no archive.",
    )
    archive_after_days: int = Field(
        30, ge=0, le=36_500, description="Days between a run's end and its archiving; 0 archives no run."
    )
    archive_period_s: float = Field(
        21_600.0, gt=0, description="Period at which the archiver looks for runs that are due."
    )
    archive_batch_runs: int = Field(20_000, ge=1, le=100_000, description="Runs in one file of the archive.")
    archive_batch_events: int = Field(
        1_000_000, ge=1, description="Events in one file of the archive. A longer run has a file of its own."
    )

    # orchestrate
    state_max_bytes: int = Field(
        1024 * 1024,
        ge=1024,
        le=256 * 1024 * 1024,
        description="Largest state of a run in bytes of JSON. A node that leaves more fails with `state_too_large`.",
    )
    worker_threads: int = Field(32, ge=1, le=1000, description="Threads of a worker for nodes that are not `async`.")
    worker_concurrency: int = Field(200, ge=1, le=10_000, description="Most runs that one worker walks at once.")
    worker_id: str = Field(
        default_factory=socket.gethostname,
        description="Name of this worker in leases and logs.",
        max_length=128,
    )
    worker_poll_s: float = Field(1.0, gt=0, le=60, description="Period of the safety poll for claimable runs.")
    lease_s: float = Field(30.0, gt=0, description="Seconds for which a claim on a run holds without a heartbeat.")
    lease_heartbeat_s: float = Field(10.0, gt=0, description="Period of the worker's heartbeat.")
    losses_max: int = Field(
        3,
        ge=2,
        le=100,
        description="Workers that may die during a run, one after the other, before the run fails with `worker_lost`.",
    )
    drain_s: float = Field(
        10.0, ge=0, description="Seconds for which a stopping process waits for its nodes and streams."
    )

    # stream
    sse_retry_ms: int = Field(2000, ge=1, description="Reconnection time that a stream sends (`retry:`).")
    sse_heartbeat_s: float = Field(15.0, gt=0, description="Longest silence on a stream before a comment is sent.")
    sse_max_age_s: float = Field(3600.0, gt=0, description="Age at which a stream ends, resumable (jittered by 10 %).")
    sse_slow_bytes: int = Field(262_144, ge=65_536, description="Most bytes buffered for one client.")
    sse_slow_s: float = Field(
        10.0, gt=0, description="Seconds a client may stay slow before its stream ends, resumable."
    )
    sse_ring_events: int = Field(1024, ge=1, description="Latest events of a run kept in memory while it has streams.")
    sse_ring_bytes_max: int = Field(
        268_435_456,
        ge=1_048_576,
        description="Most bytes of such events over all runs of the process. Streams read older events again from "
        "PostgreSQL.",
    )
    sse_idle_runs_max: int = Field(
        1000, ge=0, description="Runs whose events stay in memory for a moment after their last stream, for reconnects."
    )
    sse_silence_s: float = Field(
        5.0, gt=0, description="Seconds of silence on the bus after which a stream checks the run's stored tail."
    )

    replays_max: int = Field(50, ge=0, description="Most replays of closed runs in one process at a time.")

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

    # bounds on runs, streams and requests; 0 is no bound
    runs_open_max: int = Field(100_000, ge=0, description="Most open runs. The service refuses further starts.")
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
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = Field(
        (), description="Networks of proxies whose X-Forwarded-For is trusted, comma-separated, e.g. `10.0.0.0/8`."
    )

    # security
    auth: Literal["auto", "required", "none"] = Field(
        "auto",
        description="`required`; `none` serves every client; `auto` is required when keys or tokens are "
        "configured, and without them serves loopback only.",
    )
    tenants: bool = Field(
        default=True, description="Callers see only the runs of their tenant. Off: there is one tenant."
    )
    keys: Annotated[tuple[str, ...], NoDecode] = Field(
        (), repr=False, description="API keys: the lines that `runwire keys create` prints, separated by `;`."
    )
    keys_file: Path | None = Field(
        None, description="File with API keys, one line each. The service reads it again when it changes."
    )
    jwt_jwks: str | None = Field(
        None, description="JWK Set that verifies RS256 and ES256 tokens: a file or an https URL."
    )
    jwt_secret: SecretStr | None = Field(None, description="Secret that verifies HS256 tokens, 32 bytes or more.")
    jwt_algorithms: Annotated[tuple[Literal["RS256", "ES256", "HS256"], ...], NoDecode] = Field(
        (), description="Algorithms that a token may use. Default: those that `jwt_jwks` and `jwt_secret` can verify."
    )
    jwt_issuer: str | None = Field(None, description="Issuer (`iss`) that a token must have.")
    jwt_audience: str | None = Field(None, description="Audience (`aud`) that a token must have.")
    jwt_scope_claim: str = Field("scope", description="Claim with the scopes: words in a string, or a list.")
    jwt_tenant_claim: str | None = Field(
        None, description="Claim with the tenant. Without it, all tokens belong to tenant `default`."
    )
    jwt_leeway_s: float = Field(10.0, ge=0, le=300, description="Seconds by which the issuer's clock may differ.")
    jwks_refresh_s: float = Field(300.0, ge=1, description="Seconds after which the service fetches the JWK Set again.")
    jwks_stale_s: float = Field(
        86_400.0, ge=0, description="Seconds for which the last JWK Set holds while fetching fails."
    )
    ticket_s: float = Field(60.0, ge=1, le=3600, description="Seconds for which a stream ticket can open a stream.")
    ticket_secret: SecretStr | None = Field(
        None, description="Key that signs stream tickets, 32 bytes or more. Default: a key stored in the database."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins whose pages may call the API, as `https://app.example`, comma-separated; `*` allows any.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Host names besides localhost that requests may use while there is no authentication."
    )
    admin_allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
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
    tls_cert: Path | None = Field(None, description="Certificate chain (PEM) of the API listener; SIGHUP reloads it.")
    tls_key: Path | None = Field(None, description="Private key (PEM) of the certificate.")
    admin_tls: bool = Field(default=False, description="Serve the admin listener over TLS, too.")
    admin_token: SecretStr | None = Field(None, description="Bearer token that `/metrics` requires, 16 bytes or more.")
    explore_allow: Annotated[tuple[str, ...] | None, NoDecode] = Field(
        None,
        description="Networks besides public ones that the agent explore may reach, as `10.1.0.0/16`, comma-separated. "
        "Default: loopback when the process serves its API on loopback without authentication, else none.",
    )

    # telemetry
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe log level.")
    log_format: Literal["json", "console"] = Field("json", description="Format of log lines.")
    trace_sample_ratio: float = Field(
        0.05, ge=0, le=1, description="Share of runs that are traced when the caller does not decide."
    )
    telemetry: bool = Field(default=True, description="Make spans. Off: none, whatever OTEL_* say.")

    @field_validator(
        *("roles", "agents", "trusted_proxies", "jwt_algorithms", "cors_origins", "allowed_hosts", "explore_allow"),
        "admin_allowed_hosts",
        mode="before",
    )
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

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

    @field_validator("keys", mode="before")
    @classmethod
    def _split_lines(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in re.split(r"[;\n]", value) if part.strip())
        return value

    @field_validator("path_prefix")
    @classmethod
    def _is_prefix(cls, value: str) -> str:
        if not re.fullmatch(PREFIX_PATTERN, value):
            raise ValueError("must be a path as `/runwire`")
        return value.rstrip("/")

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        _all_fit(value, r"\*|https?://[a-z0-9.\-\[\]:]+", "must be `scheme://host[:port]` in lower case, with no path")
        return value

    @field_validator("explore_allow")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for network in value or ():
            ipaddress.ip_network(network)
        return value

    @field_validator("jwt_jwks")
    @classmethod
    def _is_fetched_safely(cls, value: str | None) -> str | None:
        # An attacker who can change the answer on its way can replace the keys, and so forge every token.
        if value is not None and value.startswith("http://") and not is_loopback(re.split(r"[/:]+", value)[1]):
            raise ValueError("must be an https URL or a file")
        return value

    @field_validator("jwt_secret", "ticket_secret", "admin_token")
    @classmethod
    def _is_long(cls, value: SecretStr | None, info: Any) -> SecretStr | None:
        least = 16 if info.field_name == "admin_token" else 32
        if value is not None and len(value.get_secret_value().encode()) < least:
            raise ValueError(f"must have {least} bytes or more")
        return value

    @field_validator("database_direct_url", "database_url")
    @classmethod
    def _url_is_understood(cls, value: str | None, info: Any) -> str | None:
        pooled = info.field_name == "database_url" and info.data.get("database_direct_url") is not None
        return None if value is None else understood(value, pooled=pooled)

    @field_validator("bus")
    @classmethod
    def _known_bus(cls, value: str | None) -> str | None:
        if value not in (None, "memory", "postgres"):
            nats_servers(value)
        return value

    @field_validator("agents")
    @classmethod
    def _agent_references(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [ref for ref in value if not all(part for part in ref.partition(":"))]
        if wrong:
            raise ValueError(f"must be `module:object`, not {', '.join(wrong)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        problems = []
        if self.database_url is None and self.data_dir == NO_HOME:
            problems.append(
                "this user has no home directory: set data_dir to a directory for the embedded PostgreSQL, "
                "or database_url to the PostgreSQL to use"
            )
        if self.lease_heartbeat_s >= self.lease_s:
            problems.append("lease_heartbeat_s must be shorter than lease_s")
        if self.bus == "memory" and not set(self.roles) >= _PIPELINE:
            problems.append("the memory bus needs api, worker and publisher in this process: set bus to postgres")
        if self.database_direct_url is not None and self.database_url is None:
            problems.append("database_direct_url needs database_url, the URL of the pooler")
        if self.nats_tls_key is not None and self.nats_tls_cert is None:
            problems.append("nats_tls_key needs nats_tls_cert")
        problems += [
            f"{name} must be a file, and {path} is not"
            for name in ("nats_credentials", "nats_tls_ca", "nats_tls_cert", "nats_tls_key")
            if (path := getattr(self, name)) is not None and not path.is_file()
        ]
        if Role.ARCHIVER in self.roles and "roles" in self.model_fields_set and self.archive is None:
            problems.append("the role archiver needs archive_url: with database_url set there is no default")
        if self.port and self.port == self.admin_port:
            problems.append("port and admin_port must differ")
        problems += _security_problems(self)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """The fields that `repr` shows: addresses without their passwords, and no key or secret."""
        for name, value in super().__repr_args__():
            yield name, redact_dsn(value) if name in _ADDRESSES and value is not None else value

    @property
    def takes_tokens(self) -> bool:
        return self.jwt_jwks is not None or self.jwt_secret is not None

    @property
    def authenticates(self) -> bool:
        """Whether the API authenticates its callers."""
        return self.auth == "required" or (
            self.auth == "auto" and (self.takes_tokens or bool(self.keys) or self.keys_file is not None)
        )

    @property
    def explore_networks(self) -> tuple[str, ...]:
        """`explore_allow`, with the default filled in."""
        if self.explore_allow is not None:
            return self.explore_allow
        own_machine = Role.API in self.roles and is_loopback(self.host) and not self.authenticates
        return ("127.0.0.0/8", "::1/128") if own_machine else ()

    @property
    def session_url(self) -> str | None:
        """The database URL for work that needs a session of its own: past the pooler, if there is one."""
        return self.database_direct_url or self.database_url

    @property
    def bus_name(self) -> str:
        """The bus in use, with the default filled in: `memory`, `postgres` or `nats`. It is safe to log."""
        if self.bus is not None:
            return self.bus if self.bus in ("memory", "postgres") else "nats"
        alone = self.database_url is None and set(self.roles) >= _PIPELINE
        return "memory" if alone else "postgres"

    @property
    def archive(self) -> str | None:
        """The archive's URL, with the default filled in; None without an archive."""
        if self.archive_url is not None or self.database_url is not None:
            return self.archive_url
        return str(self.data_dir / "archive")

    @property
    def archives(self) -> bool:
        """Whether this process or another archives runs."""
        return self.archive is not None and self.archive_after_days > 0


def _user_data_dir() -> Path:
    try:
        return platformdirs.user_data_path("runwire")
    except RuntimeError:  # neither HOME nor XDG_DATA_HOME, and a uid without a name
        return NO_HOME


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


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener at `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _security_problems(settings: Settings) -> list[str]:
    problems = []
    configured = settings.takes_tokens or settings.keys or settings.keys_file is not None
    if settings.auth == "required" and not configured:
        problems.append("auth is required, so keys, keys_file, jwt_jwks or jwt_secret must be set")
    if settings.auth == "none" and configured:
        problems.append("auth is none, though keys or tokens are configured: set one or the other")
    if settings.takes_tokens and not (settings.jwt_issuer and settings.jwt_audience):
        problems.append(
            "tokens need jwt_issuer and jwt_audience: without them a token for another service would be valid"
        )
    for algorithm in settings.jwt_algorithms:
        if algorithm == "HS256" and settings.jwt_secret is None:
            problems.append("HS256 needs jwt_secret")
        if algorithm != "HS256" and settings.jwt_jwks is None:
            problems.append(f"{algorithm} needs jwt_jwks")
    if settings.jwt_tenant_claim is not None and not settings.tenants:
        problems.append("jwt_tenant_claim is set, though tenants is off")
    if (settings.tls_cert is None) != (settings.tls_key is None):
        problems.append("tls_cert and tls_key go together")
    if settings.admin_tls and settings.tls_cert is None:
        problems.append("admin_tls needs tls_cert and tls_key")
    return problems


def _all_fit(values: tuple[str, ...], pattern: str, otherwise: str) -> None:
    wrong = [value for value in values if not re.fullmatch(pattern, value)]
    if wrong:
        raise ValueError(f"{otherwise}, not {', '.join(wrong)}")


def load_settings(**flags: Any) -> Settings:
    """Settings from the environment, overridden by the flags that are not None.

    Raises ConfigurationError naming every problem at once.
    """
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise ConfigurationError(tuple(_sentence(problem) for problem in error.errors())) from None


def _sentence(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"][:1])
    text = str(problem["msg"]).removeprefix("Value error, ")
    name = field if field.startswith((_ENV, "DATABASE")) else f"{_ENV}{field.upper()}"
    return f"{name}: {text}" if field else text

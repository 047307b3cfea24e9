"""The stages that the server serves. It builds none of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from runwire.content import ArtifactReader, Artifacts
from runwire.content.part_feed import PartFeed
from runwire.content.part_metrics import PartMetrics
from runwire.content.parts import PartReader
from runwire.db.server_clock import ServerClock
from runwire.observe import Diagnostician
from runwire.orchestrate import ExternalParts, ExternalRuns, RunControl
from runwire.server.admission import Admission
from runwire.server.auth.gate import Gate
from runwire.server.metrics import RequestMetrics
from runwire.server.settings import DEFAULTS, ServerSettings
from runwire.stream import LogReader, MixedStreams, Streams
from runwire.stream.many import ManyStreams
from runwire.telemetry.metrics import Metrics
from runwire.telemetry.spans import Spans


class Readiness(msgspec.Struct, frozen=True, rename="camel"):
    """Whether this process should get traffic, and why not: `checks` maps what was looked at to what was found.

    `api_port` is None where the role api is not run, and until the listener is open.
    """

    ready: bool
    checks: dict[str, str]
    api_port: int | None
    admin_port: int | None
    roles: list[str]


ReadinessProbe: TypeAlias = Callable[[], Awaitable[Readiness]]


@dataclass(frozen=True, slots=True)
class AdminServices:
    """The parts that the admin listener needs. Every process has one, whatever its roles."""

    metrics: Metrics
    readiness: ReadinessProbe
    token: str | None = None
    """The bearer token that `/metrics` requires; None for no token."""
    host: str = DEFAULTS.admin_host
    """The address of the admin listener."""
    allowed_hosts: tuple[str, ...] = ()
    """Names, besides that and localhost, that its requests may use."""


@dataclass(frozen=True, slots=True)
class Services:
    """The parts that the API needs. `spans` may be the process's Tracing."""

    control: RunControl
    external: ExternalRuns
    diagnostician: Diagnostician
    streams: Streams
    many: ManyStreams
    reader: LogReader
    artifacts: Artifacts
    content: ArtifactReader
    gate: Gate
    requests: RequestMetrics
    spans: Spans
    settings: ServerSettings
    admission: Admission
    parts: PartReader
    part_feed: PartFeed
    part_metrics: PartMetrics
    clock: ServerClock
    mixed: MixedStreams
    external_parts: ExternalParts

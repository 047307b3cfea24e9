"""The listeners of a process: the API, for that role, and the admin listener, which every process has."""

from __future__ import annotations

from typing import Final

from runwire.append.settings import AppendSettings
from runwire.content import ArtifactReader, Artifacts
from runwire.content.part_feed import PartFeed
from runwire.content.part_metrics import PartMetrics
from runwire.content.parts import PartReader
from runwire.db.secret import shared_secret
from runwire.db.server_clock import ServerClock
from runwire.db.settings import DatabaseSettings
from runwire.db.tenancy import check_isolation
from runwire.errors import DatabaseFailed
from runwire.observe import Diagnostician
from runwire.orchestrate import ExternalParts, ExternalRuns, RunControl
from runwire.process import Context
from runwire.process.metrics import PlaceMetrics
from runwire.server.admission import Admission, AdmissionLimits
from runwire.server.app import build_admin_app, build_api_app
from runwire.server.auth.build import check_exposure, gate_of
from runwire.server.connections import Connections
from runwire.server.descriptors import admin_limits, api_limits
from runwire.server.listener import Certificate, listening
from runwire.server.metrics import RequestMetrics
from runwire.server.services import AdminServices, Readiness, Services
from runwire.server.settings import ServerSettings
from runwire.server.table import API_ROUTES
from runwire.stream import LogReader, MixedStreams, Streams
from runwire.stream.many import ManyStreams

UNWELL_AFTER_S: Final = 2.0
"""Seconds for which a duty may be in trouble before the process is not ready. Most troubles end earlier."""


def checked_certificate(settings: ServerSettings, *, serves_api: bool) -> Certificate | None:
    """The certificate of the listeners, if they have one.

    Raises ConfigurationError for an exposed API and for files that are no certificate.
    """
    check_exposure(settings, serves_api=serves_api)
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Certificate.of(settings.tls_cert, settings.tls_key)


async def start_api(context: Context) -> None:
    """Serves the API until the front closes."""
    settings, metrics = context.group(ServerSettings), context.metrics
    if settings.authenticates and settings.tenants:
        await check_isolation(context.database)
    if settings.ticket_secret is not None:
        ticket_key = settings.ticket_secret.get_secret_value().encode()
    else:
        ticket_key = await shared_secret(context.database, "stream tickets")
    gate = gate_of(settings, ticket_key=ticket_key, refused=metrics.access_refused)
    context.phases.front.callback(gate.close)
    services = Services(
        control=context.part(RunControl),
        external=context.part(ExternalRuns),
        diagnostician=context.part(Diagnostician),
        streams=context.part(Streams),
        many=context.part(ManyStreams),
        reader=context.part(LogReader),
        artifacts=context.part(Artifacts),
        content=context.part(ArtifactReader),
        gate=gate,
        requests=RequestMetrics(metrics.out, API_ROUTES),
        spans=context.spans,
        settings=settings,
        admission=Admission(AdmissionLimits.of(settings), refused=metrics.requests_refused),
        parts=context.part(PartReader),
        part_feed=context.part(PartFeed),
        part_metrics=context.part(PartMetrics),
        clock=context.part(ServerClock),
        mixed=context.part(MixedStreams),
        external_parts=context.part(ExternalParts),
    )
    connections = Connections(
        api_limits(settings, elsewhere=_descriptors_elsewhere(context)),
        refused=metrics.http_connections_refused,
        cut=metrics.http_connections_cut,
    )
    metrics.http_connections.set_function(lambda: connections.open)
    metrics.http_descriptors.set_function(lambda: connections.descriptors)
    metrics.http_descriptors_max.set(connections.limits.descriptors)
    certificate = context.find(Certificate)
    context.api_port = await context.phases.front.enter_async_context(
        listening(
            build_api_app(services),
            connections=connections,
            host=settings.host,
            port=settings.port,
            drain_s=context.settings.drain_s,
            reuse_port=settings.reuse_port,
            tls=certificate.context if certificate is not None else None,
        )
    )


async def start_admin(context: Context) -> None:
    """Serves health and metrics until the front closes."""
    settings = context.group(ServerSettings)
    context.part(PlaceMetrics).ready.set_function(lambda: float(is_well(context)))
    token = settings.admin_token.get_secret_value() if settings.admin_token is not None else None
    app = build_admin_app(
        AdminServices(
            metrics=context.metrics,
            readiness=lambda: look(context),
            token=token,
            host=settings.admin_host,
            allowed_hosts=settings.admin_allowed_hosts,
        )
    )
    certificate = context.find(Certificate)
    context.admin_port = await context.phases.front.enter_async_context(
        listening(
            app,
            host=settings.admin_host,
            port=settings.admin_port,
            tls=certificate.context if certificate is not None and settings.admin_tls else None,
            connections=Connections(admin_limits()),
        )
    )


def _descriptors_elsewhere(context: Context) -> int:
    return context.group(DatabaseSettings).db_pool_size + context.group(AppendSettings).append_connections


def is_well(context: Context) -> bool:
    """Whether the process does not drain, and no needed duty is unwell."""
    return not context.draining and not any(trouble.duty.needed for trouble in context.troubles.lasting(UNWELL_AFTER_S))


async def look(context: Context) -> Readiness:
    """Whether the process should get traffic: its database answers, it does not drain, and no needed duty is unwell."""
    try:
        await context.database.fetchval("SELECT 1")
        checks = {"database": "ok"}
    except DatabaseFailed as error:
        checks = {"database": error.code}
    checks["process"] = "draining" if context.draining else "ok"
    lasting = context.troubles.lasting(UNWELL_AFTER_S)
    return Readiness(
        ready=is_well(context) and all(found == "ok" for found in checks.values()),
        checks=checks | {trouble.name: trouble.why for trouble in lasting},
        api_port=context.api_port,
        admin_port=context.admin_port,
        roles=[role.value for role in context.settings.roles],
    )

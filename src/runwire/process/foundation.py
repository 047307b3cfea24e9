"""The ground of every process: telemetry, health, its database, and hints between processes."""

from __future__ import annotations

import contextlib
import os

from runwire.db import Database, Listener, Troubles
from runwire.db.embedded import EmbeddedOptions, EmbeddedPostgres
from runwire.db.migrate import migrate
from runwire.db.notify import Notifier
from runwire.db.partitions import PartitionForbidden, PartitionUpkeep
from runwire.db.server_clock import AT_FIRST, ServerClock
from runwire.db.settings import DatabaseSettings
from runwire.duties import Duty, Role
from runwire.errors import DatabaseFailed
from runwire.model.graph import Agents
from runwire.process.context import Context
from runwire.process.metrics import PlaceMetrics
from runwire.process.phases import Phases
from runwire.process.settings import ProcessSettings
from runwire.process.supervision import Supervision
from runwire.settings_group import group_of
from runwire.telemetry.asyncpg_spans import instrument_asyncpg
from runwire.telemetry.labels import LABEL_LIMIT, NODES_BESIDE_API
from runwire.telemetry.logs import count_dropped_lines
from runwire.telemetry.loop_lag import LoopLagProbe
from runwire.telemetry.metrics import Metrics
from runwire.telemetry.settings import TelemetrySettings
from runwire.telemetry.tracing import Tracing, exporter_from_environment


def open_context(settings: ProcessSettings, agents: Agents, phases: Phases, *, alone: bool, version: str) -> Context:
    """A context with telemetry and health, and no parts yet. `alone`: no other process works on the same runs."""
    telemetry = group_of(settings, TelemetrySettings)
    metrics = Metrics(
        {name: tuple(agent.nodes) for name in agents.names_by_owner if (agent := agents.get(name))},
        version=version,
        nodes_max=_nodes_max(settings),
    )
    replaced = os.environ.get("RUNWIRE_REPLACED", "")
    metrics.process_replacements.inc(int(replaced) if replaced.isdecimal() else 0)
    count_dropped_lines(metrics.telemetry_dropped["logs"].inc)
    spans = Tracing(
        exporter_from_environment() if telemetry.telemetry else None,
        dropped=metrics.telemetry_dropped["traces"].inc,
        ratio=telemetry.trace_sample_ratio,
        version=version,
        roles=[role.value for role in settings.roles],
    )
    phases.ground.push_async_callback(spans.aclose)
    if spans.recording:
        phases.ground.callback(instrument_asyncpg(spans.provider))
    troubles = Troubles(lambda owner, count: metrics.role_unwell[owner].set(count))
    return Context(
        settings=settings,
        alone=alone,
        agents=agents,
        metrics=metrics,
        spans=spans,
        troubles=troubles,
        supervision=Supervision(troubles, restarted=metrics.loop_restarts.inc),
        phases=phases,
        version=version,
    )


def _nodes_max(settings: ProcessSettings) -> int:
    """The most nodes with a name of their own in a scrape. Only a worker runs any."""
    if Role.WORKER not in settings.roles:
        return 0
    return NODES_BESIDE_API if Role.API in settings.roles else LABEL_LIMIT


async def open_database(context: Context) -> None:
    """Offers the Database, migrated and with partitions for the days to come; starts PostgreSQL where none is set."""
    settings, metrics, ground = context.group(DatabaseSettings), context.metrics, context.phases.ground
    if settings.database_url is None:
        postgres = EmbeddedPostgres(EmbeddedOptions(settings.data_dir / "postgres"))
        await ground.enter_async_context(postgres)
        context.database_url = postgres.dsn
    else:
        context.database_url = settings.database_url
    context.migrating = True
    await migrate(settings.session_url or context.database_url)
    context.migrating = False
    database = await ground.enter_async_context(
        Database(
            context.database_url,
            direct_dsn=settings.database_direct_url,
            pool_size=settings.db_pool_size,
            timeout_s=settings.db_timeout_s,
            on_wait=metrics.db_pool_wait.observe,
            troubles=context.troubles,
        )
    )
    metrics.db_pool_in_use.set_function(lambda: database.in_use)
    context.offer(Database, database)
    upkeep = PartitionUpkeep(database, days_ahead=settings.partition_days_ahead)
    with contextlib.suppress(PartitionForbidden):  # the loop says so; until they run out, there are some
        await upkeep.ensure()
    context.keep(ground, Duty.MAKE_PARTITIONS, "partition upkeep", upkeep.run)
    context.keep(ground, Duty.PROBE_LOOP, "loop lag", LoopLagProbe(metrics.event_loop_lag).run)
    await _read_clock(context)


async def _read_clock(context: Context) -> None:
    """Offers the ServerClock, read for the first time."""
    clock = context.offer(ServerClock, ServerClock(context.database))
    metrics = PlaceMetrics(context.metrics.out, roles=context.roles, clock_known=lambda: clock.known)
    context.offer(PlaceMetrics, metrics)
    context.note_deaf = metrics.listeners_deaf.inc
    metrics.clock_offset.set_function(lambda: clock.ahead_s)
    metrics.clock_offset_bound.set_function(lambda: clock.bound_s)
    with contextlib.suppress(DatabaseFailed):  # the loop goes on
        for _ in range(AT_FIRST):
            await clock.measure()
    context.keep(context.phases.ground, Duty.READ_CLOCK, "server clock", clock.run)


async def tell_hints(context: Context) -> None:
    """Sends this process's hints to the others, if there are others."""
    if context.alone:
        return
    notifier = Notifier(context.database)
    context.keep(context.phases.ground, Duty.NOTIFY, "notifier", notifier.run)
    context.hints.tell_others = notifier.send


async def hear_hints(context: Context) -> None:
    """Passes the hints of other processes to the parts built so far."""
    channels = context.hints.heard()
    if channels and not context.alone:
        listener = Listener(
            context.database,
            channels,
            place=context.place,
            on_connected=context.hints.missed,
            on_deaf=context.note_deaf,
        )
        context.keep(context.phases.ground, Duty.LISTEN, "listener", listener.run)

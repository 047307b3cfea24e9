"""Builds a runwire process from its settings and joins its stages: the only place that knows them all."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import secrets
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final, Self

import runwire
from runwire.agents import web_guard
from runwire.agents.discovery import find_agents
from runwire.append import AtRest, EventLog
from runwire.archive import ArchiveMetrics
from runwire.archive.audit import ArchiveAudit
from runwire.archive.cold import ColdLog
from runwire.archive.retention import Archiver
from runwire.archive.store import ColdStore, check_installed, folder_of, open_store
from runwire.archive.worker import ArchiveWorker, Considerate
from runwire.bus import BusReader, BusWriter
from runwire.bus.memory import MemoryBus
from runwire.bus.postgres import PostgresBusReader, PostgresBusWriter
from runwire.clock import set_within
from runwire.db import Database, Listener, Troubles
from runwire.db.embedded import EmbeddedOptions, EmbeddedPostgres
from runwire.db.migrate import migrate
from runwire.db.notify import RUN_CANCELLED, RUNS_CLAIMABLE, RUNS_DIRTY, SHARDS_FREE, Notifier
from runwire.db.partitions import PartitionForbidden, PartitionUpkeep
from runwire.db.secret import shared_secret
from runwire.db.tenancy import check_isolation
from runwire.duties import Duty
from runwire.errors import ArchiveUnavailable, ConfigurationError, DatabaseFailed, RunwireError
from runwire.model.graph import Agents
from runwire.observe import Diagnostician, Observer, ObserverMetrics
from runwire.orchestrate import Cancelling, ExternalRuns, LeaseReaper, RunControl, Seat, Worker
from runwire.orchestrate.beat import Beat
from runwire.orchestrate.sessions import Taken, WorkerFacts, WorkerSession
from runwire.orchestrate.watch import Watch, WatchLimits
from runwire.publish import Publisher, PublishWorker, Shards
from runwire.server.admission import Admission, AdmissionLimits
from runwire.server.app import build_admin_app, build_api_app
from runwire.server.auth.build import check_exposure, gate_of
from runwire.server.connections import Connections
from runwire.server.descriptors import admin_limits, api_limits
from runwire.server.listener import Certificate, listening
from runwire.server.services import AdminServices, Readiness, Services
from runwire.settings import Role, Settings
from runwire.stream import LogReader, Streams
from runwire.stream.epoch import LogEpoch
from runwire.supervision import Supervision
from runwire.telemetry.asyncpg_spans import instrument_asyncpg
from runwire.telemetry.logs import LogEvent, count_dropped_lines, get_logger
from runwire.telemetry.loop_lag import LoopLagProbe
from runwire.telemetry.metrics import Metrics
from runwire.telemetry.tracing import Tracing, exporter_from_environment

_log = get_logger()


DEATHS_COUNTED_S: Final = 5.0
"""Seconds that a worker waits, before its first claim, for the deaths of others to be counted."""
UNWELL_AFTER_S: Final = 2.0
"""Seconds for which a duty may be in trouble before the process is not ready. Most troubles end earlier."""


class StoppedEarly(RunwireError):
    """The process was told to stop while it started; whatever it had opened is closed."""

    code = "stopped_early"

    def __init__(self) -> None:
        super().__init__("stopped before it had started")


class Links:
    """Routes news: to the parts of this process directly, to other processes by hints.

    A part that is missing here is reached through `tell_others`; with the memory bus there are no others.
    """

    def __init__(self) -> None:
        self.publisher: PublishWorker | None = None
        self.shards: Shards | None = None
        self.worker: Worker | None = None
        self.tell_others: Callable[[str, Iterable[str]], None] = lambda _channel, _words: None

    def committed(self, run_ids: Sequence[str]) -> None:
        if self.publisher is not None:
            if others := self.publisher.mark_dirty(run_ids, by="local"):
                self.tell_others(RUNS_DIRTY, others)
        else:
            self.tell_others(RUNS_DIRTY, run_ids)

    async def give_way(self) -> None:
        """Returns when this process may commit what is appended to it."""
        if self.publisher is not None:
            await self.publisher.keep_up()

    def claimable(self, agent: str) -> None:
        if self.worker is not None:
            self.worker.wake()
        self.tell_others(RUNS_CLAIMABLE, [agent])

    def seat(self, run_id: str, agent: str) -> Seat | None:
        """A permit for a new run at this process's worker."""
        return self.worker.seat(run_id, agent) if self.worker is not None else None

    def cancelled(self, run_id: str) -> None:
        if self.worker is not None:
            self.worker.cancel(run_id)
        self.tell_others(RUN_CANCELLED, [run_id])

    def heard(self) -> dict[str, Callable[[str], None]]:
        """The receivers of hints from other processes, by channel."""
        channels: dict[str, Callable[[str], None]] = {}
        if (publisher := self.publisher) is not None:
            channels[RUNS_DIRTY] = lambda payload: _ignore(publisher.mark_dirty(payload.split(), by="notify"))
        if (shards := self.shards) is not None:
            channels[SHARDS_FREE] = lambda _payload: shards.wake()
        if (worker := self.worker) is not None:
            channels[RUNS_CLAIMABLE] = lambda _payload: worker.wake()
            channels[RUN_CANCELLED] = lambda payload: _each(worker.cancel, payload)
        return channels

    def missed(self) -> None:
        """Makes every part look for new work itself, because hints may have been lost."""
        if self.publisher is not None:
            self.publisher.sweep_soon()
        if self.shards is not None:
            self.shards.wake()
        if self.worker is not None:
            self.worker.wake()


class Assembly:
    """A process of some roles. Enter it to start; it is ready then. Leave it to drain and stop, in this order:

    readiness off; workers hand their runs over; the log and the publisher finish what they have; streams end,
    resumable elsewhere; listeners close; the database goes last.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.api_port: int | None = None
        self.admin_port = 0
        self.database_url = ""
        self._draining = False
        self._ground = AsyncExitStack()
        self._front = AsyncExitStack()
        self._pipeline = AsyncExitStack()
        self._links = Links()
        self.streams: Streams | None = None
        """The stream stage, from the start of the API role on."""
        self._epoch: LogEpoch | None = None
        self._stop = asyncio.Event()
        self._starting: asyncio.Task[Any] | None = None
        self._certificate: Certificate | None = None

    @property
    def url(self) -> str:
        """Of the API, for a process that has the role `api`."""
        return _url(self.settings.host, self.api_port or 0, tls=self.settings.tls_cert is not None)

    @property
    def admin_url(self) -> str:
        return _url(self.settings.admin_host, self.admin_port, tls=self.settings.admin_tls)

    async def __aenter__(self) -> Self:
        """Raises StoppedEarly after `stop`, however long the start would have taken."""
        self._starting = asyncio.current_task()
        if self._stop.is_set():
            raise StoppedEarly
        try:
            await self._start()
        except BaseException as error:
            starting, self._starting = self._starting, None
            await self._close()
            if isinstance(error, asyncio.CancelledError) and self._stop.is_set() and starting is not None:
                starting.uncancel()
                raise StoppedEarly from None
            raise
        self._starting = None
        return self

    async def __aexit__(self, *_: object) -> None:
        self._draining = True
        _log.info(LogEvent.SERVER_DRAINING)
        await self._close()
        _log.info(LogEvent.SERVER_STOPPED)

    def stop(self) -> None:
        """Lets `run_until_stopped` return, or ends the start; may be called from a signal handler of the loop."""
        if self._starting is not None and not self._stop.is_set():
            self._starting.cancel()
        self._stop.set()

    def reload(self) -> None:
        """Reads the certificate again, for connections to come; one that cannot be loaded is logged and not used."""
        if self._certificate is None:
            return
        try:
            self._certificate.load()
        except ConfigurationError as error:
            _log.error(LogEvent.CREDENTIALS_UNREADABLE, source="tls_cert", error_type=type(error).__name__)
        else:
            _log.info(LogEvent.CERTIFICATE_LOADED)

    async def run_until_stopped(self) -> None:
        """Returns after `stop`."""
        await self._stop.wait()

    # ------------------------------------------------------------------ starting

    async def _start(self) -> None:
        settings = self.settings
        check_exposure(settings)
        if settings.tls_cert is not None and settings.tls_key is not None:
            self._certificate = Certificate.of(settings.tls_cert, settings.tls_key)
        roles = frozenset(settings.roles)
        agents = find_agents(settings.agents)
        metrics = Metrics(
            {name: tuple(agent.nodes) for name in agents.names if (agent := agents.get(name))},
            version=runwire.__version__,
        )
        metrics.process_replacements.inc(int(os.environ.get("RUNWIRE_REPLACED", "0")))
        archive_metrics = ArchiveMetrics(metrics.out)
        count_dropped_lines(metrics.telemetry_dropped["logs"].inc)
        spans = self._tracing(metrics)
        self._troubles = Troubles(lambda part, count: metrics.role_unwell[part].set(count))
        self._supervision = Supervision(self._troubles, restarted=metrics.loop_restarts.inc)
        database = await self._database(metrics)
        self._run(self._ground, Duty.PROBE_LOOP, "loop lag", LoopLagProbe(metrics.event_loop_lag).run)
        alone = settings.bus_name == "memory"
        if not alone:
            notifier = Notifier(database)
            self._run(self._ground, Duty.NOTIFY, "notifier", notifier.run)
            self._links.tell_others = notifier.send
        writer, reader = await self._buses(database, alone=alone)
        if Role.PUBLISHER in roles:
            await self._start_publisher(database, writer, metrics, spans)
        log = await self._pipeline.enter_async_context(
            EventLog(
                database,
                metrics=metrics,
                on_committed=self._links.committed,
                give_way=self._links.give_way,
                connections=settings.append_connections,
                batch_max=settings.append_batch_max,
                queue_max=settings.append_queue_max,
            )
        )
        at_rest = AtRest(database, metrics=metrics, on_committed=self._links.committed)
        cancelling = Cancelling(database, at_rest, metrics=metrics)
        if Role.WORKER in roles:
            await self._start_worker(database, log, agents, cancelling=cancelling, metrics=metrics, spans=spans)
        if Role.OBSERVER in roles:
            observer = Observer(
                database,
                ObserverMetrics(metrics.out, period_s=settings.observe_s),
                period_s=settings.observe_s,
                archives=settings.archives,
                archive_audit=ArchiveAudit(database, self._open_archive, metrics=archive_metrics),
            )
            self._run(self._ground, Duty.OBSERVE, "observer", observer.run)
        self._check_archive()
        if Role.ARCHIVER in roles:
            await self._start_archiver(archive_metrics)
        channels = self._links.heard()
        if channels and not alone:
            listener = Listener(database, channels, on_connected=self._links.missed)
            self._run(self._ground, Duty.LISTEN, "listener", listener.run)
        if Role.API in roles:
            cold = ColdLog(database, self._open_archive, metrics=archive_metrics)
            self._front.push_async_callback(cold.aclose)
            log_reader = LogReader(database, cold=cold)
            await self._start_api(
                database,
                bus=reader,
                reader=log_reader,
                log=log,
                agents=agents,
                cancelling=cancelling,
                metrics=metrics,
                spans=spans,
            )
        token = settings.admin_token.get_secret_value() if settings.admin_token is not None else None
        admin = build_admin_app(
            AdminServices(
                metrics=metrics,
                readiness=self._readiness(database),
                token=token,
                host=settings.admin_host,
                allowed_hosts=settings.admin_allowed_hosts,
            )
        )
        admin_tls = self._certificate.context if self._certificate is not None and settings.admin_tls else None
        self.admin_port = await self._front.enter_async_context(
            listening(
                admin,
                host=settings.admin_host,
                port=settings.admin_port,
                tls=admin_tls,
                connections=Connections(admin_limits()),
            )
        )
        _log.info(
            LogEvent.SERVER_STARTED,
            version=runwire.__version__,
            roles=[role.value for role in settings.roles],
            host=settings.host,
            port=self.api_port,
            admin_host=settings.admin_host,
            admin_port=self.admin_port,
            bus=settings.bus_name,
            database="embedded" if settings.database_url is None else "external",
            agents=list(agents.names),
        )

    def _tracing(self, metrics: Metrics) -> Tracing:
        settings = self.settings
        tracing = Tracing(
            exporter_from_environment() if settings.telemetry else None,
            dropped=metrics.telemetry_dropped["traces"].inc,
            ratio=settings.trace_sample_ratio,
            version=runwire.__version__,
            roles=[role.value for role in settings.roles],
        )
        self._ground.push_async_callback(tracing.aclose)
        if tracing.recording:
            self._ground.callback(instrument_asyncpg(tracing.provider))
        return tracing

    async def _database(self, metrics: Metrics) -> Database:
        settings = self.settings
        if settings.database_url is None:
            postgres = EmbeddedPostgres(EmbeddedOptions(settings.data_dir / "postgres"))
            await self._ground.enter_async_context(postgres)
            self.database_url = postgres.dsn
        else:
            self.database_url = settings.database_url
        await migrate(settings.session_url or self.database_url)
        database = await self._ground.enter_async_context(
            Database(
                self.database_url,
                direct_dsn=settings.database_direct_url,
                pool_size=settings.db_pool_size,
                timeout_s=settings.db_timeout_s,
                on_wait=metrics.db_pool_wait.observe,
                troubles=self._troubles,
            )
        )
        metrics.db_pool_in_use.set_function(lambda: database.in_use)
        upkeep = PartitionUpkeep(database, days_ahead=settings.partition_days_ahead)
        with contextlib.suppress(PartitionForbidden):  # the loop says so; until they run out, there are some
            await upkeep.ensure()
        self._run(self._ground, Duty.MAKE_PARTITIONS, "partition upkeep", upkeep.run)
        return database

    async def _buses(self, database: Database, *, alone: bool) -> tuple[BusWriter, BusReader]:
        if alone:
            bus = MemoryBus()
            return bus, bus
        if self.settings.bus_name == "nats":
            return await self._nats_bus()
        session = database.session("bus")
        self._ground.push_async_callback(session.aclose)
        reader = PostgresBusReader(database, on_connected=self._recheck_streams)
        if Role.API in self.settings.roles:
            self._run(self._ground, Duty.LISTEN, "bus listener", reader.listener.run)
        return PostgresBusWriter(session), reader

    async def _nats_bus(self) -> tuple[BusWriter, BusReader]:
        try:
            from runwire.bus.nats import NatsBusReader, NatsBusWriter, NatsOptions  # noqa: PLC0415  # an extra
        except ImportError as error:
            raise ConfigurationError(("RUNWIRE_BUS: NATS needs its client: pip install 'runwire[nats]'",)) from error
        settings = self.settings
        options = NatsOptions.of(settings)
        name = f"{settings.worker_id}:{os.getpid()}"
        writer = NatsBusWriter(options, name=f"runwire publisher {name}")
        reader = NatsBusReader(options, on_missed=self._recheck_streams, name=f"runwire streams {name}")
        links = {Role.PUBLISHER: writer.link, Role.API: reader.link}
        for role, link in links.items():
            if role in settings.roles:
                self._run(self._ground, Duty.BUS, f"bus of {role.value}", link.run)
                await set_within(link.connected, options.timeout_s)  # one that is away is waited for by who needs it
        return writer, reader

    def _recheck_streams(self) -> None:
        if self.streams is not None:
            self.streams.recheck()
        if self._epoch is not None:
            self._epoch.wake()

    async def _start_publisher(self, database: Database, bus: BusWriter, metrics: Metrics, spans: Tracing) -> None:
        settings = self.settings
        # Where hosts share a name, as copies of a container may, so do their processes' ids.
        publisher_id = f"{settings.worker_id}:{os.getpid()}:{secrets.token_hex(2)}"
        self._links.shards = shards = Shards(
            database,
            publisher_id=publisher_id,
            lease_s=settings.publish_lease_s,
            tell_others=lambda: self._links.tell_others(SHARDS_FREE, ["-"]),
        )
        publisher = Publisher(
            database,
            bus,
            metrics=metrics,
            spans=spans,
            publisher_id=publisher_id,
            shards=shards,
            batch_events=settings.publish_batch_events,
            batch_runs=settings.publish_batch_runs,
            rest_max_s=settings.publish_backoff_max_s,
        )
        worker = PublishWorker(
            publisher,
            shards=shards,
            sweep_s=settings.publish_sweep_s,
            backoff_max_s=settings.publish_backoff_max_s,
            heartbeat_s=settings.publish_heartbeat_s,
        )
        self._links.publisher = worker
        task = self._run(self._pipeline, Duty.PUBLISH, "publisher", worker.run)

        async def finish() -> None:
            worker.stop()
            await asyncio.wait({task}, timeout=settings.drain_s)

        self._pipeline.push_async_callback(finish)

    async def _start_worker(
        self,
        database: Database,
        log: EventLog,
        agents: Agents,
        *,
        cancelling: Cancelling,
        metrics: Metrics,
        spans: Tracing,
    ) -> None:
        settings = self.settings
        # Of this start of the process: the next one finds that this one's session is gone.
        worker_id = f"{settings.worker_id}:{os.getpid()}:{secrets.token_hex(2)}"
        worker = Worker(
            database,
            log,
            agents,
            metrics=metrics,
            spans=spans,
            worker_id=worker_id,
            concurrency=settings.worker_concurrency,
            threads=settings.worker_threads,
            state_max_bytes=settings.state_max_bytes,
            lease_s=settings.lease_s,
            heartbeat_s=settings.lease_heartbeat_s,
            poll_s=settings.worker_poll_s,
            on_claimable=self._links.claimable,
            beat=(beat := Beat()),
        )
        self._links.worker = worker
        facts = WorkerFacts(worker_id, agents.names, settings.worker_concurrency)
        session = WorkerSession(database.session("watch"), facts, losses_max=settings.losses_max)
        watch = Watch(
            session,
            beat=beat,
            held=worker.held,
            on_taken=partial(self._taken, metrics),
            blocked=metrics.loop_blocked,
            give_up=_end_at_once,
            limits=WatchLimits(heartbeat_s=settings.lease_heartbeat_s, lease_s=settings.lease_s),
            attempts=database.attempts(Duty.WATCH),
        )
        await self._pipeline.enter_async_context(watch)
        reaper = LeaseReaper(database, log, metrics=metrics, owner=settings.worker_id, cancelling=cancelling)
        self._run(self._pipeline, Duty.REAP, "lease reaper", reaper.run)
        guarded = contextvars.copy_context()
        guarded.run(web_guard.allow, settings.explore_networks)

        async def walk_runs() -> None:
            await watch.deaths_counted(within_s=DEATHS_COUNTED_S)
            await worker.run()

        task = guarded.run(self._run, self._pipeline, Duty.CLAIM, "worker", walk_runs)

        async def hand_over() -> None:
            await worker.drain(within_s=settings.drain_s)
            await asyncio.wait({task}, timeout=settings.drain_s)

        self._pipeline.push_async_callback(hand_over)

    def _taken(self, metrics: Metrics, taken: Taken) -> None:
        metrics.workers_lost.inc(len(taken.workers))
        metrics.losses_repeated.inc(taken.again)
        for agent in taken.agents:
            self._links.claimable(agent)

    async def _start_archiver(self, metrics: ArchiveMetrics) -> None:
        """No archiver when nothing is to be archived or the extra is missing; the log says so."""
        settings = self.settings
        try:
            if settings.archives:
                check_installed()
        except ArchiveUnavailable as error:
            if "roles" in settings.model_fields_set:
                raise ConfigurationError((f"the role archiver: {error}",)) from error
            _log.info(LogEvent.ARCHIVE_OFF, code="not_installed")  # nobody asked for one
            return
        if not settings.archives:
            return
        # A pool of its own: its statements are few and long.
        database = await self._ground.enter_async_context(
            Database(
                self.settings.session_url or self.database_url,
                pool_size=2,
                timeout_s=600.0,
                name="archive",
                troubles=self._troubles,
            )
        )
        worker = ArchiveWorker(
            lambda: Archiver(
                database,
                self._open_archive(),
                metrics=metrics,
                writer=f"runwire {runwire.__version__}",
                after_days=settings.archive_after_days,
                batch_runs=settings.archive_batch_runs,
                batch_events=settings.archive_batch_events,
                watcher=Considerate(),
            ),
            metrics,
            period_s=settings.archive_period_s,
        )
        self._run(self._ground, Duty.ARCHIVE, "archiver", worker.run)

    def _check_archive(self) -> None:
        """Raises for an invalid URL at once, as a wrong setting. An archive that is away may come back."""
        url = self.settings.archive_url
        if url is not None and folder_of(url) is None:  # a folder would be made by looking
            with contextlib.suppress(ArchiveUnavailable):
                self._open_archive()

    def _open_archive(self) -> ColdStore:
        if self.settings.archive is None:
            raise ArchiveUnavailable("this process has no RUNWIRE_ARCHIVE_URL")
        return open_store(self.settings.archive)

    async def _start_api(
        self,
        database: Database,
        *,
        bus: BusReader,
        reader: LogReader,
        log: EventLog,
        agents: Agents,
        cancelling: Cancelling,
        metrics: Metrics,
        spans: Tracing,
    ) -> None:
        settings = self.settings
        if settings.authenticates and settings.tenants:
            await check_isolation(database)
        if settings.ticket_secret is not None:
            ticket_key = settings.ticket_secret.get_secret_value().encode()
        else:
            ticket_key = await shared_secret(database, "stream tickets")
        self.streams = await self._front.enter_async_context(
            Streams(bus=bus, reader=reader, settings=settings, metrics=metrics, spans=spans)
        )
        self._epoch = LogEpoch(database, on_change=self.streams.forget_history)
        self._run(self._front, Duty.STREAM, "log epoch", self._epoch.run)
        control = RunControl(
            database,
            agents,
            on_claimable=self._links.claimable,
            on_cancel=self._links.cancelled,
            open_max=settings.runs_open_max,
            read_timeout_s=settings.db_read_timeout_s,
            seat=self._links.seat,
            state_max_bytes=settings.state_max_bytes,
            cancelling=cancelling,
        )
        services = Services(
            control=control,
            external=ExternalRuns(database, log, metrics=metrics, spans=spans),
            diagnostician=Diagnostician(database, agents),
            streams=self.streams,
            reader=reader,
            gate=gate_of(settings, ticket_key=ticket_key, refused=metrics.access_refused),
            spans=spans,
            settings=settings,
            admission=Admission(AdmissionLimits.of(settings), refused=metrics.requests_refused),
        )
        connections = Connections(
            api_limits(settings), refused=metrics.http_connections_refused, cut=metrics.http_connections_cut
        )
        metrics.http_connections.set_function(lambda: connections.open)
        metrics.http_descriptors.set_function(lambda: connections.descriptors)
        metrics.http_descriptors_max.set(connections.limits.descriptors)
        self.api_port = await self._front.enter_async_context(
            listening(
                build_api_app(services),
                connections=connections,
                host=settings.host,
                port=settings.port,
                drain_s=settings.drain_s,
                reuse_port=settings.reuse_port,
                tls=self._certificate.context if self._certificate is not None else None,
            )
        )

    def _readiness(self, database: Database) -> Callable[[], Coroutine[Any, Any, Readiness]]:
        async def look() -> Readiness:
            try:
                await database.fetchval("SELECT 1")
                checks = {"database": "ok"}
            except DatabaseFailed as error:
                checks = {"database": error.code}
            checks["process"] = "draining" if self._draining else "ok"
            lasting = self._troubles.lasting(UNWELL_AFTER_S)
            needed = any(trouble.duty.needed for trouble in lasting)
            return Readiness(
                ready=not needed and all(found == "ok" for found in checks.values()),
                checks=checks | {trouble.name: trouble.why for trouble in lasting},
                api_port=self.api_port,
                admin_port=self.admin_port,
                roles=[role.value for role in self.settings.roles],
            )

        return look

    # ------------------------------------------------------------------ running and stopping

    def _run(
        self, stack: AsyncExitStack, duty: Duty, name: str, loop: Callable[[], Coroutine[Any, Any, None]]
    ) -> asyncio.Task[None]:
        """Keeps a loop running until the stack is closed."""
        task = asyncio.create_task(self._supervision.keep(duty, loop, name=name), name=name)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        stack.push_async_callback(end)
        return task

    async def _close(self) -> None:
        async with AsyncExitStack() as closing:  # in reverse; what fails to close does not keep the rest open
            closing.push_async_callback(self._ground.aclose)
            closing.push_async_callback(self._front.aclose)
            closing.push_async_callback(self._end_streams)
            closing.push_async_callback(self._pipeline.aclose)

    async def _end_streams(self) -> None:
        if self.streams is not None:
            await self.streams.drain(within_s=self.settings.drain_s)


def _ignore(_others: list[str]) -> None:
    """Runs of other publishers, who have heard of them, too."""


def _each(act: Callable[[str], None], payload: str) -> None:
    for word in payload.split():
        act(word)


def _end_at_once() -> None:
    """Ends the process, whose event loop is blocked: writes its last log lines, and needs no loop."""
    for stream in (sys.stdout, sys.stderr):
        drain = getattr(getattr(stream, "buffer", None), "drain", None)
        if drain is not None:
            drain()
    os._exit(1)


def _url(host: str, port: int, *, tls: bool) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared, not bound
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http{'s' if tls else ''}://{shown}:{port}"

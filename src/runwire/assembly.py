"""A runwire process: the plan by which each stage starts its role, and the process's life from start to drain."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Self, TypeVar

import runwire
from runwire.agents.discovery import find_agents
from runwire.append import role as append_role
from runwire.archive import role as archive_role
from runwire.archive.audit import ColdAudit
from runwire.archive.cold import ColdLog
from runwire.archive.settings import ArchiveSettings
from runwire.bus import role as bus_role
from runwire.bus.kinds import KINDS
from runwire.content import part_role
from runwire.content import role as content_role
from runwire.errors import ConfigurationError, RunwireError
from runwire.observe import role as observe_role
from runwire.observe.role import WatchedArchive
from runwire.orchestrate import role as orchestrate_role
from runwire.process import Context, Phases, Plan, Step, foundation, presence
from runwire.publish import role as publish_role
from runwire.server import role as server_role
from runwire.server.addresses import url_of
from runwire.server.listener import Certificate
from runwire.settings import Role, Settings
from runwire.stream import role as stream_role
from runwire.stream.log import ArchivedLog
from runwire.telemetry.logs import LogEvent, get_logger

T = TypeVar("T")
_log = get_logger()


async def _lend_archive(context: Context) -> None:
    """Offers the archive's parts as the observer and the streams know them, because stages know no neighbours."""
    archives = context.group(ArchiveSettings).archives
    context.offer(WatchedArchive, WatchedArchive(context.part(ColdAudit), archives=archives))
    context.offer(ArchivedLog, context.part(ColdLog))


PLAN: Final = Plan(
    (
        Step("database", foundation.open_database),
        Step("work", presence.offer_work),
        Step("telling hints", foundation.tell_hints),
        Step("bus", bus_role.start),
        Step("publisher", publish_role.start, Role.PUBLISHER),
        Step("log", append_role.start),
        Step("content", content_role.offer_content),
        Step("parts", part_role.start),
        Step("worker", orchestrate_role.start, Role.WORKER),
        Step("archive", archive_role.offer_archive),
        Step("readers of the archive", _lend_archive),
        Step("observer", observe_role.start, Role.OBSERVER),
        Step("archiver", archive_role.start, Role.ARCHIVER),
        Step("collector", content_role.start, Role.COLLECTOR),
        Step("hearing hints", foundation.hear_hints),
        Step("streams", stream_role.start, Role.API),
        Step("control", orchestrate_role.offer_control, Role.API),
        Step("diagnosis", observe_role.offer_diagnosis, Role.API),
        Step("api", server_role.start_api, Role.API),
        Step("presence", presence.start),
        Step("admin", server_role.start_admin),
    )
)
"""The steps of every process, in the order of their start. A step may use what earlier ones offer."""


class StoppedEarly(RunwireError):
    """The process was told to stop while it started; whatever it had opened is closed."""

    code = "stopped_early"

    def __init__(self) -> None:
        super().__init__("stopped before it had started")


class Assembly:
    """A process of some roles. Enter it to start; it is ready then. Leave it to drain and stop, in this order:

    readiness off; workers hand their runs over; the log and the publisher finish what they have; streams end,
    resumable elsewhere; listeners close; the database goes last.
    """

    def __init__(self, settings: Settings, *, plan: Plan = PLAN) -> None:
        """`plan` is for tests and benchmarks that replace a part, or add one."""
        self.settings = settings
        self._plan = plan
        self._phases = Phases()
        self._context: Context | None = None
        self._stop = asyncio.Event()
        self._starting: asyncio.Task[Any] | None = None
        self._started = False

    @property
    def api_port(self) -> int | None:
        """None for a process without the role `api`, and until its listener is open."""
        return self._context.api_port if self._context is not None else None

    @property
    def admin_port(self) -> int:
        """0 until the admin listener is open."""
        return self._context.admin_port if self._context is not None else 0

    @property
    def database_url(self) -> str:
        """Of the database in use, which may be the embedded one; empty until it is open."""
        return self._context.database_url if self._context is not None else ""

    @property
    def url(self) -> str:
        """Of the API, for a process that has the role `api`."""
        return url_of(self.settings.host, self.api_port or 0, tls=self.settings.tls_cert is not None)

    @property
    def admin_url(self) -> str:
        return url_of(self.settings.admin_host, self.admin_port, tls=self.settings.admin_tls)

    @property
    def has_agents(self) -> bool:
        """Whether its agents are imported and fit: from then on its start keeps the event loop for moments only."""
        return self._context is not None

    @property
    def migrating(self) -> bool:
        """Whether it brings the database up to its version, or waits for another that does."""
        return self._context is not None and self._context.migrating

    @property
    def started(self) -> bool:
        """Whether its start is over, and it works."""
        return self._started

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stop.is_set()

    def part(self, kind: type[T]) -> T:
        """A part of the running process, by its class: Streams, EventLog, Worker... Raises LookupError without one."""
        if self._context is None:
            raise LookupError("the process has not started")
        return self._context.part(kind)

    async def __aenter__(self) -> Self:
        """Raises StoppedEarly after `stop`, however long the start would have taken."""
        self._starting = asyncio.current_task()
        if self._stop.is_set():
            raise StoppedEarly
        try:
            await self._start()
        except BaseException as error:
            starting, self._starting = self._starting, None
            await self._phases.aclose()
            if isinstance(error, asyncio.CancelledError) and self._stop.is_set() and starting is not None:
                starting.uncancel()
                raise StoppedEarly from None
            raise
        self._starting, self._started = None, True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.begin_drain()
        _log.info(LogEvent.SERVER_DRAINING)
        await self._phases.aclose()
        _log.info(LogEvent.SERVER_STOPPED)

    def begin_drain(self) -> None:
        """Says by `/readyz` that the process should get no more traffic."""
        if self._context is not None:
            self._context.draining = True

    def stop(self) -> None:
        """Lets `run_until_stopped` return, or ends the start. A signal handler of the loop may call it."""
        if self._starting is not None and not self._stop.is_set():
            self._starting.cancel()
        self._stop.set()

    def reload(self) -> None:
        """Reads the certificate again, for connections to come; one that cannot be loaded is logged and not used."""
        certificate = self._context.find(Certificate) if self._context is not None else None
        if certificate is None:
            return
        try:
            certificate.load()
        except ConfigurationError as error:
            _log.error(LogEvent.CREDENTIALS_UNREADABLE, source="tls_cert", error_type=type(error).__name__)
        else:
            _log.info(LogEvent.CERTIFICATE_LOADED)

    async def run_until_stopped(self) -> None:
        """Returns after `stop`."""
        await self._stop.wait()

    async def _start(self) -> None:
        settings = self.settings
        certificate = server_role.checked_certificate(settings, serves_api=Role.API in settings.roles)
        agents = find_agents(settings.agents)
        self._context = context = foundation.open_context(
            settings,
            agents,
            self._phases,
            alone=KINDS[settings.bus_name].one_process,
            version=runwire.__version__,
        )
        if certificate is not None:
            context.offer(Certificate, certificate)
        await self._plan.start(context)
        _log.info(
            LogEvent.SERVER_STARTED,
            version=runwire.__version__,
            roles=[role.value for role in settings.roles],
            host=settings.host,
            port=context.api_port,
            admin_host=settings.admin_host,
            admin_port=context.admin_port,
            bus=settings.bus_name,
            database="embedded" if settings.database_url is None else "external",
            agents=list(agents.names),
        )

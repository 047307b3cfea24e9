"""Reading the archive, which every process can, and the archiver of a process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import runwire
from runwire.archive.audit import ColdAudit
from runwire.archive.cold import ColdLog
from runwire.archive.kinds import installed, open_store
from runwire.archive.metrics import ArchiveMetrics
from runwire.archive.retention import Archiver
from runwire.archive.settings import ArchiveSettings
from runwire.archive.store import ColdStore
from runwire.archive.worker import ArchiveWorker, Considerate
from runwire.db import Database
from runwire.db.settings import DatabaseSettings
from runwire.duties import Duty
from runwire.errors import ArchiveUnavailable, ConfigurationError
from runwire.objects import folder_of
from runwire.process import Context
from runwire.telemetry.logs import LogEvent, get_logger

_DAY_S: Final = 86_400
_log = get_logger()


@dataclass(frozen=True, slots=True)
class Archive:
    """The archive of a process. `open` raises ArchiveUnavailable, also when the process has none."""

    open: Callable[[], ColdStore]
    metrics: ArchiveMetrics


async def offer_archive(context: Context) -> None:
    """Offers the Archive and what reads it: ColdLog and ColdAudit.

    Raises ConfigurationError for an invalid URL at once. An archive that is away may come back.
    """
    settings = context.group(ArchiveSettings)
    url = settings.archive
    archive = context.find(Archive) or Archive(lambda: _opened(url), ArchiveMetrics(context.metrics.out))
    context.offer(Archive, archive)
    archive.metrics.after.set(settings.archive_after_days * _DAY_S if settings.archives else 0)
    context.offer(ColdAudit, ColdAudit(context.database, archive.open, metrics=archive.metrics))
    cold = context.offer(ColdLog, ColdLog(context.database, archive.open, metrics=archive.metrics))
    context.phases.front.push_async_callback(cold.aclose)
    if settings.archive_url is not None and folder_of(settings.archive_url) is None:
        with contextlib.suppress(ArchiveUnavailable):  # a folder would be made by looking
            archive.open()


async def start(context: Context) -> None:
    """Archives runs that are due, until the ground closes.

    No archiver when nothing is to be archived or the extra is missing; the log says so.
    """
    settings, archive = context.group(ArchiveSettings), context.part(Archive)
    try:
        if settings.archives and settings.archive is not None:
            installed(settings.archive)
    except ArchiveUnavailable as error:
        if "roles" in context.settings.model_fields_set:
            raise ConfigurationError((f"the role archiver: {error}",)) from error
        _log.info(LogEvent.ARCHIVE_OFF, code="not_installed")  # nobody asked for one
        return
    if not settings.archives:
        return
    # A pool of its own: its statements are few and long.
    database = await context.phases.ground.enter_async_context(
        Database(
            context.group(DatabaseSettings).session_url or context.database_url,
            pool_size=2,
            timeout_s=600.0,
            name="archive",
            troubles=context.troubles,
        )
    )
    worker = ArchiveWorker(
        lambda: Archiver(
            database,
            archive.open(),
            metrics=archive.metrics,
            writer=f"runwire {runwire.__version__}",
            after_days=settings.archive_after_days,
            batch_runs=settings.archive_batch_runs,
            batch_events=settings.archive_batch_events,
            watcher=Considerate(),
        ),
        archive.metrics,
        period_s=settings.archive_period_s,
    )
    context.keep(context.phases.ground, Duty.ARCHIVE, "archiver", worker.run)


def _opened(url: str | None) -> ColdStore:
    if url is None:
        raise ArchiveUnavailable("this process has no RUNWIRE_ARCHIVE_URL")
    return open_store(url)

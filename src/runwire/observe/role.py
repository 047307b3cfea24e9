"""The observer of a process."""

from __future__ import annotations

from dataclasses import dataclass

from runwire.db.settings import DatabaseSettings
from runwire.duties import Duty
from runwire.observe.audit import ArchiveAudit
from runwire.observe.diagnosis import Diagnostician
from runwire.observe.metrics import ObserverMetrics
from runwire.observe.observer import Observer
from runwire.observe.settings import ObserverSettings
from runwire.process import Context
from runwire.thresholds import RUN_EXPECTED_S


@dataclass(frozen=True, slots=True)
class WatchedArchive:
    """The archive, as the observer sees it. `archives`: this process or another archives runs."""

    audit: ArchiveAudit
    archives: bool


async def start(context: Context) -> None:
    """Watches the whole service by its database, until the ground closes."""
    settings = context.group(ObserverSettings)
    archive = context.find(WatchedArchive)
    observer = Observer(
        context.database,
        ObserverMetrics(context.metrics.out, agents=context.agents.names_by_owner, period_s=settings.observe_s),
        settings=settings,
        expected_s=context.agents.expected_s(RUN_EXPECTED_S),
        days_ahead=context.group(DatabaseSettings).partition_days_ahead,
        archives=archive is not None and archive.archives,
        archive_audit=archive.audit if archive is not None else None,
    )
    context.keep(context.phases.ground, Duty.OBSERVE, "observer", observer.run)


async def offer_diagnosis(context: Context) -> None:
    """Offers the Diagnostician."""
    context.offer(Diagnostician, Diagnostician(context.database, context.agents))

"""The observer of a process."""

from __future__ import annotations

from runwire.duties import Duty
from runwire.observe.audit import ArchiveAudit
from runwire.observe.diagnosis import Diagnostician
from runwire.observe.metrics import ObserverMetrics
from runwire.observe.observer import Observer
from runwire.process import Context


async def start(context: Context) -> None:
    """Watches the whole service by its database, until the ground closes."""
    settings = context.settings
    observer = Observer(
        context.database,
        ObserverMetrics(context.metrics.out, period_s=settings.observe_s),
        period_s=settings.observe_s,
        archives=settings.archives,
        archive_audit=context.find(ArchiveAudit),
    )
    context.keep(context.phases.ground, Duty.OBSERVE, "observer", observer.run)


async def offer_diagnosis(context: Context) -> None:
    """Offers the Diagnostician."""
    context.offer(Diagnostician, Diagnostician(context.database, context.agents))

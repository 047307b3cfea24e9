"""The way into the log, which every process has."""

from __future__ import annotations

from functools import partial

from runwire.append.at_rest import AtRest
from runwire.append.event_log import EventLog
from runwire.append.settings import AppendSettings
from runwire.db.notify import RUNS_DIRTY
from runwire.process import Context


async def start(context: Context) -> None:
    """Offers the EventLog, and AtRest for runs that no worker walks."""
    settings = context.group(AppendSettings)
    committed = partial(context.hints.tell, RUNS_DIRTY)
    log = EventLog(
        context.database,
        metrics=context.metrics,
        on_committed=committed,
        give_way=context.keep_up,
        settings=settings,
    )
    context.offer(EventLog, await context.phases.pipeline.enter_async_context(log))
    context.offer(AtRest, AtRest(context.database, metrics=context.metrics, on_committed=committed))

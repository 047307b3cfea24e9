"""The worker of a process, and the control face that its API serves."""

from __future__ import annotations

import asyncio
import contextvars
import os
import secrets
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from runwire.agents import web_guard
from runwire.agents.chat import models
from runwire.agents.settings import AgentSettings
from runwire.append import AtRest, EventLog
from runwire.content import Artifacts
from runwire.content.part_writer import PartWriter
from runwire.content.parts import PartReader, Parts
from runwire.content.settings import ContentSettings
from runwire.db.notify import RUN_CANCELLED, RUNS_CLAIMABLE
from runwire.db.settings import DatabaseSettings
from runwire.duties import Duty
from runwire.orchestrate.beat import Beat
from runwire.orchestrate.cancelling import Cancelling
from runwire.orchestrate.control import RunControl
from runwire.orchestrate.external import ExternalRuns, LeaseReaper
from runwire.orchestrate.external_parts import ExternalParts
from runwire.orchestrate.node_parts import PartDesk, PartLimits
from runwire.orchestrate.sessions import Taken, WorkerFacts, WorkerSession
from runwire.orchestrate.settings import OrchestrateSettings
from runwire.orchestrate.watch import Watch, WatchLimits
from runwire.orchestrate.worker import Worker
from runwire.process import Context
from runwire.process.hints import By
from runwire.process.presence import Work

DEATHS_COUNTED_S: Final = 5.0
"""Seconds that a worker waits, before its first claim, for the deaths of others to be counted."""


async def start(context: Context) -> None:
    """Walks runs until the pipeline closes. Offers the Worker."""
    settings, metrics, pipeline = context.group(OrchestrateSettings), context.metrics, context.phases.pipeline
    database, log = context.database, context.part(EventLog)
    # Of this start of the process: the next one finds that this one's session is gone.
    worker_id = f"{context.settings.worker_id}:{os.getpid()}:{secrets.token_hex(2)}"
    beat = Beat()
    worker = Worker(
        database,
        log,
        context.agents,
        metrics=metrics,
        spans=context.spans,
        worker_id=worker_id,
        settings=settings,
        on_claimable=lambda agent: context.hints.tell(RUNS_CLAIMABLE, [agent]),
        beat=beat,
        artifacts=context.part(Artifacts),
        desk=_desk(context),
    )
    context.offer(Worker, worker)
    work = context.part(Work)
    work.slots, work.walking = settings.worker_concurrency, lambda: worker.active
    _take_hints(context, worker)

    def taken(taken: Taken) -> None:
        metrics.workers_lost.inc(len(taken.workers))
        metrics.losses_repeated.inc(taken.again)
        for agent in taken.agents:
            context.hints.tell(RUNS_CLAIMABLE, [agent])

    facts = WorkerFacts(worker_id, context.agents.names, settings.worker_concurrency)
    watch = Watch(
        WorkerSession(database.session("watch"), facts, losses_max=settings.losses_max),
        beat=beat,
        held=worker.held,
        on_taken=taken,
        blocked=metrics.loop_blocked,
        give_up=_end_at_once,
        limits=WatchLimits(heartbeat_s=settings.lease_heartbeat_s, lease_s=settings.lease_s),
        attempts=database.attempts(Duty.WATCH),
    )
    await pipeline.enter_async_context(watch)
    owner = context.settings.worker_id
    reaper = LeaseReaper(database, log, metrics=metrics, owner=owner, cancelling=_cancelling(context))
    context.keep(pipeline, Duty.REAP, "lease reaper", reaper.run)

    async def walk_runs() -> None:
        await watch.deaths_counted(within_s=DEATHS_COUNTED_S)
        await worker.run()

    guarded = contextvars.copy_context()
    guarded.run(web_guard.allow, context.group(AgentSettings).explore_networks)
    guarded.run(models.choose, context.group(AgentSettings))
    task = guarded.run(context.keep, pipeline, Duty.CLAIM, "worker", walk_runs)

    async def hand_over() -> None:
        await worker.drain(within_s=context.settings.drain_s)
        await asyncio.wait({task}, timeout=context.settings.drain_s)

    pipeline.push_async_callback(hand_over)


async def offer_control(context: Context) -> None:
    """Offers RunControl, ExternalRuns and ExternalParts. This process's worker begins a run that is started here, if it
    has room.
    """
    settings, hints, worker = context.group(OrchestrateSettings), context.hints, context.find(Worker)
    control = RunControl(
        context.database,
        context.agents,
        on_claimable=lambda agent: hints.tell(RUNS_CLAIMABLE, [agent]),
        on_cancel=lambda run_id: hints.tell(RUN_CANCELLED, [run_id]),
        open_max=settings.runs_open_max,
        read_timeout_s=context.group(DatabaseSettings).db_read_timeout_s,
        seat=worker.seat if worker is not None else lambda _run_id, _agent: None,
        state_max_bytes=settings.state_max_bytes,
        cancelling=_cancelling(context),
    )
    external = ExternalRuns(context.database, context.part(EventLog), metrics=context.metrics, spans=context.spans)
    context.offer(RunControl, control)
    context.offer(ExternalRuns, external)
    context.offer(ExternalParts, ExternalParts(context.part(EventLog), _desk(context)))


def _desk(context: Context) -> PartDesk:
    settings = context.group(ContentSettings)
    limits = PartLimits(
        settings.parts_per_run_max,
        settings.part_bytes_max,
        settings.part_bytes_per_s,
        tenant=settings.content_tenant_max_bytes,
    )
    return PartDesk(
        context.part(Parts),
        context.part(PartWriter),
        limits,
        artifacts=context.part(Artifacts),
        reader=context.part(PartReader),
    )


def _cancelling(context: Context) -> Cancelling:
    return Cancelling(context.database, context.part(AtRest), metrics=context.metrics)


def _take_hints(context: Context, worker: Worker) -> None:
    """Other workers hear the same: which of them has room, or walks the run, nobody knows."""

    def claimable(agents: Sequence[str], _by: By) -> Iterable[str]:
        worker.wake()
        return agents

    def cancelled(run_ids: Sequence[str], _by: By) -> Iterable[str]:
        for run_id in run_ids:
            worker.cancel(run_id)
        return run_ids

    context.hints.take(RUNS_CLAIMABLE, claimable)
    context.hints.take(RUN_CANCELLED, cancelled)
    context.hints.missed.add(worker.wake)


def _end_at_once() -> None:
    """Ends the process, whose event loop is blocked: writes its last log lines, and needs no loop."""
    for stream in (sys.stdout, sys.stderr):
        drain = getattr(getattr(stream, "buffer", None), "drain", None)
        if drain is not None:
            drain()
    os._exit(1)

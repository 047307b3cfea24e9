"""The publisher of a process."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterable, Sequence

from runwire.bus import Bus
from runwire.db.notify import RUNS_DIRTY, SHARDS_FREE
from runwire.duties import Duty
from runwire.process import Context
from runwire.process.hints import By
from runwire.publish.publisher import Publisher
from runwire.publish.settings import PublishSettings
from runwire.publish.shards import Shards
from runwire.publish.worker import PublishWorker


async def start(context: Context) -> None:
    """Publishes what is appended, here and elsewhere, until the pipeline closes."""
    settings, hints, pipeline = context.group(PublishSettings), context.hints, context.phases.pipeline
    # Where hosts share a name, as copies of a container may, so do their processes' ids.
    publisher_id = f"{context.settings.worker_id}:{os.getpid()}:{secrets.token_hex(2)}"
    shards = Shards(
        context.database,
        publisher_id=publisher_id,
        lease_s=settings.publish_lease_s,
        tell_others=lambda: hints.tell_others(SHARDS_FREE, ["-"]),
    )
    publisher = Publisher(
        context.database,
        context.part(Bus).writer,
        metrics=context.metrics,
        spans=context.spans,
        publisher_id=publisher_id,
        shards=shards,
        settings=settings,
    )
    worker = PublishWorker(
        publisher,
        shards=shards,
        settings=settings,
    )

    def shards_free(words: Sequence[str], _by: By) -> Iterable[str]:
        shards.wake()
        return words

    context.keep_up = worker.keep_up
    hints.take(RUNS_DIRTY, lambda run_ids, by: worker.mark_dirty(run_ids, by=by))
    hints.take(SHARDS_FREE, shards_free)
    hints.missed.add(worker.sweep_soon)
    hints.missed.add(shards.wake)
    task = context.keep(pipeline, Duty.PUBLISH, "publisher", worker.run)

    async def finish() -> None:
        worker.stop()
        await asyncio.wait({task}, timeout=context.settings.drain_s)

    pipeline.push_async_callback(finish)

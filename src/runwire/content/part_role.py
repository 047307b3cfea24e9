"""The way of a process to the parts of runs: it writes them as a worker, and shows them as an API."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runwire.content.part_feed import PartFeed
from runwire.content.part_metrics import PartMetrics
from runwire.content.part_writer import PartWriter, Written
from runwire.content.parts import PartReader, Parts
from runwire.content.reading import ArtifactReader
from runwire.content.settings import ContentSettings
from runwire.db.notify import PARTS_WRITTEN
from runwire.duties import Role
from runwire.process import Context
from runwire.process.hints import By


async def start(context: Context) -> None:
    """Offers PartMetrics, Parts, PartReader, PartWriter, and with an API the PartFeed."""
    settings, hints = context.group(ContentSettings), context.hints
    feed = PartFeed()
    metrics = context.offer(PartMetrics, PartMetrics(context.metrics.out))
    context.offer(PartReader, PartReader(context.database, artifacts=context.part(ArtifactReader)))
    if Role.API in context.roles:
        context.offer(PartFeed, feed)
        _take_hints(context, feed)

    def written(pieces: Sequence[Written]) -> None:
        feed.written(pieces)
        hints.tell_others(PARTS_WRITTEN, {each.run_id for each in pieces})

    writer = PartWriter(
        context.database,
        metrics=metrics,
        tenant_bytes=settings.content_tenant_max_bytes,
        linger_s=settings.part_linger_ms / 1000,
        on_written=written,
        on_ended=lambda run_id: hints.tell(PARTS_WRITTEN, [run_id]),
    )
    context.offer(Parts, Parts(context.database))
    context.offer(PartWriter, await context.phases.pipeline.enter_async_context(writer))


def _take_hints(context: Context, feed: PartFeed) -> None:
    """Other processes with clients of the run hear the same."""

    def news(run_ids: Sequence[str], _by: By) -> Iterable[str]:
        feed.hint(run_ids)
        return run_ids

    context.hints.take(PARTS_WRITTEN, news)
    context.hints.missed.add(feed.look_everywhere)
    context.phases.streams.callback(feed.drain)

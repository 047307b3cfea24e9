"""The streams of a process with an API."""

from __future__ import annotations

from runwire.bus import Bus
from runwire.content.part_feed import PartFeed
from runwire.content.part_metrics import PartMetrics
from runwire.content.parts import PartReader
from runwire.db.server_clock import ServerClock
from runwire.duties import Duty
from runwire.process import Context
from runwire.process.presence import Work
from runwire.stream.epoch import LogEpoch
from runwire.stream.log import ArchivedLog, LogReader
from runwire.stream.many import ManyStreams
from runwire.stream.mixed import MixedStreams
from runwire.stream.settings import StreamSettings
from runwire.stream.streams import Streams


async def start(context: Context) -> None:
    """Offers LogReader and the streams: of a run, of a run with its parts, of many runs. They end in their own phase,
    before the listeners close.
    """
    settings, front = context.group(StreamSettings), context.phases.front
    context.metrics.sse_heartbeat.set(settings.sse_heartbeat_s)
    reader = context.offer(LogReader, LogReader(context.database, cold=context.find(ArchivedLog)))
    streams = Streams(
        bus=context.part(Bus).reader,
        reader=reader,
        settings=settings,
        metrics=context.metrics,
        spans=context.spans,
        now_us=context.part(ServerClock).now_us,
    )
    context.offer(Streams, await front.enter_async_context(streams))
    context.part(Work).streams = lambda: len(streams.sessions)
    many = ManyStreams(streams, context.database, runs_max=settings.sse_runs_max, keep_s=settings.sse_checkpoint_keep_s)
    context.offer(ManyStreams, await front.enter_async_context(many))
    mixed = MixedStreams(
        streams, reader, context.part(PartReader), context.part(PartFeed), metrics=context.part(PartMetrics)
    )
    context.offer(MixedStreams, await front.enter_async_context(mixed))
    epoch = LogEpoch(context.database, on_change=streams.forget_history)
    context.keep(front, Duty.STREAM, "log epoch", epoch.run)
    context.bus_missed.add(streams.recheck)
    context.bus_missed.add(epoch.wake)
    context.phases.streams.push_async_callback(streams.drain, within_s=context.settings.drain_s)

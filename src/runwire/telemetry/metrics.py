"""The metrics of runwire. Names, labels and meanings are public API; see docs/telemetry.md.

A group per part of the pipeline; `Metrics` is what one process exports. Every labelled series exists at 0
from the start, because `increase()` does not see a counter that is born at 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from prometheus_client import Counter, Gauge, ProcessCollector

from runwire.duties import OWNERS
from runwire.errors import counted_by
from runwire.model.event import EventType
from runwire.telemetry.exposition import Exposition
from runwire.telemetry.histogram import Histogram
from runwire.telemetry.labels import LABEL_LIMIT, ByName, ByNameAndOutcome, bounded

LAG_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Edges lie exactly on the alert thresholds, so a quantile is exact where it matters."""
RUN_BUCKETS_S: Final = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 3600.0)
# Few, since nodes and outcomes multiply them: a scrape stays under 1000 samples.
NODE_BUCKETS_S: Final = (0.1, 1.0, 10.0, 60.0)
BATCH_BUCKETS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
BACKFILL_BUCKETS: Final = (0.0, 1.0, 10.0, 50.0, 100.0, 500.0, 1000.0, 5000.0)


class RunOutcome(StrEnum):
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class NodeOutcome(StrEnum):
    FINISHED = "finished"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


class PublishFailure(StrEnum):
    BUS = "bus"
    DATABASE = "database"
    POISONED = "poisoned"


class Wakeup(StrEnum):
    LOCAL = "local"
    NOTIFY = "notify"
    POLL = "poll"


class DeliveryPath(StrEnum):
    BACKFILL = "backfill"
    LIVE = "live"
    REPLAY = "replay"


class ConnectKind(StrEnum):
    NEW = "new"
    RESUME = "resume"


class StreamKind(StrEnum):
    """One run; or many, by their ids, by their session, or by a label."""

    RUN = "run"
    RUNS = "runs"
    SESSION = "session"
    LABEL = "label"


class DisconnectReason(StrEnum):
    TERMINAL = "terminal"
    CLIENT = "client"
    SLOW = "slow"
    DRAIN = "drain"
    ROTATE = "rotate"
    ERROR = "error"


class ConnectionCut(StrEnum):
    """Why the API listener ended a connection."""

    HEAD = "head"
    BODY = "body"
    IDLE = "idle"
    STALLED = "stalled"
    ROOM = "room"


class Signal(StrEnum):
    TRACES = "traces"
    LOGS = "logs"


class PipelineMetrics:
    """Runs, nodes, append and publish."""

    def __init__(self, out: Exposition, agents: Mapping[str, Sequence[str]], *, nodes_max: int = LABEL_LIMIT) -> None:
        """`agents`: the names of the nodes of each registered agent."""
        agent_names, more_agents = bounded(agents)
        node_names, more_nodes = bounded((node for nodes in agents.values() for node in nodes), limit=nodes_max)

        started = out.counters("runs_started", "Runs started.", unit="runs", agent=agent_names)
        self.runs_started: Mapping[str, Counter] = ByName(started, overflow=more_agents)
        """By agent."""
        finished = out.counter_family(
            "runs_finished",
            "Runs ended.",
            unit="runs",
            labels=("agent", "outcome"),
            series=[(name, str(outcome)) for name in agent_names for outcome in RunOutcome],
        )
        self.runs_finished: Mapping[tuple[str, str], Counter] = ByNameAndOutcome(
            {(name, outcome): counter for (name, outcome), counter in finished.items()},
            overflow=more_agents,
        )
        """By (agent, outcome)."""
        self.run_duration: Mapping[str, Histogram] = out.histograms(
            "run_duration_seconds",
            "From the start call to RunFinished, without the time the run waited for signals.",
            edges=RUN_BUCKETS_S,
            outcome=RunOutcome,
        )
        """By outcome."""
        self.time_to_first_node: Histogram = out.histogram(
            "time_to_first_node_seconds",
            "From accepting a run to its first node.",
            edges=LAG_BUCKETS_S,
        )
        node_duration = out.family(
            "node_duration_seconds",
            "One try of a node.",
            edges=NODE_BUCKETS_S,
            labels=("node", "outcome"),
            series=[(name, str(outcome)) for name in node_names for outcome in NodeOutcome],
        )
        self.node_duration: Mapping[tuple[str, str], Histogram] = ByNameAndOutcome(
            {(name, outcome): series for (name, outcome), series in node_duration.series.items()},
            overflow=more_nodes,
        )
        """By (node, outcome)."""
        self.timer_lateness: Histogram = out.histogram(
            "timer_lateness_seconds",
            "From the time a timer was due to the claim of its run by a worker, by the database's clock.",
            edges=LAG_BUCKETS_S,
        )
        blocked = out.counters(
            "event_loop_blocked_seconds",
            "Time an event loop was blocked for half a second or more, by the node that blocked it; "
            "`external` where no node is to blame.",
            node=node_names,
        )
        self.loop_blocked: Mapping[str, Counter] = ByName(blocked, overflow=more_nodes)
        """By node; `external` where no node is to blame."""

        self.workers_lost: Counter = out.counter("workers_lost", "Workers found dead by this process.")
        self.losses_repeated: Counter = out.counter(
            "run_losses_repeated", "Runs that lost a worker again before they finished a node, found by this process."
        )

        self.events_appended: Mapping[str, Counter] = out.counters(
            "events_appended", "Events stored, counted after the commit.", unit="events", type=EventType
        )
        """By event type."""
        self.append_failures: Mapping[str, Counter] = out.counters(
            "append_failures",
            "Appends that stored nothing, by the `code` the caller got. `storage_unavailable` and "
            "`partition_missing` are faults of the storage, and count against the objective of appends.",
            unit="appends",
            reason=counted_by("append_failures"),
        )
        """By the `code` of the error raised."""
        self.append_duration: Histogram = out.histogram(
            "append_duration_seconds", "From the append call to its commit.", edges=LAG_BUCKETS_S
        )

        self.events_published: Counter = out.counter("events_published", "Events put on the bus.", unit="events")
        self.publish_failures: Mapping[str, Counter] = out.counters(
            "publish_failures",
            "Publish steps that failed and are tried again: the batch did not get onto the bus; the claim or "
            "the commit failed; a run failed alone, while others have got through since it first failed.",
            unit="steps",
            reason=PublishFailure,
        )
        self.publish_lag: Histogram = out.histogram(
            "publish_lag_seconds", "From an event's commit to its being on the bus.", edges=LAG_BUCKETS_S
        )
        self.publish_batch: Histogram = out.histogram(
            "publish_batch_events", "Events that one publish step put on the bus.", unit="events", edges=BATCH_BUCKETS
        )
        self.outbox_wakeups: Mapping[str, Counter] = out.counters(
            "outbox_wakeups",
            "Publish steps that found work, by what woke the publisher. A rising share of `poll` is a silent LISTEN.",
            unit="steps",
            by=Wakeup,
        )


class StreamMetrics:
    """Delivery to clients over SSE."""

    def __init__(self, out: Exposition) -> None:
        self.events_delivered: Mapping[str, Counter] = out.counters(
            "events_delivered", "Events written to clients' sockets.", unit="events", path=DeliveryPath
        )
        self.delivery_lag: Histogram = out.histogram(
            "delivery_lag_seconds",
            "From an event's commit to the socket write, live events only.",
            edges=LAG_BUCKETS_S,
        )
        self.sse_connections: Gauge = out.gauge("sse_connections", "Streams that are open.", unit="streams")
        self.streams_open: Mapping[str, Gauge] = out.gauges(
            "streams_open", "Streams that are open, by what they are about.", unit="streams", kind=StreamKind
        )
        self.stream_checkpoints: Counter = out.counter(
            "stream_checkpoints", "Positions of streams of many runs that were stored.", unit="checkpoints"
        )
        self.sse_connects: Mapping[str, Counter] = out.counters(
            "sse_connects", "Streams opened; `resume` came with a cursor.", unit="streams", kind=ConnectKind
        )
        self.sse_disconnects: Mapping[str, Counter] = out.counters(
            "sse_disconnects",
            "Streams closed: the run ended, the client left or was too slow, the process drains, the stream "
            "got too old, something broke.",
            unit="streams",
            reason=DisconnectReason,
        )
        self.sse_backfill: Histogram = out.histogram(
            "sse_backfill_events", "Events in the stored part of a stream.", unit="events", edges=BACKFILL_BUCKETS
        )
        self.sse_backfill_duration: Histogram = out.histogram(
            "sse_backfill_duration_seconds",
            "From attaching a client to the end of its stored part.",
            edges=LAG_BUCKETS_S,
        )
        self.sse_duplicates_dropped: Counter = out.counter(
            "sse_duplicates_dropped", "Events that came twice and were sent once.", unit="events"
        )
        self.sse_gaps_repaired: Counter = out.counter(
            "sse_gaps_repaired", "Gaps in the bus's messages that a stream filled from PostgreSQL.", unit="gaps"
        )
        self.sse_run_reconnects_max: Gauge = out.gauge(
            "sse_run_reconnects_1m_max", "Reconnects in the last minute, of the run with most.", unit="reconnects"
        )
        self.sse_client_reconnects_max: Gauge = out.gauge(
            "sse_client_reconnects_1m_max",
            "Reconnects in the last minute, of the client with most.",
            unit="reconnects",
        )
        self.sse_write_age_max: Gauge = out.gauge(
            "sse_write_age_seconds_max", "Age of the oldest last write among open streams."
        )
        self.sse_heartbeat: Gauge = out.gauge(
            "sse_heartbeat_seconds", "The longest silence on a stream, as set; 0 without an API."
        )


class ProcessMetrics:
    """The process itself, and the telemetry that it dropped."""

    def __init__(self, out: Exposition, version: str) -> None:
        self.db_pool_in_use: Gauge = out.gauge(
            "db_pool_in_use", "Database connections taken from the pool.", unit="connections"
        )
        self.db_pool_wait: Histogram = out.histogram(
            "db_pool_wait_seconds", "Wait for a connection from the pool.", edges=LAG_BUCKETS_S
        )
        self.role_unwell: Mapping[str, Gauge] = out.gauges(
            "role_unwell", "Duties of a role that fail at the moment; 0: all is well.", unit="duties", role=OWNERS
        )
        """By role; `process`: what all roles share."""
        self.loop_restarts: Counter = out.counter(
            "loop_restarts", "Loops that the process started again after an unexpected error.", unit="restarts"
        )
        self.event_loop_lag: Histogram = out.histogram(
            "event_loop_lag_seconds", "How late the event loop woke a timer.", edges=LAG_BUCKETS_S
        )
        self.http_connections: Gauge = out.gauge(
            "http_connections", "Connections of the API listener that are open.", unit="connections"
        )
        self.http_descriptors: Gauge = out.gauge(
            "http_descriptors", "Descriptors that they take: one each, and a stream two.", unit="descriptors"
        )
        self.http_descriptors_max: Gauge = out.gauge(
            "http_descriptors_max", "Descriptors that they may take; 0 without an API listener.", unit="descriptors"
        )
        self.http_connections_refused: Counter = out.counter(
            "http_connections_refused",
            "Connections answered with 503 because there was no descriptor for them.",
            unit="connections",
        )
        self.http_connections_cut: Mapping[str, Counter] = out.counters(
            "http_connections_cut",
            "Connections that the service ended: at a deadline (the head or the body of a request, idleness, "
            "an answer nobody takes), or, as the oldest idle one, to make room.",
            unit="connections",
            reason=ConnectionCut,
        )
        self.requests_refused: Mapping[str, Counter] = out.counters(
            "requests_refused",
            "Requests refused because of a limit, by the `code` of the problem.",
            unit="requests",
            code=counted_by("requests_refused"),
        )
        """By the `code` of the problem."""
        self.access_refused: Mapping[str, Counter] = out.counters(
            "access_refused",
            "Requests refused for lack of credentials or of a scope, by the `code` of the problem.",
            unit="requests",
            code=counted_by("access_refused"),
        )
        """By the `code` of the problem."""
        self.telemetry_dropped: Mapping[str, Counter] = out.counters(
            "telemetry_dropped",
            "Spans and log lines that were dropped so that work goes on.",
            unit="items",
            signal=Signal,
        )
        self.process_replacements: Counter = out.counter(
            "process_replacements",
            "Processes in this place of `serve --processes` that were replaced because they had not answered for 15 s.",
        )
        out.gauges("build_info", "Always 1; the label is the version that runs.", version=[version])[version].set(1)
        ProcessCollector(registry=out.registry)


class Metrics(PipelineMetrics, StreamMetrics, ProcessMetrics):
    """The metrics of one process. Counters are bound: `metrics.events_appended[event.type].inc(n)`.

    A group whose numbers come from one role only is made by that role, with `out`, when it starts.
    """

    def __init__(
        self,
        agents: Mapping[str, Sequence[str]] = MappingProxyType({}),
        *,
        version: str = "dev",
        nodes_max: int = LABEL_LIMIT,
    ) -> None:
        """`agents`: the names of the nodes of each registered agent, the values of the labels agent and node.

        Names that are not among them count as `external`, agents past the first 17 and nodes past `nodes_max` as
        `other`.
        """
        self.out = Exposition()
        PipelineMetrics.__init__(self, self.out, agents, nodes_max=nodes_max)
        StreamMetrics.__init__(self, self.out)
        ProcessMetrics.__init__(self, self.out, version)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """The body and Content-Type of a scrape: OpenMetrics, with exemplars, when `accept` asks for it."""
        return self.out.render(accept)

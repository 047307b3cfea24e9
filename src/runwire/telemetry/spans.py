"""The spans of runwire, by name. For a run that is not sampled each is a shared no-op, under a microsecond;
only `run_request` costs two more, since it reads or mints the ids that are stored.

A span's parent is the current one if it belongs to the same trace, else the run's stored traceparent. Attributes
follow the OpenTelemetry conventions for HTTP, messaging and GenAI; attributes without a convention are named
`runwire.*`. Spans carry no exception texts: a failed one has `error.type`, a bounded code or the exception's class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from runwire.clock import JITTER, monotonic
from runwire.telemetry.span import (
    NO_SPAN,
    BelowSampled,
    Recorder,
    RequestSpan,
    RunRequest,
    Span,
    UnsampledRequest,
)
from runwire.telemetry.traceparent import TraceContext, mint_trace, parse_traceparent, sampled_trace_id, with_span

DESTINATION: Final = "runwire.events"
MAX_LINKS: Final = 8
SENDS_PER_S: Final = 20
LEASE_LOST: Final = "lease_lost"

ROOT_IS_SAMPLED: Final = otel_context.create_key("runwire-root-is-sampled")
"""Set in the context of a root span that was decided to be sampled before it was started."""

CHOSEN_SPAN_ID: Final[ContextVar[int | None]] = ContextVar("runwire_chosen_span_id", default=None)
"""The id the span that is being started gets, for one that was promised to others before it."""


class Spans:
    """Starts spans with `tracer`, or none at all without one.

    Of the runs whose caller sends no traceparent, the share `ratio` is sampled. A caller that sends one decides.
    """

    def __init__(self, tracer: trace.Tracer | None, *, ratio: float, recorder: Recorder | None = None) -> None:
        """`tracer` makes the first span of a trace, `recorder` takes those below it."""
        self._tracer = tracer
        self._recorder = recorder
        self._sends = (0, 0)
        self._ratio = ratio if tracer is not None else 0.0

    def start_run_trace(self, traceparent: str | None) -> str:
        """The traceparent to store with a run: the caller's, if it is well-formed, else a new one.

        For runs that no request starts; `run_request` does the same and is the trace's first span.
        """
        return str(parse_traceparent(traceparent) or mint_trace(sampled=self._draw()))

    def run_request(
        self, traceparent: str | None, *, route: str = "/api/agents/runs", path: str = "/api/agents/runs"
    ) -> RunRequest:
        """SERVER `POST <route>`; `traceparent` is the request's header. Its own `traceparent` is the run's.

        A refusal of the 4xx range is the caller's, and no error of the server's span (semantic conventions for HTTP).
        """
        caller = parse_traceparent(traceparent)
        if self._tracer is None or not (self._draw() if caller is None else caller.sampled):
            return UnsampledRequest(str(caller or mint_trace(sampled=False)))
        if caller is None:
            root = trace.set_span_in_context(trace.INVALID_SPAN)
            parent = otel_context.set_value(ROOT_IS_SAMPLED, value=True, context=root)
        else:
            parent = trace.set_span_in_context(trace.NonRecordingSpan(_remote(caller)))
        attributes = {"http.request.method": "POST", "http.route": route, "url.path": path}
        return RequestSpan(self._tracer.start_span(f"POST {route}", parent, SpanKind.SERVER, attributes=attributes))

    def invoke_agent(
        self,
        traceparent: str | None,
        *,
        agent: str,
        run_id: str,
        attempt: int = 1,
        worker_id: str = "",
        session: str | None = None,
        span_id: str | None = None,
        earlier: str | None = None,
    ) -> Span:
        """`invoke_agent <agent>`: a worker's attempt at a run, with the id `span_id` that was stored with its claim.

        It links to `earlier`, the span of the attempt that it continues.
        """
        if (parent := self._parent(traceparent)) is None or traceparent is None:
            return NO_SPAN
        return self._start(
            parent,
            f"invoke_agent {agent}",
            links=() if earlier is None else _links((with_span(traceparent, earlier),)),
            attributes=_attempt(agent, run_id, attempt=attempt, worker_id=worker_id, session=session),
            span_id=span_id,
        )

    def lost_attempt(
        self,
        traceparent: str | None,
        *,
        agent: str,
        run_id: str,
        attempt: int,
        worker_id: str,
        span_id: str,
        from_us: int,
        until_us: int,
        session: str | None = None,
    ) -> None:
        """The `invoke_agent` span of a dead worker, which can no longer send it; times are epoch microseconds.

        Without it, the spans of that worker have no parent, and the next attempt links to nothing.
        """
        if self._tracer is None or (parent := self._parent(traceparent)) is None:
            return
        attributes = _attempt(agent, run_id, attempt=attempt, worker_id=worker_id, session=session) | {
            "runwire.outcome": "lost",
            "error.type": LEASE_LOST,
        }
        with _chosen(span_id):
            span = self._tracer.start_span(
                f"invoke_agent {agent}",
                trace.set_span_in_context(trace.NonRecordingSpan(parent)),
                attributes=attributes,
                start_time=from_us * 1000,
            )
        span.set_status(Status(StatusCode.ERROR))
        span.end(until_us * 1000)

    def invoke_node(self, traceparent: str | None, *, node: str, run_id: str, attempt: int = 1) -> Span:
        """`invoke_node <node>`: one try of a node."""
        if (parent := self._parent(traceparent)) is None:
            return NO_SPAN
        return self._start(
            parent,
            f"invoke_node {node}",
            attributes={"runwire.node": node, "runwire.run_id": run_id, "runwire.attempt": attempt},
        )

    @property
    def recording(self) -> bool:
        """Whether any span is recorded."""
        return self._tracer is not None

    def create_events(
        self, traceparent: str | None, *, run_id: str, count: int, requested_by: str | None = None
    ) -> Span:
        """PRODUCER `create runwire.events`: an append of `count` events.

        `requested_by` is the traceparent of the request that asked for it: its span is the parent where it belongs to
        the run's trace, and linked where it belongs to another.
        """
        if (parent := self._parent(traceparent)) is None:
            return NO_SPAN
        request = parse_traceparent(requested_by)
        links: tuple[Link, ...] = ()
        if request is not None and int(request.trace_id, 16) != parent.trace_id:
            links = (Link(_remote(request)),) if request.sampled else ()
        elif request is not None:
            parent = SpanContext(
                parent.trace_id, int(request.span_id, 16), is_remote=True, trace_flags=parent.trace_flags
            )
        return self._start(
            parent,
            f"create {DESTINATION}",
            kind=SpanKind.PRODUCER,
            links=links,
            attributes=_messaging("create", count) | {"runwire.run_id": run_id},
        )

    def send_events(self, traceparents: Iterable[str | None], *, count: int) -> Span:
        """CLIENT `send runwire.events`: a batch of `count` events going to the bus.

        `traceparents` are those of the runs in it. The first sampled run is the parent, since some viewers drop
        links; that one and seven more are linked. At most `SENDS_PER_S` are made: a publisher under load puts
        hundreds of batches on the bus a second, most of them with a sampled run in it.
        """
        sampled = [traceparent for traceparent in traceparents if sampled_trace_id(traceparent) is not None]
        if not sampled or not self._may_send() or (parent := self._parent(sampled[0])) is None:
            return NO_SPAN
        return self._start(
            parent,
            f"send {DESTINATION}",
            kind=SpanKind.CLIENT,
            links=_links(list(dict.fromkeys(sampled))[:MAX_LINKS]),
            attributes=_messaging("send", count),
        )

    def process_events(self, traceparent: str | None, *, run_id: str, count: int = 1) -> Span:
        """CONSUMER `process runwire.events`: the first delivery of events to a client.

        Its parent is the run's request, whether the client waited for the events or found them stored.
        """
        if (parent := self._request(traceparent)) is None:
            return NO_SPAN
        return self._start(
            parent,
            f"process {DESTINATION}",
            kind=SpanKind.CONSUMER,
            links=_links((traceparent,)),
            attributes=_messaging("process", count) | {"runwire.run_id": run_id},
        )

    def subscribe(self, traceparent: str | None, *, run_id: str) -> Span:
        """`subscribe`: a client's stream being attached to the bus; ends when it is, not when the stream does."""
        if (parent := self._parent(traceparent)) is None:
            return NO_SPAN
        return self._start(parent, "subscribe", attributes={"runwire.run_id": run_id})

    def backfill(self, traceparent: str | None, *, run_id: str, after: int) -> Span:
        """`backfill`: the stored events after seq `after` being sent to a client."""
        if (parent := self._parent(traceparent)) is None:
            return NO_SPAN
        attributes: dict[str, AttributeValue] = {"runwire.run_id": run_id, "runwire.after": after}
        return self._start(parent, "backfill", attributes=attributes)

    def _may_send(self) -> bool:
        second = int(monotonic())
        sends = self._sends[1] if second == self._sends[0] else 0
        self._sends = (second, sends + 1)
        return sends < SENDS_PER_S

    def _draw(self) -> bool:
        return JITTER.random() < self._ratio

    def _parent(self, traceparent: str | None) -> SpanContext | None:
        """The parent of a span of this run; None when it is not recorded."""
        if (remote := self._request(traceparent)) is None:
            return None
        current = trace.get_current_span().get_span_context()
        return current if current.trace_id == remote.trace_id else remote

    def _request(self, traceparent: str | None) -> SpanContext | None:
        """The span of the run's request; None when it is not recorded."""
        if self._tracer is None or traceparent is None or sampled_trace_id(traceparent) is None:
            return None
        return _parsed(traceparent)

    def _start(
        self,
        parent: SpanContext,
        name: str,
        *,
        attributes: dict[str, AttributeValue],
        kind: SpanKind = SpanKind.INTERNAL,
        links: tuple[Link, ...] = (),
        span_id: str | None = None,
    ) -> Span:
        if self._recorder is None:
            return NO_SPAN
        chosen = None if span_id is None else int(span_id, 16)
        return BelowSampled(
            self._recorder, name, parent=parent, kind=kind, attributes=attributes, links=links, span_id=chosen
        )


NO_SPANS: Final = Spans(None, ratio=0.0)
"""For code that runs without tracing."""


@contextmanager
def _chosen(span_id: str | None) -> Iterator[None]:
    """Inside, a span that is started gets this id; None leaves it to chance."""
    if span_id is None:
        yield
        return
    token = CHOSEN_SPAN_ID.set(int(span_id, 16))
    try:
        yield
    finally:
        CHOSEN_SPAN_ID.reset(token)


def _remote(stored: TraceContext) -> SpanContext:
    return SpanContext(
        int(stored.trace_id, 16), int(stored.span_id, 16), is_remote=True, trace_flags=TraceFlags(stored.flags)
    )


@lru_cache(maxsize=4096)
def _parsed(traceparent: str) -> SpanContext | None:
    """A stored traceparent as a parent from elsewhere, kept because a run's spans all ask for the same."""
    stored = parse_traceparent(traceparent)
    return None if stored is None else _remote(stored)


@lru_cache(maxsize=4096)
def _link(traceparent: str) -> Link | None:
    """Kept: the runs of one batch are the runs of the next, and to make a link takes as long as to end a span."""
    remote = _parsed(traceparent)
    return None if remote is None else Link(remote)


def _links(traceparents: Iterable[str | None]) -> tuple[Link, ...]:
    return tuple(link for one in traceparents if one is not None and (link := _link(one)) is not None)


def _attempt(
    agent: str, run_id: str, *, attempt: int, worker_id: str, session: str | None
) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": agent,
        "runwire.run_id": run_id,
        "runwire.attempt": attempt,
        "runwire.worker": worker_id,
    }
    if session is not None:
        attributes["gen_ai.conversation.id"] = session
    return attributes


def _messaging(operation: str, count: int) -> dict[str, AttributeValue]:
    return {
        "messaging.system": "runwire",
        "messaging.destination.name": DESTINATION,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.batch.message_count": count,
    }

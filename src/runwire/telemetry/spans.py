"""The spans of runwire, by name. For a run that is not sampled each is a shared no-op, under a microsecond;
only `run_request` costs two more, since it reads or mints the ids that are stored.

A span's parent is the current one if it belongs to the same trace, else the run's stored traceparent. Attributes
follow the OpenTelemetry conventions for HTTP, messaging and GenAI; what they have no name for is `runwire.*`.
Spans carry no exception texts: a failed one has `error.type`, a bounded code or the exception's class.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Protocol, Self

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from runwire.errors import RunwireError
from runwire.telemetry.traceparent import TraceContext, mint_trace, parse_traceparent, sampled_trace_id

DESTINATION: Final = "runwire.events"
MAX_LINKS: Final = 8

ROOT_IS_SAMPLED: Final = otel_context.create_key("runwire-root-is-sampled")
"""Set in the context of a root span that was decided to be sampled before it was started."""

_CODE = re.compile(r"[a-z][a-z0-9_]{0,47}")


class Span(Protocol):
    """Entered for the time the work takes. An Exception that leaves it marks it failed; a cancellation does not."""

    @property
    def traceparent(self) -> str | None:
        """This span as the parent of others; None when nothing is recorded."""

    def set(self, key: str, value: AttributeValue) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


class RunRequest(Span, Protocol):
    """The span of the request that starts a run."""

    @property
    def traceparent(self) -> str:
        """What to store with the run; there whether it is sampled or not."""


class Spans:
    """Starts spans with `tracer`, or none at all without one.

    Of the runs whose caller sends no traceparent, the share `ratio` is sampled. A caller that sends one decides.
    """

    def __init__(self, tracer: trace.Tracer | None, *, ratio: float) -> None:
        self._tracer = tracer
        self._ratio = ratio if tracer is not None else 0.0

    def start_run_trace(self, traceparent: str | None) -> str:
        """The traceparent to store with a run: the caller's, if it is well-formed, else a new one.

        For runs that no request starts; `run_request` does the same and is the trace's first span.
        """
        return str(parse_traceparent(traceparent) or mint_trace(sampled=self._draw()))

    def run_request(self, traceparent: str | None, *, route: str = "/api/agents/runs") -> RunRequest:
        """SERVER `POST <route>`; `traceparent` is the request's header. Its own `traceparent` is the run's."""
        caller = parse_traceparent(traceparent)
        if self._tracer is None or not (self._draw() if caller is None else caller.sampled):
            return _UnsampledRequest(str(caller or mint_trace(sampled=False)))
        if caller is None:
            root = trace.set_span_in_context(trace.INVALID_SPAN)
            parent = otel_context.set_value(ROOT_IS_SAMPLED, value=True, context=root)
        else:
            parent = trace.set_span_in_context(trace.NonRecordingSpan(_remote(caller)))
        attributes = {"http.request.method": "POST", "http.route": route}
        return _RecordedSpan(self._tracer.start_span(f"POST {route}", parent, SpanKind.SERVER, attributes=attributes))

    def invoke_workflow(
        self,
        traceparent: str | None,
        *,
        agent: str,
        run_id: str,
        attempt: int = 1,
        earlier: str | None = None,
    ) -> Span:
        """`invoke_workflow <agent>`: a worker's turn at a run, linked to the `earlier` attempt it goes on from."""
        if (parent := self._parent(traceparent)) is None:
            return NO_SPAN
        return self._start(
            parent,
            f"invoke_workflow {agent}",
            links=_links((earlier,)),
            attributes={
                "gen_ai.operation.name": "invoke_workflow",
                "gen_ai.agent.name": agent,
                "runwire.run_id": run_id,
                "runwire.attempt": attempt,
            },
        )

    def invoke_node(self, traceparent: str | None, *, node: str, run_id: str, attempt: int = 1) -> Span:
        """`invoke_node <node>`: one try of a node."""
        if (parent := self._parent(traceparent)) is None:
            return NO_SPAN
        return self._start(
            parent,
            f"invoke_node {node}",
            attributes={"runwire.node": node, "runwire.run_id": run_id, "runwire.attempt": attempt},
        )

    def create_events(self, traceparent: str | None, *, run_id: str, count: int) -> Span:
        """PRODUCER `create runwire.events`: an append of `count` events."""
        if (parent := self._parent(traceparent)) is None:
            return NO_SPAN
        return self._start(
            parent,
            f"create {DESTINATION}",
            kind=SpanKind.PRODUCER,
            attributes=_messaging("create", count) | {"runwire.run_id": run_id},
        )

    def send_events(self, traceparents: Iterable[str | None], *, count: int) -> Span:
        """CLIENT `send runwire.events`: a batch of `count` events going to the bus.

        `traceparents` are those of the runs in it. The first sampled run is the parent, since some viewers drop
        links; that one and seven more are linked.
        """
        sampled = [traceparent for traceparent in traceparents if sampled_trace_id(traceparent) is not None]
        if not sampled or (parent := self._parent(sampled[0])) is None:
            return NO_SPAN
        return self._start(
            parent,
            f"send {DESTINATION}",
            kind=SpanKind.CLIENT,
            links=_links(list(dict.fromkeys(sampled))[:MAX_LINKS]),
            attributes=_messaging("send", count),
        )

    def process_events(self, traceparent: str | None, *, run_id: str, count: int = 1) -> Span:
        """CONSUMER `process runwire.events`: the first delivery of events to a client."""
        if (parent := self._parent(traceparent)) is None:
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

    def _draw(self) -> bool:
        return random.random() < self._ratio  # noqa: S311  # sampling is no secret

    def _parent(self, traceparent: str | None) -> otel_context.Context | None:
        """Where a span of this run belongs; None when it is not to be recorded."""
        if self._tracer is None or sampled_trace_id(traceparent) is None:
            return None
        stored = parse_traceparent(traceparent)
        if stored is None:
            return None
        remote = _remote(stored)
        current = trace.get_current_span()
        if current.get_span_context().trace_id == remote.trace_id:
            return otel_context.get_current()
        return trace.set_span_in_context(trace.NonRecordingSpan(remote))

    def _start(
        self,
        parent: otel_context.Context,
        name: str,
        *,
        attributes: dict[str, AttributeValue],
        kind: SpanKind = SpanKind.INTERNAL,
        links: tuple[Link, ...] = (),
    ) -> Span:
        if self._tracer is None:
            return NO_SPAN
        return _RecordedSpan(self._tracer.start_span(name, parent, kind, attributes, links))


class _RecordedSpan:
    __slots__ = ("_span", "_token", "traceparent")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        at = span.get_span_context()
        self.traceparent = f"00-{at.trace_id:032x}-{at.span_id:016x}-{at.trace_flags & 0x03:02x}"

    def set(self, key: str, value: AttributeValue) -> None:
        self._span.set_attribute(key, value)

    def __enter__(self) -> Self:
        self._token = otel_context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        otel_context.detach(self._token)
        # A cancelled task did not fail, so only Exceptions count.
        if isinstance(error, Exception):
            self._span.set_attribute("error.type", _error_type(error))
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class _NoSpan:
    __slots__ = ()

    @property
    def traceparent(self) -> str | None:
        return None

    def set(self, key: str, value: AttributeValue) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass


class _UnsampledRequest(_NoSpan):
    __slots__ = ("_traceparent",)

    def __init__(self, traceparent: str) -> None:
        self._traceparent = traceparent

    @property
    def traceparent(self) -> str:
        return self._traceparent


NO_SPAN: Final = _NoSpan()
NO_SPANS: Final = Spans(None, ratio=0.0)
"""For code that runs without tracing."""


def _remote(stored: TraceContext) -> SpanContext:
    return SpanContext(
        int(stored.trace_id, 16), int(stored.span_id, 16), is_remote=True, trace_flags=TraceFlags(stored.flags)
    )


def _links(traceparents: Iterable[str | None]) -> tuple[Link, ...]:
    contexts = (parse_traceparent(traceparent) for traceparent in traceparents)
    return tuple(Link(_remote(context)) for context in contexts if context is not None)


def _messaging(operation: str, count: int) -> dict[str, AttributeValue]:
    return {
        "messaging.system": "runwire",
        "messaging.destination.name": DESTINATION,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.batch.message_count": count,
    }


def _error_type(error: Exception) -> str:
    if isinstance(error, RunwireError) and _CODE.fullmatch(error.code):
        return error.code
    return type(error).__qualname__
